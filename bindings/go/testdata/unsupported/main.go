// A program that goes on without upgrades where there can be none.
package main

import (
	"errors"
	"fmt"
	"os"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
	"github.com/libshellflip/libshellflip/bindings/go/testing"
)

func main() {
	_, err := shellflip.New(shellflip.Options{})
	if !errors.Is(err, shellflip.ErrNotSupported) {
		os.Exit(1)
	}
	fmt.Println(err)
	upg, err := testing.New()
	if err != nil || upg.Ready() != nil {
		os.Exit(1)
	}
}
