package shellflip

import (
	"io"
	"net"
	"time"
)

// DefaultUpgradeTimeout is how long an upgrade may take where Options.UpgradeTimeout is not set.
const DefaultUpgradeTimeout = time.Minute

// DefaultDrainTimeout is how long open connections may take to finish where Options.DrainTimeout is not set.
const DefaultDrainTimeout = 30 * time.Second

// DefaultIdleGrace is how long a keep-alive connection may wait for its next request after shutdown where
// Options.IdleGrace is not set.
const DefaultIdleGrace = 5 * time.Second

// Options is what can be chosen. The zero value is a good choice.
type Options struct {
	// UpgradeTimeout is how long an upgrade may take, from the request until the new process is told to serve. A new
	// process that is not ready by then is ended (SIGTERM, 2 s later SIGKILL), and the old one serves on.
	// 0: DefaultUpgradeTimeout.
	UpgradeTimeout time.Duration

	// PIDFile is a file that has the pid of the process that serves. Empty: none.
	PIDFile string

	// ListenConfig makes the sockets of Listen and ListenPacket that are not inherited. nil: a zero one; a unix path
	// that nobody listens on any more is then replaced. Its keep-alive of connections is for Listen's inherited ones, too.
	ListenConfig *net.ListenConfig

	// ControlSocket is the address of a unix socket on which an operator asks for an upgrade, a stop or the status,
	// as "unix:///run/a.ctl?mode=0660". Empty: none.
	ControlSocket string

	// DrainTimeout is how long connections may take to finish, from shutdown on: Drain and Stop wait no longer.
	// 0: DefaultDrainTimeout.
	DrainTimeout time.Duration

	// HardStop is how long after DrainTimeout a process that is still there is ended with SIGKILL. 0: never.
	HardStop time.Duration

	// Probation is how long both generations serve after the new one has begun to. If the new one dies meanwhile, the
	// old one has never stopped. 0: none.
	Probation time.Duration

	// Watchdog makes the library ping systemd's watchdog (WatchdogSec= of the unit), whatever the host does meanwhile.
	Watchdog bool

	// FDStore keeps the listeners in systemd's store, for a process that is started after a crash.
	FDStore bool

	// MaxDraining is how many older generations may still finish their connections while a further upgrade starts.
	// 0: one. Negative: none, as in tableflip.
	MaxDraining int

	// IdleGrace is how long, after shutdown, an HTTP server's connections may wait for their next request, which is
	// answered with Connection: close, before Shutdown closes them. 0: DefaultIdleGrace. Negative: no time at all, as
	// with net/http alone, which then breaks requests that are on their way.
	IdleGrace time.Duration

	// Starting is asked before each upgrade, with a line about who wants it. An error refuses the upgrade, and
	// reaches whoever asked for it. UpgradeTimeout runs meanwhile. nil: no upgrade is refused.
	//
	// Starting, State, Failed and Log are called one at a time, on a goroutine that does nothing else. They must not
	// call Upgrade, which fails with EDEADLK there.
	Starting func(requester string) error

	// State writes what the successor's State reads. The upgrade waits for its return; an error fails the upgrade.
	// What changes after it has returned does not reach the successor. The writer is not to be used after that. nil:
	// no state is promised.
	State func(w io.Writer) error

	// Failed is told of every upgrade that has failed, whoever asked for it. nil: it is logged with the package log
	// if UpgradeOn is used.
	Failed func(err error)

	// Log gets the library's lines for the log. nil: they go to standard error if SHELLFLIP_LOG is set to error, info
	// or debug.
	Log func(line string)
}

func (o *Options) fill() {
	if o.UpgradeTimeout <= 0 {
		o.UpgradeTimeout = DefaultUpgradeTimeout
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = DefaultDrainTimeout
	}
	if o.IdleGrace == 0 {
		o.IdleGrace = DefaultIdleGrace
	}
}

func (o *Options) core() coreConfig {
	config := coreConfig{
		upgradeTimeout: o.UpgradeTimeout,
		drainTimeout:   o.DrainTimeout,
		hardStop:       o.HardStop,
		probation:      o.Probation,
		maxDraining:    o.MaxDraining,
		events:         eventFailed,
		watchdog:       o.Watchdog,
		fdStore:        o.FDStore,
		pidFile:        o.PIDFile,
		controlSocket:  o.ControlSocket,
	}
	switch {
	case o.MaxDraining < 0:
		config.maxDraining = 0
	case o.MaxDraining == 0:
		config.maxDraining = -1
	}
	if o.Starting != nil {
		config.events |= eventStarting
	}
	if o.State != nil {
		config.events |= eventState
	}
	if o.Log != nil {
		config.events |= eventLog
	}
	return config
}
