//! Atomics, a lock to wait at, and the pauses of those who wait for one. `tests/interleavings` compiles the files that use these against
//! [shuttle](https://docs.rs/shuttle)'s, to run them in every order of their steps.

pub use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub use std::sync::{Condvar, Mutex, MutexGuard};
pub use std::thread::{sleep, yield_now};

use std::sync::PoisonError;
use std::time::Duration;

/// Waits to be notified.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// The same for that long at most; whether the time is over.
pub fn wait_for<'a, T>(
    _lock: &'a Mutex<T>,
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> (MutexGuard<'a, T>, bool) {
    let (guard, result) = condvar.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner);
    (guard, result.timed_out())
}
