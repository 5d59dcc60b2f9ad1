//! What must hold, each promise by its number: at every action, every step, every world, every world at rest.

use super::explorer::{asked, gave_up_by_clock};
use super::table::{Act, Ev, Msg, Table};
use super::world::{Side, World, *};
use crate::upgrade::{Needs, Origin, Phase, Question, Request, Starting, State};
use Side::{Predecessor, Successor};

/// Which promise, and how it was broken.
pub type Violation = (&'static str, String);

fn broken<T>(promise: &'static str, how: impl Into<String>) -> Result<T, Violation> {
    Err((promise, how.into()))
}

/// Whom a machine waits for, that is: whose silence would keep it where it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Waits {
    /// It could stay for ever, and well.
    Nobody,
    /// The host's own calls end it.
    TheHost,
    /// Its own supervisor answers, within bounds of its own: the barrier, `listen`.
    TheSupervisor,
    /// The host was asked, and must answer in time.
    TheAnswer,
    /// The other process must say something or die.
    ThePeer,
    /// As `ThePeer`, and no time ends it, by intention: see DESIGN, the two waits without limit.
    ThePeerWithoutLimit,
}

/// No wildcard: a new state must be classified.
pub fn waits(state: &State) -> Waits {
    match state {
        State::Starting(starting) => match starting {
            Starting::Alone => Waits::TheHost,
            Starting::Initialising { hung_up: false } => Waits::TheHost,
            // Its host may take its time, but it also waits for the pidfd that explains the end of the channel.
            Starting::Initialising { hung_up: true } => Waits::ThePeer,
            Starting::Asked { waiting: _, hung_up: _ } => Waits::ThePeer,
            Starting::Committed => Waits::TheHost,
            Starting::Widening { alone: _ } => Waits::TheSupervisor,
            Starting::Confirming { hung_up: _ } => Waits::ThePeer,
            Starting::GivenUp(_) => Waits::TheHost,
        },
        State::Live => Waits::ThePeerWithoutLimit,
        State::Ready => Waits::Nobody,
        State::Upgrading(phase) => match phase {
            Phase::Spawning => Waits::ThePeer,
            Phase::Asking => Waits::TheAnswer,
            Phase::Initialising { needs: Needs::Answer { ready: true }, hung_up: false } => Waits::TheAnswer,
            Phase::Initialising { needs: _, hung_up: _ } => Waits::ThePeer,
            Phase::Committed { unconfirmed: false, hung_up: _, freeing: _ } => Waits::ThePeer,
            Phase::Committed { unconfirmed: true, hung_up: true, freeing: _ } => Waits::ThePeer,
            Phase::Committed { unconfirmed: true, hung_up: false, freeing: _ } => Waits::ThePeerWithoutLimit,
            // Its death ends it; its silence must not.
            Phase::Probation { unconfirmed: _ } => Waits::ThePeer,
            Phase::Announcing { told: _, unconfirmed: _, freeing: _ } => Waits::TheSupervisor,
            Phase::Releasing { unconfirmed: _, freeing: _ } => Waits::ThePeer,
            Phase::Ending { why: _, killed: _, spawning: _, then: _ } => Waits::ThePeer,
        },
        State::Detached => Waits::Nobody,
        State::Draining { was_ready: _ } => Waits::TheHost,
        State::Freed => Waits::Nobody,
    }
}

/// P6, the part that is settled at once: every request is answered once, nothing else is.
pub fn answers(side: Side, ev: Ev, acts: &[Act]) -> Result<(), Violation> {
    let count = |wanted: &[Act]| acts.iter().filter(|act| wanted.contains(act)).count();
    let (right, wanted) = match ev {
        Ev::Ask(_, Origin::Answered) => (count(&[Act::Accept, Act::Refuse]) == 1, "one ACCEPT or REFUSE"),
        Ev::Ask(_, Origin::Unanswered) => (
            count(&[Act::Accept]) + count(&[Act::Log]).min(1) >= 1 && count(&[Act::Accept]) <= 1,
            "ACCEPT or a line",
        ),
        _ => (count(&[Act::Accept, Act::Refuse]) == 0, "no ACCEPT or REFUSE: nobody asked"),
    };
    if !right || matches!(ev, Ev::Ask(_, Origin::Unanswered)) && count(&[Act::Refuse]) > 0 {
        return broken("P6", format!("{side:?} on {ev:?} answers {acts:?}, wanted {wanted}"));
    }
    Ok(())
}

/// Before an action is carried out.
pub fn action(w: &World, side: Side, act: Act, table: &Table) -> Result<(), Violation> {
    match act {
        Act::Terminate | Act::Kill if w.is(S_SERVED) => {
            broken("P2", format!("{act:?} to a successor that serves"))
        }
        Act::Terminate | Act::Kill if w.is(COMMIT_TAKEN) => broken("P2", format!("{act:?} after COMMIT")),
        // The wrong rule of one message has no place where they could.
        Act::ReadyDone(true)
            if side == Successor && !w.is(S_LISTENS) && table.row(w.s).machine.wrong.is_none() =>
        {
            broken("P10", "flip_ready returns 0 and further members of a group do not listen")
        }
        Act::ReadyDone(true)
            if side == Successor && w.is(PROMISED) && !w.any(STATE_ARRIVED | TOLD_OF_LOSS) =>
        {
            broken("P12", "flip_ready returns 0, and the host does not know that promised state is missing")
        }
        Act::ReadyLost if !w.is(P_DEATH_SEEN) || w.any(STATE_ARRIVED | TOLD_OF_LOSS) => {
            broken("P12", "flip_ready says that state is lost, and it is not, or the host knows")
        }
        Act::Down(Msg::Commit) if w.is(PROMISED) && !w.is(STATE_TAKEN) => {
            broken("P12", "COMMIT before the promised state was sent")
        }
        Act::SendState if w.is(STATE_TAKEN) => broken("P12", "the state is sent twice"),
        Act::Ask(_) if side == Predecessor && w.any(ASKED_STARTING | ASKED_STATE) => {
            broken("P11", "a question while another is open")
        }
        Act::StopAsking if !w.any(ASKED_STARTING | ASKED_STATE) => {
            broken("P11", "StopAsking, and no question is open")
        }
        Act::Spawn if side == Predecessor && w.is(ASKED_STARTING) => {
            broken("P11", "a successor is started before the host agreed")
        }
        Act::Announce if w.is(PROBATION) && !w.is(FREE_P) => {
            broken("P13", "the service manager is told before the probation is over")
        }
        Act::ShutdownUpgrade if w.is(PROBATION) && !w.is(FREE_P) => {
            broken("P13", "shutdown before the probation is over")
        }
        Act::UpgradeDone(_) if w.any(ASKED_STARTING | ASKED_STATE) => {
            broken("P11", "the upgrade is over and its question open")
        }
        Act::UpgradeDone(_) if side == Predecessor && !w.is(UNDER_WAY) && !w.is(CUT) => {
            broken("P6", "a second answer to one upgrade")
        }
        Act::ShutdownUpgrade if side == Successor => broken("P8", "the successor shuts down for an upgrade"),
        Act::ShutdownUpgrade if !w.is(RELEASED) => broken("P8", "shutdown before RELEASED"),
        Act::ShutdownUpgrade if w.is(SAID_NO) => broken("P8", "shutdown after the successor said it stops"),
        Act::ShutdownUpgrade if !w.is(TOLD) => broken("P8", "shutdown before the service manager was told"),
        Act::ShutdownUpgrade if !w.is(S_SERVED) && !w.is(FREE_P) => {
            broken("P8", "shutdown before the successor serves")
        }
        Act::Down(Msg::Released | Msg::ReleasedAndUpgrade) if w.is(SAID_NO) => {
            broken("P8", "RELEASED to a successor that said it stops")
        }
        _ => Ok(()),
    }
}

/// After one step of one machine.
pub fn step(before: &World, after: &World, side: Side, ev: Ev, table: &Table) -> Result<(), Violation> {
    let given_up = |w: &World| matches!(table.state(w.s), State::Starting(Starting::GivenUp(_)));
    if side == Successor
        && given_up(after)
        && !given_up(before)
        && gave_up_by_clock(table.state(before.s), ev)
        && !before.serves(Predecessor)
        && (!before.is(STOP_P) || before.is(FREE_P) && before.is(RELEASED))
        && !before.any(NOISE | S_CLOSED)
    {
        return broken("P4", format!("the successor gives up on {ev:?} while nobody else serves"));
    }
    Ok(())
}

/// In every world between two moves.
pub fn state(w: &World, table: &Table) -> Result<(), Violation> {
    let excused = w.any(STOP_P | P_CRASHED | LOST) || w.is(STOP_S | RELEASED_TAKEN);
    if !excused && !w.serves(Predecessor) && !w.serves(Successor) {
        return broken("P1", "nobody serves");
    }
    for side in [Predecessor, Successor] {
        let row = table.row(w.machine(side));
        if side == Successor && !w.is(S_EXISTS) || !w.alive(side) {
            continue;
        }
        if row.serves != w.serves(side) {
            return broken(
                "P0",
                format!("{side:?} thinks serves={}, its host was told otherwise", row.serves),
            );
        }
        if w.is(CUT) {
            // Its state is about a further successor, which this world does not have.
            continue;
        }
        let open = [Question::Starting, Question::State].into_iter().find(|q| w.is(asked(*q)));
        if row.question != open.filter(|_| side == Predecessor) {
            return broken(
                "P11",
                format!("{side:?} waits for the answer to {:?}, open is {open:?}", row.question),
            );
        }
        let observable = match side {
            Predecessor => !w.is(P_LET_GO),
            Successor => !w.is(P_DEATH_SEEN),
        };
        match waits(&row.machine.state) {
            Waits::ThePeer | Waits::TheAnswer if row.timers.is_empty() => {
                return broken("P5", format!("{side:?} waits without a deadline"));
            }
            Waits::ThePeerWithoutLimit | Waits::ThePeer if !observable => {
                return broken("P5", format!("{side:?} waits for a peer whose death it cannot see"));
            }
            _ => {}
        }
        if side == Successor
            && row.machine.state == State::Live
            && w.is(P_LET_GO | S_SERVES)
            && w.is(P_SERVES)
        {
            return broken("P3", "the predecessor has let a live successor go and serves on");
        }
    }
    if w.alive(Predecessor) && w.alive(Successor) && table.row(w.p).owns && table.row(w.s).owns {
        return broken("P7", "both own the paths");
    }
    if w.alive(Predecessor) && w.alive(Successor) && table.row(w.p).answers && table.row(w.s).answers {
        return broken("P10", "both read the control socket");
    }
    remembered(w, table)
}

/// P9. A host that closes the library's channel loses what would have crossed it.
fn remembered(w: &World, table: &Table) -> Result<(), Violation> {
    if w.is(CUT) {
        return Ok(());
    }
    let (p, s) = (table.row(w.p), table.row(w.s));
    let p_has_it = w.alive(Predecessor) && p.remembers;
    let successor_has_it = s.remembers || w.down.has(Msg::ReleasedAndUpgrade);
    if w.is(MEMORY_P)
        && !w.any(STOP_P | STOP_S | P_CRASHED | LOST | S_CLOSED | DETACH)
        && !p_has_it
        && !successor_has_it
    {
        return broken("P9", "the predecessor's remembered request is lost");
    }
    if w.is(MEMORY_S) && w.alive(Successor) && !w.gave_up(table) && !w.is(DETACH) && !s.remembers {
        return broken("P9", "the successor's remembered request is lost");
    }
    Ok(())
}

/// When nothing will happen any more unless the environment wants it.
pub fn at_rest(w: &World, table: &mut Table) -> Result<(), Violation> {
    let (p, s) = (table.state(w.p).clone(), table.state(w.s).clone());
    let (p_serves, s_serves) = (w.serves(Predecessor), w.serves(Successor));
    let waits_for_live = matches!(p, State::Upgrading(Phase::Committed { unconfirmed: true, .. }));
    if p_serves && s_serves {
        let named = waits_for_live || w.is(P_FROZEN) && s == State::Live;
        if !named {
            return broken("P3", "two servers, for good");
        }
    }

    if w.is(P_CRASHED) && w.runs(Successor) && !s_serves && !w.gave_up(table) {
        if s != State::Starting(Starting::Alone) {
            return broken("P4", "the predecessor is dead and the successor does not serve");
        }
        let mut alone = w.s;
        if w.is(PROMISED) && !w.any(STATE_ARRIVED | TOLD_OF_LOSS) {
            let (still, acts) = table.step(alone, Ev::HostReady);
            alone = table.step(still, Ev::ToldOfLoss).0;
            if *acts != [Act::ReadyLost] || *table.state(alone) != s {
                return broken("P12", "lost state is not told, or told as if it were final");
            }
        }
        let (widening, _) = table.step(alone, Ev::HostReady);
        let (next, acts) = table.step(widening, Ev::Listened(true));
        if !table.row(next).serves || !acts.contains(&Act::ReadyDone(true)) {
            return broken("P4", "flip_ready does not serve after the predecessor's death");
        }
    }
    let failed = w.is(S_DEAD) || w.runs(Successor) && w.gave_up(table) && !w.is(S_CLOSED);
    if p_serves && w.runs(Predecessor) && !w.any(STOP_P | DETACH) && (failed || !w.is(S_EXISTS)) {
        let (_, acts) = table.step(w.p, Ev::Ask(Request::Upgrade, Origin::Answered));
        let ready = p == State::Ready;
        let takes = acts.iter().any(|act| matches!(act, Act::Spawn | Act::Ask(_)))
            || table.row(w.p).machine.draining > table.row(w.p).machine.max_draining;
        if !ready || !takes {
            return broken("P4", "the successor is gone and the predecessor does not take the next upgrade");
        }
    }

    if w.runs(Predecessor) {
        if w.is(UNDER_WAY) {
            return broken("P6", "an upgrade is never answered");
        }
        if w.is(FREE_P) && p != State::Freed {
            return broken("P6", "flip_free never returns in the predecessor");
        }
    }
    if w.runs(Successor) {
        if w.is(S_WAITING) {
            return broken("P6", "flip_ready never returns");
        }
        if w.is(FREE_S) && s != State::Freed {
            return broken("P6", "flip_free never returns in the successor");
        }
    }
    ownership(w, table)
}

/// P7 at rest: who serves owns; when nobody does, whoever stopped last.
fn ownership(w: &World, table: &Table) -> Result<(), Violation> {
    let (p, s) = (table.row(w.p), table.row(w.s));
    let s_exists = w.is(S_EXISTS);
    let s_owns = s_exists && s.owns;
    let (p_serves, s_serves) = (w.serves(Predecessor), w.serves(Successor));
    if p_serves && !p.owns && !(w.is(P_FROZEN | RELEASED)) {
        return broken("P7", "the predecessor serves and does not own");
    }
    let not_told = w.is(S_FROZEN) || w.is(S_CLOSED) && w.alive(Predecessor);
    if s_serves && !p_serves && !s.owns && !not_told {
        return broken("P7", "the successor serves alone and does not own");
    }
    // RELEASED cannot reach one that was freed or has closed the channel: stale paths stay, and the next start finds
    // that nobody listens there.
    let unreachable = w.is(RELEASED | S_CLOSED);
    let nobody = !p_serves && !s_serves && !unreachable && !w.any(P_CRASHED | LOST | S_FROZEN | P_FROZEN);
    // Alone it takes them with flip_ready, or when it stops.
    let undecided = s_exists && s.machine.state == State::Starting(Starting::Alone);
    if nobody && !undecided && !p.owns && !s_owns && w.alive(Successor) {
        return broken("P7", "all have stopped and nobody owns the paths");
    }
    Ok(())
}
