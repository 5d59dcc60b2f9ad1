//go:build linux && cgo

package shellflip

// #include <shellflip.h>
import "C"

import "syscall"

// setPaths configures what is named by a path.
func setPaths(c *C.flip_config_t, config coreConfig) error {
	if config.pidFile != "" || config.controlSocket != "" {
		return &Error{Errno: syscall.ENOSYS, Text: "this version of the library has no pid file and no control socket"}
	}
	return nil
}
