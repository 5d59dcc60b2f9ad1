package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/libshellflip/libshellflip/bindings/go/internal/server"
)

func TestFasthttpRequestsSurviveUpgrades(t *testing.T) {
	client := os.Getenv("FLIPLOAD")
	if client == "" {
		fmt.Printf("SKIPPED: %s: FLIPLOAD does not name the load client\n", t.Name())
		t.Skip()
	}
	address := server.FreePort(t)
	running := server.Start(t, address)
	pid := running.Serving(0)
	var output bytes.Buffer
	load := exec.Command(client, "tcp://"+address, "--connections", "32", "--streams", "2")
	load.Stdout = &output
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = load.Process.Kill() }()
	for generation := 1; generation <= 10; generation++ {
		time.Sleep(50 * time.Millisecond) // of load between upgrades
		if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		next := running.Serving(generation)
		running.WaitGone(pid)
		pid = next
	}
	_ = load.Process.Signal(syscall.SIGINT)
	_ = load.Wait()
	var said struct {
		Sent, Answered, Failed uint64
		FirstFailures          []struct{ Kind, Detail string } `json:"first_failures"`
	}
	if err := json.Unmarshal(output.Bytes(), &said); err != nil {
		t.Fatal(err)
	}
	if said.Failed != 0 || said.Answered < 1000 {
		t.Errorf("%d of %d requests failed: %v", said.Failed, said.Sent, said.FirstFailures)
	}
	t.Logf("%d requests", said.Sent)
	running.Stop(pid)
}

func TestASecondStopDoesNotWaitForHalfARequest(t *testing.T) {
	address := server.FreePort(t)
	running := server.Start(t, address)
	pid := running.Serving(0)
	ask := func(conn net.Conn) string {
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		answer := make([]byte, 4096)
		n, err := conn.Read(answer)
		if err != nil {
			t.Fatal(err)
		}
		return string(answer[:n])
	}
	var conns [2]net.Conn
	for i := range conns {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ask(conn) // so that it was accepted
		conns[i] = conn
	}
	fmt.Fprint(conns[0], "GET / HTTP/1.1\r\n")
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	running.WaitUntil("the first stop", func() bool { return strings.Contains(ask(conns[1]), "Connection: close") })
	running.Stop(pid)
}
