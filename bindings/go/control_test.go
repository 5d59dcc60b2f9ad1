//go:build linux && cgo

package shellflip_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

func TestTheOperatorsInterfaces(t *testing.T) {
	_, err := shellflip.ControlStatus("unix:@nobody-listens-here", time.Second)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	folder := t.TempDir()
	control, pidFile, fail := "unix://"+folder+"/ctl", filepath.Join(folder, "pid"), filepath.Join(folder, "fail")
	h := startHost(t, "CONTROL="+control, "PID_FILE="+pidFile, "FAIL="+fail)
	pid := h.serving(0)
	hasPid := func(pid int) {
		t.Helper()
		waitUntil(t, "the pid file", func() bool {
			text, _ := os.ReadFile(pidFile)
			return strings.TrimSpace(string(text)) == fmt.Sprint(pid)
		})
	}
	hasPid(pid)
	next, err := shellflip.ControlUpgrade(control, soon())
	if err != nil || next != h.serving(1) {
		t.Fatalf("%d, %v", next, err)
	}
	h.waitGone(pid)
	hasPid(next)
	if err := os.WriteFile(fail, []byte("exit"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = shellflip.ControlUpgrade(control, soon())
	var failed *shellflip.Error
	if !errors.As(err, &failed) || failed.Failure != shellflip.FailureExited || failed.Errno != syscall.ECONNABORTED {
		t.Errorf("%#v", err)
	}
	line, err := shellflip.ControlStatus(control, soon())
	var status struct{ Generation, Pid int }
	if err != nil || json.Unmarshal(line, &status) != nil || status.Generation != 1 || status.Pid != next {
		t.Errorf("%s, %v", line, err)
	}
	var own json.RawMessage
	if h.ask("/status", &own); json.Unmarshal(own, &status) != nil || status.Pid != next {
		t.Errorf("%s", own)
	}
	if err := shellflip.ControlStop(control, soon()); err != nil || alive(next) {
		t.Error(err)
	}
	if _, err := os.Stat(pidFile); !os.IsNotExist(err) {
		t.Errorf("the pid file is left: %v", err)
	}
}
