//go:build linux && cgo

package shellflip

/*
#include <shellflip.h>
#include <stdlib.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// core is the handle of flip_init. It is never given back by the library, so every method may be called at any time,
// after free too.
type core struct{ flip *C.flip_t }

type eventHandle = *C.flip_event_t

// call makes one call of the library and, where it failed, fetches its text: both on one OS thread, since the text is
// that thread's. All calls that can fail go through here, or, where they leave no text, through callSilent.
func call(what func() C.int) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	result, errno := retried(what)
	if errno != 0 {
		return 0, &Error{Errno: errno, Text: C.GoString(C.flip_last_error())}
	}
	return result, nil
}

// callSilent is call for what may be used in a signal handler, and so sets no text: there may be one of an older call.
func callSilent(what func() C.int) (int, error) {
	result, errno := retried(what)
	if errno != 0 {
		return 0, &Error{Errno: errno}
	}
	return result, nil
}

// retried makes a call again after a signal handler of the Go runtime; what was waited for goes on.
func retried(what func() C.int) (int, syscall.Errno) {
	for {
		rc := what()
		if rc >= 0 {
			return int(rc), 0
		}
		if errno := syscall.Errno(-rc); errno != syscall.EINTR {
			return 0, errno
		}
	}
}

// cString copies a string to C's memory, where a zero byte would end it.
func cString(text string) (*C.char, error) {
	if strings.IndexByte(text, 0) >= 0 {
		return nil, &Error{Errno: syscall.EINVAL, Text: fmt.Sprintf("%q has a zero byte in it", text)}
	}
	return C.CString(text), nil
}

// withString makes a call that is given a string, which the library copies.
func withString(text string, what func(*C.char) C.int) (int, error) {
	copied, err := cString(text)
	if err != nil {
		return 0, err
	}
	defer C.free(unsafe.Pointer(copied))
	return call(func() C.int { return what(copied) })
}

func milliseconds(duration time.Duration) C.uint64_t {
	// Rounded up: what is not nothing does not become nothing.
	return C.uint64_t((duration + time.Millisecond - 1) / time.Millisecond)
}

func newCore(config coreConfig) (*core, error) {
	c := C.flip_config_new()
	if c == nil {
		return nil, &Error{Errno: syscall.ENOMEM, Text: "no memory for a configuration"}
	}
	defer C.flip_config_free(c)
	// The Go runtime owns the signals: UpgradeOn and StopOn.
	settings := []func() C.int{
		func() C.int { return C.flip_config_set_signal(c, 0, C.FLIP_REQUEST_NONE) },
		func() C.int { return C.flip_config_set_events(c, C.uint(config.events)) },
	}
	for _, one := range []struct {
		value time.Duration
		set   func(C.uint64_t) C.int
	}{
		{config.upgradeTimeout, func(ms C.uint64_t) C.int { return C.flip_config_set_upgrade_timeout(c, ms) }},
		{config.drainTimeout, func(ms C.uint64_t) C.int { return C.flip_config_set_drain_timeout(c, ms) }},
		{config.hardStop, func(ms C.uint64_t) C.int { return C.flip_config_set_hard_stop(c, ms) }},
		{config.probation, func(ms C.uint64_t) C.int { return C.flip_config_set_probation(c, ms) }},
	} {
		if one := one; one.value > 0 {
			settings = append(settings, func() C.int { return one.set(milliseconds(one.value)) })
		}
	}
	if config.maxDraining >= 0 {
		settings = append(settings, func() C.int { return C.flip_config_set_max_draining(c, C.uint(config.maxDraining)) })
	}
	if config.watchdog {
		settings = append(settings, func() C.int { return C.flip_config_set_watchdog(c, 1) })
	}
	if config.fdStore {
		settings = append(settings, func() C.int { return C.flip_config_set_fd_store(c, 1) })
	}
	for _, set := range settings {
		if _, err := call(set); err != nil {
			return nil, err
		}
	}
	if err := setPaths(c, config); err != nil {
		return nil, err
	}
	made := new(core)
	if _, err := call(func() C.int { return C.flip_init(c, &made.flip) }); err != nil {
		return nil, err
	}
	forgetConsumed()
	return made, nil
}

// forgetConsumed removes from Go's copy of the environment what flip_init has removed from the C library's. In the
// first generation it leaves what socket activation passed alone, and so does this.
func forgetConsumed() {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		copied := C.CString(name)
		if C.getenv(copied) == nil {
			_ = os.Unsetenv(name)
		}
		C.free(unsafe.Pointer(copied))
	}
}

func libraryVersion() string { return C.GoString(C.flip_version()) }

func (c *core) free() { C.flip_free(c.flip) }

func (c *core) generation() int { return int(C.flip_generation(c.flip)) }

func (c *core) ready() error {
	_, err := call(func() C.int { return C.flip_ready(c.flip, -1) })
	return err
}

func (c *core) upgrade() (int, error) {
	// The failure is the thread's, too.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := call(func() C.int { return C.flip_upgrade(c.flip, -1) })
	var failed *Error
	if errors.As(err, &failed) {
		failed.Failure = Failure(C.flip_last_failure())
	}
	return pid, err
}

func (c *core) request(request int) error {
	_, err := callSilent(func() C.int { return C.flip_request(c.flip, C.int(request)) })
	return err
}

func (c *core) waitShutdown() (int, error) {
	return call(func() C.int { return C.flip_wait_shutdown(c.flip, -1) })
}

func (c *core) waitPredecessor() error {
	_, err := call(func() C.int { return C.flip_wait_predecessor(c.flip, -1) })
	return err
}

func (c *core) successorPID() int {
	pid, _ := call(func() C.int { return C.flip_successor_pid(c.flip) })
	return pid
}

func (c *core) extend(by time.Duration) error {
	_, err := call(func() C.int { return C.flip_extend(c.flip, milliseconds(by)) })
	return err
}

func (c *core) connBegin() { C.flip_conn_begin(c.flip) }

func (c *core) connEnd() { C.flip_conn_end(c.flip) }

func (c *core) connCount() int {
	count, _ := call(func() C.int { return C.flip_conn_count(c.flip) })
	return count
}

func (c *core) drain() error {
	_, err := call(func() C.int { return C.flip_drain(c.flip, -1) })
	return err
}

func (c *core) listen(address string) (uintptr, error) {
	fd, err := withString(address, func(text *C.char) C.int { return C.flip_listen(c.flip, text) })
	return uintptr(fd), err
}

func (c *core) inherit(address string) (uintptr, error) {
	fd, err := withString(address, func(text *C.char) C.int { return C.flip_inherit(c.flip, text) })
	return uintptr(fd), err
}

func (c *core) take(name string) (uintptr, error) {
	fd, err := withString(name, func(text *C.char) C.int { return C.flip_take(c.flip, text) })
	return uintptr(fd), err
}

func (c *core) add(name string, fd uintptr) error {
	_, err := withString(name, func(text *C.char) C.int { return C.flip_add(c.flip, text, C.int(fd)) })
	return err
}

func (c *core) forget(name string) error {
	_, err := withString(name, func(text *C.char) C.int { return C.flip_forget(c.flip, text) })
	return err
}

func (c *core) inherited() ([]string, error) {
	size, err := call(func() C.int { return C.flip_inherited(c.flip, nil, 0) })
	if err != nil || size == 0 {
		return nil, err
	}
	buffer := C.malloc(C.size_t(size))
	defer C.free(buffer)
	// Names are only claimed meanwhile, never added: it cannot have grown.
	left, err := call(func() C.int { return C.flip_inherited(c.flip, (*C.char)(buffer), C.size_t(size)) })
	if err != nil || left == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(C.GoBytes(buffer, C.int(left))), "\x00"), "\x00"), nil
}

func (c *core) takeState() (uintptr, error) {
	fd, err := call(func() C.int { return C.flip_take_state(c.flip, -1) })
	return uintptr(fd), err
}

func (c *core) setCommand(executable string, arguments []string) error {
	list := make([]*C.char, 0, len(arguments)+1)
	defer func() {
		for _, argument := range list {
			C.free(unsafe.Pointer(argument))
		}
	}()
	for _, argument := range arguments {
		copied, err := cString(argument)
		if err != nil {
			return err
		}
		list = append(list, copied)
	}
	// The array itself in C's memory, too: Go's may not be passed with pointers in it that C could keep.
	array := (**C.char)(C.calloc(C.size_t(len(arguments)+1), C.size_t(unsafe.Sizeof(uintptr(0)))))
	defer C.free(unsafe.Pointer(array))
	copy(unsafe.Slice(array, len(list)), list)
	_, err := withString(executable, func(text *C.char) C.int { return C.flip_set_command(c.flip, text, array) })
	return err
}

func (c *core) setEnv(name string, value *string) error {
	var text *C.char
	if value != nil {
		copied, err := cString(*value)
		if err != nil {
			return err
		}
		defer C.free(unsafe.Pointer(copied))
		text = copied
	}
	_, err := withString(name, func(name *C.char) C.int { return C.flip_set_env(c.flip, name, text) })
	return err
}

func (c *core) setDirectory(path string) error {
	_, err := withString(path, func(text *C.char) C.int { return C.flip_set_directory(c.flip, text) })
	return err
}

// nextEvent waits for an event. Its caller stays on one OS thread for good: the library does not let the thread that
// answers its questions wait for an upgrade, and knows it by its number.
func (c *core) nextEvent() (*coreEvent, error) {
	var handle eventHandle
	if _, err := call(func() C.int { return C.flip_next_event(c.flip, -1, &handle) }); err != nil {
		return nil, err
	}
	return &coreEvent{
		kind:    uint(C.flip_event_kind(handle)),
		text:    C.GoString(C.flip_event_text(handle)),
		failure: Failure(C.flip_event_failure(handle)),
		handle:  handle,
	}, nil
}

// writeState writes to where the state goes.
func (e *coreEvent) writeState(bytes []byte) (int, error) {
	fd := int(C.flip_event_state_fd(e.handle))
	written := 0
	for written < len(bytes) {
		n, err := syscall.Write(fd, bytes[written:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return written, os.NewSyscallError("write", err)
		}
		written += n
	}
	return written, nil
}

// answer lets the upgrade go on, or refuses it, where the event asked; then gives the event back.
func (e *coreEvent) answer(refusal error) {
	defer C.flip_event_free(e.handle)
	if e.kind != eventStarting && e.kind != eventState {
		return
	}
	if refusal == nil {
		// Late or twice: nobody waits any more, and the failure is told in another way.
		_, _ = call(func() C.int { return C.flip_event_answer(e.handle, 0, nil) })
		return
	}
	errno := syscall.EPERM
	var own syscall.Errno
	if errors.As(refusal, &own) && own != 0 {
		errno = own
	}
	reason := strings.ReplaceAll(refusal.Error(), "\x00", " ")
	_, _ = withString(reason, func(text *C.char) C.int { return C.flip_event_answer(e.handle, -C.int(errno), text) })
}

// socketFile makes a file of a socket, which it takes over, for package net to make a listener or connection of.
//
// os.NewFile looks whether the descriptor blocks. Where it does not, Fd, which package net asks for the number, makes
// it block in older releases of Go (1.19 does): for a moment the socket then blocks for every process that shares it,
// and an Accept there may be stuck. So the file is made of a socket that does block, and the shared one put in its
// place.
func socketFile(fd uintptr, name string) (*os.File, error) {
	defer syscall.Close(int(fd))
	place, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(place), name)
	if err := syscall.Dup3(int(fd), place, syscall.O_CLOEXEC); err != nil {
		_ = file.Close()
		return nil, os.NewSyscallError("dup3", err)
	}
	return file, nil
}

// identify says which socket a path leads to.
func identify(path string) (fileID, bool) {
	var stat syscall.Stat_t
	if syscall.Lstat(path, &stat) != nil || stat.Mode&syscall.S_IFMT != syscall.S_IFSOCK {
		return fileID{}, false
	}
	return fileID{uint64(stat.Dev), stat.Ino}, true
}

// unlinkIfSame removes a socket's path while it still leads to that socket.
func unlinkIfSame(path string, id fileID) {
	if now, there := identify(path); there && now == id {
		_ = os.Remove(path)
	}
}
