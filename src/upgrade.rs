//! The upgrade as a state machine that does no I/O: events in, actions out.
//!
//! One [`Machine`] is the whole life of one generation: as a successor (`successor.rs`) until it was released, then
//! as the predecessor of the next one (`predecessor.rs`). It opens, reads and waits for nothing; the supervisor feeds
//! it and carries out what it returns, in order. Which timers must run is derived from the state ([`Machine::timers`]).
//! The explorer in `upgrade/model.rs` visits every reachable pair of these machines.
//!
//! Three rules carry everything: up to COMMIT the predecessor may end the successor, after it never; LIVE proves that
//! the successor serves; shutdown comes last.

#[cfg(test)]
pub(crate) mod model;
mod predecessor;
mod successor;

use crate::error::Failure;
pub use predecessor::{Needs, Phase, Then};
pub use successor::{Final, Starting};

/// Something happened. All that a dead peer sent is reported before its death, nothing of a successor before
/// [`Event::Spawned`] or after its death or [`Action::LetGo`], and a timer only after everything that can be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The host, an operator or a signal asks.
    Ask(Request, Origin),
    /// A thread of the host is in `flip_ready`.
    HostReady,
    /// No thread is in `flip_ready` any more: its own time-out passed.
    HostLeft,
    /// `flip_free` was called.
    Free,
    /// What the predecessor says.
    FromPredecessor(PredecessorSays),
    /// The predecessor's pidfd is readable, and all it sent has been read.
    PredecessorDied,
    /// The channel to the predecessor ended or broke; its pidfd is not readable.
    PredecessorHungUp,
    /// What the successor says.
    FromSuccessor(SuccessorSays),
    /// The successor's pidfd is readable, and all it sent has been read.
    SuccessorDied(Exit),
    /// The channel to the successor ended; its pidfd is not readable.
    SuccessorHungUp,
    /// The answer to [`Action::CheckSuccessor`] when it lives; else [`Event::SuccessorDied`].
    SuccessorAlive,
    /// The successor was started.
    Spawned,
    /// It was not: the sentence that says why.
    SpawnFailed(String),
    /// Further members of inherited groups listen now ([`Action::ListenFurther`]); else the sentence that says why not.
    ListenedFurther(Result<(), String>),
    /// The service manager was told ([`Action::Announce`]).
    Announced,
    /// What became of the last [`Action::ToPredecessor`] or [`Action::ToSuccessor`]; ABORT, STOP, EXTEND, WITHDRAWN
    /// and STOPPING are sent for what they are worth and not reported.
    Sent(Outcome),
    /// A timer of [`Machine::timers`] ran out.
    Timer(Timer),
    /// One older generation that was draining has exited.
    DrainerGone,
    /// The host answered [`Action::Ask`], no, with its reason; to free the event unanswered is a no. Never after
    /// [`Action::StopAsking`].
    HostAnswered(Question, Result<(), String>),
    /// What became of [`Action::SendState`]; `Err`: sealing or writing failed, the sentence that says why.
    StateSent(Result<Outcome, String>),
    /// `flip_take_state` has returned -ECONNRESET: the host knows that the promised state is lost.
    HostToldOfLoss,
}

/// What the host is asked, if it wants to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Question {
    /// May an upgrade start?
    Starting,
    /// Write your state for the successor.
    State,
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Question::Starting => "STARTING",
            Question::State => "STATE",
        })
    }
}

/// What can be asked of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Replace yourself.
    Upgrade,
    /// Finish and exit.
    Stop,
    /// Finish, and leave everything as it is.
    Detach,
}

/// Who asks: an asker that waits for an answer is refused at once what a signal has remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A call or a control connection that is told how it went.
    Answered,
    /// A signal or `flip_request`: nobody to tell.
    Unanswered,
}

/// Messages of the predecessor, as the machine sees them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PredecessorSays {
    /// The promised state arrived (the supervisor keeps it).
    State,
    /// Serve, for good.
    Commit,
    /// It is over; end yourself.
    Abort(String),
    /// Everything is yours. `upgrade_requested`: a signal asked for one meanwhile.
    Released {
        /// A remembered request that must not be lost.
        upgrade_requested: bool,
    },
    /// An operator stops the service.
    Stop,
    /// The upgrade deadline moved (the supervisor keeps the time).
    Extend,
    /// Something that is no message.
    Garbage(String),
}

/// Messages of the successor, as the machine sees them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SuccessorSays {
    /// I could serve.
    Ready,
    /// I serve.
    Live,
    /// I was live and stop: take it for my death.
    Stopping,
    /// I gave up before I was live, for this reason.
    Withdrawn(String),
    /// Give me longer (the supervisor keeps the time).
    Extend,
    /// Something that is no message.
    Garbage(String),
}

/// What became of a message that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The socket took it; the peer will read it if it reads at all.
    Taken,
    /// The peer's end is closed, or the socket is full: it will never be read.
    Gone,
}

/// How a process ended, as far as the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// Somebody else reaped it.
    Unknown,
}

/// The timers. How long each one is, is the supervisor's knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// Predecessor: from request to COMMIT.
    Upgrade,
    /// Predecessor: until the new program executes.
    Spawn,
    /// Predecessor: from COMMIT to LIVE.
    Live,
    /// Predecessor: from LIVE on both serve, until then.
    Probation,
    /// Predecessor: the successor's channel ended, its pidfd must follow.
    SuccessorGone,
    /// Predecessor: from SIGTERM to SIGKILL.
    Term,
    /// Predecessor: from SIGKILL to its pidfd.
    Kill,
    /// Successor: waits for COMMIT until then.
    Commit,
    /// Successor: the predecessor's channel ended, its pidfd must follow.
    PredecessorGone,
}

/// How far a successor had come when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Not ready.
    Initialising,
    /// Told to serve.
    Committed,
    /// Serving.
    Live,
}

/// Why an upgrade, or the request for one, failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Why {
    /// It could not be started: the sentence.
    Spawn(String),
    /// The successor ended, and when.
    Died(Exit, Stage),
    /// It had this long for this phase.
    Deadline(Timer),
    /// This process's host refused: its reason.
    Refused(String),
    /// This process's host did not answer within the upgrade deadline.
    Unanswered(Question),
    /// The promised state could not be handed over: why.
    State(String),
    /// It gave up, and said why.
    Withdrawn(String),
    /// It broke the protocol.
    Protocol(String),
    /// It was told to serve and has not confirmed it.
    Unconfirmed,
    /// Asked too early.
    NotReady,
    /// One is under way.
    InProgress,
    /// Too many older generations drain.
    Draining,
    /// This process stops, or is detached.
    Stopping,
    /// It cannot work here: the sentence.
    Unsupported(String),
}

/// Why shutdown fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// The successor serves.
    Upgrade,
    /// The service ends.
    Stop,
    /// This process stays, unmanaged.
    Detach,
}

/// What the supervisor has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// The request being handled is refused.
    Refuse(Why),
    /// The request being handled is taken; an upgrade's result follows in [`Action::UpgradeDone`].
    Accept,
    /// The host is asked. Answered by `HostAnswered`, unless `StopAsking` comes first.
    Ask(Question),
    /// The open question is void: an answer to it comes too late and is not told to the machine.
    StopAsking,
    /// Seal what the host has written and send it to the successor. Answered by `StateSent`; last in its list.
    SendState,
    /// Make the channel, queue HELLO on it, start the successor. Answered by `Spawned` or `SpawnFailed`.
    Spawn,
    /// To the successor. COMMIT and RELEASED are answered by `Sent`.
    ToSuccessor(PredecessorSays),
    /// To the predecessor. READY and LIVE are answered by `Sent`.
    ToPredecessor(SuccessorSays),
    /// SIGTERM to the successor, through its pidfd. Never after COMMIT.
    Terminate,
    /// SIGKILL to the successor, through its pidfd. Never after COMMIT.
    Kill,
    /// Is its pidfd readable? Answered by `SuccessorAlive` or `SuccessorDied`; not before its death where it is seen to die.
    CheckSuccessor,
    /// Tell the service manager that the successor is the main process. Answered by `Announced`.
    Announce,
    /// The announced successor died or stops: tell the service manager that we are the main process. An
    /// [`Action::Announce`] under way is answered no more: it would be taken for the next successor's.
    TakeBack,
    /// Further members of inherited groups listen. Answered by `ListenedFurther`.
    ListenFurther,
    /// The upgrade is over, and how. The pid of the successor is the supervisor's knowledge.
    UpgradeDone(Result<(), Why>),
    /// The successor is not ours to watch any more: close its channel, reap it if it ends as our child.
    LetGo,
    /// `flip_ready` returns.
    ReadyDone(Result<(), Final>),
    /// Paths and pid file are ours now; close what was not claimed.
    Own,
    /// Paths and pid file are the successor's now.
    Disown,
    /// Shutdown fires.
    Shutdown(Shutdown),
    /// A second stop: the drain deadline moves to a second and a half from now.
    CutDrain,
    /// One line for the log.
    Log(String),
    /// `flip_free` may return.
    Finish,
}

/// Where this generation is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// From `flip_init` until `flip_ready` returned 0.
    Starting(Starting),
    /// Serving, and the predecessor has not released us yet.
    Live,
    /// Serving, and free to be upgraded.
    Ready,
    /// Serving, with a successor on its way.
    Upgrading(Phase),
    /// Serving what is left, unmanaged.
    Detached,
    /// Shutdown has fired.
    Draining {
        /// Whether `flip_ready` had returned 0 before.
        was_ready: bool,
    },
    /// `flip_free` has returned.
    Freed,
}

/// What a generation is told about itself when it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setup {
    /// Started by an upgrade.
    pub with_predecessor: bool,
    /// Generations older than the predecessor that still drain.
    pub draining: u32,
    /// So many may drain while a further upgrade starts.
    pub max_draining: u32,
    /// Why upgrades cannot work here.
    pub unsupported: Option<String>,
    /// The predecessor's HELLO promises state.
    pub state_promised: bool,
    /// The host reads STARTING events.
    pub asks_before_start: bool,
    /// The host reads STATE events.
    pub promises_state: bool,
    /// There is a probation.
    pub probation: bool,
}

/// The state that our predecessor promised us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Inheritance {
    /// None was promised, or it has arrived.
    Settled,
    /// Promised, and not here.
    Awaited,
    /// The predecessor died without sending it; `told` once the host knows.
    Lost { told: bool },
}

/// One generation's life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    pub(crate) state: State,
    /// A signal asked for an upgrade that could not start yet; it leads to one follow-up, however many they were.
    remembered: bool,
    /// Whether unix paths and the pid file are ours to unlink.
    owns: bool,
    /// Older generations that still drain, the predecessor among them once it released us.
    draining: u32,
    predecessor_drains: bool,
    max_draining: u32,
    /// Why upgrades cannot work here.
    unsupported: Option<String>,
    /// The host wants to be asked before a successor is started.
    asks_before_start: bool,
    /// HELLO promises state, and the host is asked for it.
    promises_state: bool,
    /// Both serve for a time after LIVE.
    probation: bool,
    inheritance: Inheritance,
    #[cfg(test)]
    pub(crate) wrong: Option<model::Wrong>,
}

impl Machine {
    /// The beginning of one generation's life.
    pub fn new(setup: Setup) -> Machine {
        let starting = match setup.with_predecessor {
            true => Starting::Initialising { hung_up: false },
            false => Starting::Alone,
        };
        let promised = setup.with_predecessor && setup.state_promised;
        Machine {
            state: State::Starting(starting),
            remembered: false,
            owns: !setup.with_predecessor,
            draining: setup.draining,
            predecessor_drains: false,
            max_draining: setup.max_draining,
            unsupported: setup.unsupported,
            asks_before_start: setup.asks_before_start,
            promises_state: setup.promises_state,
            probation: setup.probation,
            inheritance: if promised { Inheritance::Awaited } else { Inheritance::Settled },
            #[cfg(test)]
            wrong: None,
        }
    }

    /// Where this generation is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether unix paths and the pid file are ours to unlink.
    pub fn owns(&self) -> bool {
        self.owns
    }

    /// Whether this generation reads the control socket: of two that live at most one does, since both never own.
    pub fn answers_operators(&self) -> bool {
        self.owns && matches!(self.state, State::Starting(_) | State::Ready | State::Upgrading(_))
    }

    /// Whether there is a successor that was told to serve: it may not be ended any more.
    pub fn has_committed(&self) -> bool {
        matches!(
            self.state,
            State::Upgrading(
                Phase::Committed { .. }
                    | Phase::Probation { .. }
                    | Phase::Announcing { .. }
                    | Phase::Releasing { .. }
            )
        )
    }

    /// Whether a further upgrade was asked for and waits.
    pub fn remembers(&self) -> bool {
        self.remembered
    }

    /// Whether the predecessor released us and has not exited yet.
    pub fn predecessor_drains(&self) -> bool {
        self.predecessor_drains
    }

    /// Whether HELLO promises state.
    pub fn promises_state(&self) -> bool {
        self.promises_state
    }

    /// Whether the predecessor died without sending the state that it had promised.
    pub fn state_lost(&self) -> bool {
        matches!(self.inheritance, Inheritance::Lost { .. })
    }

    /// What the host has been asked and has not answered.
    pub fn question(&self) -> Option<Question> {
        match &self.state {
            State::Upgrading(phase) => phase.question(),
            _ => None,
        }
    }

    /// Whether the host has been told to serve and not to stop.
    pub fn serves(&self) -> bool {
        matches!(self.state, State::Live | State::Ready | State::Upgrading(_) | State::Detached)
    }

    /// The timers that have to run in this state. One that is in the set before and after a step goes on running, but
    /// for [`Action::UpgradeDone`] in between: what follows is the next upgrade.
    pub fn timers(&self) -> Vec<Timer> {
        match &self.state {
            State::Starting(starting) => starting.timers(),
            State::Upgrading(phase) => phase.timers(),
            State::Live | State::Ready | State::Detached | State::Draining { .. } | State::Freed => {
                Vec::new()
            }
        }
    }

    /// Takes one event, returns what to do about it.
    pub fn step(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        if event == Event::PredecessorDied && self.inheritance == Inheritance::Awaited {
            self.inheritance = Inheritance::Lost { told: false };
        }
        match event {
            Event::HostToldOfLoss if self.state_lost() => {
                self.inheritance = Inheritance::Lost { told: true };
            }
            Event::DrainerGone => self.drainer_gone(&mut out),
            Event::PredecessorDied if self.predecessor_drains => {
                self.predecessor_drains = false;
                self.drainer_gone(&mut out);
            }
            event => match self.state.clone() {
                State::Starting(starting) => self.starting(starting, event, &mut out),
                State::Live => self.live(event, &mut out),
                State::Ready => self.ready(event, &mut out),
                State::Upgrading(phase) => self.upgrading(phase, event, &mut out),
                State::Detached => self.detached(event, &mut out),
                State::Draining { was_ready } => self.draining(was_ready, event, &mut out),
                State::Freed => {}
            },
        }
        out
    }

    fn ready(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Ask(Request::Upgrade, origin) => self.start_upgrade(origin, out),
            Event::Ask(Request::Stop, _) => {
                out.push(Action::Accept);
                self.shut_down(Shutdown::Stop, out);
            }
            Event::Ask(Request::Detach, _) => {
                out.push(Action::Accept);
                self.detach(out);
            }
            Event::HostReady => out.push(Action::ReadyDone(Ok(()))),
            Event::Free => self.finish(out),
            _ => {}
        }
    }

    fn detached(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Ask(Request::Stop, _) => {
                out.push(Action::Accept);
                self.shut_down(Shutdown::Stop, out);
            }
            Event::Ask(Request::Detach, _) => out.push(Action::Accept),
            Event::Ask(Request::Upgrade, origin) => self.refuse_or_log(Why::Stopping, origin, out),
            Event::HostReady => out.push(Action::ReadyDone(Ok(()))),
            Event::Free => self.finish(out),
            _ => {}
        }
    }

    fn draining(&mut self, was_ready: bool, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Ask(Request::Stop, _) => out.extend([Action::Accept, Action::CutDrain]),
            Event::FromPredecessor(PredecessorSays::Stop) => out.push(Action::CutDrain),
            Event::Ask(_, origin) => self.refuse_or_log(Why::Stopping, origin, out),
            Event::HostReady if was_ready => out.push(Action::ReadyDone(Ok(()))),
            Event::HostReady => out.push(Action::ReadyDone(Err(Final::Stopped))),
            // It crossed our STOPPING or WITHDRAWN: nobody else will unlink now.
            Event::FromPredecessor(PredecessorSays::Released { .. }) if !self.owns => {
                self.inherit_ownership(out)
            }
            Event::Free => self.finish(out),
            _ => {}
        }
    }

    fn start_upgrade(&mut self, origin: Origin, out: &mut Vec<Action>) {
        if let Some(why) = self.unsupported.clone() {
            return self.refuse_or_log(Why::Unsupported(why), origin, out);
        }
        if self.draining > self.max_draining {
            match origin {
                Origin::Answered => out.push(Action::Refuse(Why::Draining)),
                Origin::Unanswered => self.remember(out),
            }
            return;
        }
        out.push(Action::Accept);
        self.start_successor(out);
    }

    fn start_successor(&mut self, out: &mut Vec<Action>) {
        self.remembered = false;
        if self.asks_before_start {
            self.state = State::Upgrading(Phase::Asking);
            out.push(Action::Ask(Question::Starting));
        } else {
            self.spawn(out);
        }
    }

    fn spawn(&mut self, out: &mut Vec<Action>) {
        self.state = State::Upgrading(Phase::Spawning);
        out.push(Action::Spawn);
    }

    /// Serving and free: whatever was remembered starts now.
    fn become_ready(&mut self, out: &mut Vec<Action>) {
        self.state = State::Ready;
        if !self.remembered || self.draining > self.max_draining {
            return;
        }
        match &self.unsupported {
            // No Accept: its asker was answered when it was remembered, and nobody else asks now.
            None => self.start_successor(out),
            Some(why) => {
                out.push(Action::Log(why.clone()));
                self.remembered = false;
            }
        }
    }

    fn drainer_gone(&mut self, out: &mut Vec<Action>) {
        self.draining = self.draining.saturating_sub(1);
        if self.state == State::Ready {
            self.become_ready(out);
        }
    }

    fn remember(&mut self, out: &mut Vec<Action>) {
        self.remembered = true;
        out.push(Action::Accept);
    }

    fn refuse_or_log(&self, why: Why, origin: Origin, out: &mut Vec<Action>) {
        match origin {
            Origin::Answered => out.push(Action::Refuse(why)),
            Origin::Unanswered => out.push(Action::Log(why.sentence())),
        }
    }

    fn shut_down(&mut self, kind: Shutdown, out: &mut Vec<Action>) {
        self.state = State::Draining { was_ready: self.serves() };
        out.push(Action::Shutdown(kind));
    }

    fn detach(&mut self, out: &mut Vec<Action>) {
        self.state = State::Detached;
        out.push(Action::Shutdown(Shutdown::Detach));
    }

    fn finish(&mut self, out: &mut Vec<Action>) {
        self.state = State::Freed;
        out.push(Action::Finish);
    }
}

impl Why {
    /// The failure kind that the requester gets.
    pub fn failure(&self) -> Failure {
        match self {
            Why::Spawn(_) => Failure::Spawn,
            Why::Died(Exit::Signal(_), _) => Failure::Signalled,
            Why::Died(..) => Failure::Exited,
            Why::Deadline(_) | Why::Unanswered(_) => Failure::Deadline,
            Why::Refused(_) | Why::Withdrawn(_) => Failure::Refused,
            Why::State(_) => Failure::State,
            Why::Protocol(_) => Failure::Protocol,
            Why::Unconfirmed => Failure::Unconfirmed,
            Why::NotReady => Failure::NotReady,
            Why::InProgress => Failure::InProgress,
            Why::Draining => Failure::Draining,
            Why::Stopping => Failure::Stopping,
            Why::Unsupported(_) => Failure::Unsupported,
        }
    }

    /// What happened, without the subject (`new process 4711 …`) that only the supervisor knows.
    pub fn sentence(&self) -> String {
        match self {
            Why::Spawn(text) | Why::Unsupported(text) => text.clone(),
            Why::Died(exit, stage) => {
                let how = match exit {
                    Exit::Status(status) => format!("exited with status {status}"),
                    Exit::Signal(signal) => format!("was ended by signal {signal}"),
                    Exit::Unknown => "exited (status unknown: somebody else reaped it)".into(),
                };
                let when = match stage {
                    Stage::Initialising => "before it was ready",
                    Stage::Committed => "after it was told to serve and before it did",
                    Stage::Live => "right after it began to serve",
                };
                format!("{how} {when}")
            }
            Why::Deadline(Timer::Spawn) => "did not execute its program by the spawn deadline".into(),
            Why::Deadline(_) => "was not ready by the upgrade deadline".into(),
            Why::Refused(text) => format!("this host refused: {text}"),
            Why::Unanswered(question) => {
                format!("the host did not answer the {question} event by the upgrade deadline")
            }
            Why::State(text) => format!("the state was not handed over: {text}"),
            Why::Withdrawn(text) => format!("gave up: {text}"),
            Why::Protocol(text) => format!("broke the protocol: {text}"),
            Why::Unconfirmed => {
                "was told to serve and has not confirmed it; this process serves on until it does or ends"
                    .into()
            }
            Why::NotReady => {
                "not ready yet: flip_ready has not returned, or the predecessor has not released".into()
            }
            Why::InProgress => "another upgrade is under way".into(),
            Why::Draining => "too many older generations are still draining".into(),
            Why::Stopping => "this process is stopping or detached".into(),
        }
    }

    /// Whether [`Why::sentence`] speaks of the new process and wants its pid in front.
    pub fn about_successor(&self) -> bool {
        matches!(
            self,
            Why::Died(..) | Why::Deadline(_) | Why::Withdrawn(_) | Why::Protocol(_) | Why::Unconfirmed
        )
    }
}
