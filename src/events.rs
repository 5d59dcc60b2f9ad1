//! Events: how a host takes part without the library ever calling it. One queue, one descriptor to watch, answers where one
//! is asked for.
//!
//! The supervisor pushes, host threads take. STARTING and STATE wait for the host's answer; an answer counts once, and only
//! while it is still wanted. LOG keeps the newest lines and counts what it dropped.

use crate::error::{Error, Failure, Result};
use crate::flip::{Inner, lock};
pub use crate::log::Level;
use crate::supervisor::Command;
use crate::sys::fd;
use crate::upgrade::Question;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

/// LOG lines that wait at most; STARTING, STATE, FAILED and SHUTDOWN are few and never dropped.
const LOG_LINES: usize = 256;
/// FAILED and SHUTDOWN of a host that subscribed and never reads.
const EVENTS: usize = 1024;

/// What happened; the values are the bits of the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// An upgrade is about to start: may be refused.
    Starting = 1,
    /// The state is to be written.
    State = 2,
    /// An upgrade failed.
    Failed = 4,
    /// Shutdown has fired.
    Shutdown = 8,
    /// A line for the log.
    Log = 16,
}

/// Every bit of the mask.
pub const ALL: u32 = 31;
/// The events that wait for the host.
pub const QUESTIONS: u32 = Kind::Starting as u32 | Kind::State as u32;

/// One event. Dropped unanswered, it counts as refused.
#[derive(Debug)]
pub struct HostEvent {
    /// What happened.
    pub kind: Kind,
    /// Who asked, what failed, the line.
    pub text: String,
    /// FAILED: how.
    pub failure: Failure,
    /// LOG: how much it matters.
    pub level: Level,
    /// STATE: where to write.
    pub state: Option<OwnedFd>,
    question: Option<Open>,
}

/// A question that waits for its answer.
#[derive(Debug)]
struct Open {
    question: Question,
    ticket: Arc<Ticket>,
    inner: Weak<Inner>,
}

/// Shared between the event and the supervisor: an answer counts once and in time.
#[derive(Debug, Default)]
pub(crate) struct Ticket(AtomicU8);

const OPEN: u8 = 0;
const ANSWERED: u8 = 1;
const VOID: u8 = 2;

impl Ticket {
    /// From now on an answer is too late.
    pub fn void(&self) {
        let _ = self.0.compare_exchange(OPEN, VOID, SeqCst, SeqCst);
    }
}

impl HostEvent {
    /// One that only tells.
    pub(crate) fn tells(kind: Kind, failure: Failure, text: String) -> HostEvent {
        HostEvent { kind, text, failure, level: Level::Info, state: None, question: None }
    }

    /// A line for the log.
    pub(crate) fn line(level: Level, text: String) -> HostEvent {
        let mut event = HostEvent::tells(Kind::Log, Failure::None, text);
        event.level = level;
        event
    }

    /// One that asks.
    pub(crate) fn asks(
        question: Question,
        text: String,
        state: Option<OwnedFd>,
        inner: &Arc<Inner>,
        ticket: &Arc<Ticket>,
    ) -> HostEvent {
        let kind = match question {
            Question::Starting => Kind::Starting,
            Question::State => Kind::State,
        };
        let open = Open { question, ticket: Arc::clone(ticket), inner: Arc::downgrade(inner) };
        HostEvent { kind, text, failure: Failure::None, level: Level::Info, state, question: Some(open) }
    }

    /// The host's answer. `EALREADY` the second time, `ESTALE` when nobody waits for it any more, `EINVAL` for an event
    /// that asks nothing.
    pub fn answer(&self, answer: std::result::Result<(), String>) -> Result<()> {
        let Some(open) = &self.question else {
            return Err(Error::Invalid("this event asks nothing".into()));
        };
        match open.ticket.0.compare_exchange(OPEN, ANSWERED, SeqCst, SeqCst) {
            Ok(_) => {}
            Err(ANSWERED) => {
                return Err(Error::system("cannot answer the event twice", Errno::EALREADY));
            }
            Err(_) => return Err(Error::system("nobody waits for this answer any more", Errno::ESTALE)),
        }
        if let Some(inner) = open.inner.upgrade() {
            // It ends up in lines: of the log, of whoever asked for the upgrade.
            let answer = answer.map_err(|reason| reason.replace(char::is_control, " "));
            inner.send(Command::Answered(open.question, Arc::clone(&open.ticket), answer));
        }
        Ok(())
    }
}

impl Drop for HostEvent {
    fn drop(&mut self) {
        if self.question.is_some() {
            // Answered, or too late: then this says nothing.
            let _ = self.answer(Err("the host gave the event back without an answer".into()));
        }
    }
}

/// What waits for the host.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    bell: OwnedFd,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<HostEvent>,
    dropped: u64,
}

impl Queue {
    pub fn new() -> Result<Queue> {
        let bell = fd::eventfd().map_err(|errno| Error::system("cannot make an eventfd", errno))?;
        Ok(Queue { waiting: Mutex::default(), bell })
    }

    /// Readable while an event waits.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub fn push(&self, event: HostEvent) {
        let mut waiting = lock(&self.waiting);
        let most = if event.kind == Kind::Log { LOG_LINES } else { EVENTS };
        let kind = event.kind;
        let same =
            |other: &HostEvent| other.question.is_none() && (other.kind == Kind::Log) == (kind == Kind::Log);
        let oldest = if waiting.events.iter().filter(|other| same(other)).count() >= most {
            let index = waiting.events.iter().position(same);
            waiting.dropped += 1;
            index.and_then(|index| waiting.events.remove(index))
        } else {
            None
        };
        waiting.events.push_back(event);
        // Under the lock, so that the descriptor and the queue agree.
        let _ = fd::eventfd_write(self.bell.as_fd());
        drop(waiting);
        drop(oldest);
    }

    /// The next one; the newest LOG line says how many were dropped before it.
    pub fn pop(&self) -> Option<HostEvent> {
        let mut waiting = lock(&self.waiting);
        let mut event = waiting.events.pop_front();
        if let Some(event) = event.as_mut().filter(|event| event.kind == Kind::Log)
            && waiting.dropped > 0
        {
            let dropped = std::mem::take(&mut waiting.dropped);
            event.text = format!("({dropped} events were dropped before this) {}", event.text);
        }
        if waiting.events.is_empty() {
            let _ = fd::eventfd_drain(self.bell.as_fd());
        }
        event
    }

    /// A question that nobody wants answered any more is not worth reading.
    pub fn void(&self, ticket: &Arc<Ticket>) {
        ticket.void();
        let mut waiting = lock(&self.waiting);
        let stale =
            |event: &HostEvent| event.question.as_ref().is_some_and(|open| Arc::ptr_eq(&open.ticket, ticket));
        let stale = waiting.events.iter().position(stale);
        let stale = stale.and_then(|index| waiting.events.remove(index));
        if waiting.events.is_empty() {
            let _ = fd::eventfd_drain(self.bell.as_fd());
        }
        drop(waiting);
        drop(stale);
    }

    /// Waits for the next one.
    pub fn next(&self, freed: BorrowedFd, deadline: Option<Instant>) -> Result<HostEvent> {
        loop {
            if let Some(event) = self.pop() {
                return Ok(event);
            }
            let mut fds =
                [PollFd::new(self.bell(), PollFlags::POLLIN), PollFd::new(freed, PollFlags::POLLIN)];
            match fd::poll(&mut fds, deadline.map(|at| at.saturating_duration_since(Instant::now()))) {
                Ok(0) => return Err(Error::TimedOut),
                // What happened before the end is still told: the last lines, and why shutdown came.
                Ok(_) if fds[1].any().unwrap_or(false) => {
                    let canceled = || Error::Canceled("the handle was freed meanwhile".into());
                    return self.pop().ok_or_else(canceled);
                }
                Ok(_) => {}
                Err(Errno::EINTR) => return Err(Error::Interrupted),
                Err(errno) => return Err(Error::system("cannot wait for an event", errno)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latch::Gate;
    use std::time::Duration;

    #[test]
    fn what_was_queued_before_the_end_is_still_told() {
        for _ in 0..200 {
            let (queue, freed) = (Arc::new(Queue::new().unwrap()), Arc::new(Gate::new().unwrap()));
            let (reader, end) = (Arc::clone(&queue), Arc::clone(&freed));
            let reader = std::thread::spawn(move || {
                let until = Some(Instant::now() + Duration::from_secs(30));
                std::iter::from_fn(|| reader.next(end.reader(), until).ok()).count()
            });
            // Both become readable while it waits, as nearly at once as calls can. The pause only makes that likely.
            std::thread::sleep(Duration::from_micros(500));
            queue.push(HostEvent::tells(Kind::Shutdown, Failure::None, String::new()));
            queue.push(HostEvent::line(Level::Info, String::new()));
            freed.open();
            assert_eq!(reader.join().unwrap(), 2);
        }
    }
}
