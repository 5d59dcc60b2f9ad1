//go:build linux && cgo

package shellflip

// #include <shellflip.h>
// #include <stdlib.h>
import "C"

import (
	"errors"
	"runtime"
	"time"
	"unsafe"
)

// setPaths configures what is named by a path.
func setPaths(c *C.flip_config_t, config coreConfig) error {
	if config.pidFile != "" {
		set := func(path *C.char) C.int { return C.flip_config_set_pid_file(c, path) }
		if _, err := withString(config.pidFile, set); err != nil {
			return err
		}
	}
	if config.controlSocket != "" {
		set := func(address *C.char) C.int { return C.flip_config_set_control_socket(c, address) }
		if _, err := withString(config.controlSocket, set); err != nil {
			return err
		}
	}
	return nil
}

func (c *core) status() (string, error) {
	return line(func(buffer *C.char, size C.size_t) (int, error) {
		return call(func() C.int { return C.flip_status(c.flip, buffer, size) })
	})
}

func controlStatus(address string, timeout time.Duration) (string, error) {
	return line(func(buffer *C.char, size C.size_t) (int, error) {
		return withString(address, func(address *C.char) C.int {
			return C.flip_control_status(address, timeoutOf(timeout), buffer, size)
		})
	})
}

// line makes room until all of it fits: it may have grown since it was measured.
func line(write func(*C.char, C.size_t) (int, error)) (string, error) {
	for size := 4096; ; {
		buffer := (*C.char)(C.malloc(C.size_t(size)))
		length, err := write(buffer, C.size_t(size))
		text := ""
		if err == nil && length < size {
			text = C.GoStringN(buffer, C.int(length))
		}
		C.free(unsafe.Pointer(buffer))
		if err != nil || length < size {
			return text, err
		}
		size = length + 1024
	}
}

func control(address string, request int, timeout time.Duration) (int, error) {
	// The failure is the thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := withString(address, func(address *C.char) C.int {
		return C.flip_control(address, C.int(request), timeoutOf(timeout))
	})
	var failed *Error
	if errors.As(err, &failed) {
		failed.Failure = Failure(C.flip_last_failure())
	}
	return pid, err
}

// timeoutOf rounds up; 0 and less is no limit.
func timeoutOf(timeout time.Duration) C.int {
	const most = 1<<31 - 1
	switch ms := (timeout + time.Millisecond - 1) / time.Millisecond; {
	case timeout <= 0:
		return -1
	case ms > most:
		return most
	default:
		return C.int(ms)
	}
}
