//! What the host may choose before `flip_init`, with its defaults.

use crate::address::Address;
use crate::error::{Error, Result};
use crate::upgrade::Request;
use std::path::PathBuf;
use std::time::Duration;

/// The configuration; copied by [`crate::flip::Flip::init`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Signals and what each one asks for. Default: SIGUSR1 upgrades, SIGTERM and SIGINT stop.
    pub(crate) signals: Vec<Binding>,
    /// From the request to COMMIT.
    pub(crate) upgrade_timeout: Duration,
    /// From shutdown until `flip_drain` gives up.
    pub(crate) drain_timeout: Duration,
    /// Older generations that may still drain while a further upgrade starts.
    pub(crate) max_draining: u32,
    /// From the drain deadline until a process that is still there is ended; none: never.
    pub(crate) hard_stop: Option<Duration>,
    /// How long both generations serve after LIVE.
    pub(crate) probation: Option<Duration>,
    /// The events that the host will read: bits of [`crate::events::Kind`].
    pub(crate) events: u32,
    /// Leave the variables that were meant for this process where they are.
    pub(crate) leave_environment: bool,
    /// Where operators ask.
    pub(crate) control: Option<Address>,
    /// Where the pid of the generation that serves stands.
    pub(crate) pid_file: Option<PathBuf>,
    /// The library pings the service manager's watchdog.
    pub(crate) watchdog: bool,
    /// Listeners are kept in the service manager's store.
    pub(crate) fd_store: bool,
}

/// One signal and what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binding {
    pub signal: i32,
    pub request: Request,
    /// One of the defaults: left alone where the process was started with the signal ignored (`nohup`, `server &`).
    pub by_default: bool,
}

impl Binding {
    /// Whether it is used in a process that was started with these signals ignored, as a mask.
    pub fn applies(&self, ignored: u64) -> bool {
        !(self.by_default && ignored & (1 << (self.signal as u64 - 1)) != 0)
    }
}

impl Default for Config {
    fn default() -> Config {
        let binding = |signal, request| Binding { signal, request, by_default: true };
        Config {
            signals: vec![
                binding(libc::SIGUSR1, Request::Upgrade),
                binding(libc::SIGTERM, Request::Stop),
                binding(libc::SIGINT, Request::Stop),
            ],
            upgrade_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            max_draining: 1,
            hard_stop: None,
            probation: None,
            events: 0,
            leave_environment: false,
            control: None,
            pid_file: None,
            watchdog: false,
            fd_store: false,
        }
    }
}

impl Config {
    /// What `signal` asks for; none: it is left alone. Signal 0 clears all.
    pub fn set_signal(&mut self, signal: i32, request: Option<Request>) -> Result<()> {
        if signal == 0 && request.is_none() {
            self.signals.clear();
            return Ok(());
        }
        // SAFETY: SIGRTMAX asks the C library for a constant.
        let last = libc::SIGRTMAX();
        let unusable =
            [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];
        if !(1..=last).contains(&signal)
            || unusable.contains(&signal)
            || (32..libc::SIGRTMIN()).contains(&signal)
        {
            return Err(Error::Invalid(format!("signal {signal} cannot be used for a request")));
        }
        self.signals.retain(|binding| binding.signal != signal);
        if let Some(request) = request {
            self.signals.push(Binding { signal, request, by_default: false });
        }
        Ok(())
    }

    /// From the request to COMMIT, the host's own answers included. Milliseconds; at least 1.
    pub fn set_upgrade_timeout(&mut self, ms: u64) -> Result<()> {
        self.upgrade_timeout = duration("upgrade time-out", ms)?;
        Ok(())
    }

    /// From shutdown on. Milliseconds; at least 1.
    pub fn set_drain_timeout(&mut self, ms: u64) -> Result<()> {
        self.drain_timeout = duration("drain time-out", ms)?;
        Ok(())
    }

    /// How long after the drain deadline a process that is still there is ended. Milliseconds; 0: never.
    pub fn set_hard_stop(&mut self, ms: u64) -> Result<()> {
        self.hard_stop = if ms == 0 { None } else { Some(duration("hard stop", ms)?) };
        Ok(())
    }

    /// How long both generations serve after the new one is live; if that dies meanwhile, the old one never stopped.
    /// Milliseconds; 0: not at all.
    pub fn set_probation(&mut self, ms: u64) -> Result<()> {
        self.probation = if ms == 0 { None } else { Some(duration("probation", ms)?) };
        Ok(())
    }

    /// The events that the host will read: bits of [`crate::events::Kind`].
    pub fn set_events(&mut self, mask: u32) -> Result<()> {
        if mask & !crate::events::ALL != 0 {
            return Err(Error::Invalid(format!("{mask:#x} has bits that are no events")));
        }
        self.events = mask;
        Ok(())
    }

    /// Leave the variables that were meant for this process in the environment, for a host that has threads already which
    /// may read it. They name the pid that they are for, so that a grandchild does not take them for its own.
    pub fn set_leave_environment(&mut self, leave: bool) {
        self.leave_environment = leave;
    }

    /// Where operators ask for upgrades, stops, detaches and the status: `unix:///run/a.ctl?mode=0660&owner=:ops`,
    /// `unix:@name`; none: nowhere. Without `mode=` the mode is 0600. An abstract name is for root and this user
    /// alone.
    pub fn set_control_socket(&mut self, address: Option<&[u8]>) -> Result<()> {
        self.control = address.map(crate::control::parse_address).transpose()?;
        Ok(())
    }

    /// The file that holds the pid of the generation that serves; none: there is no such file. A relative path is
    /// relative to the working directory now.
    pub fn set_pid_file(&mut self, path: Option<&[u8]>) -> Result<()> {
        self.pid_file = path.map(crate::pid_file::parse_path).transpose()?;
        Ok(())
    }

    /// Whether the library pings the service manager's watchdog (`WatchdogSec=`), for as long as this process serves.
    pub fn set_watchdog(&mut self, on: bool) {
        self.watchdog = on;
    }

    /// Whether listeners are kept in the service manager's store (`FileDescriptorStoreMax=`), so that they outlive a
    /// crash.
    pub fn set_fd_store(&mut self, on: bool) {
        self.fd_store = on;
    }

    /// How many older generations may still drain while a further upgrade starts; 0: none.
    pub fn set_max_draining(&mut self, n: u32) -> Result<()> {
        let most = crate::channel::hello::MAX_DRAINERS as u32;
        if n >= most {
            return Err(Error::Invalid(format!("at most {} older generations may drain, not {n}", most - 1)));
        }
        self.max_draining = n;
        Ok(())
    }
}

/// A year is for ever enough, and leaves the arithmetic on the clock safe.
pub(crate) fn duration(what: &str, ms: u64) -> Result<Duration> {
    const YEAR: u64 = 365 * 24 * 3600 * 1000;
    match ms {
        1..=YEAR => Ok(Duration::from_millis(ms)),
        _ => Err(Error::Invalid(format!("{what} of {ms} ms is not between 1 ms and a year"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_one_meaning_and_signal_0_clears_all() {
        let mut config = Config::default();
        config.set_signal(libc::SIGHUP, Some(Request::Upgrade)).unwrap();
        config.set_signal(libc::SIGHUP, Some(Request::Stop)).unwrap();
        assert_eq!(config.signals.iter().filter(|binding| binding.signal == libc::SIGHUP).count(), 1);
        config.set_signal(libc::SIGHUP, None).unwrap();
        assert_eq!(config.signals.len(), 3);
        config.set_signal(0, None).unwrap();
        assert!(config.signals.is_empty());
    }

    #[test]
    fn signals_that_cannot_be_handled_are_refused_by_number() {
        for signal in [-1, 0, libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, 33, 65] {
            let error = Config::default().set_signal(signal, Some(Request::Stop)).unwrap_err();
            assert!(error.to_string().contains(&signal.to_string()), "{error}");
        }
    }

    #[test]
    fn a_deadline_of_nothing_or_of_ages_is_refused() {
        for ms in [0, u64::MAX] {
            assert!(Config::default().set_upgrade_timeout(ms).is_err());
            assert!(Config::default().set_drain_timeout(ms).is_err());
        }
    }
}
