package shellflip

import (
	"errors"
	"os"
	"sync"
	"syscall"
)

// State returns what the predecessor's Options.State has written, and waits for it: a read-only file of its own, at
// its start, that can be mapped. Close it. Every call opens it anew.
//
// ErrNoState: none was promised. ErrStateLost: the predecessor died before it had written it; Ready may be called
// now. Otherwise an *Error.
func (u *Upgrader) State() (*os.File, error) {
	fd, err := u.core.takeState()
	switch {
	case err == nil:
		return os.NewFile(fd, "state"), nil
	case isErrno(err, syscall.ENOENT):
		return nil, ErrNoState
	case isErrno(err, syscall.ECONNRESET):
		return nil, ErrStateLost
	}
	return nil, err
}

// stateWriter is what Options.State writes to. The library closes what is behind it once it has the answer.
type stateWriter struct {
	mu    sync.Mutex
	event *coreEvent
	ended bool
}

var errStateEnded = errors.New("shellflip: the state was written already: State has returned")

func (w *stateWriter) Write(bytes []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return 0, errStateEnded
	}
	return w.event.writeState(bytes)
}

func (w *stateWriter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
}
