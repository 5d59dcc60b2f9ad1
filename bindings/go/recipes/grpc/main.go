// A gRPC server (grpc-go) that is replaced without a failed call.
//
// GracefulStop tells every client to go (GOAWAY), which then connects to the successor, and waits for the calls that
// are being answered. It has no time limit of its own: Stop ends it at the drain deadline, or when a second
// stop cuts the drain short.
//
// Usage: grpc [ADDRESS]
package main

import (
	"log"
	"os"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

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
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
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
	go func() {
		<-upg.DrainContext().Done()
		server.Stop()
	}()
	server.GracefulStop()
}
