//! The other two: what each one says, and that it died. Symmetrical, but for the direction of the messages.

use super::PrivateChannel;
use crate::channel::{FromPredecessor, FromSuccessor, Process, Received, Sent, ToPredecessor, ToSuccessor};
use crate::error::Error;
use crate::latch::fired;
use crate::spawn::Spawned;
use crate::sys::{fd, process};
use crate::upgrade::{Exit, Outcome, PredecessorSays, SuccessorSays};
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The next thing about a peer.
pub(super) enum Ended<Says> {
    /// It said this.
    Said(Says),
    /// Its channel ended; it lives.
    HungUp,
    /// It is dead, and has been heard out.
    Died,
}

/// Who started us.
pub(super) struct Predecessor {
    channel: Option<PrivateChannel<ToPredecessor>>,
    process: Process,
    /// From the last EXTEND.
    pub commit_deadline: Option<Instant>,
    /// What STATE brought.
    pub state: Option<OwnedFd>,
}

/// Whom we started.
pub(super) struct Successor {
    channel: Option<PrivateChannel<ToSuccessor>>,
    pub spawned: Spawned,
    /// A longer upgrade deadline, as it last asked for.
    pub extended: Option<Duration>,
    spoke: bool,
    /// HELLO was unread when the channel ended.
    ended_deaf: bool,
}

impl Predecessor {
    pub fn new(channel: PrivateChannel<ToPredecessor>, process: Process) -> Predecessor {
        Predecessor { channel: Some(channel), process, commit_deadline: None, state: None }
    }

    pub fn watched(&self) -> Vec<BorrowedFd<'_>> {
        let channel = self.channel.iter().map(|channel| channel.as_fd());
        channel.chain([self.process.pidfd.as_fd()]).collect()
    }

    /// Dead or alive is asked first and told last: what it sent before it died is in the channel by then.
    pub fn next(&mut self) -> Option<Ended<PredecessorSays>> {
        let dead = fired(self.process.pidfd.as_fd());
        if let Some(channel) = &self.channel {
            match channel.receive() {
                Received::Message(message) => return Some(Ended::Said(self.heard(message))),
                // The message stays queued.
                Received::Error(Error::System { errno: Errno::ENOMEM | Errno::ENOBUFS, .. }) if !dead => {
                    std::thread::sleep(Duration::from_millis(1));
                    return None;
                }
                // The socket itself is unusable: no later try would tell more.
                Received::Error(Error::System { .. }) => {
                    self.channel = None;
                    if !dead {
                        return Some(Ended::HungUp);
                    }
                }
                Received::Error(error) => {
                    return Some(Ended::Said(PredecessorSays::Garbage(error.to_string())));
                }
                Received::Nothing if !dead => return None,
                Received::Eof => {
                    self.channel = None;
                    if !dead {
                        return Some(Ended::HungUp);
                    }
                }
                Received::Nothing => {}
            }
        }
        dead.then_some(Ended::Died)
    }

    fn heard(&mut self, message: FromPredecessor) -> PredecessorSays {
        match message {
            FromPredecessor::Hello(_) => PredecessorSays::Garbage("a second HELLO".into()),
            FromPredecessor::State(state) => {
                self.state = Some(state);
                PredecessorSays::State
            }
            FromPredecessor::Commit => PredecessorSays::Commit,
            FromPredecessor::Abort(reason) => PredecessorSays::Abort(reason),
            FromPredecessor::Released { upgrade_requested } => {
                PredecessorSays::Released { upgrade_requested }
            }
            FromPredecessor::Stop => PredecessorSays::Stop,
            FromPredecessor::Extend { commit_deadline } => {
                let left = commit_deadline.saturating_sub(fd::monotonic_ns());
                self.commit_deadline = Some(Instant::now() + Duration::from_nanos(left));
                PredecessorSays::Extend
            }
        }
    }

    pub fn send(&self, says: &SuccessorSays) -> Outcome {
        let message = match says {
            SuccessorSays::Ready => FromSuccessor::Ready,
            SuccessorSays::Live => FromSuccessor::Live,
            SuccessorSays::Stopping => FromSuccessor::Stopping,
            SuccessorSays::Withdrawn(reason) => FromSuccessor::Withdrawn(reason.clone()),
            SuccessorSays::Extend | SuccessorSays::Garbage(_) => return Outcome::Gone,
        };
        match self.channel.as_ref().map(|channel| channel.send(&message)) {
            Some(Ok(Sent::Taken)) => Outcome::Taken,
            _ => Outcome::Gone,
        }
    }

    /// Asks for a longer start.
    pub fn extend(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        // A predecessor that is gone has no deadline either.
        let _ = self.channel.as_ref().map(|channel| channel.send(&FromSuccessor::Extend { ms }));
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl Successor {
    pub fn new(channel: PrivateChannel<ToSuccessor>, spawned: Spawned) -> Successor {
        Successor { channel: Some(channel), spawned, extended: None, spoke: false, ended_deaf: false }
    }

    pub fn watched(&self) -> Vec<BorrowedFd<'_>> {
        let channel = self.channel.iter().map(|channel| channel.as_fd());
        channel.chain([self.spawned.pidfd.as_fd()]).collect()
    }

    /// See [`Predecessor::next`].
    pub fn next(&mut self) -> Option<Ended<SuccessorSays>> {
        let dead = fired(self.spawned.pidfd.as_fd());
        if let Some(channel) = &self.channel {
            match channel.receive() {
                Received::Message(message) => return Some(Ended::Said(self.heard(message))),
                // The message stays queued.
                Received::Error(Error::System { errno: Errno::ENOMEM | Errno::ENOBUFS, .. }) if !dead => {
                    std::thread::sleep(Duration::from_millis(1));
                    return None;
                }
                // The socket itself is unusable: no later try would tell more.
                Received::Error(Error::System { .. }) => {
                    self.hang_up();
                    if !dead {
                        return Some(Ended::HungUp);
                    }
                }
                Received::Error(error) => {
                    return Some(Ended::Said(SuccessorSays::Garbage(error.to_string())));
                }
                Received::Nothing if !dead => return None,
                Received::Eof => {
                    self.hang_up();
                    if !dead {
                        return Some(Ended::HungUp);
                    }
                }
                Received::Nothing => {}
            }
        }
        dead.then_some(Ended::Died)
    }

    fn hang_up(&mut self) {
        self.ended_deaf = self.deaf();
        self.channel = None;
    }

    /// It has not read HELLO: nothing in that process has called `flip_init`. To be asked before ABORT is sent, which
    /// nobody has to read.
    pub fn deaf(&self) -> bool {
        let unread = |channel: &PrivateChannel<ToSuccessor>| channel.left_unread();
        !self.spoke && (self.ended_deaf || self.channel.as_ref().is_some_and(unread))
    }

    fn heard(&mut self, message: FromSuccessor) -> SuccessorSays {
        self.spoke = true;
        match message {
            FromSuccessor::Ready => SuccessorSays::Ready,
            FromSuccessor::Live => SuccessorSays::Live,
            FromSuccessor::Stopping => SuccessorSays::Stopping,
            FromSuccessor::Withdrawn(reason) => SuccessorSays::Withdrawn(reason),
            FromSuccessor::Extend { ms } => {
                self.extended = Some(Duration::from_millis(ms));
                SuccessorSays::Extend
            }
        }
    }

    pub fn send(&self, message: &FromPredecessor) -> Outcome {
        match self.channel.as_ref().map(|channel| channel.send(message)) {
            Some(Ok(Sent::Taken)) => Outcome::Taken,
            _ => Outcome::Gone,
        }
    }

    pub fn dead(&self) -> bool {
        fired(self.spawned.pidfd.as_fd())
    }

    pub fn signal(&self, signal: i32) {
        // ESRCH: it is dead, and its pidfd will say so.
        let _ = process::pidfd_send_signal(self.spawned.pidfd.as_fd(), signal);
    }

    /// How it ended; reaps it.
    pub fn exit(&self) -> Exit {
        wait(self.spawned.pidfd.as_fd())
    }

    pub fn into_pidfd(self) -> OwnedFd {
        self.spawned.pidfd
    }
}

/// Reaps a dead child, unless the host has done so.
pub(super) fn wait(pidfd: BorrowedFd) -> Exit {
    match process::reap(pidfd) {
        Ok(Some(process::Exit::Status(status))) => Exit::Status(status),
        Ok(Some(process::Exit::Signal(signal))) => Exit::Signal(signal),
        Ok(None) | Err(Errno::ECHILD) => Exit::Unknown,
        Err(_) => Exit::Unknown,
    }
}
