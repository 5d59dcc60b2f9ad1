//go:build linux && cgo

package shellflip_test

import (
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"
)

// freePort is one that nobody uses at this moment.
func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

const upgrades = 10

func TestTableflipsTCPProgramIsReplacedWithoutALostConnection(t *testing.T) {
	address := freePort(t)
	f := start(t, build(t, "testdata/moved_tcp"), nil, "-listen", address, "-think", "20ms")
	pid := f.serving(0)
	load := startLoad(t, "tcp://"+address, "--hello", "--streams", "8", "--connections", "0")
	for generation := 1; generation <= upgrades; generation++ {
		time.Sleep(50 * time.Millisecond) // of load between upgrades
		pid = f.upgrade(pid, generation, syscall.SIGHUP)
	}
	load.stop().clean(t, 100)
	f.stop(pid)
}

func TestTableflipsHTTPProgramIsReplacedWithoutAFailedRequest(t *testing.T) {
	address := freePort(t)
	f := start(t, build(t, "testdata/moved_http"), nil, "-listen", address)
	pid := f.serving(0)
	load := startLoad(t, "tcp://"+address, "--connections", "32", "--streams", "2")
	for generation := 1; generation <= upgrades; generation++ {
		time.Sleep(50 * time.Millisecond)
		pid = f.upgrade(pid, generation, syscall.SIGHUP)
	}
	said := load.stop()
	said.clean(t, 2000)
	if len(said.Seen) != upgrades+1 {
		t.Errorf("%d processes have answered, not %d", len(said.Seen), upgrades+1)
	}
	f.stop(pid)
}

// The control: what net/http does on its own breaks requests, and the client sees it.
func TestTheLoadSeesWhatNetHTTPAloneBreaks(t *testing.T) {
	address := freePort(t)
	f := start(t, build(t, "testdata/moved_http"), nil, "-listen", address, "-no-grace")
	pid := f.serving(0)
	for generation := 1; generation <= 60; generation++ {
		load := startLoad(t, "tcp://"+address, "--connections", "32", "--streams", "2")
		time.Sleep(50 * time.Millisecond)
		pid = f.upgrade(pid, generation, syscall.SIGHUP)
		if said := load.stop(); said.Failed > 0 {
			t.Log(fmt.Sprintf("%d requests failed in upgrade %d", said.Failed, generation))
			f.stop(pid)
			return
		}
	}
	t.Error("nothing failed in 60 upgrades")
}
