// A server whose state survives its own replacement: it counts per client, one request a connection.
//
//	curl http://127.0.0.1:8080/alice        {"client":"/alice","count":1,"version":"1","pid":4711,"generation":0}
//
// The state is written when the library asks for it (Options.State). From then on this process accepts nothing: what
// it counted after that would be lost. Clients wait in the kernel's queue, for the successor, or for this process if
// the upgrade fails (Options.Failed). While the file named by REFUSE exists, upgrades are refused.
//
// Usage: stateful [ADDRESS]. Environment: REFUSE, FAIL, UPGRADE_TIMEOUT_MS.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
	"github.com/libshellflip/libshellflip/bindings/go/fliphttp"
)

// patience is how long a client may take to send its request, and to delay an upgrade.
const patience = 5 * time.Second

// Set with -ldflags "-X main.version=2". Versions 3 and 4 are no good: the old one goes on serving.
var version = "1"

var (
	upg    *shellflip.Upgrader
	mu     sync.Mutex
	counts = map[string]uint64{}
)

func starting(requester string) error {
	if refuse := os.Getenv("REFUSE"); refuse != "" {
		if _, err := os.Stat(refuse); err == nil {
			return errors.New("the operator asked for no upgrades (REFUSE)")
		}
	}
	return nil
}

func writeState(out io.Writer) error {
	upg.Pause()
	// Who was accepted is counted. A client that sends nothing is given up before this is.
	for until := time.Now().Add(patience + time.Second); upg.Connections() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			return fmt.Errorf("%d connections have not ended", upg.Connections())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	return json.NewEncoder(out).Encode(counts)
}

func failed(err error) {
	log.Println("upgrade failed:", err)
	upg.Resume()
}

func readState() error {
	state, err := upg.State()
	switch {
	case errors.Is(err, shellflip.ErrNoState):
		return nil
	case errors.Is(err, shellflip.ErrStateLost):
		// We may serve all the same: Ready lets us once we have been told.
		log.Println(err, "- starting with none")
		return nil
	case err != nil:
		return err
	}
	defer state.Close()
	return json.NewDecoder(state).Decode(&counts)
}

func count(w http.ResponseWriter, r *http.Request) {
	mu.Lock()
	counts[r.URL.Path]++
	now := counts[r.URL.Path]
	mu.Unlock()
	fmt.Fprintf(w, "{\"client\":%q,\"count\":%d,\"version\":\"%s\",\"pid\":%d,\"generation\":%d}\n",
		r.URL.Path, now, version, os.Getpid(), upg.Generation())
}

func main() {
	log.SetPrefix("stateful: ")
	address := "tcp://127.0.0.1:8080"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	timeout, _ := time.ParseDuration(os.Getenv("UPGRADE_TIMEOUT_MS") + "ms")
	var err error
	upg, err = shellflip.New(shellflip.Options{
		UpgradeTimeout: timeout, Starting: starting, State: writeState, Failed: failed,
	})
	if err != nil {
		log.Fatalln("cannot start:", err)
	}
	defer upg.Stop()
	switch {
	case version == "3", os.Getenv("FAIL") != "" && upg.HasParent(): // crashes before it is ready
		os.Exit(1)
	case version == "4": // is never ready
		time.Sleep(time.Hour)
	}
	listener, err := upg.ListenAddress(address)
	if err != nil {
		log.Fatalln("cannot listen:", err)
	}
	if err := readState(); err != nil {
		log.Fatalln("cannot read the state:", err)
	}
	upg.UpgradeOn(syscall.SIGUSR1)
	upg.StopOn(syscall.SIGTERM, syscall.SIGINT)
	server := &http.Server{Handler: http.HandlerFunc(count), ReadHeaderTimeout: patience}
	server.SetKeepAlivesEnabled(false)
	served := make(chan error)
	go func() { served <- fliphttp.Serve(upg, server, listener) }()
	if err := upg.Ready(); err != nil {
		log.Fatalln("not ready:", err)
	}
	log.Printf("pid %d, generation %d: serving", os.Getpid(), upg.Generation())
	if err := <-served; err != nil {
		log.Fatalln("connections were left behind:", err)
	}
}
