//! What the supervisor asks and tells the host: events into its queue, and the state that it writes.

use super::{Asker, Supervisor};
use crate::channel::FromPredecessor;
use crate::error::{Error, Failure};
use crate::events::{HostEvent, Kind, Ticket};
use crate::sys::{fd, memfd};
use crate::upgrade::{Event, Outcome, Question};
use nix::errno::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// A question that waits for the host.
pub(super) struct Asked {
    pub ticket: Arc<Ticket>,
    /// STATE: what the host writes into.
    state: Option<OwnedFd>,
}

impl Supervisor {
    /// Asks the host; what keeps it from being asked counts as its refusal.
    pub(super) fn ask(&mut self, question: Question) -> Option<Event> {
        let failed = |error: Error| Some(Event::HostAnswered(question, Err(error.to_string())));
        let (text, state) = match question {
            Question::Starting => {
                self.systemd.reload_begins();
                self.start_clock();
                let who = match &self.upgrade_caller {
                    Some(Asker::Call(_)) => "flip_upgrade".to_string(),
                    Some(Asker::Operator(id, _)) => match self.control.who(*id) {
                        Some(who) => format!("{who}, over the control socket"),
                        None => "the control socket".to_string(),
                    },
                    None => "a signal or flip_request".to_string(),
                };
                (format!("an upgrade was asked for by {who}"), None)
            }
            Question::State => {
                let state = match memfd::create(c"shellflip-state") {
                    Ok(state) => state,
                    Err(errno) => return failed(Error::system("cannot make room for the state", errno)),
                };
                ("write the state for the new process".to_string(), Some(state))
            }
        };
        let copy = match state.as_ref().map(|state| fd::dup_cloexec(state.as_fd(), fd::FIRST)).transpose() {
            Ok(copy) => copy,
            Err(errno) => return failed(Error::system("cannot duplicate the state", errno)),
        };
        let ticket = Arc::new(Ticket::default());
        self.inner.events.push(HostEvent::asks(question, text, copy, &self.inner, &ticket));
        self.question = Some(Asked { ticket, state });
        None
    }

    /// A later answer is -ESTALE.
    pub(super) fn stop_asking(&mut self) {
        if let Some(asked) = self.question.take() {
            self.inner.events.void(&asked.ticket);
        }
    }

    /// What the host has written goes to the successor, sealed.
    pub(super) fn send_state(&mut self) -> Result<Outcome, String> {
        let state = self.question.take().and_then(|asked| asked.state).ok_or("there is no state")?;
        memfd::seal(state.as_fd()).map_err(|errno| match errno {
            // fcntl(2): F_SEAL_WRITE while a shared, writable mapping exists.
            Errno::EBUSY => "the state cannot be sealed while the host has it mapped for writing".to_string(),
            errno => Error::system("cannot seal the state", errno).to_string(),
        })?;
        let outcome = match &self.successor {
            Some(successor) => successor.send(&FromPredecessor::State(state)),
            None => Outcome::Gone,
        };
        Ok(outcome)
    }

    /// An event that asks nothing, if the host has subscribed to it.
    pub(super) fn tell(&self, kind: Kind, failure: Failure, text: &str) {
        if self.inner.asks(kind) {
            self.inner.events.push(HostEvent::tells(kind, failure, text.to_string()));
        }
    }
}
