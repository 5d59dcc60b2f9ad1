//! What the program chooses before it becomes a server.

use crate::address::Address;
use crate::connections::HANDLE;
use crate::error::{Error, Failure, Result};
use crate::events::{EventMask, StateWriter};
use crate::flip::{Flip, Request};
use crate::hooks::{Hooks, Set};
use shellflip::config::Config;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// See [`Flip::builder`]. What cannot be is reported by [`Builder::build`].
#[must_use = "nothing happens before build()"]
#[derive(Default)]
pub struct Builder {
    config: Config,
    problem: Option<Error>,
    hooks: Set,
    events: u32,
    #[cfg(feature = "log")]
    no_log: bool,
}

/// Whole milliseconds, rounded up, so that little is not nothing.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder::default()
    }

    fn set(mut self, set: impl FnOnce(&mut Config) -> shellflip::error::Result<()>) -> Builder {
        if let Err(error) = set(&mut self.config) {
            self.problem.get_or_insert(error.into());
        }
        self
    }

    pub(crate) fn refused(mut self, problem: Error) -> Builder {
        self.problem.get_or_insert(problem);
        self
    }

    /// What a signal asks for. Default: SIGUSR1 upgrades, SIGTERM and SIGINT stop (SIGINT not where it was ignored at the
    /// start).
    pub fn signal(self, signal: impl Into<i32>, request: Request) -> Builder {
        let signal = signal.into();
        self.set(|config| config.set_signal(signal, Some(request.into())))
    }

    /// The library leaves this signal alone.
    pub fn ignore_signal(self, signal: impl Into<i32>) -> Builder {
        let signal = signal.into();
        self.set(|config| match signal {
            0 => Err(shellflip::error::Error::Invalid("signal 0 cannot be used for a request".into())),
            signal => config.set_signal(signal, None),
        })
    }

    /// The library leaves all signals alone, but for those that are named after this.
    pub fn no_signals(self) -> Builder {
        self.set(|config| config.set_signal(0, None))
    }

    /// From the request for an upgrade until the new process is told to serve, the hooks included. Default: 60 s.
    pub fn upgrade_timeout(self, timeout: Duration) -> Builder {
        self.set(|config| config.set_upgrade_timeout(milliseconds(timeout)))
    }

    /// From shutdown until a drain gives up. Default: 30 s.
    pub fn drain_timeout(self, timeout: Duration) -> Builder {
        self.set(|config| config.set_drain_timeout(milliseconds(timeout)))
    }

    /// Where operators ask for upgrades, stops, detaches and the status, with flipctl, [`crate::Control`] or `nc -U`: a unix path
    /// or `@name`, with `mode=` (0600 where it is not given) and `owner=` as options. Read by one generation at a time. Default:
    /// nowhere.
    pub fn control_socket(self, address: impl Into<Address>) -> Builder {
        match address.into().with_scheme("unix") {
            Ok(address) => self.set(|config| config.set_control_socket(Some(address.as_bytes()))),
            Err(error) => self.refused(error),
        }
    }

    /// A file that holds the pid of the generation that serves; removed after a stop. Default: none.
    pub fn pid_file(self, path: impl AsRef<Path>) -> Builder {
        self.set(|config| config.set_pid_file(Some(path.as_ref().as_os_str().as_bytes())))
    }

    /// The library pings systemd's watchdog (`WatchdogSec=`) for as long as this process serves. It says that the process runs,
    /// not that the program does: one whose event loop may hang does better to ping from there. Default: no.
    pub fn watchdog(mut self, on: bool) -> Builder {
        self.config.set_watchdog(on);
        self
    }

    /// Listeners are kept in systemd's store (`FileDescriptorStoreMax=`) as well, so that they outlive a crash. Default: no.
    pub fn fd_store(mut self, on: bool) -> Builder {
        self.config.set_fd_store(on);
        self
    }

    /// How long after the drain deadline a process that is still there is ended; zero: never, the default.
    pub fn hard_stop(self, after: Duration) -> Builder {
        self.set(|config| config.set_hard_stop(milliseconds(after)))
    }

    /// How long both generations serve after the new one is live; if that dies meanwhile, the old one never stopped.
    /// Default: zero, not at all.
    pub fn probation(self, time: Duration) -> Builder {
        self.set(|config| config.set_probation(milliseconds(time)))
    }

    /// How many older generations may still drain while a further upgrade starts. Default: 1; 0: none.
    pub fn max_draining(self, generations: u32) -> Builder {
        self.set(|config| config.set_max_draining(generations))
    }

    /// Called before an upgrade starts, with who asked; an error refuses it, and its text reaches whoever asked.
    ///
    /// Hooks run one after the other on a thread of this crate. One that takes longer than the upgrade time-out fails the
    /// upgrade; one that panics counts as refused.
    pub fn on_starting<E: fmt::Display>(
        mut self,
        mut hook: impl FnMut(&str) -> std::result::Result<(), E> + Send + 'static,
    ) -> Builder {
        self.hooks.starting = Some(Box::new(move |who| hook(who).map_err(|error| error.to_string())));
        self
    }

    /// Called to write the state for the new process, which reads it with [`Flip::state`]. An error fails the upgrade, and
    /// its text reaches whoever asked. What changes after this call is not in the state: the upgrade may still fail
    /// ([`Builder::on_failed`]), and this process serves on.
    pub fn on_state(
        mut self,
        hook: impl FnMut(&mut StateWriter) -> io::Result<()> + Send + 'static,
    ) -> Builder {
        self.hooks.state = Some(Box::new(hook));
        self
    }

    /// Called when an upgrade has failed, with how and why; this process serves on.
    pub fn on_failed(mut self, hook: impl FnMut(Failure, &str) + Send + 'static) -> Builder {
        self.hooks.failed = Some(Box::new(hook));
        self
    }

    /// Called when shutdown has begun, with why, as a sentence. [`Flip::wait_shutdown`] says the same.
    pub fn on_shutdown(mut self, hook: impl FnMut(&str) + Send + 'static) -> Builder {
        self.hooks.shutdown = Some(Box::new(hook));
        self
    }

    /// The events that the program reads itself with [`Flip::next_event`], instead of hooks: for those who want to
    /// answer in their own event loop. Excludes hooks; and with the feature `log`, lines come as [`crate::Event::Log`] if asked
    /// for.
    pub fn events(mut self, events: EventMask) -> Builder {
        self.events = events.bits();
        self
    }

    /// The library's lines do not go to the `log` facade.
    #[cfg(feature = "log")]
    pub fn no_log(mut self) -> Builder {
        self.no_log = true;
        self
    }

    #[cfg(feature = "log")]
    fn log(mut self) -> Builder {
        if self.events == 0 && !self.no_log {
            self.hooks.log = Some(Box::new(crate::events::log_line));
        }
        self
    }

    /// Finds out what this process was started with, and starts the library's two threads. First of all in `main`, before other
    /// threads exist: it removes the variables that were meant for this process from the environment, which is only
    /// done while there is no other thread that could read it.
    ///
    /// [`crate::ErrorKind::Busy`]: there is a handle already; `Invalid`: something above cannot be; `Protocol`: the environment says that
    /// this process is a successor, and something about that is wrong: exit; `System`: no descriptor, memory or thread is to be had.
    pub fn build(self) -> Result<Flip> {
        #[cfg(feature = "log")]
        let this = self.log();
        #[cfg(not(feature = "log"))]
        let this = self;
        let Builder { mut config, problem, hooks, events, .. } = this;
        if let Some(problem) = problem {
            return Err(problem);
        }
        if events != 0 && !hooks.is_empty() {
            return Err(Error::invalid("events are read by hooks or by the program, not by both"));
        }
        config.set_events(events | hooks.mask())?;
        config.set_leave_environment(!alone());
        let core = shellflip::flip::Flip::init(config)?;
        HANDLE.fetch_add(1, SeqCst);
        let flip = Flip::new(core.clone());
        if !hooks.is_empty() {
            flip.attach(Hooks::start(core, hooks)?);
        }
        Ok(flip)
    }
}

/// Whether this is the only thread, so that nobody can begin to read the environment meanwhile.
fn alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}
