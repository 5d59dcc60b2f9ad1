//! accept4, and whether it would block.

use super::fault;
use super::fd::{FIRST, at_least_3};
use super::thread::NotCancelled;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockFlag, accept4};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The next connection: blocking, CLOEXEC, above 2. No cancellation point: the C library's function would be one, which
/// costs it two locked instructions.
pub fn accept(listener: BorrowedFd) -> Result<OwnedFd, Errno> {
    fault::at("accept")?;
    let (number, nowhere) = (listener.as_raw_fd(), std::ptr::null_mut::<libc::c_void>());
    // SAFETY: numbers, and null for the peer's address: no memory is touched.
    let raw = unsafe { libc::syscall(libc::SYS_accept4, number, nowhere, nowhere, libc::SOCK_CLOEXEC) };
    let raw = Errno::result(raw)? as RawFd;
    // SAFETY: the kernel has just made this number for us.
    let connection = unsafe { OwnedFd::from_raw_fd(raw) };
    if raw >= FIRST {
        return Ok(connection);
    }
    // To close the lower one would be a cancellation point.
    let _not_cancelled = NotCancelled::begin();
    at_least_3(connection)
}

/// The next connection: non-blocking, CLOEXEC, above 2.
pub fn accept_nonblocking(listener: BorrowedFd) -> Result<OwnedFd, Errno> {
    fault::at("accept-operator")?;
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the kernel has just made this number for us.
    at_least_3(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Whether O_NONBLOCK is not set.
pub fn is_blocking(fd: BorrowedFd) -> Result<bool, Errno> {
    Ok(!OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?).contains(OFlag::O_NONBLOCK))
}
