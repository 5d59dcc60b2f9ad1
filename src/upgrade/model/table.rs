//! The two machines as a table: every state they were seen in has a number, every step is computed once.
//!
//! A world of the explorer then is a few integers. The table is also the record of what was reached.

use super::Wrong;
use crate::upgrade::{
    Action, Event, Exit, Final, Machine, Origin, Outcome, PredecessorSays, Question, Request, Setup,
    Shutdown, State, SuccessorSays, Timer,
};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

/// Multiply and rotate: the keys are our own, nobody attacks them.
#[derive(Default)]
pub struct Fast(u64);

impl Hasher for Fast {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<Fast>>;

/// A message in flight, without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Msg {
    Commit = 1,
    Abort,
    Released,
    ReleasedAndUpgrade,
    Stop,
    Extend,
    Garbage,
    Ready,
    Live,
    Stopping,
    Withdrawn,
    State,
}

const MSGS: [Msg; 12] = [
    Msg::Commit,
    Msg::Abort,
    Msg::Released,
    Msg::ReleasedAndUpgrade,
    Msg::Stop,
    Msg::Extend,
    Msg::Garbage,
    Msg::Ready,
    Msg::Live,
    Msg::Stopping,
    Msg::Withdrawn,
    Msg::State,
];

/// Messages in order, four bits each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Queue(u64);

impl Queue {
    pub fn push(&mut self, msg: Msg) {
        let used = (64 - self.0.leading_zeros()).next_multiple_of(4);
        assert!(used < 64, "sixteen messages in flight");
        self.0 |= (msg as u64) << used;
    }
    pub fn first(self) -> Option<Msg> {
        (self.0 != 0).then(|| MSGS[(self.0 & 15) as usize - 1])
    }
    pub fn pop(&mut self) {
        self.0 >>= 4;
    }
    pub fn clear(&mut self) {
        self.0 = 0;
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub fn has(mut self, msg: Msg) -> bool {
        while let Some(first) = self.first() {
            if first == msg {
                return true;
            }
            self.pop();
        }
        false
    }
}

/// [`Event`] without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ev {
    Ask(Request, Origin),
    HostReady,
    HostLeft,
    Free,
    Down(Msg),
    PredecessorDied,
    PredecessorHungUp,
    Up(Msg),
    SuccessorDied,
    SuccessorHungUp,
    SuccessorAlive,
    Spawned,
    SpawnFailed,
    Listened(bool),
    Announced,
    Sent(Outcome),
    Timer(Timer),
    DrainerGone,
    /// Whether the host agreed.
    Answered(Question, bool),
    /// `None`: sealing failed.
    StateSent(Option<Outcome>),
    ToldOfLoss,
}

impl Ev {
    fn event(self) -> Event {
        match self {
            Ev::Ask(request, origin) => Event::Ask(request, origin),
            Ev::HostReady => Event::HostReady,
            Ev::HostLeft => Event::HostLeft,
            Ev::Free => Event::Free,
            Ev::Down(msg) => Event::FromPredecessor(match msg {
                Msg::State => PredecessorSays::State,
                Msg::Commit => PredecessorSays::Commit,
                Msg::Abort => PredecessorSays::Abort(String::new()),
                Msg::Released => PredecessorSays::Released { upgrade_requested: false },
                Msg::ReleasedAndUpgrade => PredecessorSays::Released { upgrade_requested: true },
                Msg::Stop => PredecessorSays::Stop,
                Msg::Extend => PredecessorSays::Extend,
                _ => PredecessorSays::Garbage(String::new()),
            }),
            Ev::PredecessorDied => Event::PredecessorDied,
            Ev::PredecessorHungUp => Event::PredecessorHungUp,
            Ev::Up(msg) => Event::FromSuccessor(match msg {
                Msg::Ready => SuccessorSays::Ready,
                Msg::Live => SuccessorSays::Live,
                Msg::Stopping => SuccessorSays::Stopping,
                Msg::Withdrawn => SuccessorSays::Withdrawn(String::new()),
                Msg::Extend => SuccessorSays::Extend,
                _ => SuccessorSays::Garbage(String::new()),
            }),
            Ev::SuccessorDied => Event::SuccessorDied(Exit::Unknown),
            Ev::SuccessorHungUp => Event::SuccessorHungUp,
            Ev::SuccessorAlive => Event::SuccessorAlive,
            Ev::Spawned => Event::Spawned,
            Ev::SpawnFailed => Event::SpawnFailed(String::new()),
            Ev::Listened(true) => Event::ListenedFurther(Ok(())),
            Ev::Listened(false) => Event::ListenedFurther(Err(String::new())),
            Ev::Announced => Event::Announced,
            Ev::Sent(outcome) => Event::Sent(outcome),
            Ev::Timer(timer) => Event::Timer(timer),
            Ev::DrainerGone => Event::DrainerGone,
            Ev::Answered(question, true) => Event::HostAnswered(question, Ok(())),
            Ev::Answered(question, false) => Event::HostAnswered(question, Err(String::new())),
            Ev::StateSent(Some(outcome)) => Event::StateSent(Ok(outcome)),
            Ev::StateSent(None) => Event::StateSent(Err(String::new())),
            Ev::ToldOfLoss => Event::HostToldOfLoss,
        }
    }
}

/// [`Action`] without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    Refuse,
    Accept,
    Ask(Question),
    StopAsking,
    SendState,
    Spawn,
    Down(Msg),
    Up(Msg),
    Terminate,
    Kill,
    CheckSuccessor,
    Announce,
    TakeBack,
    ListenFurther,
    UpgradeDone(bool),
    LetGo,
    ReadyDone(bool),
    /// `flip_ready` fails, and not for good: the promised state is lost.
    ReadyLost,
    Own,
    Disown,
    ShutdownUpgrade,
    ShutdownStop,
    ShutdownDetach,
    CutDrain,
    Log,
    Finish,
}

impl From<&Action> for Act {
    fn from(action: &Action) -> Act {
        match action {
            Action::Refuse(_) => Act::Refuse,
            Action::Accept => Act::Accept,
            Action::Ask(question) => Act::Ask(*question),
            Action::StopAsking => Act::StopAsking,
            Action::SendState => Act::SendState,
            Action::Spawn => Act::Spawn,
            Action::ToSuccessor(says) => Act::Down(match says {
                PredecessorSays::State => Msg::State,
                PredecessorSays::Commit => Msg::Commit,
                PredecessorSays::Abort(_) => Msg::Abort,
                PredecessorSays::Released { upgrade_requested: false } => Msg::Released,
                PredecessorSays::Released { upgrade_requested: true } => Msg::ReleasedAndUpgrade,
                PredecessorSays::Stop => Msg::Stop,
                PredecessorSays::Extend => Msg::Extend,
                PredecessorSays::Garbage(_) => Msg::Garbage,
            }),
            Action::ToPredecessor(says) => Act::Up(match says {
                SuccessorSays::Ready => Msg::Ready,
                SuccessorSays::Live => Msg::Live,
                SuccessorSays::Stopping => Msg::Stopping,
                SuccessorSays::Withdrawn(_) => Msg::Withdrawn,
                SuccessorSays::Extend => Msg::Extend,
                SuccessorSays::Garbage(_) => Msg::Garbage,
            }),
            Action::Terminate => Act::Terminate,
            Action::Kill => Act::Kill,
            Action::CheckSuccessor => Act::CheckSuccessor,
            Action::Announce => Act::Announce,
            Action::TakeBack => Act::TakeBack,
            Action::ListenFurther => Act::ListenFurther,
            Action::UpgradeDone(result) => Act::UpgradeDone(result.is_ok()),
            Action::LetGo => Act::LetGo,
            Action::ReadyDone(Err(Final::StateLost)) => Act::ReadyLost,
            Action::ReadyDone(result) => Act::ReadyDone(result.is_ok()),
            Action::Own => Act::Own,
            Action::Disown => Act::Disown,
            Action::Shutdown(Shutdown::Upgrade) => Act::ShutdownUpgrade,
            Action::Shutdown(Shutdown::Stop) => Act::ShutdownStop,
            Action::Shutdown(Shutdown::Detach) => Act::ShutdownDetach,
            Action::CutDrain => Act::CutDrain,
            Action::Log(_) => Act::Log,
            Action::Finish => Act::Finish,
        }
    }
}

/// One numbered state of a machine, with what the properties ask of it.
pub struct Row {
    pub machine: Machine,
    pub serves: bool,
    pub owns: bool,
    pub answers: bool,
    pub remembers: bool,
    pub question: Option<Question>,
    pub timers: Vec<Timer>,
}

type Step = (u16, Rc<[Act]>);

#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
    numbers: FastMap<Machine, u16>,
    steps: FastMap<(u16, Ev), Step>,
}

impl Table {
    pub fn start(&mut self, setup: Setup, wrong: Option<Wrong>) -> u16 {
        let mut machine = Machine::new(setup);
        machine.wrong = wrong;
        self.number(machine)
    }

    pub fn row(&self, number: u16) -> &Row {
        &self.rows[usize::from(number)]
    }

    pub fn state(&self, number: u16) -> &State {
        &self.row(number).machine.state
    }

    pub fn step(&mut self, from: u16, ev: Ev) -> Step {
        if let Some(step) = self.steps.get(&(from, ev)) {
            return step.clone();
        }
        let mut machine = self.row(from).machine.clone();
        let acts: Rc<[Act]> = machine.step(ev.event()).iter().map(Act::from).collect();
        let step = (self.number(machine), acts);
        self.steps.insert((from, ev), step.clone());
        step
    }

    /// Every step that was taken: state before, event, actions.
    pub fn steps(&self) -> impl Iterator<Item = (&State, Ev, &[Act])> {
        self.steps.iter().map(|((from, ev), (_, acts))| (self.state(*from), *ev, &**acts))
    }

    fn number(&mut self, machine: Machine) -> u16 {
        if let Some(number) = self.numbers.get(&machine) {
            return *number;
        }
        let number = u16::try_from(self.rows.len()).expect("few machine states");
        self.rows.push(Row {
            serves: machine.serves(),
            owns: machine.owns(),
            answers: machine.answers_operators(),
            remembers: machine.remembers(),
            question: machine.question(),
            timers: machine.timers(),
            machine: machine.clone(),
        });
        self.numbers.insert(machine, number);
        number
    }
}
