package shellflip

import (
	"os"
	"os/signal"
)

// UpgradeOn asks for an upgrade whenever one of the signals comes. One that cannot start yet, since another one is
// under way or the predecessor is still handing over, is remembered and leads to one later. Failures go to
// Options.Failed, or to the package log.
//
// The library handles no signal itself: in a Go program the Go runtime does, by os/signal.
func (u *Upgrader) UpgradeOn(signals ...os.Signal) {
	u.failLog.Store(true)
	u.on(signals, func() { _ = u.core.request(requestUpgrade) })
}

// StopOn stops the service whenever one of the signals comes: Exit is closed. The second one cuts the drain short: it
// ends 1.5 s later.
func (u *Upgrader) StopOn(signals ...os.Signal) {
	u.on(signals, func() {
		if u.ready.Load() {
			_ = u.core.request(requestStop)
		} else {
			u.Stop()
		}
	})
}

func (u *Upgrader) on(signals []os.Signal, ask func()) {
	if len(signals) == 0 {
		return // signal.Notify would take it for all signals
	}
	// os/signal drops what does not fit. One that waits stands for all that came since.
	came := make(chan os.Signal, 1)
	signal.Notify(came, signals...)
	go func() {
		defer signal.Stop(came)
		for {
			select {
			case <-came:
				ask()
			case <-u.freed:
				return
			}
		}
	}()
}
