// Package shellflip lets a running server replace itself with a new program without refusing or breaking one
// connection.
//
// The old process starts the new one and passes it the listening sockets. The new one initialises in its own time and
// calls Ready; only then does the old one stop accepting, finish its connections and exit. If the new one crashes,
// hangs or refuses, the old one has never stopped serving.
//
// The names and their meaning are tableflip's (github.com/cloudflare/tableflip), so that moving over is an import
// line:
//
//	tableflip "github.com/libshellflip/libshellflip/bindings/go"
//
// The work is done by libshellflip, which pkg-config finds; with the build tag shellflip_static its archive becomes a
// part of the program. Without cgo, and on other systems than Linux, New returns ErrNotSupported.
//
// # Signals
//
// The library handles no signals in a Go program; UpgradeOn and StopOn do it by os/signal.
//
// # Goroutines and forks
//
// Every method may be called from any goroutine at any time. The library runs two threads of its own, on which no Go
// code runs; two goroutines wait in it for events and for shutdown. os/exec works as always: nothing of the library
// reaches the programs that it starts. A Go program cannot fork in another way.
package shellflip
