//! Threads of the library.

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// Runs `start` with every signal blocked that may be: a thread that it starts handles none of the host's. (The C
/// library spares the two that it needs itself, for setuid(2) in all threads and for cancellation.)
pub fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let mut before = SigSet::empty();
    // The calls fail for a wrong `how` only.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before));
    let result = start();
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    result
}
