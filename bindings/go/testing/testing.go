// Package testing has an Upgrader for programs under test, and for systems where shellflip does not work: it has all
// methods of shellflip.Upgrader that tableflip's has, makes sockets, inherits nothing and upgrades nothing.
package testing

import (
	"context"
	"net"
	"os"
	"sync"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

// Upgrader stands in for shellflip.Upgrader.
type Upgrader struct {
	*Fds
	stop   sync.Once
	exit   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
}

// New returns an Upgrader. Unlike shellflip.New it can be called any number of times.
func New() (*Upgrader, error) {
	ctx, cancel := context.WithCancel(context.Background())
	return &Upgrader{Fds: &Fds{}, exit: make(chan struct{}), ctx: ctx, cancel: cancel}, nil
}

// Ready returns nil.
func (u *Upgrader) Ready() error { return nil }

// Exit returns a channel that Stop closes.
func (u *Upgrader) Exit() <-chan struct{} { return u.exit }

// Context returns a context that is done after Stop.
func (u *Upgrader) Context() context.Context { return u.ctx }

// Stop closes Exit.
func (u *Upgrader) Stop() {
	u.stop.Do(func() {
		close(u.exit)
		u.cancel()
	})
}

// Upgrade returns shellflip.ErrNotSupported.
func (u *Upgrader) Upgrade() error { return shellflip.ErrNotSupported }

// UpgradeOn does nothing.
func (u *Upgrader) UpgradeOn(...os.Signal) {}

// HasParent returns false.
func (u *Upgrader) HasParent() bool { return false }

// WaitForParent returns nil.
func (u *Upgrader) WaitForParent(context.Context) error { return nil }

// Fds stands in for shellflip.Fds.
type Fds struct{}

// Listen makes a listener.
func (f *Fds) Listen(network, addr string) (net.Listener, error) { return net.Listen(network, addr) }

// ListenWithCallback makes a listener by the callback.
func (f *Fds) ListenWithCallback(
	network, addr string, callback func(network, addr string) (net.Listener, error),
) (net.Listener, error) {
	return callback(network, addr)
}

// Listener returns nil: nothing is inherited.
func (f *Fds) Listener(network, addr string) (net.Listener, error) { return nil, nil }

// AddListener does nothing.
func (f *Fds) AddListener(network, addr string, ln net.Listener) error { return nil }

// ListenPacket makes a packet connection.
func (f *Fds) ListenPacket(network, addr string) (net.PacketConn, error) {
	return net.ListenPacket(network, addr)
}

// ListenPacketWithCallback makes a packet connection by the callback.
func (f *Fds) ListenPacketWithCallback(
	network, addr string, callback func(network, addr string) (net.PacketConn, error),
) (net.PacketConn, error) {
	return callback(network, addr)
}

// PacketConn returns nil: nothing is inherited.
func (f *Fds) PacketConn(network, addr string) (net.PacketConn, error) { return nil, nil }

// AddPacketConn does nothing.
func (f *Fds) AddPacketConn(network, addr string, conn net.PacketConn) error { return nil }

// Conn returns nil: nothing is inherited.
func (f *Fds) Conn(network, addr string) (net.Conn, error) { return nil, nil }

// AddConn does nothing.
func (f *Fds) AddConn(network, addr string, conn net.Conn) error { return nil }

// File returns nil: nothing is inherited.
func (f *Fds) File(name string) (*os.File, error) { return nil, nil }

// Files returns nothing: nothing is inherited.
func (f *Fds) Files() ([]*os.File, error) { return nil, nil }

// AddFile does nothing.
func (f *Fds) AddFile(name string, file *os.File) error { return nil }
