//! An answer that a host thread waits for and the supervisor gives: a channel with a descriptor to poll, because a
//! wait that a signal handler has interrupted must return. A thread that drives the supervisor itself needs none.

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
    bell: Option<Arc<OwnedFd>>,
}

/// The caller's end.
#[derive(Debug)]
pub struct Pending<T> {
    receiver: Receiver<T>,
    bell: Option<Arc<OwnedFd>>,
}

/// Both ends.
pub fn reply<T>() -> Result<(Reply<T>, Pending<T>)> {
    let bell = fd::eventfd().map_err(|errno| Error::system("cannot make an eventfd", errno))?;
    Ok(both(Some(Arc::new(bell))))
}

/// Both ends, of an answer that is looked for and not waited for.
pub fn without_bell<T>() -> (Reply<T>, Pending<T>) {
    both(None)
}

fn both<T>(bell: Option<Arc<OwnedFd>>) -> (Reply<T>, Pending<T>) {
    let (sender, receiver) = bounded(1);
    (Reply { sender, bell: bell.clone() }, Pending { receiver, bell })
}

impl<T> Reply<T> {
    /// Gives the answer; the second one is dropped.
    pub fn send(&self, value: T) {
        if self.sender.try_send(value).is_ok()
            && let Some(bell) = &self.bell
        {
            let _ = fd::eventfd_write(bell.as_fd());
        }
    }
}

impl<T> Pending<Result<T>> {
    /// Whether there is an answer.
    pub fn is_answered(&self) -> bool {
        !self.receiver.is_empty()
    }

    /// The answer; without one there will be none.
    pub fn take(self) -> Result<T> {
        self.receiver.try_recv().unwrap_or_else(|_| Err(over()))
    }
}

fn over() -> Error {
    Error::Canceled("the handle was freed meanwhile".into())
}

impl<T> Pending<T> {
    /// Waits until the answer, the deadline (`ETIMEDOUT`), a signal handler (`EINTR`) or the end of the handle
    /// (`ECANCELED`).
    pub fn wait(&self, freed: BorrowedFd, deadline: Option<Instant>) -> Result<T> {
        loop {
            match self.receiver.try_recv() {
                Ok(value) => return Ok(value),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Err(over()),
            }
            let bell = self.bell.as_ref().map_or(freed, |bell| bell.as_fd());
            let mut fds = [PollFd::new(bell, PollFlags::POLLIN), PollFd::new(freed, PollFlags::POLLIN)];
            match fd::poll(&mut fds, deadline.map(|at| at.saturating_duration_since(Instant::now()))) {
                Ok(0) => return Err(Error::TimedOut),
                Err(Errno::EINTR) => return Err(Error::Interrupted),
                Err(errno) => return Err(Error::system("cannot wait for an answer", errno)),
                Ok(_) => {
                    if let Ok(value) = self.receiver.try_recv() {
                        return Ok(value);
                    }
                    if fds[1].any().unwrap_or(false) {
                        return Err(over());
                    }
                }
            }
        }
    }
}
