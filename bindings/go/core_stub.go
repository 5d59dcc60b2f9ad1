//go:build !linux || !cgo

package shellflip

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

// core stands in for the library where it cannot be. newCore is the only function of it that is ever called.
type core struct{}

type eventHandle struct{}

func newCore(coreConfig) (*core, error) {
	if runtime.GOOS == "linux" {
		return nil, fmt.Errorf("%w: this program was built without cgo (CGO_ENABLED=0)", ErrNotSupported)
	}
	return nil, fmt.Errorf("%w: it works on Linux, and this is %s", ErrNotSupported, runtime.GOOS)
}

func libraryVersion() string { return "" }

func (*core) free()                               {}
func (*core) generation() int                     { return 0 }
func (*core) ready() error                        { return ErrNotSupported }
func (*core) upgrade() (int, error)               { return 0, ErrNotSupported }
func (*core) request(int) error                   { return ErrNotSupported }
func (*core) waitShutdown() (int, error)          { return 0, ErrNotSupported }
func (*core) waitPredecessor() error              { return ErrNotSupported }
func (*core) successorPID() int                   { return 0 }
func (*core) extend(time.Duration) error          { return ErrNotSupported }
func (*core) connBegin()                          {}
func (*core) connEnd()                            {}
func (*core) connCount() int                      { return 0 }
func (*core) drain() error                        { return ErrNotSupported }
func (*core) listen(string) (uintptr, error)      { return 0, ErrNotSupported }
func (*core) inherit(string) (uintptr, error)     { return 0, ErrNotSupported }
func (*core) take(string) (uintptr, error)        { return 0, ErrNotSupported }
func (*core) add(string, uintptr) error           { return ErrNotSupported }
func (*core) forget(string) error                 { return ErrNotSupported }
func (*core) inherited() ([]string, error)        { return nil, ErrNotSupported }
func (*core) takeState() (uintptr, error)         { return 0, ErrNotSupported }
func (*core) setCommand(string, []string) error   { return ErrNotSupported }
func (*core) setEnv(string, *string) error        { return ErrNotSupported }
func (*core) setDirectory(string) error           { return ErrNotSupported }
func (*core) nextEvent() (*coreEvent, error)      { return nil, ErrNotSupported }
func (*coreEvent) writeState([]byte) (int, error) { return 0, ErrNotSupported }
func (*coreEvent) answer(error)                   {}
func unlinkIfSame(string, fileID)                 {}
func identify(string) (fileID, bool)              { return fileID{}, false }

func socketFile(uintptr, string) (*os.File, error) { return nil, ErrNotSupported }

func (*core) status() (string, error) { return "", ErrNotSupported }

func control(string, int, time.Duration) (int, error) { return 0, ErrNotSupported }

func controlStatus(string, time.Duration) (string, error) { return "", ErrNotSupported }
