//! An answer that a host thread waits for and the supervisor gives: a channel with a descriptor to poll, because a
//! wait that a signal handler has interrupted must return.

use crate::error::{Error, Result};
use crate::sys::fd;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// The supervisor's end.
#[derive(Debug)]
pub struct Reply<T> {
    sender: Sender<T>,
    bell: Arc<OwnedFd>,
}

/// The caller's end.
#[derive(Debug)]
pub struct Pending<T> {
    receiver: Receiver<T>,
    bell: Arc<OwnedFd>,
}

/// Both ends.
pub fn reply<T>() -> Result<(Reply<T>, Pending<T>)> {
    let bell = fd::eventfd().map_err(|errno| Error::system("cannot make an eventfd", errno))?;
    let bell = Arc::new(bell);
    let (sender, receiver) = bounded(1);
    Ok((Reply { sender, bell: Arc::clone(&bell) }, Pending { receiver, bell }))
}

impl<T> Reply<T> {
    /// What makes this one different from all others that live.
    pub fn bell(&self) -> &Arc<OwnedFd> {
        &self.bell
    }

    /// Gives the answer; the second one is dropped.
    pub fn send(&self, value: T) {
        if self.sender.try_send(value).is_ok() {
            let _ = fd::eventfd_write(self.bell.as_fd());
        }
    }
}

impl<T> Pending<T> {
    /// Waits until the answer, the deadline (`ETIMEDOUT`), a signal handler (`EINTR`) or the end of the handle
    /// (`ECANCELED`).
    pub fn wait(&self, freed: BorrowedFd, deadline: Option<Instant>) -> Result<T> {
        loop {
            match self.receiver.try_recv() {
                Ok(value) => return Ok(value),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    return Err(Error::Canceled("the handle was freed meanwhile".into()));
                }
            }
            let mut fds =
                [PollFd::new(self.bell.as_fd(), PollFlags::POLLIN), PollFd::new(freed, PollFlags::POLLIN)];
            match fd::poll(&mut fds, deadline.map(|at| at.saturating_duration_since(Instant::now()))) {
                Ok(0) => return Err(Error::TimedOut),
                Err(Errno::EINTR) => return Err(Error::Interrupted),
                Err(errno) => return Err(Error::system("cannot wait for an answer", errno)),
                Ok(_) => {
                    if let Ok(value) = self.receiver.try_recv() {
                        return Ok(value);
                    }
                    if fds[1].any().unwrap_or(false) {
                        return Err(Error::Canceled("the handle was freed meanwhile".into()));
                    }
                }
            }
        }
    }
}
