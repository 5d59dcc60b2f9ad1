//go:build linux && cgo

package shellflip_test

import (
	"errors"
	"runtime"
	"syscall"
	"testing"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

func TestAZeroByteIsRefusedEverywhere(t *testing.T) {
	upg := newUpgrader(t, shellflip.Options{})
	defer upg.Stop()
	const zero = "/tmp/a\x00b"
	listen := func(network, addr string) error {
		listener, err := upg.Listen(network, addr)
		if err == nil {
			_ = listener.Close()
		}
		return err
	}
	for what, err := range map[string]error{
		"SetEnv, name":            upg.SetEnv("A\x00B", "c"),
		"SetEnv, value":           upg.SetEnv("A", zero),
		"UnsetEnv":                upg.UnsetEnv("A\x00B"),
		"SetCommand, executable":  upg.SetCommand(zero),
		"SetCommand, an argument": upg.SetCommand("/bin/false", "false", zero),
		"SetDirectory":            upg.SetDirectory(zero),
		"Listen, tcp":             listen("tcp", "127.0.0.1:0\x00"),
		"Listen, unix":            listen("unix", zero),
	} {
		if !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestARequestThatFailsDoesNotSayWhatAnEarlierCallDid(t *testing.T) {
	// The text is the thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	upg := newUpgrader(t, shellflip.Options{})
	upg.Stop()
	if err := upg.SetDirectory("/"); err == nil {
		t.Error("a call succeeds after Stop")
	}
	if err := upg.Detach(); err == nil || err.Error() != "shellflip: "+syscall.EBADF.Error() {
		t.Errorf("Detach: %v", err)
	}
}
