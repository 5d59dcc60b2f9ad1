//! Accepting a connection that is counted from the first moment, so that a drain can never miss one that a thread
//! has just taken.

use crate::channel::Keep;
use crate::drain::CONNECTIONS;
use crate::error::{Error, Result};
use crate::flip::Flip;
use crate::fork;
use crate::registry;
use crate::sys::thread::NotCancelled;
use crate::sys::{accept, fd};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// How long to leave a full descriptor table alone before the next try.
pub const EXHAUSTED: Duration = Duration::from_millis(20);

/// How many calls in a row believe that a listener does not block, before one looks again: asking the kernel costs a
/// sixth of an accept.
const BELIEVED: u8 = 15;

thread_local! {
    /// The listener that was last seen not to block, and for how many calls more that is believed.
    static SEEN: Cell<(RawFd, u8)> = const { Cell::new((-1, 0)) };
}

/// Whether this thread has seen a few calls ago that the listener does not block.
fn believed_not_to_block(listener: BorrowedFd) -> bool {
    SEEN.try_with(|seen| match seen.get() {
        (fd, left @ 1..) if fd == listener.as_raw_fd() => {
            seen.set((fd, left - 1));
            true
        }
        _ => false,
    })
    .unwrap_or(false)
}

fn seen_not_to_block(listener: BorrowedFd) {
    let _ = SEEN.try_with(|seen| seen.set((listener.as_raw_fd(), BELIEVED)));
}

/// What to do about an accept(2) that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It was the new connection's network, a caller that went away, or a signal handler.
    AtOnce,
    /// Something is exhausted that other connections will give back.
    Later,
    /// It is the listener.
    Never,
}

/// The same for everybody who accepts; EAGAIN is not asked about.
pub fn retry(errno: i32) -> Retry {
    match Errno::from_raw(errno) {
        // EPERM: a firewall that refuses this one, or a security module that refuses all.
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::EPERM => Retry::Later,
        Errno::EINTR
        | Errno::ECONNABORTED
        | Errno::EPROTO
        | Errno::ENETDOWN
        | Errno::ENOPROTOOPT
        | Errno::EHOSTDOWN
        | Errno::ENONET
        | Errno::EHOSTUNREACH
        | Errno::ENETUNREACH => Retry::AtOnce,
        _ => Retry::Never,
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

impl Flip {
    /// Waits for a connection: blocking, CLOEXEC, above 2, and counted; [`Flip::conn_end`] ends it
    /// (a connection of a `keep=` listener is not counted, and not ended).
    ///
    /// Retries what accept(2) may be retried on, waits while descriptors are exhausted, goes on after a signal
    /// handler. Before `flip_ready` has returned 0 it waits for that too. `ECANCELED` from shutdown on, `ETIMEDOUT`,
    /// `EINVAL` for a listener that blocks. Whoever does not wait is told what is exhausted: if it called again at once
    /// because the listener is readable, it would never rest.
    pub fn accept(&self, listener: BorrowedFd, deadline: Option<Instant>) -> Result<OwnedFd> {
        self.accept_counted(listener, deadline).map(|(connection, _)| connection)
    }

    /// The same, and whether the connection is counted.
    pub fn accept_counted(&self, listener: BorrowedFd, deadline: Option<Instant>) -> Result<(OwnedFd, bool)> {
        let mut tried = match self.accept_at_once(listener) {
            Some(Ok(connection)) => return Ok((connection, true)),
            Some(Err(errno)) => Some(errno),
            None => None,
        };
        // What follows waits, and so has cancellation points.
        let _not_cancelled = NotCancelled::begin();
        let waits = !is_over(deadline);
        let failed = |errno| Error::system("cannot accept", errno);
        // First: an inherited listener that blocks is changed when flip_ready returns.
        self.wait_until_ready(deadline)?;
        if !believed_not_to_block(listener) {
            if accept::is_blocking(listener).map_err(failed)? {
                return Err(Error::Invalid("cannot accept: the listener blocks; make it O_NONBLOCK".into()));
            }
            seen_not_to_block(listener);
        }
        let kept = self.keep_of(listener) != Keep::None;
        loop {
            let errno =
                match tried.take().map_or_else(|| self.try_accept(listener, kept), |errno| Ok(Err(errno)))? {
                    Ok(connection) => return Ok((connection, !kept)),
                    Err(errno) => errno,
                };
            if errno == Errno::EAGAIN {
                seen_not_to_block(listener);
                self.wait_for_listener(Some(listener), kept, deadline)?;
                continue;
            }
            match retry(errno as i32) {
                // Not EPERM, which may be a firewall's word on this one connection.
                Retry::Later if errno != Errno::EPERM && !waits => return Err(failed(errno)),
                Retry::Later => {
                    let soon = Instant::now() + EXHAUSTED;
                    let until = deadline.map_or(soon, |deadline| deadline.min(soon));
                    match self.wait_for_listener(None, kept, Some(until)) {
                        Err(Error::TimedOut) if !is_over(deadline) => {}
                        other => other?,
                    }
                }
                Retry::AtOnce => {}
                Retry::Never => return Err(failed(errno)),
            }
        }
    }

    /// What a busy server does nearly every time, with nothing around it that only calls need which wait. `None`: not
    /// tried, since there is more to look at first.
    #[inline]
    fn accept_at_once(&self, listener: BorrowedFd) -> Option<std::result::Result<OwnedFd, Errno>> {
        let plain = self.is_ready() && !fork::in_child() && !registry::any_kept();
        if !plain || !believed_not_to_block(listener) {
            return None;
        }
        CONNECTIONS.begin_before_a_look();
        if self.is_shut_down_already() {
            CONNECTIONS.end();
            return None;
        }
        let accepted = accept::accept(listener);
        if accepted.is_err() {
            CONNECTIONS.end();
        }
        Some(accepted)
    }

    /// Once. Connections of a listener that outlives shutdown are not counted: a drain must not wait for them.
    fn try_accept(&self, listener: BorrowedFd, kept: bool) -> Result<std::result::Result<OwnedFd, Errno>> {
        let canceled = || Error::Canceled("shutdown has begun".into());
        if kept {
            return match self.is_shut_down() && !self.outlives_shutdown(listener) {
                true => Err(canceled()),
                false => Ok(accept::accept(listener)),
            };
        }
        // Counted first, looked second; the supervisor sets shutdown first and counts second.
        CONNECTIONS.begin_before_a_look();
        let accepted =
            if self.is_shut_down_already() { Err(canceled()) } else { Ok(accept::accept(listener)) };
        if !matches!(accepted, Ok(Ok(_))) {
            CONNECTIONS.end();
        }
        accepted
    }

    /// Until the listener has something, shutdown fires or the handle is freed; whoever comes back looks again.
    fn wait_for_listener(
        &self,
        listener: Option<BorrowedFd>,
        kept: bool,
        deadline: Option<Instant>,
    ) -> Result<()> {
        // That of the process which called flip_init, and shared with it: its end is not a worker's.
        let freed = if fork::in_child() { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut fds = vec![PollFd::new(self.freed_fd(), freed)];
        // A latch that has fired stays readable: one that does not matter any more would make this spin.
        if !(kept && self.is_shut_down()) {
            fds.push(PollFd::new(self.shutdown_fd(), PollFlags::POLLIN));
        }
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::POLLIN)));
        match fd::poll(&mut fds, deadline.map(|at| at.saturating_duration_since(Instant::now()))) {
            Ok(0) => Err(Error::TimedOut),
            Ok(_) if fds[0].any().unwrap_or(false) && !fork::in_child() => {
                Err(Error::Canceled("the handle was freed meanwhile".into()))
            }
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::system("cannot wait for a connection", errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn that_a_listener_does_not_block_is_believed_for_a_few_calls_and_for_this_one_only() {
        let (one, other) = (std::io::stdin(), std::io::stdout());
        assert!(!believed_not_to_block(one.as_fd()));
        seen_not_to_block(one.as_fd());
        assert!((0..BELIEVED).all(|_| believed_not_to_block(one.as_fd())));
        assert!(!believed_not_to_block(one.as_fd()), "it is to be looked at again");
        seen_not_to_block(one.as_fd());
        assert!(!believed_not_to_block(other.as_fd()));
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(!believed_not_to_block(std::io::stdin().as_fd()))).join().unwrap();
        });
    }
}
