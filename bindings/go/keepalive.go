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

// How an http.Server is replaced without a failed request, although all that this package has of it is a listener.
//
// http.Server.Shutdown closes idle connections at once, and drops requests that it has just read: what clients have
// sent on keep-alive connections at that moment fails. So connections have to end before Shutdown is called, which is
// when Exit is closed. From shutdown on every answer says that its connection ends (Connection: close), written into
// its head here, after which no further request is read. Exit is closed when the connections have ended, or have had
// IdleGrace for their next request. A connection with a request that is being worked on is not waited for: Shutdown
// waits for its answer, and makes it say the same.
//
// Under TLS the answers cannot be seen. Package fliphttp makes the server itself say it.
//
// And a connection that is closed with unread input is reset, which destroys what its client has not read yet. So
// what net/http closes after shutdown first ends the sending, and leaves the client a moment to close.
//
// That it is net/http who accepts and closes is found out from the stack: servers of other protocols tell their
// clients in their own way, and are told at once. So are a handler's taking over of a connection (Hijack), after which
// nothing is written into it and Exit does not wait for it, and, where nothing else tells, that a body is read.

const (
	// lingering is how long a client may take to close a connection that is closed here.
	lingering = 2 * time.Second
	// looking is how often connections are looked at while Exit waits for them.
	looking = 2 * time.Millisecond
)

// look finds out, once, whether it is an http.Server that accepts. Called with the lock.
func (l *listener) look() {
	if !l.looked {
		l.looked = true
		l.http.Store(calledBy("net/http.(*Server).Serve"))
	}
}

// finishKeepAlive returns when Shutdown may be called.
func (u *Upgrader) finishKeepAlive(listeners []*listener) {
	grace := u.options.IdleGrace
	if grace > u.options.DrainTimeout {
		grace = u.options.DrainTimeout
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	// The drain may be over before, or cut short by a second stop.
	over := make(chan struct{})
	go func() {
		_ = u.drain()
		close(over)
	}()
	ticker := time.NewTicker(looking)
	defer ticker.Stop()
	for _, l := range listeners {
		for l.http.Load() && l.mayGetRequests() {
			select {
			case <-ticker.C:
			case <-over:
				return
			case <-timer.C:
				return
			}
		}
	}
}

// mayGetRequests says whether Shutdown would cut requests of one of the connections.
func (l *listener) mayGetRequests() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for t := range l.open {
		if t.exchange.mayGetRequests() {
			return true
		}
	}
	return false
}

// httpClose takes over a connection that net/http closes after shutdown, and says whether it did: it ends the
// sending, and closes when the client has, or after a moment.
func (l *listener) httpClose(t *tracked) bool {
	if !l.ending.Load() || !l.http.Load() {
		return false
	}
	if !calledBy("net/http.(*conn).close", "net/http.(*Server).closeIdleConns") {
		return false
	}
	half, can := t.raw.(interface{ CloseWrite() error })
	if !can || half.CloseWrite() != nil {
		return false
	}
	go func() {
		// At the latest then, whatever else is done with the connection's deadlines.
		end := time.AfterFunc(lingering, func() { _ = t.raw.Close() })
		defer end.Stop()
		// The server's own read, if there is one, ends first.
		_ = t.raw.SetReadDeadline(time.Unix(1, 0))
		t.exchange.stopReading()
		_ = t.raw.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{t.raw})
		_ = t.raw.Close()
		l.ended(t)
	}()
	return true
}

// exchange follows the requests and answers of a connection as far as is needed to end it between two.
type exchange struct {
	reading sync.Mutex  // held during a read
	asked   atomic.Bool // a request was read, and the head of its answer was not written yet
	ahead   atomic.Bool // net/http has read one byte since: the request was read to its end, and its handler runs
	last    atomic.Bool // the head of an answer was marked here: its connection ends
	kind    atomic.Int32
}

// What is said on the connection.
const (
	unknown   int32 = iota
	plain           // HTTP/1
	encrypted       // TLS
	http2
	switched // another protocol, which net/http has no part in any more
	over     // nothing: the last answer was written, and what still comes is not for this process (RFC 9112, 9.6)
)

// mayGetRequests says whether Shutdown would cut a request: one that is on its way, or has just been read.
func (e *exchange) mayGetRequests() bool {
	switch e.kind.Load() {
	case switched:
		return false
	case encrypted, http2:
		return true
	}
	return !e.last.Load() && (!e.asked.Load() || !e.ahead.Load())
}

func (t *tracked) read(b []byte) (int, error) {
	e := &t.exchange
	e.reading.Lock()
	defer e.reading.Unlock()
	if t.closed.Load() {
		return 0, net.ErrClosed
	}
	begins := t.beginsRequest(b)
	if begins && e.last.Load() {
		e.kind.Store(over)
	}
	if e.kind.Load() == over {
		return 0, io.EOF
	}
	n, err := t.raw.Read(b)
	if n > 0 && begins {
		if e.kind.Load() == unknown {
			e.kind.Store(kindOf(b[:n]))
		}
		e.asked.Store(true)
	}
	if err != nil && t.closed.Load() {
		err = net.ErrClosed
	}
	return n, err
}

// beginsRequest says whether a read is for the head of the next request, rather than for more of one that was begun.
func (t *tracked) beginsRequest(b []byte) bool {
	e := &t.exchange
	// While a handler runs net/http reads one byte ahead, to see a client go. That is no request, but says that the one
	// before was read to its end, and is past the point where Shutdown would drop it.
	ahead := e.ahead.Swap(len(b) == 1)
	if len(b) == 1 || e.asked.Load() || !t.listener.http.Load() {
		return false
	}
	switch e.kind.Load() {
	case unknown:
		return true
	case plain:
		// A handler may answer before it has read all of the body. To look at the stack takes time, and is seldom needed.
		return ahead && !e.last.Load() || !calledBy("net/http.(*body).readLocked")
	}
	return false
}

// kindOf tells TLS and HTTP/2 by their first bytes.
func kindOf(input []byte) int32 {
	switch {
	case input[0] == 0x16:
		return encrypted
	case bytes.HasPrefix(input, []byte("PRI ")):
		return http2
	}
	return plain
}

func (t *tracked) write(b []byte) (int, error) {
	e := &t.exchange
	kind := e.kind.Load()
	if kind == over {
		// That what was read ahead is no whole request. Go 1.19 would say so.
		return 0, net.ErrClosed
	}
	if kind != plain || len(b) < 12 || !bytes.HasPrefix(b, []byte("HTTP/1.")) || b[9] == '1' {
		return t.raw.Write(b) // more of an answer, or a provisional one
	}
	// What is written first after a request was read is the head of its answer. Only there may something be written into
	// it: the body might look like a head, too.
	if !e.asked.Swap(false) {
		// So does the head of a second answer, where two requests came in one read. Then what was read ahead belongs to the
		// first, and does not say that the second was read to its end.
		e.ahead.Store(false)
		return t.raw.Write(b)
	}
	if !t.listener.ending.Load() || t.listener.fds.upg.options.IdleGrace < 0 {
		return t.raw.Write(b)
	}
	e.last.Store(true)
	said := sayClose(b)
	n, err := t.raw.Write(said)
	if n -= len(said) - len(b); n < 0 {
		n = 0
	}
	return n, err
}

// setDeadline notices that a handler takes the connection over, for a tunnel or another protocol: net/http calls
// SetDeadline only then. HTTP/2 without TLS is taken over, too, and still gets requests.
func (t *tracked) setDeadline(deadline time.Time) error {
	if t.listener.http.Load() && t.exchange.kind.Load() != http2 && calledBy("net/http.(*conn).hijackLocked") {
		t.exchange.kind.Store(switched)
	}
	return t.raw.SetDeadline(deadline)
}

var (
	closes    = []byte("\r\nConnection: close\r\n")
	keepAlive = []byte("\r\nConnection: keep-alive\r\n")
)

// sayClose returns an answer whose head says that the connection ends. It begins with the given one's head.
func sayClose(answer []byte) []byte {
	head := answer
	if end := bytes.Index(answer, []byte("\r\n\r\n")); end >= 0 {
		head = answer[:end+2]
	}
	line := bytes.Index(head, []byte("\r\n"))
	if line < 0 || bytes.Contains(head, closes) {
		return answer
	}
	at, skip := line, 2
	if said := bytes.Index(head, keepAlive); said >= 0 {
		at, skip = said, len(keepAlive)
	}
	said := make([]byte, 0, len(answer)+len(closes))
	return append(append(append(said, answer[:at]...), closes...), answer[at+skip:]...)
}

// stopReading returns when no read is under way; one that begins later finds the connection closed.
func (e *exchange) stopReading() {
	e.reading.Lock()
	defer e.reading.Unlock()
}

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
