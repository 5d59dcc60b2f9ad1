//! A memory barrier that one thread pays for and all threads of the process make: membarrier(2), Linux 4.14.
//!
//! It is what a store and a later load of another thread need between them, if the two must not pass each other and that
//! thread runs too often to make a barrier of its own; it only keeps the compiler from moving them.

use std::sync::atomic::{AtomicBool, Ordering};

/// From the kernel's linux/membarrier.h; the libc crate does not name them.
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Must have been called in this process before [`all_threads`]. While there is one thread this is a moment; later the
/// kernel waits for each processor, some 10 ms, so that no thread that serves may call it. Async-signal-safe.
pub fn register() {
    REGISTERED.store(membarrier(REGISTER_PRIVATE_EXPEDITED), Ordering::Release);
}

/// Whether the kernel can, and was told.
pub fn is_registered() -> bool {
    REGISTERED.load(Ordering::Acquire)
}

/// Every thread of this process makes a full barrier between the call and its end, or has not run in between. Whether it
/// was so.
#[must_use]
pub fn all_threads() -> bool {
    membarrier(PRIVATE_EXPEDITED)
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: no memory is passed.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_registered_as_the_library_is_loaded() {
        assert!(is_registered());
        assert!(all_threads());
    }
}
