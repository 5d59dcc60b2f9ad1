//! Connections: accepting them so that none is missed by a drain, and counting those that others accept.

use crate::flip::Flip;
use crate::{Error, Result};
use std::fmt;
use std::iter::FusedIterator;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// The handle of this process, as a number: the library's count begins anew with each.
pub(crate) static HANDLE: AtomicU64 = AtomicU64::new(0);

/// In which count a connection is: of which handle, and how many forks from the process that made it.
fn count() -> (u64, u32) {
    (HANDLE.load(SeqCst), shellflip::flip::Flip::conn_depth())
}

/// One open connection. [`Flip::drain`] waits until every one was dropped; drop it after the stream. A forked child begins its
/// own count: one that it inherits ends nothing there.
#[must_use = "the connection counts as ended when this is dropped"]
pub struct ConnectionGuard {
    /// None for those of a `keep=` listener, which are not counted.
    count: Option<(u64, u32)>,
}

impl ConnectionGuard {
    pub(crate) fn begin() -> ConnectionGuard {
        shellflip::flip::Flip::conn_begin();
        ConnectionGuard::begun(true)
    }

    /// Of a listener that outlives shutdown.
    #[cfg(feature = "tokio")]
    pub(crate) fn uncounted() -> ConnectionGuard {
        ConnectionGuard { count: None }
    }

    /// One that the library has counted, or does not count.
    fn begun(counted: bool) -> ConnectionGuard {
        ConnectionGuard { count: counted.then(count) }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if self.count == Some(count()) {
            shellflip::flip::Flip::conn_end();
        }
    }
}

impl fmt::Debug for ConnectionGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionGuard").field("counted", &self.count.is_some()).finish()
    }
}

/// What can be accepted from: std's listeners.
pub trait Listener: AsFd + sealed::Sealed {
    /// What comes out.
    type Stream: From<OwnedFd>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::net::TcpListener {}
    impl Sealed for std::os::unix::net::UnixListener {}
}

impl Listener for TcpListener {
    type Stream = TcpStream;
}

impl Listener for UnixListener {
    type Stream = UnixStream;
}

impl Flip {
    /// Waits for a connection: blocking, and counted until the guard is dropped. Retries what accept(2) may be retried
    /// on, waits while descriptors are exhausted. Called before [`Flip::ready`] has returned, it waits for that first.
    /// Any number of threads may call it at once.
    ///
    /// [`crate::ErrorKind::Canceled`] from shutdown on, also in a thread that waits already; `Invalid`: the listener blocks,
    /// which is looked at every few calls.
    pub fn accept<L: Listener>(&self, listener: &L) -> Result<(L::Stream, ConnectionGuard)> {
        self.accept_until(listener, None)
    }

    /// The same; [`crate::ErrorKind::TimedOut`] after this long.
    pub fn accept_timeout<L: Listener>(
        &self,
        listener: &L,
        timeout: Duration,
    ) -> Result<(L::Stream, ConnectionGuard)> {
        self.accept_until(listener, crate::flip::after(timeout))
    }

    fn accept_until<L: Listener>(
        &self,
        listener: &L,
        deadline: Option<std::time::Instant>,
    ) -> Result<(L::Stream, ConnectionGuard)> {
        let (connection, counted) = self.core()?.accept_counted(listener.as_fd(), deadline)?;
        Ok((connection.into(), ConnectionGuard::begun(counted)))
    }

    /// The connections of a listener, each with its guard, until shutdown begins. An error that accept(2) cannot be
    /// retried on is yielded, and is the last.
    pub fn incoming<'a, L: Listener>(&'a self, listener: &'a L) -> Incoming<'a, L> {
        Incoming { flip: self, listener, over: false }
    }

    /// Counts a connection that was accepted in another way.
    pub fn connection(&self) -> ConnectionGuard {
        ConnectionGuard::begin()
    }

    /// How many connections are open.
    pub fn connections(&self) -> u64 {
        self.inner().conn_count()
    }
}

/// See [`Flip::incoming`].
#[derive(Debug)]
pub struct Incoming<'a, L> {
    flip: &'a Flip,
    listener: &'a L,
    over: bool,
}

impl<L: Listener> Iterator for Incoming<'_, L> {
    type Item = Result<(L::Stream, ConnectionGuard)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let accepted = self.flip.accept(self.listener);
        self.over = accepted.is_err();
        match accepted {
            Err(error) if is_over(&error) => None,
            accepted => Some(accepted),
        }
    }
}

impl<L: Listener> FusedIterator for Incoming<'_, L> {}

/// Shutdown, or the handle's end: no error for who accepts.
fn is_over(error: &Error) -> bool {
    matches!(error.kind(), crate::ErrorKind::Canceled | crate::ErrorKind::Closed)
}
