//go:build linux && cgo

package shellflip_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
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
