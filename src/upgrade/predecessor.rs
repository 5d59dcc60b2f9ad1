//! The predecessor's half: from the request until RELEASED, or until everything is as it was before.
//!
//! Up to COMMIT it may end the successor; after COMMIT never: it waits for LIVE or for its death, serving meanwhile.
//! RELEASED hands everything over, and only then shutdown fires. Read beside `successor.rs`.

#[cfg(test)]
use super::model::Wrong;
use super::{
    Action, Event, Machine, Origin, Outcome, PredecessorSays, Question, Request, Shutdown, Stage, State,
    SuccessorSays, Timer, Why,
};

/// How far an upgrade has come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The host is asked whether an upgrade may start.
    Asking,
    /// The new program is being started.
    Spawning,
    /// It initialises.
    Initialising {
        /// What COMMIT waits for.
        needs: Needs,
        /// Its channel ended and it lives, so far.
        hung_up: bool,
    },
    /// COMMIT was sent; LIVE is awaited.
    Committed {
        /// The LIVE deadline passed and the requester was told so.
        unconfirmed: bool,
        /// Its channel ended and it lives, so far.
        hung_up: bool,
        /// `flip_free` waits.
        freeing: bool,
    },
    /// Both serve, for the time of the probation.
    Probation {
        /// The requester was told "unconfirmed" before LIVE came.
        unconfirmed: bool,
    },
    /// It serves. Its pidfd is checked, the service manager told, its pidfd checked again.
    Announcing {
        /// The service manager has been told.
        told: bool,
        /// The requester was told "unconfirmed" before LIVE came.
        unconfirmed: bool,
        /// `flip_free` waits.
        freeing: bool,
    },
    /// RELEASED was sent. When the socket did not take it, the pidfd tells what that means, or its time passes.
    Releasing {
        /// The requester was told "unconfirmed" before LIVE came.
        unconfirmed: bool,
        /// `flip_free` waits.
        freeing: bool,
    },
    /// It is being ended, before COMMIT.
    Ending {
        /// What the requester will be told.
        why: Why,
        /// SIGKILL was sent.
        killed: bool,
        /// The program was never started: the spawner still reports.
        spawning: bool,
        /// What follows.
        then: Then,
    },
}

/// What COMMIT waits for: READY, and the state where it was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Needs {
    /// READY alone: no state was promised, or it is on its way.
    Ready,
    /// The host has been asked for the state.
    Answer {
        /// READY came.
        ready: bool,
    },
    /// The state is being sent. Stays only when the socket did not take it: then nothing will follow it.
    State {
        /// READY came.
        ready: bool,
    },
}

/// What follows when a successor has been ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Then {
    /// Serve on.
    ServeOn,
    /// Stay, unmanaged.
    Detach,
    /// Drain and exit.
    Stop,
    /// `flip_free` returns.
    Free,
}

impl Phase {
    pub(super) fn timers(&self) -> Vec<Timer> {
        match self {
            Phase::Spawning => vec![Timer::Upgrade, Timer::Spawn],
            Phase::Asking | Phase::Initialising { hung_up: false, .. } => vec![Timer::Upgrade],
            Phase::Initialising { hung_up: true, .. } => vec![Timer::Upgrade, Timer::SuccessorGone],
            Phase::Committed { unconfirmed, hung_up, .. } => {
                let mut timers = Vec::new();
                if !unconfirmed {
                    timers.push(Timer::Live);
                }
                if *hung_up {
                    timers.push(Timer::SuccessorGone);
                }
                timers
            }
            Phase::Probation { .. } => vec![Timer::Probation],
            Phase::Ending { killed: false, .. } => vec![Timer::Term],
            Phase::Ending { killed: true, .. } => vec![Timer::Kill],
            // Stays only while the socket has refused RELEASED.
            Phase::Releasing { .. } => vec![Timer::SuccessorGone],
            Phase::Announcing { .. } => Vec::new(),
        }
    }

    /// What the host has been asked and has not answered.
    pub(super) fn question(&self) -> Option<Question> {
        match self {
            Phase::Asking => Some(Question::Starting),
            Phase::Initialising { needs: Needs::Answer { .. }, .. } => Some(Question::State),
            _ => None,
        }
    }
}

impl Machine {
    pub(super) fn upgrading(&mut self, phase: Phase, event: Event, out: &mut Vec<Action>) {
        match (phase, event) {
            (phase, Event::Ask(request, origin)) => self.asked_while_upgrading(phase, request, origin, out),
            (_, Event::HostReady) => out.push(Action::ReadyDone(Ok(()))),
            (phase, Event::Free) => self.freed_while_upgrading(phase, out),

            (Phase::Ending { why, killed, spawning, then }, event) => {
                self.ending(why, killed, spawning, then, event, out);
            }

            (Phase::Asking, Event::HostAnswered(Question::Starting, Ok(()))) => self.spawn(out),
            (Phase::Asking, Event::HostAnswered(Question::Starting, Err(reason))) => {
                self.done(Err(Why::Refused(reason)), false, out);
                self.go_on(Then::ServeOn, out);
            }
            (Phase::Asking, Event::Timer(Timer::Upgrade)) => {
                self.failed(Why::Unanswered(Question::Starting), Then::ServeOn, out);
            }

            (Phase::Spawning, Event::Spawned) if self.promises_state => {
                self.to(Phase::Initialising { needs: Needs::Answer { ready: false }, hung_up: false });
                out.push(Action::Ask(Question::State));
            }
            (Phase::Spawning, Event::Spawned) => {
                self.to(Phase::Initialising { needs: Needs::Ready, hung_up: false });
            }
            (Phase::Spawning, Event::SpawnFailed(text)) => self.failed(Why::Spawn(text), Then::ServeOn, out),
            (Phase::Spawning, Event::Timer(timer @ (Timer::Spawn | Timer::Upgrade))) => {
                self.end_successor(Why::Deadline(timer), true, Then::ServeOn, out);
            }

            (Phase::Initialising { needs, hung_up }, Event::FromSuccessor(says)) => {
                self.initialising_says(needs, hung_up, says, out);
            }
            (Phase::Initialising { needs, .. }, Event::SuccessorHungUp) => {
                self.to(Phase::Initialising { needs, hung_up: true })
            }
            (
                Phase::Initialising { needs: Needs::Answer { ready }, hung_up },
                Event::HostAnswered(Question::State, answer),
            ) => {
                self.to(Phase::Initialising { needs: Needs::State { ready }, hung_up });
                match answer {
                    Ok(()) => out.push(Action::SendState),
                    Err(reason) => self.end_successor(Why::State(reason), false, Then::ServeOn, out),
                }
            }
            (Phase::Initialising { needs: Needs::State { ready }, hung_up }, Event::StateSent(sent)) => {
                match sent {
                    Ok(Outcome::Taken) if ready => self.commit(out),
                    Ok(Outcome::Taken) => self.to(Phase::Initialising { needs: Needs::Ready, hung_up }),
                    // As with COMMIT: its end is closed, and its pidfd must follow.
                    Ok(Outcome::Gone) => {
                        self.to(Phase::Initialising { needs: Needs::State { ready }, hung_up: true })
                    }
                    Err(text) => self.end_successor(Why::State(text), false, Then::ServeOn, out),
                }
            }
            (Phase::Initialising { needs, .. }, Event::Timer(Timer::Upgrade)) => {
                let why = match needs {
                    Needs::Answer { .. } => Why::Unanswered(Question::State),
                    Needs::Ready | Needs::State { .. } => Why::Deadline(Timer::Upgrade),
                };
                self.end_successor(why, false, Then::ServeOn, out);
            }
            (Phase::Initialising { .. }, Event::Timer(Timer::SuccessorGone)) => {
                let why = Why::Protocol("it closed the channel and goes on running".into());
                self.end_successor(why, false, Then::ServeOn, out);
            }

            // Only the answer to COMMIT gets here: the socket did not take it, so it was never read and never will be.
            (
                Phase::Committed { unconfirmed: false, hung_up: false, freeing: false },
                Event::Sent(Outcome::Gone),
            ) => {
                self.to(Phase::Initialising { needs: Needs::Ready, hung_up: true });
            }
            (Phase::Committed { unconfirmed, hung_up, freeing }, Event::FromSuccessor(says)) => {
                self.committed_says(says, unconfirmed, hung_up, freeing, out);
            }
            (Phase::Committed { unconfirmed, freeing, .. }, Event::SuccessorHungUp) => {
                self.to(Phase::Committed { unconfirmed, hung_up: true, freeing });
            }
            #[cfg(test)]
            (Phase::Committed { .. }, Event::Timer(Timer::Live))
                if self.wrong == Some(Wrong::KillOnCommitTimeout) =>
            {
                self.end_successor(Why::Deadline(Timer::Live), false, Then::ServeOn, out);
            }
            (Phase::Committed { hung_up, freeing, .. }, Event::Timer(Timer::Live)) => {
                out.push(Action::UpgradeDone(Err(Why::Unconfirmed)));
                if freeing && !hung_up {
                    self.announce(true, true, out);
                } else {
                    // A channel that ended without LIVE has its own timer, and proves that none will come.
                    self.to(Phase::Committed { unconfirmed: true, hung_up, freeing });
                }
            }
            (Phase::Committed { unconfirmed, freeing, .. }, Event::Timer(Timer::SuccessorGone)) => {
                // No LIVE came before the end of the channel, so none ever will: it does not serve.
                let why =
                    Why::Protocol("it closed the channel before it was live and goes on running".into());
                out.push(Action::LetGo);
                self.failed_after_commit(why, unconfirmed, freeing, out);
            }

            // The end of the channel says nothing: it serves, and its death decides.
            (Phase::Probation { unconfirmed }, Event::Timer(Timer::Probation)) => {
                self.announce(unconfirmed, false, out);
            }
            (Phase::Probation { unconfirmed }, Event::SuccessorDied(exit)) => {
                self.failed_after_commit(Why::Died(exit, Stage::Live), unconfirmed, false, out);
            }
            (
                Phase::Probation { unconfirmed },
                Event::FromSuccessor(says @ (SuccessorSays::Stopping | SuccessorSays::Withdrawn(_))),
            ) => self.committed_says(says, unconfirmed, false, false, out),
            (Phase::Probation { .. }, Event::FromSuccessor(says)) => {
                out.push(Action::Log(format!("ignored from the new process after LIVE: {says:?}")));
            }

            (Phase::Announcing { told: false, .. }, Event::SuccessorAlive) => out.push(Action::Announce),
            (Phase::Announcing { unconfirmed, freeing, .. }, Event::Announced) => {
                self.to(Phase::Announcing { told: true, unconfirmed, freeing });
                out.push(Action::CheckSuccessor);
            }
            (Phase::Announcing { told: true, unconfirmed, freeing }, Event::SuccessorAlive) => {
                self.release(unconfirmed, freeing, out);
            }
            (Phase::Announcing { unconfirmed, freeing, .. }, Event::SuccessorDied(exit)) => {
                out.push(Action::TakeBack);
                self.failed_after_commit(Why::Died(exit, Stage::Live), unconfirmed, freeing, out);
            }

            (
                Phase::Announcing { unconfirmed, freeing, .. },
                Event::FromSuccessor(says @ (SuccessorSays::Stopping | SuccessorSays::Withdrawn(_))),
            ) => {
                // As good as its death: RELEASED would leave nobody.
                out.push(Action::TakeBack);
                self.committed_says(says, unconfirmed, false, freeing, out);
            }

            (
                Phase::Releasing { unconfirmed, freeing },
                Event::Sent(Outcome::Taken) | Event::Timer(Timer::SuccessorGone),
            ) => {
                // Not taken but alive after its time: our death releases it. A dying process closes its descriptors
                // before its pidfd is readable, so a look at the pidfd right now could not tell.
                self.released(unconfirmed, freeing, out);
            }
            (
                Phase::Releasing { unconfirmed, freeing },
                Event::FromSuccessor(says @ (SuccessorSays::Stopping | SuccessorSays::Withdrawn(_))),
            ) => {
                self.inherit_ownership(out);
                out.push(Action::TakeBack);
                self.committed_says(says, unconfirmed, false, freeing, out);
            }
            (Phase::Releasing { unconfirmed, freeing }, Event::SuccessorDied(exit)) => {
                self.inherit_ownership(out);
                out.push(Action::TakeBack);
                self.failed_after_commit(Why::Died(exit, Stage::Live), unconfirmed, freeing, out);
            }

            (Phase::Committed { unconfirmed, freeing, .. }, Event::SuccessorDied(exit)) => {
                self.failed_after_commit(Why::Died(exit, Stage::Committed), unconfirmed, freeing, out);
            }
            (_, Event::SuccessorDied(exit)) => {
                self.failed(Why::Died(exit, Stage::Initialising), Then::ServeOn, out);
            }
            _ => {}
        }
    }

    fn initialising_says(&mut self, needs: Needs, hung_up: bool, says: SuccessorSays, out: &mut Vec<Action>) {
        match says {
            #[cfg(test)]
            SuccessorSays::Ready if self.wrong == Some(Wrong::OneMessageReady) => {
                self.announce(false, false, out);
            }
            #[cfg(test)]
            SuccessorSays::Ready if self.wrong == Some(Wrong::CommitWithoutState) => self.commit(out),
            SuccessorSays::Ready => match needs {
                Needs::Ready => self.commit(out),
                Needs::Answer { ready: false } => {
                    self.to(Phase::Initialising { needs: Needs::Answer { ready: true }, hung_up });
                }
                Needs::State { ready: false } => {
                    self.to(Phase::Initialising { needs: Needs::State { ready: true }, hung_up });
                }
                Needs::Answer { ready: true } | Needs::State { ready: true } => {
                    self.end_successor(Why::Protocol("READY twice".into()), false, Then::ServeOn, out);
                }
            },
            SuccessorSays::Extend => {}
            SuccessorSays::Withdrawn(text) => {
                self.end_successor(Why::Withdrawn(text), false, Then::ServeOn, out)
            }
            SuccessorSays::Live => {
                self.end_successor(Why::Protocol("LIVE before COMMIT".into()), false, Then::ServeOn, out);
            }
            SuccessorSays::Stopping => {
                let why = Why::Protocol("STOPPING before COMMIT".into());
                self.end_successor(why, false, Then::ServeOn, out);
            }
            SuccessorSays::Garbage(text) => {
                self.end_successor(Why::Protocol(text), false, Then::ServeOn, out);
            }
        }
    }

    fn committed_says(
        &mut self,
        says: SuccessorSays,
        unconfirmed: bool,
        hung_up: bool,
        freeing: bool,
        out: &mut Vec<Action>,
    ) {
        match says {
            #[cfg(test)]
            SuccessorSays::Live if self.wrong == Some(Wrong::NoProbation) => {
                self.announce(unconfirmed, freeing, out);
            }
            SuccessorSays::Live if self.probation && !freeing => self.to(Phase::Probation { unconfirmed }),
            SuccessorSays::Live => self.announce(unconfirmed, freeing, out),
            SuccessorSays::Withdrawn(text) => {
                out.push(Action::LetGo);
                self.failed_after_commit(Why::Withdrawn(text), unconfirmed, freeing, out);
            }
            SuccessorSays::Stopping => {
                out.push(Action::LetGo);
                let why = Why::Withdrawn("it was asked to stop".into());
                self.failed_after_commit(why, unconfirmed, freeing, out);
            }
            // It must not be ended any more, and a LIVE may still follow: read on.
            SuccessorSays::Ready | SuccessorSays::Extend | SuccessorSays::Garbage(_) => {
                out.push(Action::Log(format!("ignored from the new process after COMMIT: {says:?}")));
                self.to(Phase::Committed { unconfirmed, hung_up, freeing });
            }
        }
    }

    fn ending(
        &mut self,
        why: Why,
        killed: bool,
        spawning: bool,
        then: Then,
        event: Event,
        out: &mut Vec<Action>,
    ) {
        match event {
            Event::Timer(Timer::Term) => {
                self.to(Phase::Ending { why, killed: true, spawning, then });
                out.push(Action::Kill);
            }
            Event::Timer(Timer::Kill) => {
                // A killed process runs no more code of its own, however long the kernel takes to bury it.
                out.push(Action::LetGo);
                self.failed(why, then, out);
            }
            Event::SuccessorDied(_) | Event::SpawnFailed(_) => self.failed(why, then, out),
            Event::Spawned => {
                self.to(Phase::Ending { why, killed, spawning: false, then });
                out.push(Action::Kill);
            }
            _ => {}
        }
    }

    fn asked_while_upgrading(
        &mut self,
        phase: Phase,
        request: Request,
        origin: Origin,
        out: &mut Vec<Action>,
    ) {
        match (request, phase) {
            (Request::Upgrade, _) => match origin {
                Origin::Answered => out.push(Action::Refuse(Why::InProgress)),
                Origin::Unanswered => self.remember(out),
            },
            (Request::Stop | Request::Detach, Phase::Ending { why, killed, spawning, then }) => {
                out.push(Action::Accept);
                let then = then.max(Then::from(request));
                self.to(Phase::Ending { why, killed, spawning, then });
            }
            (Request::Stop | Request::Detach, Phase::Asking) => {
                out.push(Action::Accept);
                self.failed(Why::Stopping, Then::from(request), out);
            }
            (Request::Stop | Request::Detach, phase @ (Phase::Spawning | Phase::Initialising { .. })) => {
                out.push(Action::Accept);
                let spawning = phase == Phase::Spawning;
                self.end_successor(Why::Stopping, spawning, Then::from(request), out);
            }
            (Request::Detach, _) => self.refuse_or_log(Why::InProgress, origin, out),
            (
                Request::Stop,
                Phase::Committed { unconfirmed, freeing, .. }
                | Phase::Announcing { unconfirmed, freeing, .. }
                | Phase::Releasing { unconfirmed, freeing },
            ) => self.stop_both(unconfirmed, freeing, out),
            (Request::Stop, Phase::Probation { unconfirmed }) => self.stop_both(unconfirmed, false, out),
        }
    }

    /// After COMMIT.
    fn stop_both(&mut self, unconfirmed: bool, freeing: bool, out: &mut Vec<Action>) {
        out.extend([Action::Accept, Action::ToSuccessor(PredecessorSays::Stop)]);
        self.done(Err(Why::Stopping), unconfirmed, out);
        out.push(Action::LetGo);
        self.shut_down(Shutdown::Stop, out);
        if freeing {
            self.finish(out);
        }
    }

    fn freed_while_upgrading(&mut self, phase: Phase, out: &mut Vec<Action>) {
        match phase {
            Phase::Asking => self.failed(Why::Stopping, Then::Free, out),
            Phase::Spawning => self.end_successor(Why::Stopping, true, Then::Free, out),
            Phase::Initialising { .. } => self.end_successor(Why::Stopping, false, Then::Free, out),
            Phase::Ending { why, killed, spawning, .. } => {
                self.to(Phase::Ending { why, killed, spawning, then: Then::Free });
            }
            // It had its time for LIVE already.
            Phase::Committed { unconfirmed: true, hung_up: false, .. } => self.announce(true, true, out),
            Phase::Committed { unconfirmed, hung_up, .. } => {
                self.to(Phase::Committed { unconfirmed, hung_up, freeing: true });
            }
            Phase::Probation { unconfirmed } => self.announce(unconfirmed, true, out),
            Phase::Announcing { told, unconfirmed, .. } => {
                self.to(Phase::Announcing { told, unconfirmed, freeing: true });
            }
            Phase::Releasing { unconfirmed, .. } => self.to(Phase::Releasing { unconfirmed, freeing: true }),
        }
    }

    /// Before COMMIT only.
    fn end_successor(&mut self, why: Why, spawning: bool, then: Then, out: &mut Vec<Action>) {
        self.stop_asking(out);
        if spawning {
            // It may be stuck inside execve, where no other signal helps.
            out.push(Action::Kill);
        } else {
            out.extend([Action::ToSuccessor(PredecessorSays::Abort(why.sentence())), Action::Terminate]);
        }
        self.to(Phase::Ending { why, killed: spawning, spawning, then });
    }

    fn commit(&mut self, out: &mut Vec<Action>) {
        self.to(Phase::Committed { unconfirmed: false, hung_up: false, freeing: false });
        out.push(Action::ToSuccessor(PredecessorSays::Commit));
    }

    fn announce(&mut self, unconfirmed: bool, freeing: bool, out: &mut Vec<Action>) {
        self.to(Phase::Announcing { told: false, unconfirmed, freeing });
        out.push(Action::CheckSuccessor);
    }

    fn release(&mut self, unconfirmed: bool, freeing: bool, out: &mut Vec<Action>) {
        self.owns = false;
        self.to(Phase::Releasing { unconfirmed, freeing });
        #[cfg(test)]
        if self.wrong == Some(Wrong::ShutdownBeforeReleased) {
            out.push(Action::Shutdown(Shutdown::Upgrade));
        }
        let upgrade_requested = self.remembered;
        out.extend([Action::Disown, Action::ToSuccessor(PredecessorSays::Released { upgrade_requested })]);
    }

    fn released(&mut self, unconfirmed: bool, freeing: bool, out: &mut Vec<Action>) {
        self.remembered = false;
        self.done(Ok(()), unconfirmed, out);
        out.push(Action::LetGo);
        self.shut_down(Shutdown::Upgrade, out);
        if freeing {
            self.finish(out);
        }
    }

    fn failed_after_commit(&mut self, why: Why, unconfirmed: bool, freeing: bool, out: &mut Vec<Action>) {
        self.done(Err(why), unconfirmed, out);
        self.go_on(if freeing { Then::Free } else { Then::ServeOn }, out);
    }

    fn failed(&mut self, why: Why, then: Then, out: &mut Vec<Action>) {
        self.stop_asking(out);
        self.done(Err(why), false, out);
        self.go_on(then, out);
    }

    /// While the state still says what was asked.
    fn stop_asking(&self, out: &mut Vec<Action>) {
        #[cfg(test)]
        if self.wrong == Some(Wrong::KeepsAsking) {
            return;
        }
        if self.question().is_some() {
            out.push(Action::StopAsking);
        }
    }

    /// The requester is told once; what comes after "unconfirmed" is a line for the log.
    fn done(&self, result: Result<(), Why>, told_already: bool, out: &mut Vec<Action>) {
        out.push(match (told_already, result) {
            (false, result) => Action::UpgradeDone(result),
            (true, Ok(())) => Action::Log("the new process has confirmed after all".into()),
            (true, Err(why)) => Action::Log(format!("the unconfirmed new process: {}", why.sentence())),
        });
    }

    fn go_on(&mut self, then: Then, out: &mut Vec<Action>) {
        match then {
            Then::ServeOn => self.become_ready(out),
            Then::Detach => self.detach(out),
            Then::Stop => self.shut_down(Shutdown::Stop, out),
            Then::Free => self.finish(out),
        }
    }

    fn to(&mut self, phase: Phase) {
        self.state = State::Upgrading(phase);
    }
}

impl From<Request> for Then {
    fn from(request: Request) -> Then {
        match request {
            Request::Upgrade => Then::ServeOn,
            Request::Stop => Then::Stop,
            Request::Detach => Then::Detach,
        }
    }
}
