//! What operators ask over the control socket, as events for the state machine, and its answers. Whether this
//! generation is the one that answers is the machine's to say ([`Machine::answers_operators`]); until then whoever
//! connects waits in the socket's queue.
//!
//! [`Machine::answers_operators`]: crate::upgrade::Machine::answers_operators

use super::{Asker, Supervisor};
use crate::control::server::{ClientId, Heard};
use crate::control::wire::{Answer, Asked};
use crate::error::{Error, Failure, Result};
use crate::log::{self, Level};
use crate::upgrade::{Event, Origin, Request, Shutdown};

impl Supervisor {
    /// Everything that clients want now.
    pub(super) fn listen_to_operators(&mut self) {
        let mut heard = self.control.turn(self.machine.answers_operators());
        heard.extend(self.control.expire());
        for one in heard {
            self.hear(one);
        }
    }

    fn hear(&mut self, heard: Heard) {
        let (Heard::Asked(id, _) | Heard::Acknowledged(id, _)) = heard;
        // What came before it in this turn may have ended our right to answer.
        if !self.machine.answers_operators() {
            return self.control.forget(id);
        }
        match heard {
            Heard::Asked(id, Asked::Status) => {
                let status = self.status();
                self.control.answer(id, status + "\n");
            }
            Heard::Asked(id, Asked::Upgrade) => self.ask_for(id, Request::Upgrade),
            Heard::Asked(id, Asked::Detach) => self.ask_for(id, Request::Detach),
            Heard::Asked(id, Asked::Stop) => {
                let ending = self.who_ends();
                self.control.name(id, ending);
            }
            Heard::Acknowledged(id, named) => match self.who_ends() {
                ending if ending == named => self.ask_for(id, Request::Stop),
                // A successor was told to serve meanwhile, or has failed.
                ending => self.control.name(id, ending),
            },
        }
    }

    fn ask_for(&mut self, id: ClientId, request: Request) {
        if let Some(who) = self.control.who(id) {
            log::write(Level::Info, format_args!("control socket: {request:?} asked for by {who}"));
        }
        self.asking = Some(Asker::Operator(id, request));
        self.feed(Event::Ask(request, Origin::Answered));
        if self.asking.take().is_some() {
            self.control.forget(id);
        }
    }

    /// Who ends when this process is asked to stop now: with a successor that was told to serve, both.
    fn who_ends(&self) -> Vec<i32> {
        let own = std::process::id() as i32;
        let successor = self.started.filter(|_| self.machine.has_committed());
        std::iter::once(own).chain(successor).collect()
    }

    /// The request that is being handled is taken.
    pub(super) fn accepted(&mut self) {
        match self.asking.take() {
            None => {}
            Some(Asker::Operator(id, Request::Stop)) => self.control.answer(id, done()),
            Some(Asker::Operator(id, Request::Detach)) => self.detaching.push(id),
            Some(asker) => self.upgrade_caller = Some(asker),
        }
    }

    /// How an upgrade, or the request for one, went.
    pub(super) fn tell_asker(&mut self, asker: Asker, result: Result<i32>) {
        match asker {
            Asker::Call(reply) => reply.send(result),
            Asker::Operator(id, _) => {
                let answer = match result {
                    Ok(pid) => Answer::Ok(pid),
                    Err(error) => Answer::failed(&error),
                };
                self.control.answer(id, answer.to_string());
            }
        }
    }

    /// Shutdown: operators are a successor's to answer, or nobody's.
    pub(super) fn dismiss_operators(&mut self, kind: Shutdown) {
        // First: whoever is told finds the path gone.
        self.control.close(self.machine.owns());
        for id in std::mem::take(&mut self.detaching) {
            let answer = match kind {
                Shutdown::Detach => done(),
                Shutdown::Stop | Shutdown::Upgrade => {
                    let error = Error::upgrade(Failure::Stopping, "this process stops");
                    Answer::failed(&error).to_string()
                }
            };
            self.control.answer(id, answer);
        }
        self.control.dismiss();
    }
}

fn done() -> String {
    Answer::Ok(std::process::id() as i32).to_string()
}
