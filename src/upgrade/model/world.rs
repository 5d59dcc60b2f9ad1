//! One world: two machines, the messages between them, and what is true of the two processes.
//!
//! [`World::moves`] says what may happen next, [`Explorer::apply`](super::explorer::Explorer::apply) does it.

use super::table::{Msg, Queue, Table};
use crate::upgrade::{Origin, Question, Request, Starting, State, Timer};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Predecessor,
    Successor,
}

use Side::{Predecessor, Successor};

macro_rules! facts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Bit { $($name),* }
        $($(#[$doc])* pub const $name: u64 = 1 << Bit::$name as u64;)*
        pub const FACT_NAMES: &[(&str, u64)] = &[$((stringify!($name), $name)),*];
    };
}

facts! {
    /// Its host was told to serve and not to stop.
    P_SERVES,
    /// Killed: its descriptors are closed, its pidfd is not readable yet.
    P_DYING,
    P_DEAD,
    /// It died while it served.
    P_CRASHED,
    /// SIGSTOP, for ever.
    P_FROZEN,
    /// The successor was told of its death.
    P_DEATH_SEEN,
    P_HANGUP_SEEN,
    /// It closed its end and watches the successor no more.
    P_LET_GO,
    /// The spawner works.
    SPAWNING,
    /// The process exists, the supervisor does not know yet.
    SPAWN_UNREPORTED,
    S_EXISTS,
    S_SERVES,
    /// `flip_ready` has returned 0.
    S_SERVED,
    S_SHUT,
    /// Further members of its groups listen.
    S_LISTENS,
    S_DYING,
    S_DEAD,
    S_FROZEN,
    /// Its host closed the channel.
    S_CLOSED,
    /// A forked worker holds a copy of its end.
    P_WORKER,
    S_WORKER,
    S_DEATH_SEEN,
    S_HANGUP_SEEN,
    /// A thread of its host is in `flip_ready`.
    S_WAITING,
    /// SIGTERM was sent to it.
    TERM,
    /// SIGKILL was sent to it: no more code of its own runs.
    KILLED,
    COMMIT_TAKEN,
    RELEASED,
    RELEASED_TAKEN,
    /// The predecessor read STOPPING or WITHDRAWN.
    SAID_NO,
    ANNOUNCING,
    /// The service manager was told of the successor.
    TOLD,
    /// An upgrade was started and has not been answered.
    UNDER_WAY,
    /// The operator stopped or freed the predecessor.
    STOP_P,
    /// The operator stopped or freed the successor while it served.
    STOP_S,
    /// One was detached.
    DETACH,
    FREE_P,
    FREE_S,
    /// An unanswered request was remembered by the predecessor, by the successor.
    MEMORY_P,
    MEMORY_S,
    /// The environment killed the only server.
    LOST,
    /// The predecessor's host has an open question.
    ASKED_STARTING,
    ASKED_STATE,
    /// State was promised to the successor; the socket took it; it arrived.
    PROMISED,
    STATE_TAKEN,
    STATE_ARRIVED,
    /// `flip_take_state` told the successor's host that it is lost.
    TOLD_OF_LOSS,
    /// There is a probation, and it is not over.
    PROBATION,
    /// Somebody sent what is no message (or EXTEND).
    NOISE,
    /// A further upgrade starts: not explored from here.
    CUT,
    REQUESTS_1,
    REQUESTS_2,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    pub p: u16,
    pub s: u16,
    pub down: Queue,
    pub up: Queue,
    pub facts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    Ask(Side, Request, Origin),
    Free(Side),
    /// The new program executes; the spawner has not said so yet.
    Execs,
    SpawnFails,
    SpawnReported,
    Deliver(Side),
    HangUpSeen(Side),
    DeathSeen(Side),
    HostReady(Side),
    HostLeft,
    ForksWorker(Side),
    ClosesChannel,
    /// Crash, kill -9 or exit: descriptors first.
    Dies(Side),
    PidfdReadable(Side),
    Frozen(Side),
    Fires(Side, Timer),
    Announced,
    /// SIGTERM asks the successor's library to stop.
    TermAsks,
    Noise(Side, Msg),
    DrainerGone(Side),
    /// The predecessor's host agrees, or refuses. That it does not answer is a move of the clock.
    HostAnswers(Question, bool),
    /// The successor's host calls `flip_take_state`, and the promised state is lost.
    ToldOfLoss,
}

/// Which environments a run has.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub draining: u32,
    pub max_draining: u32,
    pub requests: u32,
    pub noise: bool,
    /// The host is asked before a successor is started.
    pub asks: bool,
    /// State is handed over.
    pub state: bool,
    pub probation: bool,
}

impl World {
    pub fn is(&self, facts: u64) -> bool {
        self.facts & facts == facts
    }
    pub fn any(&self, facts: u64) -> bool {
        self.facts & facts != 0
    }
    pub fn set(&mut self, facts: u64) {
        self.facts |= facts;
    }
    pub fn unset(&mut self, facts: u64) {
        self.facts &= !facts;
    }

    pub fn machine(&self, side: Side) -> u16 {
        match side {
            Predecessor => self.p,
            Successor => self.s,
        }
    }

    /// It executes its own code. One that was killed does not, however long the kernel takes to bury it.
    pub fn runs(&self, side: Side) -> bool {
        match side {
            Predecessor => !self.any(P_DYING | P_DEAD | P_FROZEN),
            Successor => self.is(S_EXISTS) && !self.any(S_DYING | S_DEAD | S_FROZEN | KILLED),
        }
    }

    pub fn alive(&self, side: Side) -> bool {
        match side {
            Predecessor => !self.any(P_DYING | P_DEAD),
            Successor => self.is(S_EXISTS) && !self.any(S_DYING | S_DEAD),
        }
    }

    pub fn serves(&self, side: Side) -> bool {
        self.alive(side)
            && match side {
                Predecessor => self.is(P_SERVES),
                Successor => self.is(S_SERVES),
            }
    }

    /// Nobody reads there any more: what is sent is refused.
    pub fn end_closed(&self, side: Side) -> bool {
        match side {
            Predecessor => self.any(P_DYING | P_DEAD | P_LET_GO) && !self.is(P_WORKER),
            Successor => self.any(S_DYING | S_DEAD | S_CLOSED) && !self.is(S_WORKER),
        }
    }

    /// Something that `side` can read or see now.
    fn readable(&self, side: Side) -> Option<Move> {
        match side {
            Predecessor => {
                if self.is(P_LET_GO) || !self.is(S_EXISTS) || self.is(SPAWN_UNREPORTED) {
                    None
                } else if !self.up.is_empty() {
                    Some(Move::Deliver(side))
                } else if self.end_closed(Successor) && !self.any(S_HANGUP_SEEN | S_DEATH_SEEN) {
                    Some(Move::HangUpSeen(side))
                } else if self.is(S_DEAD) && !self.is(S_DEATH_SEEN) {
                    Some(Move::DeathSeen(side))
                } else {
                    None
                }
            }
            Successor => {
                if !self.down.is_empty() {
                    Some(Move::Deliver(side))
                } else if (self.end_closed(Predecessor) || self.is(S_CLOSED))
                    && !self.any(P_HANGUP_SEEN | P_DEATH_SEEN)
                {
                    Some(Move::HangUpSeen(side))
                } else if self.is(P_DEAD) && !self.is(P_DEATH_SEEN) {
                    Some(Move::DeathSeen(side))
                } else {
                    None
                }
            }
        }
    }

    /// The pidfd may become readable before the end of the channel was noticed.
    fn death_overtakes_hang_up(&self, side: Side) -> bool {
        match side {
            Predecessor => self.is(S_DEAD) && !self.is(S_DEATH_SEEN),
            Successor => self.is(P_DEAD) && !self.is(P_DEATH_SEEN),
        }
    }

    /// Moves that will happen if nothing else does; a world without them is at rest.
    pub fn sure_moves(&self, table: &Table, out: &mut Vec<Move>) {
        if self.is(P_DYING) {
            out.push(Move::PidfdReadable(Predecessor));
        }
        if self.is(S_DYING) {
            out.push(Move::PidfdReadable(Successor));
        }
        if self.is(KILLED | S_EXISTS) && self.alive(Successor) {
            out.push(Move::Dies(Successor));
        }
        if self.is(KILLED | SPAWNING) {
            out.extend([Move::Execs, Move::SpawnFails]);
        }
        if self.runs(Predecessor) && *table.state(self.p) != State::Freed {
            if self.is(SPAWN_UNREPORTED) && !self.is(P_LET_GO) {
                out.push(Move::SpawnReported);
            }
            if self.is(ANNOUNCING) {
                out.push(Move::Announced);
            }
            self.sees(Predecessor, out);
            for &timer in &table.row(self.p).timers {
                // A dying process is dead, and what it sent is read, long before ten seconds are over.
                let soon = !self.up.is_empty() || self.any(S_DYING | S_DEAD);
                if timer != Timer::SuccessorGone || !soon {
                    out.push(Move::Fires(Predecessor, timer));
                }
            }
        }
        if self.runs(Successor) && *table.state(self.s) != State::Freed {
            self.sees(Successor, out);
            // The supervisor reads what there is to read before it looks at the clock. Without that rule a successor
            // that was stopped for long would withdraw with its COMMIT, or its predecessor's death, at hand.
            if self.readable(Successor).is_none() && !self.is(P_DYING) {
                let timers = &table.row(self.s).timers;
                out.extend(timers.iter().map(|&timer| Move::Fires(Successor, timer)));
            }
        }
    }

    fn sees(&self, side: Side, out: &mut Vec<Move>) {
        if let Some(first) = self.readable(side) {
            out.push(first);
            if matches!(first, Move::HangUpSeen(_)) && self.death_overtakes_hang_up(side) {
                out.push(Move::DeathSeen(side));
            }
        }
    }

    /// Moves that the environment may or may not make.
    pub fn possible_moves(&self, table: &Table, setting: Setting, out: &mut Vec<Move>) {
        let asked = u32::from(self.is(REQUESTS_1)) + 2 * u32::from(self.is(REQUESTS_2));
        for side in [Predecessor, Successor] {
            if self.runs(side) && *table.state(self.machine(side)) != State::Freed {
                if asked < setting.requests {
                    for request in [Request::Upgrade, Request::Stop, Request::Detach] {
                        out.extend(
                            [Origin::Answered, Origin::Unanswered].map(|o| Move::Ask(side, request, o)),
                        );
                    }
                    out.push(Move::Free(side));
                }
                out.push(Move::HostReady(side));
                let machine = &table.row(self.machine(side)).machine;
                if machine.draining > u32::from(machine.predecessor_drains) {
                    out.push(Move::DrainerGone(side));
                }
            }
        }
        if self.runs(Predecessor) {
            for (asked, question) in [(ASKED_STARTING, Question::Starting), (ASKED_STATE, Question::State)] {
                if self.is(asked) {
                    out.extend([true, false].map(|agrees| Move::HostAnswers(question, agrees)));
                }
            }
        }
        if self.runs(Successor)
            && self.is(PROMISED | P_DEATH_SEEN)
            && !self.any(STATE_ARRIVED | TOLD_OF_LOSS)
            && *table.state(self.s) != State::Freed
        {
            out.push(Move::ToldOfLoss);
        }
        if self.is(SPAWNING) && !self.is(KILLED) && self.runs(Predecessor) {
            out.extend([Move::Execs, Move::SpawnFails]);
        }
        if self.runs(Successor) {
            if self.is(S_WAITING) {
                out.push(Move::HostLeft);
            }
            if self.is(TERM) && *table.state(self.s) != State::Freed {
                out.push(Move::TermAsks);
            }
            if !self.is(S_CLOSED) {
                out.push(Move::ClosesChannel);
                if !self.is(S_WORKER) {
                    out.push(Move::ForksWorker(Successor));
                }
            }
            out.push(Move::Frozen(Successor));
        }
        if self.runs(Predecessor) && self.is(S_EXISTS) {
            out.push(Move::Frozen(Predecessor));
        }
        if self.alive(Predecessor) {
            out.push(Move::Dies(Predecessor));
        }
        if self.alive(Successor) && !self.is(KILLED) {
            out.push(Move::Dies(Successor));
        }
        if setting.noise && self.runs(Predecessor) && self.is(S_EXISTS) && !self.any(P_LET_GO | P_WORKER) {
            out.push(Move::ForksWorker(Predecessor));
        }
        if setting.noise && !self.is(NOISE) && self.is(S_EXISTS) {
            for msg in [Msg::Extend, Msg::Garbage] {
                if self.runs(Predecessor) && !self.end_closed(Successor) && !self.is(P_LET_GO) {
                    out.push(Move::Noise(Predecessor, msg));
                }
                if self.runs(Successor) && !self.end_closed(Predecessor) && !self.is(S_CLOSED) {
                    out.push(Move::Noise(Successor, msg));
                }
            }
        }
    }

    /// One line: who is where, what is in flight, what is true.
    pub fn describe(&self, table: &Table) -> String {
        let facts: Vec<_> =
            FACT_NAMES.iter().filter(|(_, bit)| self.is(*bit)).map(|(name, _)| *name).collect();
        let (mut down, mut up) = (self.down, self.up);
        let mut flight = String::new();
        for (arrow, queue) in [("↓", &mut down), ("↑", &mut up)] {
            while let Some(msg) = queue.first() {
                flight += &format!(" {arrow}{msg:?}");
                queue.pop();
            }
        }
        let successor = if self.is(S_EXISTS) { format!("{:?}", table.state(self.s)) } else { "–".into() };
        format!("{:?} | {successor} |{flight} | {}", table.state(self.p), facts.join(" "))
    }

    pub fn gave_up(&self, table: &Table) -> bool {
        matches!(table.state(self.s), State::Starting(Starting::GivenUp(_)) | State::Freed) || self.is(S_SHUT)
    }
}
