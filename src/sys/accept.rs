//! accept4, and whether it would block.

use super::fault;
use super::fd::at_least_3;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockFlag, accept4};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The next connection: blocking, CLOEXEC, above 2.
pub fn accept(listener: BorrowedFd) -> Result<OwnedFd, Errno> {
    fault::at("accept")?;
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just made this number for us.
    at_least_3(unsafe { OwnedFd::from_raw_fd(raw) })
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
