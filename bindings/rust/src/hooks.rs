//! The thread that reads events for those who gave hooks, or want lines in the `log` facade: this crate's, never the
//! library's. A hook that panics refuses, and the thread goes on; it ends with the handle.

use crate::error::{Error, Failure, Result};
use crate::events::{Event, Level, StateWriter};
use crate::flip::retry;
use shellflip::events::Kind;
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long the end of the handle waits for a hook that is running.
const LAST_WAIT: Duration = Duration::from_secs(2);

pub(crate) type OnStarting = Box<dyn FnMut(&str) -> std::result::Result<(), String> + Send>;
pub(crate) type OnState = Box<dyn FnMut(&mut StateWriter) -> io::Result<()> + Send>;

pub(crate) type OnFailed = Box<dyn FnMut(Failure, &str) + Send>;
pub(crate) type OnShutdown = Box<dyn FnMut(&str) + Send>;
pub(crate) type OnLine = Box<dyn FnMut(Level, &str) + Send>;

/// What the program wants to be called for.
#[derive(Default)]
pub(crate) struct Set {
    pub starting: Option<OnStarting>,
    pub state: Option<OnState>,
    pub failed: Option<OnFailed>,
    pub shutdown: Option<OnShutdown>,
    pub log: Option<OnLine>,
}

impl Set {
    pub fn mask(&self) -> u32 {
        let bit = |wanted: bool, kind: Kind| if wanted { kind as u32 } else { 0 };
        bit(self.starting.is_some(), Kind::Starting)
            | bit(self.state.is_some(), Kind::State)
            | bit(self.failed.is_some(), Kind::Failed)
            | bit(self.shutdown.is_some(), Kind::Shutdown)
            | bit(self.log.is_some(), Kind::Log)
    }

    pub fn is_empty(&self) -> bool {
        self.mask() == 0
    }

    fn run(&mut self, event: Event) {
        match event {
            Event::Starting(starting) => {
                let answer = match &mut self.starting {
                    Some(hook) => guarded(|| hook(starting.who())).unwrap_or_else(Err),
                    None => Ok(()),
                };
                let _ = match answer {
                    Ok(()) => starting.accept(),
                    Err(reason) => starting.refuse(reason),
                };
            }
            Event::State(mut state) => {
                let written = match &mut self.state {
                    Some(hook) => {
                        guarded(|| hook(&mut state).map_err(|error| error.to_string())).unwrap_or_else(Err)
                    }
                    None => Ok(()),
                };
                let _ = match written {
                    Ok(()) => state.done(),
                    Err(reason) => state.refuse(reason),
                };
            }
            Event::Failed(failure, text) => tell(&mut self.failed, |hook| hook(failure, &text)),
            Event::Shutdown(text) => tell(&mut self.shutdown, |hook| hook(&text)),
            Event::Log(level, line) => tell(&mut self.log, |hook| hook(level, &line)),
        }
    }
}

fn tell<H>(hook: &mut Option<H>, call: impl FnOnce(&mut H)) {
    if let Some(hook) = hook {
        let _ = guarded(|| call(hook));
    }
}

/// The message of a panic, for whoever asked for the upgrade; the panic itself was reported by the program's panic hook.
fn guarded<T>(call: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        // It may be a value that panics once more when it is dropped.
        std::mem::forget(panic);
        format!("a hook of the server panicked: {}", text.unwrap_or_default())
    })
}

/// The running thread, and the process in which it runs.
pub(crate) struct Hooks(JoinHandle<()>, u32);

impl Hooks {
    /// The thread keeps the core's handle, not the program's: the program's end of it is what ends the thread.
    pub fn start(core: shellflip::flip::Flip, mut hooks: Set) -> Result<Hooks> {
        let run = move || {
            while let Ok(event) = retry(|| core.next_event(None)) {
                if let Ok(event) = Event::new(event) {
                    hooks.run(event);
                }
            }
        };
        let thread = thread::Builder::new().name("graceflip-hooks".into()).spawn(run);
        thread
            .map(|thread| Hooks(thread, std::process::id()))
            .map_err(|error| Error::io("cannot start the thread for hooks", &error))
    }

    /// Waits for the last lines; not for a hook that hangs, nor for itself, nor in a forked child.
    pub fn join(self) {
        if self.0.thread().id() == thread::current().id() || self.1 != std::process::id() {
            return;
        }
        let until = Instant::now() + LAST_WAIT;
        while !self.0.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_micros(100));
        }
        if self.0.is_finished() {
            let _ = self.0.join();
        }
    }
}
