//! Breadth first over every world that can be reached, so that a counterexample is as short as can be.

use super::Wrong;
use super::properties::{self, Violation};
use super::table::{Act, Ev, FastMap, Msg, Table};
use super::world::{Move, Setting, Side, World, *};
use crate::upgrade::{Origin, Outcome, Question, Request, Setup, State, Timer};
use Side::{Predecessor, Successor};

pub struct Explorer {
    pub table: Table,
    pub setting: Setting,
    pub at_rest: usize,
    pub transitions: usize,
    worlds: Vec<(World, u32, Option<Move>)>,
    numbers: FastMap<World, u32>,
}

/// A broken promise, and the shortest way to it.
pub struct Counterexample {
    pub violation: Violation,
    pub moves: Vec<Move>,
    pub trace: String,
}

impl Explorer {
    pub fn new(setting: Setting, wrong: Option<Wrong>) -> Explorer {
        let mut table = Table::default();
        let setup = Setup {
            draining: setting.draining,
            max_draining: setting.max_draining,
            asks_before_start: setting.asks,
            promises_state: setting.state,
            probation: setting.probation,
            ..Setup::default()
        };
        let fresh = table.start(setup.clone(), wrong);
        let (widening, _) = table.step(fresh, Ev::HostReady);
        let (p, _) = table.step(widening, Ev::Listened(true));
        // A successor starts when the predecessor may start it: no older generation drains beyond the allowed.
        let older = setting.draining.min(setting.max_draining);
        let successor =
            Setup { with_predecessor: true, draining: older, state_promised: setting.state, ..setup };
        let s = table.start(successor, wrong);
        let mut start = World { p, s, down: Default::default(), up: Default::default(), facts: P_SERVES };
        if setting.state {
            start.set(PROMISED);
        }
        if setting.probation {
            start.set(PROBATION);
        }
        Explorer {
            table,
            setting,
            at_rest: 0,
            transitions: 0,
            worlds: vec![(start, 0, None)],
            numbers: FastMap::default(),
        }
    }

    pub fn states(&self) -> usize {
        self.worlds.len()
    }

    pub fn run(&mut self) -> Result<(), Counterexample> {
        let mut moves = Vec::new();
        let mut next = 0;
        while next < self.worlds.len() {
            let world = self.worlds[next].0;
            if world.is(CUT) {
                next += 1;
                continue;
            }
            moves.clear();
            world.sure_moves(&self.table, &mut moves);
            if moves.is_empty() {
                self.at_rest += 1;
                properties::at_rest(&world, &mut self.table)
                    .map_err(|v| self.counterexample(v, next, None))?;
            }
            world.possible_moves(&self.table, self.setting, &mut moves);
            for &step in &moves {
                for well in [true, false] {
                    let mut chose = false;
                    let reached = self
                        .apply(world, step, well, &mut chose)
                        .map_err(|v| self.counterexample(v, next, Some(step)))?;
                    self.transitions += 1;
                    self.visit(reached, next, step)?;
                    if !chose {
                        break;
                    }
                }
            }
            next += 1;
        }
        Ok(())
    }

    fn visit(&mut self, world: World, from: usize, step: Move) -> Result<(), Counterexample> {
        if self.numbers.contains_key(&world) {
            return Ok(());
        }
        properties::state(&world, &self.table).map_err(|v| self.counterexample(v, from, Some(step)))?;
        let number = u32::try_from(self.worlds.len()).expect("worlds fit");
        self.numbers.insert(world, number);
        self.worlds.push((world, from as u32, Some(step)));
        Ok(())
    }

    fn counterexample(&self, violation: Violation, at: usize, last: Option<Move>) -> Counterexample {
        let mut moves: Vec<Move> = last.into_iter().collect();
        let mut lines: Vec<String> = moves.iter().map(|step| format!("{step:?}")).collect();
        let mut at = at;
        while let (world, from, Some(step)) = &self.worlds[at] {
            lines.push(format!("{step:?}\n        → {}", world.describe(&self.table)));
            moves.push(*step);
            at = *from as usize;
        }
        lines.reverse();
        moves.reverse();
        let trace = lines.iter().enumerate().map(|(i, line)| format!("  {:2}. {line}\n", i + 1)).collect();
        Counterexample { violation, moves, trace }
    }

    /// What `step` leads to. `well` is how it goes where an action is answered at once and either way; `chose` says
    /// whether there was one.
    pub fn apply(
        &mut self,
        mut world: World,
        step: Move,
        well: bool,
        chose: &mut bool,
    ) -> Result<World, Violation> {
        let w = &mut world;
        let mut react = |w: &mut World, side, ev| self.react(w, side, ev, well, chose);
        match step {
            Move::Ask(side, request, origin) => {
                count_request(w);
                match (request, side) {
                    (Request::Stop, Predecessor) => w.set(STOP_P),
                    (Request::Stop, Successor) => stop_successor(w),
                    (Request::Detach, _) => w.set(DETACH),
                    _ => {}
                }
                react(w, side, Ev::Ask(request, origin))?;
            }
            Move::Free(side) => {
                count_request(w);
                match side {
                    Predecessor => w.set(STOP_P | FREE_P),
                    Successor => {
                        stop_successor(w);
                        w.set(FREE_S);
                    }
                }
                react(w, side, Ev::Free)?;
            }
            Move::Execs => {
                w.unset(SPAWNING);
                w.set(S_EXISTS | SPAWN_UNREPORTED);
            }
            Move::SpawnFails => {
                w.unset(SPAWNING);
                if w.runs(Predecessor) && !w.is(P_LET_GO) {
                    react(w, Predecessor, Ev::SpawnFailed)?;
                }
            }
            Move::SpawnReported => {
                w.unset(SPAWN_UNREPORTED);
                react(w, Predecessor, Ev::Spawned)?;
            }
            Move::Deliver(Predecessor) => {
                let Some(msg) = w.up.first() else { return Ok(world) };
                w.up.pop();
                if matches!(msg, Msg::Stopping | Msg::Withdrawn) {
                    w.set(SAID_NO);
                }
                react(w, Predecessor, Ev::Up(msg))?;
            }
            Move::Deliver(Successor) => {
                let Some(msg) = w.down.first() else { return Ok(world) };
                w.down.pop();
                if msg == Msg::State {
                    w.set(STATE_ARRIVED);
                }
                react(w, Successor, Ev::Down(msg))?;
            }
            Move::HangUpSeen(Predecessor) => {
                w.set(S_HANGUP_SEEN);
                react(w, Predecessor, Ev::SuccessorHungUp)?;
            }
            Move::HangUpSeen(Successor) => {
                w.set(P_HANGUP_SEEN);
                react(w, Successor, Ev::PredecessorHungUp)?;
            }
            Move::DeathSeen(Predecessor) => {
                w.set(S_DEATH_SEEN);
                react(w, Predecessor, Ev::SuccessorDied)?;
            }
            Move::DeathSeen(Successor) => {
                w.set(P_DEATH_SEEN);
                react(w, Successor, Ev::PredecessorDied)?;
            }
            Move::HostReady(side) => {
                if side == Successor {
                    w.set(S_WAITING);
                }
                react(w, side, Ev::HostReady)?;
            }
            Move::HostLeft => {
                w.unset(S_WAITING);
                react(w, Successor, Ev::HostLeft)?;
            }
            Move::ForksWorker(Predecessor) => w.set(P_WORKER),
            Move::ForksWorker(Successor) => w.set(S_WORKER),
            Move::ClosesChannel => {
                w.set(S_CLOSED);
                w.down.clear();
            }
            Move::Dies(side) => self.die(w, side),
            Move::PidfdReadable(Predecessor) => {
                w.unset(P_DYING);
                w.set(P_DEAD);
            }
            Move::PidfdReadable(Successor) => {
                w.unset(S_DYING);
                w.set(S_DEAD);
            }
            Move::Frozen(Predecessor) => w.set(P_FROZEN),
            Move::Frozen(Successor) => w.set(S_FROZEN),
            Move::Fires(side, timer) => {
                if timer == Timer::Probation {
                    w.unset(PROBATION);
                }
                react(w, side, Ev::Timer(timer))?;
            }
            Move::Announced => {
                w.unset(ANNOUNCING);
                w.set(TOLD);
                react(w, Predecessor, Ev::Announced)?;
            }
            Move::TermAsks => {
                w.unset(TERM);
                react(w, Successor, Ev::Ask(Request::Stop, Origin::Unanswered))?;
            }
            Move::Noise(side, msg) => {
                w.set(NOISE);
                match side {
                    Predecessor => w.down.push(msg),
                    Successor => w.up.push(msg),
                }
            }
            Move::DrainerGone(side) => react(w, side, Ev::DrainerGone)?,
            Move::HostAnswers(question, agrees) => {
                w.unset(asked(question));
                react(w, Predecessor, Ev::Answered(question, agrees))?;
            }
            Move::ToldOfLoss => {
                w.set(TOLD_OF_LOSS);
                react(w, Successor, Ev::ToldOfLoss)?;
            }
        }
        Ok(world)
    }

    fn die(&self, w: &mut World, side: Side) {
        match side {
            Predecessor => {
                if w.serves(Predecessor) {
                    w.set(P_CRASHED);
                }
                w.set(if w.is(P_WORKER) { P_DEAD } else { P_DYING });
                w.unset(P_FROZEN | ANNOUNCING | P_SERVES | ASKED_STARTING | ASKED_STATE);
                w.up.clear();
                if w.is(SPAWNING) {
                    // The child of a vfork-style clone goes on by itself; the thread that would start it later is gone.
                    w.unset(SPAWNING);
                }
            }
            Successor => {
                if w.serves(Successor) && !w.serves(Predecessor) {
                    w.set(LOST);
                }
                // With a copy of its end elsewhere nothing shows that it dies before its pidfd does.
                w.set(if w.is(S_WORKER) { S_DEAD } else { S_DYING });
                w.unset(S_FROZEN | S_SERVES | S_WAITING | TERM);
                w.down.clear();
            }
        }
    }

    fn react(
        &mut self,
        w: &mut World,
        side: Side,
        ev: Ev,
        well: bool,
        chose: &mut bool,
    ) -> Result<(), Violation> {
        let mut pending = Some(ev);
        while let Some(ev) = pending.take() {
            let before = *w;
            let (next, acts) = self.table.step(w.machine(side), ev);
            match side {
                Predecessor => w.p = next,
                Successor => w.s = next,
            }
            properties::answers(side, ev, &acts)?;
            for (i, act) in acts.iter().enumerate() {
                let answer = self.perform(w, side, *act, well, chose)?;
                if answer.is_some() && i + 1 < acts.len() {
                    return Err((
                        "order",
                        format!("{act:?} is answered at once and not the last of {acts:?}"),
                    ));
                }
                pending = pending.or(answer);
            }
            self.remember(w, side, ev, &acts);
            properties::step(&before, w, side, ev, &self.table)?;
        }
        Ok(())
    }

    fn remember(&self, w: &mut World, side: Side, ev: Ev, acts: &[Act]) {
        if ev == Ev::Ask(Request::Upgrade, Origin::Unanswered)
            && acts.contains(&Act::Accept)
            && !acts.iter().any(|act| matches!(act, Act::Spawn | Act::Ask(_)))
        {
            w.set(if side == Predecessor { MEMORY_P } else { MEMORY_S });
        }
    }

    fn perform(
        &self,
        w: &mut World,
        side: Side,
        act: Act,
        well: bool,
        chose: &mut bool,
    ) -> Result<Option<Ev>, Violation> {
        properties::action(w, side, act, &self.table)?;
        match act {
            Act::Spawn | Act::Ask(Question::Starting)
                if side == Successor || w.any(S_EXISTS | SPAWNING | KILLED | P_LET_GO) =>
            {
                w.set(CUT)
            }
            Act::Ask(Question::Starting) => {
                w.unset(MEMORY_P);
                w.set(ASKED_STARTING | UNDER_WAY);
            }
            Act::Ask(Question::State) => w.set(ASKED_STATE),
            Act::StopAsking => w.unset(ASKED_STARTING | ASKED_STATE),
            Act::SendState => {
                *chose = true;
                return Ok(Some(Ev::StateSent(well.then(|| w.send_down(Msg::State)))));
            }
            // Also again after a spawn that failed.
            Act::Spawn => {
                w.unset(MEMORY_P);
                w.set(SPAWNING | UNDER_WAY);
            }
            Act::Down(msg) => {
                let outcome = w.send_down(msg);
                match msg {
                    Msg::Commit if outcome == Outcome::Taken => w.set(COMMIT_TAKEN),
                    Msg::Released | Msg::ReleasedAndUpgrade if outcome == Outcome::Taken => {
                        w.set(RELEASED | RELEASED_TAKEN)
                    }
                    Msg::Released | Msg::ReleasedAndUpgrade => w.set(RELEASED),
                    _ => {}
                }
                if matches!(msg, Msg::Commit | Msg::Released | Msg::ReleasedAndUpgrade) {
                    return Ok(Some(Ev::Sent(outcome)));
                }
            }
            Act::Up(msg) => {
                let gone = w.end_closed(Predecessor) || w.is(S_CLOSED);
                // What only a worker's copy of the end takes is never read.
                if !gone && !w.any(P_DYING | P_DEAD | P_LET_GO) {
                    w.up.push(msg);
                }
                if msg == Msg::Stopping && gone {
                    // It stops on request, and nobody is there to take it back.
                    w.set(LOST);
                }
                if matches!(msg, Msg::Ready | Msg::Live) {
                    return Ok(Some(Ev::Sent(if gone { Outcome::Gone } else { Outcome::Taken })));
                }
            }
            Act::Terminate => w.set(TERM),
            Act::Kill => w.set(KILLED),
            Act::CheckSuccessor if w.is(S_DEAD) => {
                // What it had still to say is void with its death: nothing of a dead successor is reported.
                w.set(S_DEATH_SEEN);
                w.up.clear();
                return Ok(Some(Ev::SuccessorDied));
            }
            // That it dies may be seen.
            Act::CheckSuccessor if w.is(S_DYING) => {
                *chose = true;
                return Ok(well.then_some(Ev::SuccessorAlive));
            }
            Act::CheckSuccessor => return Ok(Some(Ev::SuccessorAlive)),
            Act::Announce => w.set(ANNOUNCING),
            Act::TakeBack => w.unset(ANNOUNCING),
            Act::ListenFurther => {
                *chose = true;
                if well {
                    w.set(S_LISTENS);
                }
                return Ok(Some(Ev::Listened(well)));
            }
            Act::UpgradeDone(_) => w.unset(UNDER_WAY),
            Act::LetGo => {
                w.set(P_LET_GO);
                w.up.clear();
            }
            Act::ReadyLost => w.unset(S_WAITING),
            Act::ReadyDone(ok) => {
                if side == Successor && w.is(S_WAITING) {
                    w.unset(S_WAITING);
                    if ok && !w.is(S_SHUT) {
                        w.set(S_SERVES | S_SERVED);
                    }
                }
            }
            Act::ShutdownUpgrade | Act::ShutdownStop => match side {
                Predecessor => w.unset(P_SERVES),
                Successor => {
                    w.unset(S_SERVES);
                    w.set(S_SHUT);
                }
            },
            Act::Finish => match side {
                Predecessor => {
                    w.unset(P_SERVES | ANNOUNCING);
                    w.set(P_LET_GO);
                    w.up.clear();
                }
                Successor => {
                    w.unset(S_SERVES | S_WAITING);
                    w.set(S_SHUT | S_CLOSED);
                    w.down.clear();
                }
            },
            Act::Refuse
            | Act::Accept
            | Act::Own
            | Act::Disown
            | Act::ShutdownDetach
            | Act::CutDrain
            | Act::Log => {}
        }
        Ok(None)
    }
}

impl World {
    fn send_down(&mut self, msg: Msg) -> Outcome {
        if self.end_closed(Successor) {
            return Outcome::Gone;
        }
        // What only a worker's copy of the end takes is never read.
        if !self.any(S_DYING | S_DEAD | S_CLOSED | KILLED) {
            self.down.push(msg);
        }
        if msg == Msg::State {
            self.set(STATE_TAKEN);
        }
        Outcome::Taken
    }
}

pub fn asked(question: Question) -> u64 {
    match question {
        Question::Starting => ASKED_STARTING,
        Question::State => ASKED_STATE,
    }
}

fn count_request(w: &mut World) {
    if w.is(REQUESTS_1) {
        w.unset(REQUESTS_1);
        w.set(REQUESTS_2);
    } else {
        w.set(REQUESTS_1);
    }
}

fn stop_successor(w: &mut World) {
    if w.serves(Successor) {
        w.set(STOP_S);
        if !w.serves(Predecessor) {
            w.set(LOST);
        }
    }
}

/// The clock alone made a successor give up.
pub fn gave_up_by_clock(before: &State, ev: Ev) -> bool {
    matches!(before, State::Starting(_))
        && matches!(ev, Ev::Timer(Timer::Commit | Timer::PredecessorGone) | Ev::PredecessorDied)
}
