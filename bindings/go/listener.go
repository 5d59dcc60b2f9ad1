package shellflip

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// keep is when a listener stops accepting.
type keep int

const (
	keepNever    keep = iota // when shutdown fires
	keepOverStop             // it goes on after a stop
	keepAlways               // it goes on after an upgrade, too
)

// exhausted is how long Accept rests where no descriptor is left; as in flip_accept.
const exhausted = 20 * time.Millisecond

// listener accepts between Ready and shutdown, and knows which of its connections are open.
//
// What it does next depends on its fields alone. Whatever changes one of them closes changed, and every Accept that
// waits looks again.
type listener struct {
	Listener
	fds  *Fds
	keep keep
	// Made by an earlier generation's ListenConfig.
	inherited bool

	mu        sync.Mutex
	changed   chan struct{}
	serving   bool // Ready has returned
	quiet     bool // shutdown has fired
	paused    bool // between Pause and Resume
	closed    bool
	deadline  time.Time // the caller's
	accepting int       // calls that may take a connection at this moment
	looked    bool
	open      map[*tracked]struct{} // connections that are not closed

	http   atomic.Bool // an http.Server accepts
	ending atomic.Bool // shutdown has fired
}

func (f *Fds) wrap(inner Listener, keep keep) *listener {
	l := &listener{Listener: inner, fds: f, keep: keep, changed: make(chan struct{}), open: make(map[*tracked]struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	l.serving = f.serving
	if f.listeners == nil {
		f.listeners = make(map[*listener]struct{})
	}
	f.listeners[l] = struct{}{}
	return l
}

// serve lets all listeners accept.
func (f *Fds) serve() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serving = true
	for l := range f.listeners {
		l.mu.Lock()
		l.serving = true
		l.change()
		l.mu.Unlock()
	}
}

// Pause stops all listeners of this Fds but those with keep=: when it returns, no Accept takes a connection any more.
// Clients wait in the kernel's queue, for Resume, or for the successor. It is for Options.State, where what comes
// after the state was written would be lost.
func (f *Fds) Pause() {
	for _, l := range f.stopping(Stopped, Upgraded) {
		l.pause()
	}
}

// Resume lets the listeners accept again, as after an upgrade that has failed.
func (f *Fds) Resume() {
	for _, l := range f.stopping(Stopped, Upgraded) {
		l.resume()
	}
}

// quiesce returns when none of the listeners that stop for this reason takes a connection any more. It returns them.
func (f *Fds) quiesce(reason Reason) []*listener {
	listeners := f.stopping(reason)
	for _, l := range listeners {
		l.ending.Store(true)
		l.quiesce()
	}
	return listeners
}

// stopping are the listeners that stop for each of the reasons.
func (f *Fds) stopping(reasons ...Reason) []*listener {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*listener
	for l := range f.listeners {
		stops := true
		for _, reason := range reasons {
			stops = stops && (l.keep == keepNever || l.keep == keepOverStop && reason == Upgraded)
		}
		if stops {
			all = append(all, l)
		}
	}
	return all
}

// quiesce stops one for good.
func (l *listener) quiesce() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quiet = true
	l.halt()
}

// pause stops one until resume.
func (l *listener) pause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = true
	l.halt()
}

func (l *listener) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = false
	if timed, can := l.Listener.(interface{ SetDeadline(time.Time) error }); can && !l.quiet {
		_ = timed.SetDeadline(l.deadline)
	}
	l.change()
}

// halt returns when no Accept takes a connection any more. Called with the lock.
func (l *listener) halt() {
	l.change()
	timed, can := l.Listener.(interface{ SetDeadline(time.Time) error })
	if !can || timed.SetDeadline(time.Unix(1, 0)) != nil {
		return // a listener of the host's own, or a closed one
	}
	// They come back at once, with the deadline or with a last connection, which is served. A listener of the host's own
	// may not keep to its deadline.
	for until := time.Now().Add(time.Second); l.accepting > 0 && time.Now().Before(until); {
		l.wait(until)
	}
}

// change wakes everyone who waits. Called with the lock.
func (l *listener) change() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// wait returns after the next change, or at the given time; zero: never. Called with the lock, which it gives up
// meanwhile.
func (l *listener) wait(until time.Time) {
	changed := l.changed
	l.mu.Unlock()
	defer l.mu.Lock()
	if until.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// Accept waits for Ready, then for a connection, and while descriptors are exhausted. From shutdown on it waits for
// Close.
func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
	for {
		now := time.Now()
		switch {
		case l.closed:
			return nil, l.failed(net.ErrClosed)
		case !l.deadline.IsZero() && !now.Before(l.deadline):
			return nil, l.failed(os.ErrDeadlineExceeded)
		case !l.serving || l.quiet || l.paused:
			l.wait(l.deadline)
		default:
			conn, err := l.acceptOne()
			if err != nil && (l.closed || l.quiet || l.paused) {
				continue // which is why
			}
			if err != nil && isExhausted(err) {
				l.wait(l.rested())
				continue
			}
			return conn, err
		}
	}
}

// isExhausted says whether there is nothing left to take a connection with, which passes. Servers take it for the end
// of their listener, or ask again at once.
func isExhausted(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if isErrno(err, errno) {
			return true
		}
	}
	return false
}

// rested is when Accept tries again after that; its caller's deadline may be earlier. Called with the lock.
func (l *listener) rested() time.Time {
	until := time.Now().Add(exhausted)
	if !l.deadline.IsZero() && l.deadline.Before(until) {
		return l.deadline
	}
	return until
}

// acceptOne takes a connection and counts it in one step, for quiesce. Called with the lock, which it gives up
// meanwhile.
func (l *listener) acceptOne() (net.Conn, error) {
	l.accepting++
	l.mu.Unlock()
	raw, err := l.Listener.Accept()
	if err == nil && l.inherited {
		l.fds.keepProbing(raw)
	}
	l.mu.Lock()
	l.accepting--
	if l.quiet || l.paused {
		l.change()
	}
	if err != nil || l.keep != keepNever {
		return raw, err
	}
	l.fds.upg.core.connBegin()
	conn, t := l.track(raw)
	l.open[t] = struct{}{}
	return conn, nil
}

// ended is called when a connection is closed.
func (l *listener) ended(t *tracked) {
	l.mu.Lock()
	delete(l.open, t)
	l.mu.Unlock()
	l.fds.upg.core.connEnd()
}

// Close closes this process's copy of the socket; the successor has its own. Its path stays.
func (l *listener) Close() error {
	l.mu.Lock()
	first := !l.closed
	if first {
		l.closed = true
		l.change()
	}
	l.mu.Unlock()
	if first {
		l.fds.mu.Lock()
		delete(l.fds.listeners, l)
		l.fds.mu.Unlock()
	}
	return l.Listener.Close()
}

// SetDeadline is that of *net.TCPListener: Accept fails from then on.
func (l *listener) SetDeadline(deadline time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline = deadline
	l.change()
	timed, can := l.Listener.(interface{ SetDeadline(time.Time) error })
	switch {
	case !can:
		return l.failed(syscall.EOPNOTSUPP)
	case l.quiet, l.paused:
		return nil
	}
	return timed.SetDeadline(deadline)
}

// File is that of *net.TCPListener: a copy of the socket. Its Fd method clears O_NONBLOCK for every process that
// shares the socket; use SyscallConn.
func (l *listener) File() (*os.File, error) {
	if inner, can := l.Listener.(interface{ File() (*os.File, error) }); can {
		return inner.File()
	}
	return nil, l.failed(syscall.EOPNOTSUPP)
}

func (l *listener) failed(why error) error {
	return &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: why}
}
