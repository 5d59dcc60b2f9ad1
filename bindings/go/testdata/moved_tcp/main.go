// A TCP server as it is written for tableflip; only the import is another.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	tableflip "github.com/libshellflip/libshellflip/bindings/go"
)

func main() {
	address := flag.String("listen", "localhost:8080", "where to listen")
	pidFile := flag.String("pid-file", "", "where to write the pid")
	think := flag.Duration("think", 0, "how long an answer takes")
	flag.Parse()

	upg, err := tableflip.New(tableflip.Options{PIDFile: *pidFile})
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

	listener, err := upg.Fds.Listen("tcp", *address)
	if err != nil {
		log.Fatalln("cannot listen:", err)
	}
	go func() {
		defer listener.Close()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				time.Sleep(*think)
				fmt.Fprintf(conn, "hello from pid %d\n", os.Getpid())
				_ = conn.Close()
			}()
		}
	}()

	if err := upg.Ready(); err != nil {
		panic(err)
	}
	log.Printf("pid %d generation %d ready", os.Getpid(), upg.Generation())
	<-upg.Exit()
}
