package shellflip

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrNotSupported is what New returns, wrapped, where there can be no upgrades: on other systems than Linux, and in a
// program that was built without cgo. The package testing has a stand-in for such programs.
var ErrNotSupported = errors.New("shellflip: graceful upgrades are not supported here")

// ErrNoState is what State returns where the predecessor has handed over none: in the first generation, and after a
// predecessor without Options.State.
var ErrNoState = errors.New("shellflip: no state was handed over")

// ErrStateLost is what State returns where a state was promised and the predecessor died before it had written it.
// Ready lets this process serve once State has said so.
var ErrStateLost = errors.New("shellflip: the predecessor died before it had handed over its state")

// Error is what the library says of a call that failed.
type Error struct {
	// Errno tells the kinds of errors apart, for errors.Is too: errors.Is(err, syscall.EALREADY). Each method says
	// which it may be.
	Errno syscall.Errno
	// Failure is how an upgrade failed; FailureNone for all other errors.
	Failure Failure
	// Text is one line, in English, for the person who runs the server.
	Text string
}

// Error returns the line.
func (e *Error) Error() string {
	if e.Text == "" {
		return "shellflip: " + e.Errno.Error()
	}
	return "shellflip: " + e.Text
}

// Unwrap returns the Errno.
func (e *Error) Unwrap() error { return e.Errno }

// Failure is how an upgrade failed.
type Failure int

// The ways in which an upgrade can fail. In every one of them the old process serves on.
const (
	// FailureNone: no upgrade has failed.
	FailureNone Failure = iota
	// FailureSpawn: the new program could not be started.
	FailureSpawn
	// FailureExited: it exited before it was ready, or before its probation was over.
	FailureExited
	// FailureSignalled: it was ended by a signal before it was ready, or before its probation was over.
	FailureSignalled
	// FailureDeadline: it was not ready within Options.UpgradeTimeout.
	FailureDeadline
	// FailureRefused: Options.Starting or Options.State of the old process refused, or the new one gave up.
	FailureRefused
	// FailureState: the state could not be handed over.
	FailureState
	// FailureProtocol: the other side broke the protocol.
	FailureProtocol
	// FailureNotReady: this process is not ready itself, or its predecessor has not handed over everything yet.
	FailureNotReady
	// FailureInProgress: another upgrade is under way.
	FailureInProgress
	// FailureDraining: more than Options.MaxDraining older generations still drain.
	FailureDraining
	// FailureStopping: this process is stopping, or has been replaced.
	FailureStopping
	// FailureUnconfirmed: the new process was told to serve and has not confirmed it; both are left alone.
	FailureUnconfirmed
	// FailureUnsupported: upgrades cannot work here, as in process 1.
	FailureUnsupported
)

// String names the failure in a few words.
func (f Failure) String() string {
	names := [...]string{
		"none", "not started", "exited", "ended by a signal", "deadline", "refused", "state", "protocol", "not ready",
		"in progress", "too many draining", "stopping", "unconfirmed", "unsupported",
	}
	if f < 0 || int(f) >= len(names) {
		return fmt.Sprintf("failure %d", int(f))
	}
	return names[f]
}

func isErrno(err error, errno syscall.Errno) bool { return errors.Is(err, errno) }

// errnoOf is what Upgrade returns for such a failure.
func errnoOf(failure Failure) syscall.Errno {
	switch failure {
	case FailureSpawn:
		return syscall.ENOEXEC
	case FailureExited, FailureSignalled:
		return syscall.ECONNABORTED
	case FailureDeadline, FailureUnconfirmed:
		return errTime
	case FailureRefused:
		return syscall.ECONNREFUSED
	case FailureProtocol:
		return syscall.EPROTO
	case FailureNotReady:
		return syscall.EAGAIN
	case FailureInProgress:
		return syscall.EALREADY
	case FailureDraining:
		return syscall.EBUSY
	case FailureStopping:
		return syscall.ESHUTDOWN
	case FailureUnsupported:
		return syscall.EOPNOTSUPP
	}
	return syscall.EIO
}
