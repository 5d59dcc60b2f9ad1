// One generation after the other, each a server without clients; the argument is how many are to follow. Each prints
// how many microseconds passed from its predecessor's request until it was live.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

const began = "BENCH_BEGAN"

// monotonic is CLOCK_MONOTONIC in nanoseconds, which both processes share; package time has only differences of it.
func monotonic() int64 {
	const clockMonotonic = 1
	var now syscall.Timespec
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&now)), 0); errno != 0 {
		log.Fatal(errno)
	}
	return now.Nano()
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	count, err := strconv.Atoi(os.Args[1])
	must(err)
	upg, err := shellflip.New(shellflip.Options{})
	must(err)
	defer upg.Stop()
	_, err = upg.ListenAddress("tcp://127.0.0.1:0?name=bench")
	must(err)
	must(upg.Ready())
	live := monotonic()
	if upg.HasParent() {
		from, err := strconv.ParseInt(os.Getenv(began), 10, 64)
		must(err)
		fmt.Println((live - from) / 1000)
		must(upg.WaitForParent(context.Background()))
	}
	if upg.Generation() < count {
		must(upg.SetEnv(began, strconv.FormatInt(monotonic(), 10)))
		must(upg.Upgrade())
	}
}
