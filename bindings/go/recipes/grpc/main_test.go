package main

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/libshellflip/libshellflip/bindings/go/internal/server"
)

func TestGRPCCallsSurviveUpgrades(t *testing.T) {
	address := server.FreePort(t)
	running := server.Start(t, address)
	pid := running.Serving(0)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var clients sync.WaitGroup
	var answered atomic.Int64
	call := func(channel *grpc.ClientConn) bool {
		limited, done := context.WithTimeout(ctx, 10*time.Second)
		defer done()
		_, err := grpc_health_v1.NewHealthClient(channel).Check(limited, &grpc_health_v1.HealthCheckRequest{})
		if err != nil && ctx.Err() == nil {
			t.Errorf("after %d calls: %v", answered.Load(), err)
		}
		answered.Add(1)
		return err == nil
	}
	dial := func() *grpc.ClientConn {
		// Calls that fail are not tried again.
		channel, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
		if err != nil {
			t.Fatal(err)
		}
		return channel
	}
	for i := 0; i < 8; i++ {
		clients.Add(1)
		go func(fresh bool) {
			defer clients.Done()
			channel := dial()
			for ctx.Err() == nil && call(channel) {
				if fresh {
					channel.Close()
					channel = dial()
				}
			}
			channel.Close()
		}(i == 0)
	}
	for generation := 1; generation <= 10; generation++ {
		before := answered.Load()
		running.WaitUntil("answers", func() bool { return t.Failed() || answered.Load() > before+100 })
		if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		next := running.Serving(generation)
		running.WaitGone(pid)
		pid = next
	}
	cancel()
	clients.Wait()
	t.Logf("%d calls", answered.Load())
	running.Stop(pid)
}

func TestASecondStopDoesNotWaitForAStream(t *testing.T) {
	address := server.FreePort(t)
	running := server.Start(t, address)
	pid := running.Serving(0)
	channel, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer channel.Close()
	// It says how the server is, and goes on.
	stream, err := grpc_health_v1.NewHealthClient(channel).Watch(context.Background(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	running.WaitUntil("the first stop", func() bool { return channel.GetState() != connectivity.Ready })
	running.Stop(pid)
}
