//go:build linux && cgo

package shellflip

/*
#include <errno.h>
#include <shellflip.h>
#include <stdlib.h>

// Weak, so that a program runs with a library that is older than these, and is told so when it uses them.
#pragma GCC diagnostic ignored "-Waddress"
int flip_config_set_pid_file(flip_config_t *config, const char *path) __attribute__((weak));
int flip_config_set_control_socket(flip_config_t *config, const char *address) __attribute__((weak));
int flip_status(flip_t *flip, char *buffer, size_t size) __attribute__((weak));
int flip_control(const char *address, int request, int timeout_ms) __attribute__((weak));
int flip_control_status(const char *address, int timeout_ms, char *buffer, size_t size) __attribute__((weak));

static int set_pid_file(flip_config_t *config, const char *path)
{
	return flip_config_set_pid_file ? flip_config_set_pid_file(config, path) : -ENOSYS;
}

static int set_control_socket(flip_config_t *config, const char *address)
{
	return flip_config_set_control_socket ? flip_config_set_control_socket(config, address) : -ENOSYS;
}

static int status(flip_t *flip, char *buffer, size_t size)
{
	return flip_status ? flip_status(flip, buffer, size) : -ENOSYS;
}

static int control(const char *address, int request, int timeout_ms)
{
	return flip_control ? flip_control(address, request, timeout_ms) : -ENOSYS;
}

static int control_status(const char *address, int timeout_ms, char *buffer, size_t size)
{
	return flip_control_status ? flip_control_status(address, timeout_ms, buffer, size) : -ENOSYS;
}
*/
import "C"

import (
	"errors"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// lacking gives a call that the library does not have the text that the library cannot.
func lacking(err error) error {
	var failed *Error
	if errors.As(err, &failed) && failed.Errno == syscall.ENOSYS {
		failed.Text = "the library " + libraryVersion() + " has no pid file, control socket and status; it needs a newer one"
	}
	return err
}

// setPaths configures what is named by a path.
func setPaths(c *C.flip_config_t, config coreConfig) error {
	if config.pidFile != "" {
		if _, err := withString(config.pidFile, func(path *C.char) C.int { return C.set_pid_file(c, path) }); err != nil {
			return lacking(err)
		}
	}
	if config.controlSocket != "" {
		set := func(address *C.char) C.int { return C.set_control_socket(c, address) }
		if _, err := withString(config.controlSocket, set); err != nil {
			return lacking(err)
		}
	}
	return nil
}

func (c *core) status() (string, error) {
	return line(func(buffer *C.char, size C.size_t) (int, error) {
		return call(func() C.int { return C.status(c.flip, buffer, size) })
	})
}

func controlStatus(address string, timeout time.Duration) (string, error) {
	return line(func(buffer *C.char, size C.size_t) (int, error) {
		return withString(address, func(address *C.char) C.int {
			return C.control_status(address, timeoutOf(timeout), buffer, size)
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
			return text, lacking(err)
		}
		size = length + 1024
	}
}

func control(address string, request int, timeout time.Duration) (int, error) {
	// The failure is the thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := withString(address, func(address *C.char) C.int {
		return C.control(address, C.int(request), timeoutOf(timeout))
	})
	var failed *Error
	if errors.As(err, &failed) {
		failed.Failure = Failure(C.flip_last_failure())
	}
	return pid, lacking(err)
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
