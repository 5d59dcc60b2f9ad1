//! The very files of the core that synchronise without a lock, compiled against shuttle's atomics and threads instead of
//! the system's: shuttle decides which thread makes the next step, and tries the orders. What they use of the rest of the
//! core is stood in for here.
//!
//! This is instead of ThreadSanitizer and Miri, which need a standard library that is built with them: not every
//! toolchain has its source. Shuttle has SeqCst as its memory model, and so does every access in these files but one: the
//! begin of a connection, whose store only releases. `drain.rs` says why that is enough.

#![allow(missing_docs, clippy::new_without_default, reason = "the files under test are private to the core")]

/// Shuttle runs its threads on one of the system's: each needs variables of its own.
macro_rules! thread_local {
    ($($declaration:tt)*) => { shuttle::thread_local! { $($declaration)* } };
}

#[path = "../../../src/drain.rs"]
pub mod drain;
#[path = "../../../src/duty.rs"]
pub mod duty;
#[path = "../../../src/handle.rs"]
pub mod handle;
#[path = "../../../src/trigger.rs"]
pub mod trigger;

pub mod sys {
    pub mod sync {
        pub use shuttle::sync::atomic::{
            AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
        };
        pub use shuttle::sync::{Condvar, Mutex, MutexGuard};
        pub use shuttle::thread::yield_now;

        pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            condvar.wait(guard).unwrap()
        }

        /// The time may be over after any number of steps of the others.
        pub fn wait_for<'a, T>(
            lock: &'a Mutex<T>,
            _: &Condvar,
            guard: MutexGuard<'a, T>,
            _: std::time::Duration,
        ) -> (MutexGuard<'a, T>, bool) {
            drop(guard);
            yield_now();
            (lock.lock().unwrap(), true)
        }

        pub fn sleep(_: std::time::Duration) {
            yield_now();
        }
    }

    /// Here every thread sees every store at once.
    pub mod membarrier {
        pub fn register() {}

        pub fn is_registered() -> bool {
            true
        }

        pub fn all_threads() -> bool {
            true
        }
    }

    /// Nobody cancels these threads.
    pub mod thread {
        /// As if their stacks were side by side.
        pub fn number() -> usize {
            (usize::from(shuttle::thread::current().id()) + 1) << 12
        }

        pub struct NotCancelled;

        impl NotCancelled {
            pub fn begin() -> NotCancelled {
                NotCancelled
            }
        }
    }

    /// A futex without its time-out, so that a waiter that nobody wakes is a deadlock, which shuttle reports.
    pub mod futex {
        use super::sync::{AtomicU32, Ordering::SeqCst};
        use shuttle::sync::{Condvar, Mutex};
        use std::time::Duration;

        shuttle::lazy_static! {
            static ref QUEUE: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
        }

        pub fn futex_wait(word: &AtomicU32, expected: u32, _: Option<Duration>) {
            let guard = QUEUE.0.lock().unwrap();
            // The kernel compares and queues in one step, too.
            if word.load(SeqCst) == expected {
                drop(QUEUE.1.wait(guard).unwrap());
            }
        }

        pub fn futex_wake(_: &AtomicU32) {
            let _guard = QUEUE.0.lock().unwrap();
            QUEUE.1.notify_all();
        }
    }

    /// One eventfd, whatever its number.
    pub mod fd {
        use shuttle::sync::{Condvar, Mutex};
        use std::convert::Infallible;
        use std::os::fd::BorrowedFd;

        #[derive(Default)]
        struct Bell {
            rung: bool,
            closed: bool,
        }

        shuttle::lazy_static! {
            static ref BELL: (Mutex<Bell>, Condvar) = (Mutex::new(Bell::default()), Condvar::new());
        }

        pub fn eventfd_write(_: BorrowedFd) -> Result<(), Infallible> {
            let mut bell = BELL.0.lock().unwrap();
            assert!(!bell.closed, "written to after it was closed");
            bell.rung = true;
            BELL.1.notify_all();
            Ok(())
        }

        pub fn wait_for_bell() {
            let mut bell = BELL.0.lock().unwrap();
            while !bell.rung {
                bell = BELL.1.wait(bell).unwrap();
            }
            bell.rung = false;
        }

        pub fn close() {
            BELL.0.lock().unwrap().closed = true;
        }
    }
}

pub mod flip {
    use super::sys::sync::{AtomicBool, Ordering::SeqCst};
    use std::sync::Arc;

    /// Says when it is gone.
    pub struct Flip(pub Arc<AtomicBool>);

    impl Drop for Flip {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
}

pub mod error {
    #[derive(Debug, PartialEq, Eq)]
    pub enum Error {
        Busy(String),
        Freed,
    }

    pub type Result<T> = std::result::Result<T, Error>;
}
