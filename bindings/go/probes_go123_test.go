//go:build linux && cgo && go1.23

package shellflip

import (
	"net"
	"syscall"
	"testing"
	"time"
)

func TestConnectionsOfAnInheritedListenerAreProbedAsTheKeepAliveConfigSays(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := &net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 33 * time.Second, Interval: 7 * time.Second, Count: 3,
	}}
	listener := (&Fds{serving: true, config: config}).wrap(inner.(Listener), keepAlways)
	listener.inherited = true
	defer listener.Close()
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for option, said := range map[int]int{syscall.TCP_KEEPIDLE: 33, syscall.TCP_KEEPINTVL: 7, syscall.TCP_KEEPCNT: 3} {
		var now int
		var failed error
		err := raw.Control(func(fd uintptr) { now, failed = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option) })
		if err != nil || failed != nil || now != said {
			t.Errorf("option %d: %d, not %d (%v, %v)", option, now, said, err, failed)
		}
	}
}
