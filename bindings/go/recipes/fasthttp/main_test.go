package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
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
