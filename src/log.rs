//! Lines for the person at 3 a.m.: silent unless `SHELLFLIP_LOG` is set to `error`, `info` or `debug`, then to stderr. A host
//! that subscribed to LOG events gets them, whatever the variable says.

use crate::events::{HostEvent, Queue};
use crate::sys::{fd, thread};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

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

/// A time in seconds, rounded to the precision that is asked for: `{:.1}`. Not by way of a floating-point number, whose
/// formatting is a good part of a small library.
pub struct Seconds(pub Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(0).min(9);
        let unit = 10u128.pow(9 - digits as u32);
        let units = (self.0.as_nanos() + unit / 2) / unit;
        let second = 1_000_000_000 / unit;
        write!(f, "{}", units / second)?;
        if digits > 0 { write!(f, ".{:0digits$}", units % second) } else { Ok(()) }
    }
}

/// Lines that nobody would have taken.
static LOST: AtomicUsize = AtomicUsize::new(0);

/// What a pipe takes at once where it takes anything (PIPE_BUF).
const LONGEST: usize = 4096;

/// Writes one line, as one write. Never waits: a log that nobody reads must not hold up the thread that all wait for.
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
        // SAFETY: only given to the kernel, which says EBADF where it is closed.
        let stderr = unsafe { BorrowedFd::borrow_raw(2) };
        if !fd::can_be_written(stderr) {
            LOST.fetch_add(1, Relaxed);
            return;
        }
        let mut text = format!("shellflip[{}]: {line}", std::process::id());
        match LOST.swap(0, Relaxed) {
            0 => {}
            lost => text += &format!(" ({lost} lines before this one were lost: nobody read them)"),
        }
        let mut text = text.into_bytes();
        text.truncate(LONGEST - 1);
        text.push(b'\n');
        // A failed or short write of a log line has no remedy.
        thread::write_without_signals(stderr, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rounded_to_the_digits_that_are_asked_for() {
        let time = Seconds(Duration::from_micros(1_949_950));
        assert_eq!(format!("{time} {time:.1} {time:.3} {time:.9}"), "2 1.9 1.950 1.949950000");
        assert_eq!(
            format!("{:.1} {:.3}", Seconds(Duration::from_millis(50)), Seconds(Duration::ZERO)),
            "0.1 0.000"
        );
        assert_eq!(format!("{:.1}", Seconds(Duration::MAX)), "18446744073709551616.0");
    }
}
