package shellflip

import (
	"encoding/json"
	"time"
)

// Status says what this process is and does, as one line of JSON: generation, pid, state, uptime, connections,
// listeners, older generations that drain, how the last upgrade went. The library's docs/control.md describes the
// keys.
func (u *Upgrader) Status() (json.RawMessage, error) {
	line, err := u.core.status()
	return json.RawMessage(line), err
}

// ControlUpgrade asks another process for an upgrade, by its control socket ("unix:///run/a.ctl", "unix:@name"), and
// returns the pid of the successor once that serves. It needs no Upgrader. 0 is no time-out; ETIMEDOUT: it has
// passed, and the upgrade goes on. ENOENT and ECONNREFUSED: nobody listens there; EACCES: this user may not.
// Otherwise the *Error is the one that Upgrade has returned there.
func ControlUpgrade(address string, timeout time.Duration) (int, error) {
	return control(address, requestUpgrade, timeout)
}

// ControlStop stops another process, and returns once it has exited. Errors are as for ControlUpgrade.
func ControlStop(address string, timeout time.Duration) error {
	_, err := control(address, requestStop, timeout)
	return err
}

// ControlDetach makes another process leave the service. Errors are as for ControlUpgrade.
func ControlDetach(address string, timeout time.Duration) error {
	_, err := control(address, requestDetach, timeout)
	return err
}

// ControlStatus returns what Status says in another process. Errors are as for ControlUpgrade.
func ControlStatus(address string, timeout time.Duration) (json.RawMessage, error) {
	line, err := controlStatus(address, timeout)
	return json.RawMessage(line), err
}
