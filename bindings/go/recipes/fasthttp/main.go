// A fasthttp server that is replaced without a failed request.
//
// Shutdown closes idle connections at once, and with them the requests that are on their way on them. So every answer
// first says that its connection ends, from when shutdown has fired; Shutdown comes when the connections have ended,
// or have had Options.IdleGrace for their next request.
//
// Usage: fasthttp [ADDRESS]
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"syscall"

	"github.com/valyala/fasthttp"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

// ending makes a handler's answers say that the connection ends, once shutdown has fired.
func ending(upg *shellflip.Upgrader, handler fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		select {
		case <-upg.Closing():
			ctx.SetConnectionClose()
		default:
		}
		handler(ctx)
	}
}

// drain returns when the server's connections have ended, at the latest at the drain deadline, or when a second stop
// cuts the drain short.
func drain(upg *shellflip.Upgrader, server *fasthttp.Server) error {
	ctx := upg.DrainContext()
	idle, end := context.WithTimeout(ctx, upg.Options().IdleGrace)
	_ = upg.Drain(idle)
	end()
	return server.ShutdownWithContext(ctx)
}

func main() {
	address := "127.0.0.1:8080"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	upg, err := shellflip.New(shellflip.Options{})
	if err != nil {
		log.Fatalln("cannot start:", err)
	}
	defer upg.Stop()
	upg.UpgradeOn(syscall.SIGUSR1)
	upg.StopOn(syscall.SIGTERM, syscall.SIGINT)
	listener, err := upg.Listen("tcp", address)
	if err != nil {
		log.Fatalln("cannot listen:", err)
	}
	server := &fasthttp.Server{Handler: ending(upg, func(ctx *fasthttp.RequestCtx) {
		fmt.Fprintf(ctx, "{\"version\":\"1\",\"pid\":%d,\"generation\":%d}\n", os.Getpid(), upg.Generation())
	})}
	go func() {
		// Accepts from when Ready has returned.
		if err := server.Serve(listener); err != nil {
			log.Println(err)
		}
	}()
	if err := upg.Ready(); err != nil {
		log.Fatalln("not ready:", err)
	}
	log.Printf("pid %d, generation %d: serving", os.Getpid(), upg.Generation())
	<-upg.Exit()
	if err := drain(upg, server); err != nil {
		log.Println("connections were left behind:", err)
	}
}
