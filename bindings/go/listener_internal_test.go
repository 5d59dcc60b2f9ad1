//go:build linux && cgo

package shellflip

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// counting counts how often a connection is asked for.
type counting struct {
	Listener
	tries atomic.Int64
}

func (c *counting) Accept() (net.Conn, error) {
	c.tries.Add(1)
	return c.Listener.Accept()
}

// lastDescriptor lets this process open nothing more, until the function that it returns is called.
func lastDescriptor(t *testing.T) (release func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	next, err := syscall.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Close(next)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(next), Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	return func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) }
}

func TestAcceptWaitsWhileDescriptorsAreExhausted(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counted := &counting{Listener: inner.(Listener)}
	listener := (&Fds{serving: true}).wrap(counted, keepAlways)
	defer listener.Close()
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	release := lastDescriptor(t)
	defer release()
	begun := time.Now()

	if err := listener.SetDeadline(time.Now().Add(time.Hour)); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Fatal(err) // the one inside has none; this one keeps it all the same
	}
	accepted := make(chan error, 1)
	accept := func() {
		conn, err := listener.Accept()
		if err == nil {
			_ = conn.Close()
		}
		accepted <- err
	}
	go accept()
	tried := func(times int64) {
		t.Helper()
		for counted.tries.Load() < times {
			select {
			case err := <-accepted:
				t.Fatalf("Accept has returned: %v", err)
			case <-time.After(time.Millisecond):
			}
			if time.Since(begun) > 10*time.Second {
				t.Fatal("nobody tries to accept")
			}
		}
	}
	tried(3)
	_ = listener.SetDeadline(time.Unix(1, 0))
	if err := <-accepted; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("at its deadline Accept has returned %v", err)
	}
	_ = listener.SetDeadline(time.Time{})
	go accept()
	tried(counted.tries.Load() + 3)
	if tries, most := counted.tries.Load(), int64(time.Since(begun)/exhausted)+2; tries > most {
		t.Errorf("%d tries, where %d are enough", tries, most)
	}
	release()
	select {
	case err := <-accepted:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("nobody was accepted once there were descriptors again")
	}
}
