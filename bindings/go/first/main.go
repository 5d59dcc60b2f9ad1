package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"syscall"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

func main() {
	upg, err := shellflip.New(shellflip.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer upg.Stop()
	upg.UpgradeOn(syscall.SIGUSR1)
	listener, err := upg.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello from pid", os.Getpid()) })
	server := new(http.Server)
	go server.Serve(listener) // accepts from when Ready has returned
	if err := upg.Ready(); err != nil {
		log.Fatal(err)
	}
	<-upg.Exit()
	server.Shutdown(context.Background())
}
