// A goroutine per connection. Replace it while it runs: build a new one over the file, then kill -USR1 the pid.
//
// Usage: hello [ADDRESS]
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"syscall"
	"time"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

// Set with -ldflags "-X main.version=2". Versions 3 and 4 are no good: the old one goes on serving.
var version = "1"

func main() {
	log.SetPrefix("hello: ")
	address := "tcp://127.0.0.1:8080"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	upg, err := shellflip.New(shellflip.Options{UpgradeTimeout: upgradeTimeout()})
	if err != nil {
		log.Fatalln("cannot start:", err)
	}
	// Waits for the connections that are still open.
	defer upg.Stop()
	switch version {
	case "3": // crashes before it is ready
		os.Exit(1)
	case "4": // is never ready
		time.Sleep(time.Hour)
	}
	upg.UpgradeOn(syscall.SIGUSR1)
	upg.StopOn(syscall.SIGTERM, syscall.SIGINT)
	listener, err := upg.ListenAddress(address)
	if err != nil {
		log.Fatalln("cannot listen:", err)
	}
	if err := upg.Ready(); err != nil {
		log.Fatalln("not ready:", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(upg, conn)
		}
	}()
	<-upg.Exit()
	listener.Close()
}

func upgradeTimeout() time.Duration {
	timeout, _ := time.ParseDuration(os.Getenv("UPGRADE_TIMEOUT_MS") + "ms")
	return timeout
}

func serve(upg *shellflip.Upgrader, conn net.Conn) {
	defer conn.Close()
	fmt.Fprintf(conn, "hello from pid %d generation %d version %s\n", os.Getpid(), upg.Generation(), version)
	// Closing with unread input resets the connection, and a reset can destroy the answer: read the input away.
	if half, can := conn.(interface{ CloseWrite() error }); can {
		_ = half.CloseWrite()
	}
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, _ = io.CopyN(io.Discard, conn, 16384)
}
