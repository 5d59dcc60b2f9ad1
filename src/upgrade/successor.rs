//! The successor's half: from `flip_init` until the predecessor has released it.
//!
//! READY says "I could serve", COMMIT lets it, for good, and LIVE, the last act of `flip_ready`, proves that it does.
//! The predecessor's death without ABORT is a COMMIT. Read beside `predecessor.rs`.

#[cfg(test)]
use super::model::Wrong;
use super::{
    Action, Event, Inheritance, Machine, Origin, Outcome, PredecessorSays, Request, Shutdown, State,
    SuccessorSays, Timer, Why,
};

/// Before the first `flip_ready` returned 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Starting {
    /// Generation 0, or the predecessor is gone: `flip_ready` will not have to ask.
    Alone,
    /// The host has not called `flip_ready` yet.
    Initialising {
        /// The channel ended and the predecessor lives, so far.
        hung_up: bool,
    },
    /// READY was sent.
    Asked {
        /// A thread of the host is in `flip_ready`.
        waiting: bool,
        /// The channel ended and the predecessor lives, so far.
        hung_up: bool,
    },
    /// COMMIT came while no thread was in `flip_ready`: LIVE would not be true.
    Committed,
    /// It may serve, further listeners are about to listen.
    Widening {
        /// There is nobody to send LIVE to.
        alone: bool,
    },
    /// LIVE is on its way; `hung_up` when the socket did not take it: only the predecessor's death can explain that.
    Confirming {
        /// The socket did not take LIVE.
        hung_up: bool,
    },
    /// It will never serve.
    GivenUp(Final),
}

/// Why `flip_ready` fails for good.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Final {
    /// The predecessor gave up on us, and said why.
    Aborted(String),
    /// Somebody asked this process to stop before it was ready.
    Stopped,
    /// The predecessor's COMMIT did not come in its time.
    Deadline,
    /// The predecessor broke the protocol.
    Protocol(String),
    /// A listener that had to be added to a group could not listen.
    Listen(String),
    /// The one that is not for good: the promised state is lost, and the host has not been told so yet.
    StateLost,
}

impl Starting {
    pub(super) fn timers(&self) -> Vec<Timer> {
        match self {
            Starting::Initialising { hung_up: true } | Starting::Confirming { hung_up: true } => {
                vec![Timer::PredecessorGone]
            }
            Starting::Asked { hung_up: false, .. } => vec![Timer::Commit],
            Starting::Asked { hung_up: true, .. } => vec![Timer::Commit, Timer::PredecessorGone],
            Starting::Initialising { hung_up: false }
            | Starting::Alone
            | Starting::Committed
            | Starting::Widening { .. }
            | Starting::Confirming { hung_up: false }
            | Starting::GivenUp(_) => Vec::new(),
        }
    }
}

impl Machine {
    pub(super) fn starting(&mut self, starting: Starting, event: Event, out: &mut Vec<Action>) {
        use Starting::*;
        match (starting, event) {
            (_, Event::Ask(request, origin)) => self.asked_while_starting(request, origin, out),
            (state, Event::Free) => {
                self.withdraw(
                    &state,
                    "the new program gave up before it was ready (flip_free); its own messages say why",
                    out,
                );
                self.last_one_owns(&state, out);
                self.finish(out);
            }
            (GivenUp(why), Event::HostReady) => out.push(Action::ReadyDone(Err(why))),
            // It crossed our WITHDRAWN: nobody else will unlink now.
            (GivenUp(_), Event::FromPredecessor(PredecessorSays::Released { .. })) => {
                self.inherit_ownership(out)
            }
            (GivenUp(_), _) => {}
            (_, Event::FromPredecessor(PredecessorSays::Stop)) => {
                out.push(Action::ReadyDone(Err(Final::Stopped)));
                self.shut_down(Shutdown::Stop, out);
            }
            (_, Event::FromPredecessor(PredecessorSays::Extend)) => {}

            (Alone, Event::HostReady) => self.take_over(out),
            (Alone, _) => {}

            #[cfg(test)]
            (Initialising { .. }, Event::HostReady) if self.wrong == Some(Wrong::OneMessageReady) => {
                self.state = State::Live;
                out.extend([Action::ReadyDone(Ok(())), Action::ToPredecessor(SuccessorSays::Ready)]);
            }
            (Initialising { hung_up }, Event::HostReady) => {
                self.state = State::Starting(Asked { waiting: true, hung_up });
                if !hung_up {
                    out.push(Action::ToPredecessor(SuccessorSays::Ready));
                }
            }
            (Asked { hung_up, .. }, Event::HostReady) => {
                self.state = State::Starting(Asked { waiting: true, hung_up });
            }
            (Asked { hung_up, .. }, Event::HostLeft) => {
                self.state = State::Starting(Asked { waiting: false, hung_up });
            }
            (Asked { waiting, .. }, Event::Sent(Outcome::Gone)) => {
                self.state = State::Starting(Asked { waiting, hung_up: true });
            }
            (Initialising { .. } | Asked { .. }, Event::FromPredecessor(PredecessorSays::State))
                if self.inheritance == Inheritance::Awaited =>
            {
                self.inheritance = Inheritance::Settled;
            }
            (state, Event::FromPredecessor(PredecessorSays::State)) => {
                self.predecessor_is_broken(&state, "STATE that was not promised", out);
            }
            (state @ Asked { .. }, Event::FromPredecessor(PredecessorSays::Commit))
                if self.inheritance == Inheritance::Awaited =>
            {
                self.predecessor_is_broken(&state, "COMMIT before the promised STATE", out);
            }
            (Asked { waiting: true, .. }, Event::FromPredecessor(PredecessorSays::Commit))
            | (Committed, Event::HostReady) => {
                self.state = State::Starting(Widening { alone: false });
                out.push(Action::ListenFurther);
            }
            (Asked { waiting: false, .. }, Event::FromPredecessor(PredecessorSays::Commit)) => {
                self.state = State::Starting(Committed);
            }
            (Widening { alone: true }, Event::ListenedFurther(Ok(()))) => self.serve(out),
            (Widening { alone: false }, Event::ListenedFurther(Ok(()))) => {
                self.state = State::Starting(Confirming { hung_up: false });
                out.push(Action::ToPredecessor(SuccessorSays::Live));
            }
            (state @ Widening { .. }, Event::ListenedFurther(Err(text))) => {
                self.withdraw(&state, &text, out);
                self.last_one_owns(&state, out);
                self.give_up(Final::Listen(text), out);
            }
            (Confirming { hung_up: false }, Event::Sent(Outcome::Taken)) => {
                self.state = State::Live;
                out.push(Action::ReadyDone(Ok(())));
            }
            (Confirming { .. }, Event::Sent(Outcome::Gone)) => {
                self.state = State::Starting(Confirming { hung_up: true });
            }
            // Nobody would learn that it may serve: the next flip_ready tries LIVE again.
            (Confirming { hung_up: true }, Event::HostLeft) => self.state = State::Starting(Committed),

            // ABORT cannot follow a COMMIT; whoever sends it would also kill us, so do not serve.
            (_, Event::FromPredecessor(PredecessorSays::Abort(text))) => {
                self.give_up(Final::Aborted(text), out)
            }
            (
                state @ (Committed | Confirming { hung_up: true }),
                Event::FromPredecessor(PredecessorSays::Released { upgrade_requested }),
            ) => {
                // It frees its handle and waited long enough for our LIVE.
                self.remembered |= upgrade_requested;
                self.predecessor_drains = true;
                self.draining += 1;
                match state {
                    Committed => self.state = State::Starting(Alone),
                    _ => self.serve(out),
                }
            }
            (
                state @ (Initialising { .. } | Asked { .. }),
                Event::FromPredecessor(PredecessorSays::Released { .. } | PredecessorSays::Commit),
            ) => self.predecessor_is_broken(&state, "COMMIT or RELEASED out of its turn", out),
            (state, Event::FromPredecessor(PredecessorSays::Garbage(text))) => {
                self.predecessor_is_broken(&state, &text, out);
            }

            (Initialising { .. }, Event::PredecessorHungUp) => {
                self.state = State::Starting(Initialising { hung_up: true });
            }
            (Asked { waiting, .. }, Event::PredecessorHungUp) => {
                self.state = State::Starting(Asked { waiting, hung_up: true });
            }
            (Committed | Confirming { .. }, Event::PredecessorHungUp) => {}
            #[cfg(test)]
            (Initialising { .. } | Asked { .. }, Event::PredecessorDied)
                if self.wrong == Some(Wrong::ExitOnPredecessorDeath) =>
            {
                self.give_up(Final::Protocol("the predecessor died".into()), out);
            }
            (Initialising { .. } | Asked { waiting: false, .. } | Committed, Event::PredecessorDied) => {
                self.state = State::Starting(Alone);
            }
            (Asked { waiting: true, .. }, Event::PredecessorDied) => self.take_over(out),
            (Confirming { hung_up: true }, Event::PredecessorDied) => self.serve(out),

            (Asked { .. }, Event::Timer(Timer::Commit)) => {
                out.push(Action::ToPredecessor(SuccessorSays::Withdrawn(
                    "COMMIT did not come in time".into(),
                )));
                self.give_up(Final::Deadline, out);
            }
            (_, Event::Timer(Timer::PredecessorGone)) => {
                self.give_up(
                    Final::Protocol("the predecessor closed the channel and goes on running".into()),
                    out,
                );
            }
            _ => {}
        }
    }

    pub(super) fn live(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::FromPredecessor(PredecessorSays::Released { upgrade_requested }) => {
                self.remembered |= upgrade_requested;
                self.predecessor_drains = true;
                self.draining += 1;
                self.inherit_ownership(out);
                self.become_ready(out);
            }
            Event::PredecessorDied => {
                self.inherit_ownership(out);
                self.become_ready(out);
            }
            Event::FromPredecessor(PredecessorSays::Stop) => self.shut_down(Shutdown::Stop, out),
            Event::Ask(Request::Stop, _) => {
                out.extend([Action::Accept, Action::ToPredecessor(SuccessorSays::Stopping)]);
                self.shut_down(Shutdown::Stop, out);
            }
            Event::Ask(Request::Upgrade, Origin::Unanswered) => self.remember(out),
            Event::Ask(_, origin) => self.refuse_or_log(Why::NotReady, origin, out),
            Event::FromPredecessor(PredecessorSays::Garbage(text)) => {
                out.push(Action::Log(format!("ignored from the predecessor: {text}")));
            }
            Event::FromPredecessor(PredecessorSays::State) => {
                out.push(Action::Log("ignored from the predecessor: STATE after COMMIT".into()));
            }
            Event::HostReady => out.push(Action::ReadyDone(Ok(()))),
            Event::Free => {
                out.push(Action::ToPredecessor(SuccessorSays::Stopping));
                self.finish(out);
            }
            _ => {}
        }
    }

    fn asked_while_starting(&mut self, request: Request, origin: Origin, out: &mut Vec<Action>) {
        match (request, origin) {
            (Request::Stop, _) => {
                out.push(Action::Accept);
                let State::Starting(starting) = self.state.clone() else { return };
                self.withdraw(&starting, "the new process was asked to stop before it was ready", out);
                out.push(Action::ReadyDone(Err(Final::Stopped)));
                self.last_one_owns(&starting, out);
                self.shut_down(Shutdown::Stop, out);
            }
            (Request::Upgrade, Origin::Unanswered) => self.remember(out),
            (_, origin) => self.refuse_or_log(Why::NotReady, origin, out),
        }
    }

    /// Our last words, where somebody could be listening.
    fn withdraw(&self, starting: &Starting, reason: &str, out: &mut Vec<Action>) {
        if !matches!(starting, Starting::Alone | Starting::Widening { alone: true } | Starting::GivenUp(_)) {
            out.push(Action::ToPredecessor(SuccessorSays::Withdrawn(reason.into())));
        }
    }

    fn predecessor_is_broken(&mut self, starting: &Starting, text: &str, out: &mut Vec<Action>) {
        self.withdraw(starting, text, out);
        self.give_up(Final::Protocol(text.into()), out);
    }

    fn give_up(&mut self, why: Final, out: &mut Vec<Action>) {
        self.state = State::Starting(Starting::GivenUp(why.clone()));
        out.push(Action::ReadyDone(Err(why)));
    }

    /// There is nobody to ask. Promised state that is missing must not be missing silently.
    fn take_over(&mut self, out: &mut Vec<Action>) {
        let untold = self.inheritance == Inheritance::Lost { told: false };
        #[cfg(test)]
        let untold = untold && self.wrong != Some(Wrong::SilentTakeOver);
        if untold {
            self.state = State::Starting(Starting::Alone);
            out.push(Action::ReadyDone(Err(Final::StateLost)));
            return;
        }
        self.state = State::Starting(Starting::Widening { alone: true });
        out.push(Action::ListenFurther);
    }

    fn serve(&mut self, out: &mut Vec<Action>) {
        self.state = State::Ready;
        out.push(Action::ReadyDone(Ok(())));
        self.inherit_ownership(out);
        self.become_ready(out);
    }

    /// Whoever ends without a predecessor and without a successor unlinks.
    fn last_one_owns(&mut self, starting: &Starting, out: &mut Vec<Action>) {
        if matches!(starting, Starting::Alone | Starting::Widening { alone: true }) && !self.owns {
            self.inherit_ownership(out);
        }
    }

    pub(super) fn inherit_ownership(&mut self, out: &mut Vec<Action>) {
        self.owns = true;
        out.push(Action::Own);
    }
}
