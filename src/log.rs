//! Lines for the person at 3 a.m.: silent unless `SHELLFLIP_LOG` is set to `error`, `info` or `debug`, then to stderr. A host
//! that subscribed to LOG events gets them, whatever the variable says.

use crate::events::{HostEvent, Queue};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, Weak};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// An upgrade and its phases.
    Info = 2,
    /// Every event and action.
    Debug = 3,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);

static SINK: Mutex<Weak<Queue>> = Mutex::new(Weak::new());

/// LOG events go here from now on.
pub fn subscribe(queue: Weak<Queue>) {
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = queue;
}

/// Reads `SHELLFLIP_LOG`.
pub fn init() {
    let level = match std::env::var("SHELLFLIP_LOG").as_deref() {
        Ok("debug") => 3,
        Ok("info") => 2,
        Ok("error") => 1,
        _ => 0,
    };
    LEVEL.store(level, Relaxed);
}

/// Writes one line, as one write. Called on the library's threads, where SIGPIPE is blocked.
pub fn write(level: Level, line: std::fmt::Arguments<'_>) {
    let subscribed = match level {
        // Every event of the state machine: for stderr, on request.
        Level::Debug => None,
        Level::Error | Level::Info => SINK.lock().unwrap_or_else(PoisonError::into_inner).upgrade(),
    };
    if let Some(queue) = subscribed {
        queue.push(HostEvent::line(level, line.to_string()));
    }
    if level as u8 <= LEVEL.load(Relaxed) {
        let text = format!("shellflip[{}]: {line}\n", std::process::id());
        // SAFETY: the bytes outlive the call; a failed or short write of a log line has no remedy.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }
}
