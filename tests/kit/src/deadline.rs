//! Waiting in tests: on a condition, with a deadline, never on a bare sleep. `SHELLFLIP_TEST_TIMEOUT_SCALE` stretches
//! every deadline (for valgrind, a loaded machine). [`limit`] names a test that hangs before the runner is killed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(2);

/// `duration`, stretched by `SHELLFLIP_TEST_TIMEOUT_SCALE` (1.0 when unset or not a positive number).
pub fn scaled(duration: Duration) -> Duration {
    static SCALE: OnceLock<f64> = OnceLock::new();
    let scale = *SCALE.get_or_init(|| {
        let text = std::env::var("SHELLFLIP_TEST_TIMEOUT_SCALE").unwrap_or_default();
        text.parse().ok().filter(|scale: &f64| scale.is_finite() && *scale > 0.0).unwrap_or(1.0)
    });
    duration.mul_f64(scale)
}

/// Returns once `condition` holds.
///
/// # Panics
/// When it does not by the (scaled) deadline; the message is `what`, a phrase such as "the new process answers".
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// Returns the first value that `attempt` gives.
///
/// # Panics
/// When there is none by the (scaled) deadline; the message is `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, attempt: impl FnMut() -> Option<T>) -> T {
    match try_for(deadline, attempt) {
        Some(value) => value,
        None => panic!("not within {:.1?}: {what}", scaled(deadline)),
    }
}

/// The first value that `attempt` gives, or `None` at the (scaled) deadline.
pub fn try_for<T>(deadline: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + scaled(deadline);
    loop {
        // Looked at before the attempt, so that an attempt which itself outlives the deadline still counts.
        let last = Instant::now() >= end;
        if let Some(value) = attempt() {
            return Some(value);
        }
        if last {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Ends the whole test process if the guard is still alive after the (scaled) `duration`: it prints the name of the
/// test, the state of every process that the tests started, ends those, and aborts.
#[must_use = "the watch ends when the guard is dropped"]
pub fn limit(duration: Duration) -> Limit {
    let test = std::thread::current().name().unwrap_or("unnamed").to_string();
    let (alive, watched): (Sender<()>, Receiver<()>) = channel();
    let duration = scaled(duration);
    let expired = Arc::new(AtomicBool::new(false));
    let expires = expired.clone();
    std::thread::Builder::new()
        .name(format!("limit {test}"))
        .spawn(move || {
            if watched.recv_timeout(duration) == Err(RecvTimeoutError::Timeout) {
                expires.store(true, Ordering::SeqCst);
                // Straight to descriptor 2: eprintln would go into the captured output of a test that never ends.
                let text = format!(
                    "\n{test}: still running after {duration:.1?}, which is its limit\n{}",
                    crate::process::describe_all()
                );
                let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
                crate::process::kill_all();
                std::process::abort();
            }
        })
        .expect("a thread for the watchdog");
    Limit { expired, _alive: alive }
}

/// The guard of [`limit`].
#[derive(Debug)]
pub struct Limit {
    expired: Arc<AtomicBool>,
    _alive: Sender<()>,
}

impl Drop for Limit {
    /// Ending the processes of a test may be what makes it go on, and pass: no test outlives its limit.
    fn drop(&mut self) {
        while self.expired.load(Ordering::SeqCst) {
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "the moon is full")]
    fn a_condition_that_never_holds_is_named_in_the_panic() {
        wait_until("the moon is full", Duration::from_millis(20), || false);
    }

    #[test]
    fn a_value_is_returned_as_soon_as_there_is_one() {
        let mut tries = 0;
        let value = wait_for("the third try", Duration::from_secs(5), || {
            tries += 1;
            (tries == 3).then_some(tries)
        });
        assert_eq!(value, 3);
    }
}
