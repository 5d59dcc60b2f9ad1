//! Lines for the person at 3 a.m.: silent unless `SHELLFLIP_LOG` is set to `error`, `info` or `debug`, then to stderr.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

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
    if level as u8 <= LEVEL.load(Relaxed) {
        let text = format!("shellflip[{}]: {line}\n", std::process::id());
        // SAFETY: the bytes outlive the call; a failed or short write of a log line has no remedy.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }
}
