//! A memory barrier that one thread pays for and all threads of the process make: membarrier(2), Linux 4.14.
//!
//! It is what a store and a later load of another thread need between them, if the two must not pass each other and that
//! thread runs too often to make a barrier of its own; it only keeps the compiler from moving them.

/// From the kernel's linux/membarrier.h; the libc crate does not name them.
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

/// Must have been called in this process before [`all_threads`]; again costs a system call. Whether the kernel can.
pub fn register() -> bool {
    membarrier(REGISTER_PRIVATE_EXPEDITED)
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
    fn a_kernel_that_has_it_says_so_each_time() {
        assert!(register());
        assert!(register());
        assert!(all_threads());
    }
}
