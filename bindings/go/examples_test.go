//go:build linux && cgo

package shellflip_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// counted is what the example stateful answers.
type counted struct {
	Client          string
	Count           uint64
	Pid, Generation int
}

func count(t testing.TB, address, client string) (counted, error) {
	var answer counted
	// A connection for each request, and no second try.
	transport := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: soon()}
	response, err := transport.Post("http://"+address+"/"+client, "text/plain", io.MultiReader(strings.NewReader("x")))
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	return answer, json.NewDecoder(response.Body).Decode(&answer)
}

func TestACounterPerClientSurvivesUpgradesARefusedAndAFailedOne(t *testing.T) {
	address, refuse := freePort(t), filepath.Join(t.TempDir(), "refuse")
	program := build(t, "../../examples/go/stateful")
	f := start(t, program, []string{"REFUSE=" + refuse}, "tcp://"+address)
	pid := f.serving(0)
	var stop atomic.Bool
	var clients sync.WaitGroup
	counts := make([]uint64, 4)
	for i := range counts {
		clients.Add(1)
		go func(i int) {
			defer clients.Done()
			for !stop.Load() {
				answer, err := count(t, address, fmt.Sprint("client", i))
				if counts[i]++; err != nil || answer.Count != counts[i] {
					t.Errorf("client %d expected %d, got %+v, %v", i, counts[i], answer, err)
					return
				}
			}
		}(i)
	}
	for generation := 1; generation <= 20; generation++ {
		if generation == 7 {
			if err := os.WriteFile(refuse, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			f.signal(pid, syscall.SIGUSR1)
			f.waitFor(`upgrade failed: .*the operator asked for no upgrades`)
			_ = os.Remove(refuse)
		}
		if generation == 13 {
			f.replace("/bin/false")
			f.signal(pid, syscall.SIGUSR1)
			f.waitFor(`upgrade failed: .*exited with status 1`)
			if answer, err := count(t, address, "witness"); err != nil || answer.Pid != pid {
				t.Errorf("%+v, %v", answer, err)
			}
			f.replace(program)
		}
		pid = f.upgrade(pid, generation, syscall.SIGUSR1)
	}
	stop.Store(true)
	clients.Wait()
	for i, before := range counts {
		answer, err := count(t, address, fmt.Sprint("client", i))
		if err != nil || answer.Count != before+1 || answer.Generation != 20 || before < 20 {
			t.Errorf("client %d after %d: %+v, %v", i, before, answer, err)
		}
	}
	f.stop(pid)
}

// descriptorLimit sets the soft limit of another process, and returns what it was.
func descriptorLimit(t testing.TB, pid int, limit uint64) uint64 {
	t.Helper()
	var now syscall.Rlimit
	set := func(to, from *syscall.Rlimit) {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), syscall.RLIMIT_NOFILE,
			uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(from)), 0, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
	}
	set(nil, &now)
	set(&syscall.Rlimit{Cur: limit, Max: now.Max}, nil)
	return now.Cur
}

// switches is how often the threads of a process have gone to sleep so far.
func switches(pid int) int {
	total := 0
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, task := range tasks {
		status, _ := os.ReadFile(task)
		_, after, _ := strings.Cut(string(status), "\nvoluntary_ctxt_switches:")
		line, _, _ := strings.Cut(after, "\n")
		count, _ := strconv.Atoi(strings.TrimSpace(line))
		total += count
	}
	return total
}

func TestAnAcceptLoopOutlivesATimeWithoutDescriptors(t *testing.T) {
	address := freePort(t)
	f := start(t, build(t, "../../examples/go/hello"), nil, "tcp://"+address)
	pid := f.first.Process.Pid
	dial := func() (client net.Conn) {
		t.Helper()
		waitUntil(t, "a listener", func() bool {
			var err error
			client, err = net.Dial("tcp", address)
			return err == nil
		})
		_ = client.SetDeadline(time.Now().Add(soon()))
		return client
	}
	greeted := func(client net.Conn) {
		t.Helper()
		said := make([]byte, len("hello"))
		if _, err := io.ReadFull(client, said); err != nil || string(said) != "hello" {
			t.Fatalf("%q, %v", said, err)
		}
	}
	open := func() map[string]bool {
		numbers := make(map[string]bool)
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		for _, entry := range entries {
			numbers[entry.Name()] = true
		}
		return numbers
	}
	first := dial()
	greeted(first)
	with := len(open())
	first.Close()
	waitUntil(t, "the end of the first connection", func() bool { return len(open()) < with })
	next := 3
	for open()[strconv.Itoa(next)] {
		next++
	}
	before := descriptorLimit(t, pid, uint64(next))
	began := switches(pid)
	client := dial()
	defer client.Close()
	waitUntil(t, "several tries to accept", func() bool { return switches(pid) > began+20 })
	descriptorLimit(t, pid, before)
	greeted(client)
	client.Close()
	f.stop(pid)
}
