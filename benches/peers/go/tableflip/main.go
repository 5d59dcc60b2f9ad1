// The server of tableflip's example for net/http, whose Shutdown ends the connections. SIGHUP replaces it.
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"

	"bench/answer"
)

func main() {
	upg, err := tableflip.New(tableflip.Options{})
	if err != nil {
		log.Fatalln("tableflip: cannot start:", err)
	}
	defer upg.Stop()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGHUP)
	go func() {
		for range asked {
			if err := upg.Upgrade(); err != nil {
				log.Println("tableflip: not replaced:", err)
			}
		}
	}()

	listener, err := upg.Listen("tcp", answer.Address())
	if err != nil {
		log.Fatalln("tableflip: cannot listen:", err)
	}
	server := http.Server{Handler: answer.Handler}
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			log.Println("tableflip:", err)
		}
	}()
	if err := upg.Ready(); err != nil {
		log.Fatalln("tableflip: not ready:", err)
	}
	answer.Live()
	<-upg.Exit()

	time.AfterFunc(30*time.Second, func() { os.Exit(1) })
	_ = server.Shutdown(context.Background())
}
