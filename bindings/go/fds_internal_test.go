//go:build linux && cgo

package shellflip

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
)

// A predecessor accepts from the same sockets at this moment, and O_NONBLOCK is theirs, not a descriptor's.
func TestASharedSocketNeverBlocksWhileItIsInherited(t *testing.T) {
	const times = 3000
	descriptor := func(shared syscall.Conn) uintptr {
		raw, err := shared.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var fd uintptr
		if err := raw.Control(func(number uintptr) { fd = number }); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fds := new(Fds)
	for _, one := range []struct {
		name   string
		shared uintptr
		use    func(fd uintptr) (io.Closer, error)
	}{
		{"listener", descriptor(listener.(syscall.Conn)), func(fd uintptr) (io.Closer, error) {
			return fds.listenerOf(fd, "test", keepNever)
		}},
		{"packet connection", descriptor(packets.(syscall.Conn)), func(fd uintptr) (io.Closer, error) {
			return socketOf(fd, "test", net.FilePacketConn)
		}},
		{"connection", descriptor(conn.(syscall.Conn)), func(fd uintptr) (io.Closer, error) {
			return socketOf(fd, "test", net.FileConn)
		}},
	} {
		t.Run(one.name, func(t *testing.T) {
			var looked, blocked, stop atomic.Int64
			done := make(chan struct{})
			defer func() {
				stop.Store(1)
				<-done
			}()
			go func() {
				defer close(done)
				for stop.Load() == 0 {
					flags, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, one.shared, syscall.F_GETFL, 0)
					if looked.Add(1); errno != 0 || flags&syscall.O_NONBLOCK == 0 {
						blocked.Add(1)
					}
				}
			}()
			for i := 0; i < times; i++ {
				copied, err := syscall.Dup(int(one.shared))
				if err != nil {
					t.Fatal(err)
				}
				syscall.CloseOnExec(copied)
				used, err := one.use(uintptr(copied))
				if err != nil {
					t.Fatal(err)
				}
				if err := used.Close(); err != nil {
					t.Fatal(err)
				}
				if _, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(copied), syscall.F_GETFD, 0); errno == 0 {
					t.Fatal("its descriptor is open after Close")
				}
			}
			stop.Store(1)
			<-done
			if blocked.Load() > 0 || looked.Load() == 0 {
				t.Errorf("seen to block %d times of %d", blocked.Load(), looked.Load())
			}
		})
	}
}
