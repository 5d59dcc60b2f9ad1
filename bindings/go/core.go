package shellflip

import "time"

// What the library is asked with, in Go's terms. core_cgo.go has the calls, core_stub.go what is there without them.

// coreConfig is what flip_init is given.
type coreConfig struct {
	upgradeTimeout, drainTimeout, hardStop, probation time.Duration
	// Negative: the library's default.
	maxDraining            int
	events                 uint
	pidFile, controlSocket string
	watchdog, fdStore      bool
}

// coreEvent is one event of the library. It is given back by answer, or by the next call of nextEvent.
type coreEvent struct {
	kind    uint
	text    string
	failure Failure
	handle  eventHandle
}

// The library's numbers; a test compares them with the header's.
const (
	requestUpgrade = 1
	requestStop    = 2
	requestDetach  = 3

	shutdownUpgrade = 1
	shutdownStop    = 2
	shutdownDetach  = 3

	eventStarting uint = 1
	eventState    uint = 2
	eventFailed   uint = 4
	eventLog      uint = 16
)

// fileID says which file a path leads to.
type fileID struct{ device, inode uint64 }
