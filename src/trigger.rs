//! What was asked for, from anywhere: a bit in an atomic and a write to the supervisor's wake descriptor.
//!
//! Async-signal-safe, since signal handlers and `flip_request` end here. Nothing that was asked for before the supervisor
//! looks is missed, and nobody writes to a descriptor that was closed: whoever is about to write is counted, and
//! [`Trigger::disconnect`] waits for them.

use crate::sys::fd;
use crate::sys::sync::{AtomicI32, AtomicU32, Ordering::SeqCst, yield_now};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

const NONE: RawFd = -1;

/// The one of this process.
pub static TRIGGER: Trigger = Trigger::new();

/// Requests that wait for the supervisor, and how to wake it.
pub struct Trigger {
    requests: AtomicU32,
    /// -1 while there is no supervisor.
    wake: AtomicI32,
    /// How many are between reading `wake` and having written to it.
    writing: AtomicU32,
}

impl Trigger {
    /// One without a supervisor.
    pub const fn new() -> Trigger {
        Trigger { requests: AtomicU32::new(0), wake: AtomicI32::new(NONE), writing: AtomicU32::new(0) }
    }

    /// These bits are asked for. False: there is no supervisor.
    pub fn ask(&self, bits: u32) -> bool {
        self.requests.fetch_or(bits, SeqCst);
        self.wake()
    }

    /// The supervisor looks around. False: there is none.
    pub fn wake(&self) -> bool {
        self.writing.fetch_add(1, SeqCst);
        let wake = self.wake.load(SeqCst);
        let there = wake != NONE;
        if there {
            // SAFETY: the descriptor stays open while `writing` is not 0.
            let _ = fd::eventfd_write(unsafe { BorrowedFd::borrow_raw(wake) });
        }
        self.writing.fetch_sub(1, SeqCst);
        there
    }

    /// What was asked for since the last call.
    pub fn take(&self) -> u32 {
        self.requests.swap(0, SeqCst)
    }

    /// Requests go to this descriptor from now on; what was asked for before was for nobody.
    pub fn connect(&self, wake: BorrowedFd) {
        self.requests.store(0, SeqCst);
        self.wake.store(wake.as_raw_fd(), SeqCst);
    }

    /// Nobody writes to the wake descriptor when this returns.
    pub fn disconnect(&self) {
        self.wake.store(NONE, SeqCst);
        while self.writing.load(SeqCst) != 0 {
            yield_now();
        }
    }

    /// The supervisor is the parent's; of the threads only this one went on, and it is not writing.
    pub fn restart_in_child(&self) {
        self.wake.store(NONE, SeqCst);
        self.writing.store(0, SeqCst);
    }
}
