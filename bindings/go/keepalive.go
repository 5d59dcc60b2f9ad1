package shellflip

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// How an http.Server is shut down without a failed request, although all it has is a listener.
//
// http.Server.Shutdown says from its first moment on, with each answer, that the connection ends (Connection: close).
// Then it closes its listeners, waits until Serve has returned, and closes what is idle, at once: requests that are on
// their way on those connections fail. Serve returns when Accept does. So Accept does not return before the connections
// are closed, or have had IdleGrace: meanwhile each of them that gets a request gets an answer that ends it in order.
//
// There is one moment that this does not cover. An answer may have been made before Shutdown, without saying that the
// connection ends, when the server finds that it is shutting down and closes the connection. Its client sends the next
// request and gets no answer. Such a connection is not closed but given to the server once more, as if just accepted.
//
// And a connection that is closed with unread input is reset, which destroys what its client has not read yet. So net/http's
// closes first end the sending, and leave the client a moment to close.
//
// Who calls is found out from the stack: a server with a protocol of its own may wait for Accept to return before it
// tells its clients to go, as grpc-go does, and a hijacked connection is closed when its owner says so.

// lingering is how long a client may take to close a connection that is closed here.
const lingering = 2 * time.Second

// httpState belongs to a listener, and is protected by its lock.
type httpState struct {
	looked, server bool
	until          time.Time // Accept is held back until then
	again          []net.Conn
}

// look finds out, once, whether it is an http.Server that accepts.
func (h *httpState) look() {
	if !h.looked {
		h.looked = true
		h.server = calledBy("net/http.(*Server).Serve")
	}
}

func (h *httpState) hold(until time.Time) { h.until = until }

func (h *httpState) waiting() bool { return len(h.again) > 0 }

func (h *httpState) take() net.Conn {
	conn := h.again[0]
	h.again = h.again[1:]
	return conn
}

// holds says whether a closed listener's Accept waits for connections to end. Called with the lock.
func (l *listener) holds(now time.Time) bool {
	return l.http.server && l.quiet && l.open > 0 && now.Before(l.http.until)
}

// httpClose takes over a connection that net/http closes after shutdown, and says whether it did.
func (l *listener) httpClose(t *tracked) bool {
	l.mu.Lock()
	ours := l.quiet && l.http.server
	l.mu.Unlock()
	if !ours || !calledBy("net/http.(*conn).close", "net/http.(*Server).closeIdleConns") {
		return false
	}
	return l.serveAgain(t) || l.linger(t)
}

// serveAgain gives the connection to the server once more, if its client may still send requests and Accept still waits.
func (l *listener) serveAgain(t *tracked) bool {
	input, persists := t.exchange.persists()
	if !persists {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed || !l.holds(time.Now()) || t.raw.SetDeadline(time.Time{}) != nil {
		return false
	}
	again := l.track(t.raw)
	again.(interface{ unread([]byte) }).unread(input)
	l.http.again = append(l.http.again, again)
	l.change()
	return true
}

// linger ends the sending, and closes when the client has, or after a moment.
func (l *listener) linger(t *tracked) bool {
	half, can := t.raw.(interface{ CloseWrite() error })
	if !can || half.CloseWrite() != nil {
		return false
	}
	upg := l.fds.upg
	upg.lingering.Add(1)
	go func() {
		defer upg.lingering.Done()
		// The server's own read, if there is one, ends first.
		_ = t.raw.SetReadDeadline(time.Unix(1, 0))
		t.exchange.stopReading()
		_ = t.raw.SetReadDeadline(time.Now().Add(lingering))
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{t.raw})
		_ = t.raw.Close()
		l.ended()
	}()
	return true
}

// exchange follows a connection's requests and answers as far as is needed to know whether its client expects it to go
// on.
type exchange struct {
	answered atomic.Int32 // what the last answer said, one of the constants
	reading  sync.Mutex   // held during a read

	mu     sync.Mutex
	input  []byte // read before, and to be read again
	latest byte   // the last byte that was read alone
	since  int    // how many bytes were read since the last answer began
	ended  bool
}

const (
	noAnswer int32 = iota
	goesOn
	ends
)

func (t *tracked) read(b []byte) (int, error) {
	e := &t.exchange
	e.reading.Lock()
	defer e.reading.Unlock()
	e.mu.Lock()
	if len(e.input) > 0 && len(b) > 0 {
		n := copy(b, e.input)
		e.input = e.input[n:]
		e.mu.Unlock()
		return n, nil
	}
	e.mu.Unlock()
	if t.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := t.raw.Read(b)
	if n > 0 {
		e.mu.Lock()
		e.since += n
		e.latest = b[n-1]
		e.mu.Unlock()
	}
	if err != nil && t.closed.Load() {
		err = net.ErrClosed
	}
	return n, err
}

func (t *tracked) write(b []byte) (int, error) {
	if t.closed.Load() {
		return 0, net.ErrClosed
	}
	if bytes.HasPrefix(b, []byte("HTTP/1.")) {
		t.exchange.answer(b)
	}
	return t.raw.Write(b)
}

// answer notes what the head of an answer, which net/http writes in one piece, says of the connection.
func (e *exchange) answer(head []byte) {
	if end := bytes.Index(head, []byte("\r\n\r\n")); end >= 0 {
		head = head[:end+2]
	}
	said := ends
	switch {
	case bytes.HasPrefix(head, []byte("HTTP/1.1 1")):
		return // provisional, or another protocol from here on
	case bytes.HasPrefix(head, []byte("HTTP/1.1 ")) && !bytes.Contains(head, []byte("\r\nConnection: close\r\n")):
		said = goesOn
	}
	e.mu.Lock()
	e.since = 0
	e.mu.Unlock()
	e.answered.Store(said)
}

// persists says whether the client has been given no reason to take the connection for ended, and what has been read of
// its next request: net/http reads one byte ahead, to see a client go.
func (e *exchange) persists() ([]byte, bool) {
	if e.answered.Load() != goesOn {
		return nil, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.since == 0:
		return nil, true
	case e.since == 1:
		return []byte{e.latest}, true
	}
	return nil, false
}

// stopReading returns when no read is under way.
func (e *exchange) stopReading() {
	e.reading.Lock()
	//lint:ignore SA2001 a read that begins now finds the connection closed
	e.reading.Unlock()
}

func (c *tcpConn) unread(input []byte)   { c.tracked.exchange.input = input }
func (c *unixConn) unread(input []byte)  { c.tracked.exchange.input = input }
func (c *otherConn) unread(input []byte) { c.tracked.exchange.input = input }

// calledBy says whether one of the functions is among the callers.
func calledBy(functions ...string) bool {
	var counters [32]uintptr
	frames := runtime.CallersFrames(counters[:runtime.Callers(2, counters[:])])
	for {
		frame, more := frames.Next()
		for _, function := range functions {
			if frame.Function == function {
				return true
			}
		}
		if !more {
			return false
		}
	}
}
