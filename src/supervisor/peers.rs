//! The other two: what each one says, and that it died. Symmetrical, but for the direction of the messages.

use super::PrivateChannel;
use crate::channel::message::Message;
use crate::channel::{
    Channel, FromPredecessor, FromSuccessor, Process, Received, Sent, ToPredecessor, ToSuccessor,
};
use crate::error::Error;
use crate::latch::fired;
use crate::spawn::Spawned;
use crate::sys::{fd, process};
use crate::upgrade::{Exit, Outcome, PredecessorSays, SuccessorSays};
use nix::errno::Errno;
use std::cell::Cell;
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
    /// What RELEASED tells of the upgrade.
    pub phases: Option<Vec<(String, u64)>>,
    /// The last thing that was said is that the start takes so many milliseconds longer.
    extended: Cell<Option<u64>>,
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

/// Dead or alive is asked first and told last: what it sent before it died is in the channel by then.
fn next<Out: Message, In: Message>(
    channel: &mut Option<PrivateChannel<Channel<Out, In>>>,
    pidfd: BorrowedFd,
    at_its_end: impl FnOnce(&Channel<Out, In>),
) -> Option<Ended<Result<In, String>>> {
    let dead = fired(pidfd);
    if let Some(open) = channel {
        match open.receive() {
            Received::Message(message) => return Some(Ended::Said(Ok(message))),
            Received::Nothing if !dead => return None,
            Received::Nothing => {}
            // The message stays queued.
            Received::Error(Error::System { errno: Errno::ENOMEM | Errno::ENOBUFS, .. }) if !dead => {
                std::thread::sleep(Duration::from_millis(1));
                return None;
            }
            // Ended, or the socket itself is unusable: no later try would tell more.
            Received::Eof | Received::Error(Error::System { .. }) => {
                at_its_end(open);
                *channel = None;
                if !dead {
                    return Some(Ended::HungUp);
                }
            }
            Received::Error(garbage) => return Some(Ended::Said(Err(garbage.to_string()))),
        }
    }
    dead.then_some(Ended::Died)
}

impl Predecessor {
    pub fn new(channel: PrivateChannel<ToPredecessor>, process: Process) -> Predecessor {
        Predecessor {
            channel: Some(channel),
            process,
            commit_deadline: None,
            state: None,
            phases: None,
            extended: Cell::new(None),
        }
    }

    pub fn watched(&self) -> Vec<BorrowedFd<'_>> {
        let channel = self.channel.iter().map(|channel| channel.as_fd());
        channel.chain([self.process.pidfd.as_fd()]).collect()
    }

    pub fn next(&mut self) -> Option<Ended<PredecessorSays>> {
        Some(match next(&mut self.channel, self.process.pidfd.as_fd(), |_| {})? {
            Ended::Said(Ok(message)) => Ended::Said(self.heard(message)),
            Ended::Said(Err(garbage)) => Ended::Said(PredecessorSays::Garbage(garbage)),
            Ended::HungUp => Ended::HungUp,
            Ended::Died => Ended::Died,
        })
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
            FromPredecessor::Released { upgrade_requested, phases } => {
                self.phases = Some(phases);
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
        self.extended.set(None);
        match self.channel.as_ref().map(|channel| channel.send(&message)) {
            Some(Ok(Sent::Taken)) => Outcome::Taken,
            _ => Outcome::Gone,
        }
    }

    /// Asks for a longer start. A host may do so thousands of times while its predecessor stands still, and the channel
    /// must have room for READY then: what is still to be read, and will count from then on, is not said again.
    pub fn extend(&self, by: Duration) {
        let Some(channel) = &self.channel else { return };
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let said = self.extended.get().is_some_and(|said| said >= ms);
        if !(said && fd::unread_by_peer(channel.as_fd()) == Ok(true)) {
            // A predecessor that is gone has no deadline either.
            let _ = channel.send(&FromSuccessor::Extend { ms });
            self.extended.set(Some(ms));
        }
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

    pub fn next(&mut self) -> Option<Ended<SuccessorSays>> {
        let ended_deaf = &mut self.ended_deaf;
        let next = next(&mut self.channel, self.spawned.pidfd.as_fd(), |channel| {
            *ended_deaf = channel.left_unread();
        });
        Some(match next? {
            Ended::Said(Ok(message)) => Ended::Said(self.heard(message)),
            Ended::Said(Err(garbage)) => Ended::Said(SuccessorSays::Garbage(garbage)),
            Ended::HungUp => Ended::HungUp,
            Ended::Died => Ended::Died,
        })
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

    /// It has crashed, and will be dead.
    pub fn dumps_core(&self) -> bool {
        process::dumps_core(self.spawned.pidfd.as_fd())
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
        Ok(None) | Err(_) => match process::exit_of_other(pidfd) {
            Some(process::Exit::Status(status)) => Exit::Status(status),
            Some(process::Exit::Signal(signal)) => Exit::Signal(signal),
            None => Exit::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::pair;
    use crate::fork::NoFork;
    use nix::unistd::Pid;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_start_that_is_extended_again_and_again_leaves_room_for_ready() {
        let (theirs, ours) = pair().unwrap();
        let pidfd = process::pidfd_open(Pid::this()).unwrap();
        let process = Process { pid: 1, start: 0, pidfd, generation: None };
        let predecessor = Predecessor::new(NoFork::hold().private(ours), process);
        for _ in 0..10_000 {
            predecessor.extend(ms(30_000));
        }
        predecessor.extend(ms(30_001));
        predecessor.extend(ms(20_000));
        assert_eq!(predecessor.send(&SuccessorSays::Ready), Outcome::Taken);
        predecessor.extend(ms(10_000));
        let heard = || match theirs.receive() {
            Received::Message(message) => Some(message),
            _ => None,
        };
        for expected in [30_000, 30_001] {
            assert_eq!(heard(), Some(FromSuccessor::Extend { ms: expected }));
        }
        assert_eq!(heard(), Some(FromSuccessor::Ready));
        assert_eq!(heard(), Some(FromSuccessor::Extend { ms: 10_000 }));
        // What was heard counts from then on: later it has to be said again.
        predecessor.extend(ms(10_000));
        assert_eq!(heard(), Some(FromSuccessor::Extend { ms: 10_000 }));
        assert_eq!(heard(), None);
    }
}
