// An HTTP server as it is written for tableflip; only the import is another.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	tableflip "github.com/libshellflip/libshellflip/bindings/go"
)

func main() {
	address := flag.String("listen", "localhost:8080", "where to listen")
	pidFile := flag.String("pid-file", "", "where to write the pid")
	noGrace := flag.Bool("no-grace", false, "what net/http does alone: the control of the test")
	flag.Parse()

	options := tableflip.Options{PIDFile: *pidFile}
	if *noGrace {
		options.IdleGrace = -1
	}
	upg, err := tableflip.New(options)
	if err != nil {
		panic(err)
	}
	defer upg.Stop()

	// Outside of the goroutine, unlike in tableflip's example: the first signal may come before that runs.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for range hangups {
			if err := upg.Upgrade(); err != nil {
				log.Println("upgrade failed:", err)
			}
		}
	}()

	// Not in tableflip's example, which ends with Ctrl-C.
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	go func() {
		<-terminate
		upg.Stop()
	}()

	listener, err := upg.Listen("tcp", *address)
	if err != nil {
		log.Fatalln("cannot listen:", err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "{\"version\":\"1\",\"pid\":%d,\"generation\":%d}\n", os.Getpid(), upg.Generation())
	})}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Println("panic: Serve returned", err)
		}
	}()

	if err := upg.Ready(); err != nil {
		panic(err)
	}
	log.Printf("pid %d generation %d ready", os.Getpid(), upg.Generation())
	<-upg.Exit()

	time.AfterFunc(30*time.Second, func() {
		log.Println("panic: still not shut down")
		os.Exit(1)
	})
	_ = server.Shutdown(context.Background())
}
