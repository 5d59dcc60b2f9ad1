package shellflip

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
)

// Listener can be shared between processes.
type Listener interface {
	net.Listener
	syscall.Conn
}

// PacketConn can be shared between processes.
type PacketConn interface {
	net.PacketConn
	syscall.Conn
}

// Conn can be shared between processes.
type Conn interface {
	net.Conn
	syscall.Conn
}

// Fds has the sockets and files that this process has inherited, and those that it passes on. Everything that is
// claimed or added is passed on to every further generation, whether or not the caller's copy is closed.
//
// While an upgrade is under way nothing can be added: EALREADY, and after it ESHUTDOWN.
type Fds struct {
	upg    *Upgrader
	config *net.ListenConfig

	// So that two calls for one address do not both make a socket.
	claiming sync.Mutex

	mu        sync.Mutex
	serving   bool
	listeners map[*listener]struct{}
	paths     map[string]fileID // made outside of the library, which does not know them
}

// Listen returns a listener that was inherited, or makes one with Options.ListenConfig. What is inherited is found by
// network and addr as they were given to the process that made it, then by what the socket is, so that what systemd
// or a server in another language passes on is found, too. Call it before Ready.
//
// The listener accepts from when Ready has returned, and nothing any more once Exit is closed: then Accept waits for
// Close. What it returns is a Listener; its connections have all methods of *net.TCPConn or *net.UnixConn, and are
// counted until they are closed.
func (f *Fds) Listen(network, addr string) (net.Listener, error) {
	return f.ListenWithCallback(network, addr, f.newListener)
}

// ListenWithCallback is Listen with another way to make a listener that was not inherited. The callback must return a
// Listener, and must not use Fds.
func (f *Fds) ListenWithCallback(
	network, addr string, callback func(network, addr string) (net.Listener, error),
) (net.Listener, error) {
	f.claiming.Lock()
	defer f.claiming.Unlock()
	if inherited, err := f.inheritedListener(network, addr); inherited != nil || err != nil {
		return inherited, err
	}
	made, err := callback(network, addr)
	if err != nil {
		return nil, fmt.Errorf("cannot make a listener on %s %s: %w", network, addr, err)
	}
	if wrapped, ours := made.(*listener); ours {
		return wrapped, nil
	}
	shared, can := made.(Listener)
	if !can {
		_ = made.Close()
		return nil, fmt.Errorf("cannot pass on the listener on %s %s: %T has no SyscallConn", network, addr, made)
	}
	if err := f.addListener(network, addr, shared); err != nil {
		_ = made.Close()
		return nil, err
	}
	return f.wrap(shared, keepNever), nil
}

// Listener returns an inherited listener, or nil.
func (f *Fds) Listener(network, addr string) (net.Listener, error) {
	f.claiming.Lock()
	defer f.claiming.Unlock()
	return f.inheritedListener(network, addr)
}

// AddListener passes a listener on that was made elsewhere, in place of what had this network and addr before. It
// stays the caller's, and accepts whenever the caller does: its connections are not counted.
func (f *Fds) AddListener(network, addr string, ln Listener) error {
	return f.addListener(network, addr, ln)
}

// ListenAddress returns a listener for an address of the library, with all of its options:
// "tcp://127.0.0.1:8080?name=web&reuseport=1", "unix:///run/a.sock?mode=0660&owner=:web". The library's header lists
// them. keep=stop and keep=always listeners go on accepting after a stop, or after an upgrade too; their connections
// are never counted, and Drain and Stop do not wait for them.
func (f *Fds) ListenAddress(address string) (net.Listener, error) {
	f.claiming.Lock()
	defer f.claiming.Unlock()
	fd, err := f.upg.core.listen(address)
	if err != nil {
		return nil, err
	}
	return f.listenerOf(fd, address, keepOf(address))
}

// ListenPacket returns a packet connection that was inherited, or makes one with Options.ListenConfig. Read nothing
// from it before Ready has returned: the predecessor reads from the same socket until then.
func (f *Fds) ListenPacket(network, addr string) (net.PacketConn, error) {
	return f.ListenPacketWithCallback(network, addr, func(network, addr string) (net.PacketConn, error) {
		return f.config.ListenPacket(context.Background(), network, addr)
	})
}

// ListenPacketWithCallback is ListenPacket with another way to make what was not inherited. The callback must return
// a PacketConn, and must not use Fds.
func (f *Fds) ListenPacketWithCallback(
	network, addr string, callback func(network, addr string) (net.PacketConn, error),
) (net.PacketConn, error) {
	f.claiming.Lock()
	defer f.claiming.Unlock()
	if inherited, err := f.inheritedPacketConn(network, addr); inherited != nil || err != nil {
		return inherited, err
	}
	made, err := callback(network, addr)
	if err != nil {
		return nil, fmt.Errorf("cannot make a packet connection on %s %s: %w", network, addr, err)
	}
	shared, can := made.(PacketConn)
	if !can {
		_ = made.Close()
		return nil, fmt.Errorf("cannot pass on the packet connection on %s %s: %T has no SyscallConn", network, addr, made)
	}
	if err := f.AddPacketConn(network, addr, shared); err != nil {
		_ = made.Close()
		return nil, err
	}
	return made, nil
}

// PacketConn returns an inherited packet connection, or nil.
func (f *Fds) PacketConn(network, addr string) (net.PacketConn, error) {
	f.claiming.Lock()
	defer f.claiming.Unlock()
	return f.inheritedPacketConn(network, addr)
}

// AddPacketConn passes a packet connection on, in place of what had this network and addr before. It stays the
// caller's.
func (f *Fds) AddPacketConn(network, addr string, conn PacketConn) error {
	keepPath(conn)
	if err := f.add(socketName(network, addr), conn); err != nil {
		return err
	}
	f.notePath(network, addr)
	return nil
}

// Conn returns an inherited connection, or nil.
func (f *Fds) Conn(network, addr string) (net.Conn, error) {
	fd, err := f.upg.core.take(connName(network, addr))
	if isErrno(err, syscall.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return socketOf(fd, "connection "+network+" "+addr, net.FileConn)
}

// AddConn passes a connection on, in place of what had this network and addr before. It stays the caller's.
func (f *Fds) AddConn(network, addr string, conn Conn) error {
	return f.add(connName(network, addr), conn)
}

// File returns an inherited file, or nil. It is found under the name that AddFile was given, or that another server
// or systemd gave it.
func (f *Fds) File(name string) (*os.File, error) {
	for _, full := range []string{filePrefix + name, name} {
		if file, err := f.take(full); file != nil || err != nil {
			return file, err
		}
	}
	return nil, nil
}

// Files returns all files that were inherited and nobody has asked for yet: what AddFile has passed on. Their Name is
// the one that AddFile was given.
func (f *Fds) Files() ([]*os.File, error) {
	names, err := f.upg.core.inherited()
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, name := range names {
		if !strings.HasPrefix(name, filePrefix) {
			continue
		}
		file, err := f.take(name)
		if err != nil {
			return files, err
		}
		if file != nil {
			files = append(files, file)
		}
	}
	return files, nil
}

// AddFile passes a file on, in place of what had this name before. It stays the caller's, and its flags are left
// alone.
func (f *Fds) AddFile(name string, file *os.File) error { return f.add(filePrefix+name, file) }

// Forget stops passing on what Listen, ListenPacket, AddListener or AddPacketConn has made of this network and addr,
// or inherited and not asked for. The caller's copy stays open. ENOENT: there is nothing.
func (f *Fds) Forget(network, addr string) error { return f.upg.core.forget(socketName(network, addr)) }

// ForgetConn is Forget for AddConn.
func (f *Fds) ForgetConn(network, addr string) error {
	return f.upg.core.forget(connName(network, addr))
}

// ForgetFile is Forget for AddFile.
func (f *Fds) ForgetFile(name string) error { return f.upg.core.forget(filePrefix + name) }

// Inherited lists the names of what was inherited and nobody has asked for.
func (f *Fds) Inherited() ([]string, error) { return f.upg.core.inherited() }

// newListener makes what was not inherited. Without a ListenConfig of the host's, the library makes unix sockets, but
// for relative paths: it replaces a path that nobody listens on any more, and unlinks its own.
func (f *Fds) newListener(network, addr string) (net.Listener, error) {
	if f.upg.options.ListenConfig == nil && isUnixListener(network) && isAbsolute(addr) {
		fd, err := f.upg.core.listen(unixAddress(network, addr) + "?name=" + escape(socketName(network, addr)))
		if err != nil {
			return nil, err
		}
		return f.listenerOf(fd, addr, keepNever)
	}
	return f.config.Listen(context.Background(), network, addr)
}

func (f *Fds) inheritedListener(network, addr string) (net.Listener, error) {
	name := socketName(network, addr)
	fd, err := f.claim(name, inheritAddress(network, addr, name))
	if err != nil || fd == 0 {
		return nil, err
	}
	f.notePath(network, addr)
	inherited, err := f.listenerOf(fd, network+" "+addr, keepNever)
	if l, is := inherited.(*listener); is {
		l.inherited = true
	}
	return inherited, err
}

func (f *Fds) inheritedPacketConn(network, addr string) (net.PacketConn, error) {
	name := socketName(network, addr)
	fd, err := f.claim(name, inheritAddress(network, addr, name))
	if err != nil || fd == 0 {
		return nil, err
	}
	conn, err := socketOf(fd, "packet connection "+network+" "+addr, net.FilePacketConn)
	if err != nil {
		return nil, err
	}
	f.notePath(network, addr)
	return conn, nil
}

// claim finds an inherited socket by its name, else by what it is. 0: there is none.
func (f *Fds) claim(name, address string) (uintptr, error) {
	// The name first and alone: what has it was made for it, whatever sort of socket it is (since Go 1.24 MPTCP).
	fd, err := f.upg.core.take(name)
	if isErrno(err, syscall.ENOENT) && address != "" {
		fd, err = f.upg.core.inherit(address)
	}
	if isErrno(err, syscall.ENOENT) {
		return 0, nil
	}
	return fd, err
}

func (f *Fds) listenerOf(fd uintptr, what string, keep keep) (net.Listener, error) {
	inner, err := socketOf(fd, "listener on "+what, net.FileListener)
	if err != nil {
		return nil, err
	}
	keepPath(inner)
	return f.wrap(inner.(Listener), keep), nil
}

// socketOf makes of a descriptor, which it takes over, what package net makes of a file.
func socketOf[T any](fd uintptr, what string, made func(*os.File) (T, error)) (socket T, err error) {
	file, err := socketFile(fd, what)
	if err == nil {
		defer file.Close()
		socket, err = made(file)
	}
	if err != nil {
		err = fmt.Errorf("cannot use what was inherited as %s: %w", what, err)
	}
	return socket, err
}

func (f *Fds) take(name string) (*os.File, error) {
	fd, err := f.upg.core.take(name)
	if isErrno(err, syscall.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(fd, strings.TrimPrefix(name, filePrefix)), nil
}

func (f *Fds) addListener(network, addr string, ln Listener) error {
	keepPath(ln)
	if err := f.add(socketName(network, addr), ln); err != nil {
		return err
	}
	f.notePath(network, addr)
	return nil
}

// add goes by SyscallConn: File would clear O_NONBLOCK, for every process that shares the socket.
func (f *Fds) add(name string, shared syscall.Conn) error {
	raw, err := shared.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot pass on %s: %w", name, err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f.upg.core.add(name, fd) }); err != nil {
		return fmt.Errorf("cannot pass on %s: %w", name, err)
	}
	return failed
}

// keepPath: the path of a unix socket outlives a Close, since the successor is reached by it.
func keepPath(shared interface{}) {
	if unix, is := shared.(interface{ SetUnlinkOnClose(bool) }); is {
		unix.SetUnlinkOnClose(false)
	}
}
