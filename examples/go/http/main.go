// An HTTP server that is replaced without a failed request, on net/http.
//
// Usage: http [ADDRESS]. Environment: ADDRESS, IDLE_GRACE_MS, UPGRADE_TIMEOUT_MS, DRAIN_TIMEOUT_MS.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
	"github.com/libshellflip/libshellflip/bindings/go/fliphttp"
)

// Set with -ldflags "-X main.version=2". Versions 3 and 4 are no good: the old one goes on serving.
var version = "1"

func setting(name string, otherwise time.Duration) time.Duration {
	if ms, err := strconv.ParseUint(os.Getenv(name), 10, 31); err == nil {
		return time.Duration(ms) * time.Millisecond
	}
	return otherwise
}

func main() {
	upg, err := shellflip.New(shellflip.Options{
		UpgradeTimeout: setting("UPGRADE_TIMEOUT_MS", 0),
		DrainTimeout:   setting("DRAIN_TIMEOUT_MS", 0),
		IdleGrace:      setting("IDLE_GRACE_MS", 0),
	})
	if err != nil {
		log.Fatalln("http: cannot start:", err)
	}
	defer upg.Stop()
	switch version {
	case "3": // crashes before it is ready
		os.Exit(1)
	case "4": // is never ready
		time.Sleep(time.Hour)
	}

	address := "tcp://127.0.0.1:8080"
	if len(os.Args) > 1 {
		address = os.Args[1]
	} else if text := os.Getenv("ADDRESS"); text != "" {
		address = text
	}
	listener, err := upg.ListenAddress(address)
	if err != nil {
		log.Fatalln("http: cannot listen:", err)
	}
	upg.UpgradeOn(syscall.SIGUSR1)
	upg.StopOn(syscall.SIGTERM, syscall.SIGINT)

	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, "{\"version\":\"%s\",\"pid\":%d,\"generation\":%d}\n", version, os.Getpid(), upg.Generation())
	})
	http.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
		fmt.Fprintln(w, "slow")
	})
	served := make(chan error)
	go func() { served <- fliphttp.Serve(upg, &http.Server{}, listener) }()
	if err := upg.Ready(); err != nil {
		log.Fatalln("http: not ready:", err)
	}
	log.Printf("http: version %s, pid %d, generation %d: serving", version, os.Getpid(), upg.Generation())
	if err := <-served; err != nil {
		log.Fatalln("http: connections were left behind:", err)
	}
}
