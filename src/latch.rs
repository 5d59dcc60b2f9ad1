//! A latch: one descriptor that becomes readable once and stays so, for every reader in every event loop. And a gate: the
//! same for what only the library polls.
//!
//! A latch is one end of a unix socketpair, fired by `shutdown(2)` on the other end: level-triggered for all, which an eventfd
//! (one reader eats it) and a pipe (POLLHUP without POLLIN) are not. Before that one byte is queued that says why. The
//! firing end is private to this process, so that a forked worker sees the latch fire when its master dies: end of
//! file without a byte.

use crate::error::{Error, Result};
use crate::fork::{NoFork, Private};
use crate::sys::fd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{self, MsgFlags, SockType};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// Fires once, for ever.
#[derive(Debug)]
pub struct Latch {
    reader: OwnedFd,
    peer: Private,
}

impl Latch {
    /// One that has not fired.
    pub fn new() -> Result<Latch> {
        let no_fork = NoFork::hold();
        let (reader, peer) = fd::socketpair(SockType::Stream)
            .map_err(|errno| Error::system("cannot make a socketpair", errno))?;
        Ok(Latch { reader, peer: no_fork.private(peer) })
    }

    /// Fires; the byte says why. The second time does nothing.
    pub fn fire(&self, reason: u8) {
        let peer = self.peer.as_fd().as_raw_fd();
        let _ = socket::send(peer, &[reason], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
        let _ = socket::shutdown(peer, socket::Shutdown::Both);
    }

    /// What to poll.
    pub fn reader(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Whether it has fired.
    pub fn fired(&self) -> bool {
        fired(self.reader())
    }

    /// The byte it was fired with; none if it has not, or if the process that should have fired it died.
    pub fn reason(&self) -> Option<u8> {
        let mut byte = [0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match socket::recv(self.reader.as_raw_fd(), &mut byte, flags) {
            Ok(1) => Some(byte[0]),
            _ => None,
        }
    }
}

/// A latch of which most hosts never ask for the descriptor: it is made when somebody does.
#[derive(Debug, Default)]
pub struct LateLatch {
    latch: OnceLock<Latch>,
    fired: AtomicBool,
}

impl LateLatch {
    /// Fires.
    pub fn fire(&self) {
        self.fired.store(true, SeqCst);
        if let Some(latch) = self.latch.get() {
            latch.fire(0);
        }
    }

    /// Whether it has fired.
    pub fn fired(&self) -> bool {
        self.fired.load(SeqCst)
    }

    /// What to poll.
    pub fn reader(&self) -> Result<BorrowedFd<'_>> {
        let latch = match self.latch.get() {
            Some(latch) => latch,
            None => {
                let new = Latch::new()?;
                self.latch.get_or_init(|| new)
            }
        };
        // Whoever fires meanwhile sees the latch, or is seen here; the second time does nothing.
        if self.fired() {
            latch.fire(0);
        }
        Ok(latch.reader())
    }
}

/// Opens once, for ever. An eventfd that nobody reads: one descriptor instead of two, at a third of the price. It is
/// never given to C hosts, who could read it; a forked child learns nothing from it.
#[derive(Debug)]
pub struct Gate(OwnedFd);

impl Gate {
    /// One that is closed.
    pub fn new() -> Result<Gate> {
        fd::eventfd().map(Gate).map_err(|errno| Error::system("cannot make an eventfd", errno))
    }

    /// Opens; the second time does nothing.
    pub fn open(&self) {
        let _ = fd::eventfd_write(self.0.as_fd());
    }

    /// What to poll.
    pub fn reader(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        fired(self.reader())
    }
}

/// Whether a descriptor is readable now.
pub fn fired(fd: BorrowedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    loop {
        match fd::poll(&mut fds, Some(Duration::ZERO)) {
            Err(Errno::EINTR) => {}
            Err(_) => return false,
            Ok(n) => return n > 0,
        }
    }
}

/// Whether a socket's peer has closed it, in both directions.
pub fn hung_up(fd: BorrowedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    matches!(fd::poll(&mut fds, Some(Duration::ZERO)), Ok(n) if n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latch_is_readable_for_ever_and_for_every_reader_once_it_fired() {
        let latch = Latch::new().unwrap();
        assert!(!latch.fired());
        assert_eq!(latch.reason(), None);
        latch.fire(3);
        latch.fire(4);
        for _ in 0..2 {
            assert!(latch.fired());
            assert_eq!(latch.reason(), Some(3));
        }
    }

    #[test]
    fn a_late_latch_is_readable_whether_it_fired_before_or_after_somebody_asked() {
        let before = LateLatch::default();
        before.fire();
        assert!(before.fired() && fired(before.reader().unwrap()));
        let after = LateLatch::default();
        assert!(!after.fired() && !fired(after.reader().unwrap()));
        after.fire();
        assert!(after.fired() && fired(after.reader().unwrap()));
    }

    #[test]
    fn a_gate_stays_open() {
        let gate = Gate::new().unwrap();
        assert!(!gate.is_open());
        gate.open();
        gate.open();
        assert!(gate.is_open());
        assert!(gate.is_open());
    }

    #[test]
    fn a_reader_that_eats_the_byte_leaves_it_readable() {
        let latch = Latch::new().unwrap();
        latch.fire(1);
        let mut byte = [0];
        assert_eq!(socket::recv(latch.reader().as_raw_fd(), &mut byte, MsgFlags::empty()), Ok(1));
        assert!(latch.fired());
    }
}
