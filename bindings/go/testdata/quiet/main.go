// A server that writes nothing to standard error: what is written there is the library's.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

func main() {
	upg, err := shellflip.New(shellflip.Options{Failed: func(error) {}})
	if err != nil {
		os.Exit(1)
	}
	defer upg.Stop()
	upg.UpgradeOn(syscall.SIGHUP)
	upg.StopOn(syscall.SIGTERM)
	if _, err := upg.Listen("tcp", "127.0.0.1:0"); err != nil || upg.Ready() != nil {
		os.Exit(1)
	}
	name := filepath.Join(os.Getenv("FOLDER"), fmt.Sprint(upg.Generation()))
	_ = os.WriteFile(name, []byte(fmt.Sprintln(os.Getpid())), 0o600)
	<-upg.Exit()
}
