// The same server on libshellflip. SIGUSR1 replaces it.
package main

import (
	"log"
	"net/http"
	"syscall"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
	"github.com/libshellflip/libshellflip/bindings/go/fliphttp"

	"bench/answer"
)

func main() {
	upg, err := shellflip.New(shellflip.Options{})
	if err != nil {
		log.Fatalln("libshellflip: cannot start:", err)
	}
	defer upg.Stop()
	upg.UpgradeOn(syscall.SIGUSR1)

	listener, err := upg.Listen("tcp", answer.Address())
	if err != nil {
		log.Fatalln("libshellflip: cannot listen:", err)
	}
	served := make(chan error, 1)
	go func() { served <- fliphttp.Serve(upg, &http.Server{Handler: answer.Handler}, listener) }()
	if err := upg.Ready(); err != nil {
		log.Fatalln("libshellflip: not ready:", err)
	}
	answer.Live()
	if err := <-served; err != nil {
		log.Fatalln("libshellflip: connections were left behind:", err)
	}
}
