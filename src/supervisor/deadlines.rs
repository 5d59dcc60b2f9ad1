//! How long each phase may take, and the timers that run; the upgrade and the drain deadline are the host's to set. Read
//! by `supervisor` alone.
//!
//! With the feature `faults` an environment variable in milliseconds shortens what a test has to wait for.

use crate::upgrade::Timer;
use std::time::{Duration, Instant};

/// From the request to execve.
pub(super) const SPAWN: Duration = Duration::from_secs(10);
/// From SIGKILL to its pidfd.
pub(super) const KILL: Duration = Duration::from_secs(1);

/// The timers that run and when each one ends: two at most, so that a list does.
#[derive(Default)]
pub(super) struct Timers(Vec<(Timer, Instant)>);

impl Timers {
    /// Unless it runs.
    pub fn start(&mut self, timer: Timer, end: Instant) {
        if !self.0.iter().any(|(running, _)| *running == timer) {
            self.0.push((timer, end));
        }
    }

    pub fn stop(&mut self, timer: Timer) {
        self.keep(|running| running != timer);
    }

    /// Stops all others.
    pub fn keep(&mut self, stays: impl Fn(Timer) -> bool) {
        self.0.retain(|(timer, _)| stays(*timer));
    }

    pub fn values(&self) -> impl Iterator<Item = &Instant> {
        self.0.iter().map(|(_, end)| end)
    }

    /// Stops one that has ended; of several the first by its order.
    pub fn take_ended(&mut self, now: Instant) -> Option<Timer> {
        let ended = self.0.iter().filter(|(_, end)| *end <= now).map(|(timer, _)| *timer).min()?;
        self.stop(ended);
        Some(ended)
    }
}

/// From COMMIT to LIVE.
pub(super) fn live() -> Duration {
    or_as_tested("SHELLFLIP_TEST_LIVE_MS", Duration::from_secs(10))
}

/// From the end of a channel to its owner's death, and from the upgrade deadline to the successor's withdrawal.
pub(super) fn grace() -> Duration {
    or_as_tested("SHELLFLIP_TEST_GRACE_MS", Duration::from_secs(10))
}

/// From SIGTERM to SIGKILL.
pub(super) fn term() -> Duration {
    or_as_tested("SHELLFLIP_TEST_TERM_MS", Duration::from_secs(2))
}

/// From MAINPID until the service manager has read it.
pub(crate) fn barrier(usual: Duration) -> Duration {
    or_as_tested("SHELLFLIP_TEST_BARRIER_MS", usual)
}

/// From one request for more time to the next, while a successor starts.
pub(crate) fn extension(usual: Duration) -> Duration {
    or_as_tested("SHELLFLIP_TEST_EXTEND_MS", usual)
}

#[cfg(not(feature = "faults"))]
fn or_as_tested(_variable: &str, usual: Duration) -> Duration {
    usual
}

#[cfg(feature = "faults")]
fn or_as_tested(variable: &str, usual: Duration) -> Duration {
    let ms = std::env::var(variable).ok().and_then(|ms| ms.parse().ok());
    ms.map_or(usual, Duration::from_millis)
}
