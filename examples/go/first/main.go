package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"syscall"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
	"github.com/libshellflip/libshellflip/bindings/go/fliphttp"
)

func main() {
	upg, err := shellflip.New(shellflip.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer upg.Stop()
	upg.UpgradeOn(syscall.SIGUSR1)
	upg.StopOn(syscall.SIGTERM, syscall.SIGINT)
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello from pid", os.Getpid()) })
	if err := fliphttp.ListenAndServe(upg, &http.Server{Addr: "127.0.0.1:8080"}); err != nil {
		log.Println(err)
	}
}
