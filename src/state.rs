//! The predecessor's state, as the successor's host takes it: a sealed memfd, promised in HELLO and sent when the old host has
//! written it. None, empty and lost are three things.

use crate::error::{Error, Result};
use crate::flip::lock;
use crate::latch::Gate;
use crate::sys::fd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::Instant;

/// Where it waits for the host.
#[derive(Debug)]
pub(crate) struct State {
    slot: Mutex<Slot>,
    /// By way of it a memfd is opened anew, even when the host has a root without /proc by then.
    descriptors: Option<OwnedFd>,
    /// Opens when the slot is no longer [`Slot::Promised`].
    settled: Gate,
}

#[derive(Debug)]
enum Slot {
    None,
    Promised,
    Arrived(OwnedFd),
    Lost,
    /// This process will not serve, and nobody sends it any more.
    Unwanted,
}

impl State {
    /// `promised`: HELLO said that it will come.
    pub fn new(promised: bool) -> Result<State> {
        let slot = Mutex::new(if promised { Slot::Promised } else { Slot::None });
        let descriptors = match promised.then(fd::own_descriptors).transpose() {
            // flip_take_state says it: the host may not want the state.
            Err(Errno::ENOENT | Errno::EACCES) => None,
            found => found.map_err(|errno| Error::system("cannot open /proc/self/fd", errno))?,
        };
        Ok(State { slot, descriptors, settled: Gate::new()? })
    }

    /// STATE came.
    pub fn arrived(&self, state: OwnedFd) {
        *lock(&self.slot) = Slot::Arrived(state);
        self.settled.open();
    }

    /// The predecessor is dead: what has not come by now never will.
    pub fn lost(&self) {
        let mut slot = lock(&self.slot);
        if matches!(*slot, Slot::Promised) {
            *slot = Slot::Lost;
        }
        drop(slot);
        self.settled.open();
    }

    /// This process will never serve.
    pub fn unwanted(&self) {
        let mut slot = lock(&self.slot);
        if matches!(*slot, Slot::Promised) {
            *slot = Slot::Unwanted;
            drop(slot);
            self.settled.open();
        }
    }

    fn open(&self, state: &OwnedFd) -> std::result::Result<OwnedFd, Errno> {
        let descriptors = self.descriptors.as_ref().ok_or(Errno::EIO)?;
        // ENOENT would say that there is no state.
        fd::reopen_read_only(descriptors.as_fd(), state.as_fd())
            // It is of the thread that called flip_init, if that was the first one, which may have ended.
            .or_else(|errno| fd::reopen_by_this_thread(state.as_fd()).map_err(|_| errno))
            .map_err(|errno| if errno == Errno::ENOENT { Errno::EIO } else { errno })
    }

    /// Waits for it: read-only, with an offset of its own at 0. `ENOENT`: none was promised; `ECONNRESET`: promised and lost;
    /// `ECANCELED`: this process will not serve.
    pub fn take(&self, freed: BorrowedFd, deadline: Option<Instant>) -> Result<OwnedFd> {
        loop {
            match &*lock(&self.slot) {
                Slot::None => return Err(Error::NotFound("the predecessor promised no state".into())),
                Slot::Lost => {
                    return Err(Error::StateLost(
                        "the state that the predecessor promised was lost with it".into(),
                    ));
                }
                Slot::Arrived(state) => {
                    return self.open(state).map_err(|errno| {
                        Error::system("cannot open the predecessor's state by way of /proc/self/fd", errno)
                    });
                }
                Slot::Unwanted => return Err(Error::Canceled("this process will not serve".into())),
                Slot::Promised => {}
            }
            let mut fds = [
                PollFd::new(self.settled.reader(), PollFlags::POLLIN),
                PollFd::new(freed, PollFlags::POLLIN),
            ];
            match fd::poll(&mut fds, deadline.map(|at| at.saturating_duration_since(Instant::now()))) {
                Ok(0) => return Err(Error::TimedOut),
                Ok(_) if fds[0].any().unwrap_or(false) => {}
                Ok(_) => return Err(Error::Canceled("the handle was freed meanwhile".into())),
                Err(Errno::EINTR) => return Err(Error::Interrupted),
                Err(errno) => return Err(Error::system("cannot wait for the predecessor's state", errno)),
            }
        }
    }
}
