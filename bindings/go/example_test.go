//go:build linux && cgo

package shellflip_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"syscall"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
	"github.com/libshellflip/libshellflip/bindings/go/fliphttp"
)

// A server, its first answer, and its end.
func Example() {
	upg, err := shellflip.New(shellflip.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer upg.Stop()
	upg.UpgradeOn(syscall.SIGHUP)

	listener, err := upg.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "hello from generation ", upg.Generation())
	})}
	served := make(chan error)
	go func() { served <- fliphttp.Serve(upg, server, listener) }()
	if err := upg.Ready(); err != nil {
		log.Fatal(err)
	}

	answer, err := http.Get("http://" + listener.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	body, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	fmt.Println(string(body))

	http.DefaultClient.CloseIdleConnections()
	upg.Stop()
	fmt.Println(<-served, upg.Reason())
	// Output:
	// hello from generation 0
	// <nil> stopped
}

// What the predecessor has handed over, if there was one.
func ExampleUpgrader_State() {
	upg, err := shellflip.New(shellflip.Options{
		State: func(w io.Writer) error {
			_, err := io.WriteString(w, "for the next generation")
			return err
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer upg.Stop()
	state, err := upg.State()
	if errors.Is(err, shellflip.ErrNoState) {
		fmt.Println("starting with nothing")
	} else if err == nil {
		_, _ = io.Copy(log.Writer(), state)
		state.Close()
	}
	// Output: starting with nothing
}

// How an upgrade failed.
func ExampleUpgrader_Upgrade() {
	upg, err := shellflip.New(shellflip.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer upg.Stop()
	var failed *shellflip.Error
	if errors.As(upg.Upgrade(), &failed) {
		fmt.Println(failed.Failure, errors.Is(failed, syscall.EAGAIN))
	}
	// Output: not ready true
}

// Waiting for the generation before this one, as long as the context allows.
func ExampleUpgrader_WaitForParent() {
	upg, err := shellflip.New(shellflip.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer upg.Stop()
	fmt.Println(upg.HasParent(), upg.WaitForParent(context.Background()))
	// Output: false <nil>
}
