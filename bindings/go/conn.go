package shellflip

import (
	"net"
	"sync/atomic"
	"time"
)

// track makes a connection tell its listener when it is closed. All methods of what the kernel gave stay there,
// sendfile and splice among them.
func (l *listener) track(raw net.Conn) (net.Conn, *tracked) {
	switch raw := raw.(type) {
	case *net.TCPConn:
		conn := &tcpConn{TCPConn: raw, tracked: tracked{listener: l, raw: raw}}
		return conn, &conn.tracked
	case *net.UnixConn:
		conn := &unixConn{UnixConn: raw, tracked: tracked{listener: l, raw: raw}}
		return conn, &conn.tracked
	}
	conn := &otherConn{Conn: raw, tracked: tracked{listener: l, raw: raw}}
	return conn, &conn.tracked
}

// tracked is what the connections of all networks have in common.
type tracked struct {
	listener *listener
	raw      net.Conn
	closed   atomic.Bool
	exchange exchange
}

type tcpConn struct {
	*net.TCPConn
	tracked tracked
}

type unixConn struct {
	*net.UnixConn
	tracked tracked
}

type otherConn struct {
	net.Conn
	tracked tracked
}

func (c *tcpConn) Read(b []byte) (int, error)    { return c.tracked.read(b) }
func (c *unixConn) Read(b []byte) (int, error)   { return c.tracked.read(b) }
func (c *otherConn) Read(b []byte) (int, error)  { return c.tracked.read(b) }
func (c *tcpConn) Write(b []byte) (int, error)   { return c.tracked.write(b) }
func (c *unixConn) Write(b []byte) (int, error)  { return c.tracked.write(b) }
func (c *otherConn) Write(b []byte) (int, error) { return c.tracked.write(b) }
func (c *tcpConn) Close() error                  { return c.tracked.close() }
func (c *unixConn) Close() error                 { return c.tracked.close() }
func (c *otherConn) Close() error                { return c.tracked.close() }

func (c *tcpConn) SetDeadline(at time.Time) error   { return c.tracked.setDeadline(at) }
func (c *unixConn) SetDeadline(at time.Time) error  { return c.tracked.setDeadline(at) }
func (c *otherConn) SetDeadline(at time.Time) error { return c.tracked.setDeadline(at) }

// NetConn returns the *net.TCPConn inside, for code that needs exactly that type. Close the outer one.
func (c *tcpConn) NetConn() net.Conn { return c.TCPConn }

// NetConn returns the *net.UnixConn inside, for code that needs exactly that type. Close the outer one.
func (c *unixConn) NetConn() net.Conn { return c.UnixConn }

func (t *tracked) close() error {
	if !t.closed.CompareAndSwap(false, true) {
		// The first closes; perhaps later, and then net/http, which closes once more, must not cut that short.
		return net.ErrClosed
	}
	if t.listener.httpClose(t) {
		return nil
	}
	err := t.raw.Close()
	t.listener.ended(t)
	return err
}
