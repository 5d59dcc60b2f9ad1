//! What was reached: every action, and every pair of state and event or the reason why there is no such pair.

use super::table::Table;
use crate::upgrade::{Phase, Starting, State};
use std::collections::{BTreeMap, BTreeSet};

pub type Pairs = BTreeMap<String, BTreeSet<&'static str>>;

pub fn place(state: &State) -> &'static str {
    match state {
        State::Starting(starting) => match starting {
            Starting::Alone => "Alone",
            Starting::Initialising { .. } => "Initialising",
            Starting::Asked { .. } => "Asked",
            Starting::Committed => "Committed",
            Starting::Widening { .. } => "Widening",
            Starting::Confirming { .. } => "Confirming",
            Starting::GivenUp(_) => "GivenUp",
        },
        State::Live => "Live",
        State::Ready => "Ready",
        State::Upgrading(phase) => match phase {
            Phase::Asking => "↓Asking",
            Phase::Spawning => "↓Spawning",
            Phase::Initialising { .. } => "↓Initialising",
            Phase::Committed { .. } => "↓Committed",
            Phase::Probation { .. } => "↓Probation",
            Phase::Announcing { .. } => "↓Announcing",
            Phase::Releasing { .. } => "↓Releasing",
            Phase::Ending { .. } => "↓Ending",
        },
        State::Detached => "Detached",
        State::Draining { .. } => "Draining",
        State::Freed => "Freed",
    }
}

pub fn collect(table: &Table, pairs: &mut Pairs, acts: &mut BTreeSet<String>) {
    for (state, ev, done) in table.steps() {
        pairs.entry(format!("{ev:?}")).or_default().insert(place(state));
        acts.extend(done.iter().map(|act| format!("{act:?}")));
    }
}

const BEFORE_COMMIT: &str = "Initialising Asked";
const STARTING: &str = "Alone Initialising Asked Committed Confirming GivenUp";
const SETTLED: &str = "Ready Detached Draining";
const UPGRADING: &str =
    "↓Asking ↓Spawning ↓Initialising ↓Committed ↓Probation ↓Announcing ↓Releasing ↓Ending";
const WITH_SUCCESSOR: &str = "↓Initialising ↓Committed ↓Probation ↓Announcing ↓Releasing ↓Ending";

/// Event, where it happens, and why it cannot happen elsewhere. Everywhere: `Widening` sees its own answer only, since
/// that comes within the same step; `Freed` sees nothing, since the supervisor is gone; the predecessor's events happen
/// to what has a predecessor, the successor's to what has a successor.
const REACHED: &[(&str, &[&str], &str)] = &[
    ("Ask(Upgrade, Answered)", &[STARTING, "Live", SETTLED, UPGRADING], "it happens everywhere"),
    ("Ask(Upgrade, Unanswered)", &[STARTING, "Live", SETTLED, UPGRADING], "it happens everywhere"),
    ("Ask(Stop, Answered)", &[STARTING, "Live", SETTLED, UPGRADING], "it happens everywhere"),
    ("Ask(Stop, Unanswered)", &[STARTING, "Live", SETTLED, UPGRADING], "it happens everywhere"),
    ("Ask(Detach, Answered)", &[STARTING, "Live", SETTLED, UPGRADING], "it happens everywhere"),
    ("Ask(Detach, Unanswered)", &[STARTING, "Live", SETTLED, UPGRADING], "it happens everywhere"),
    ("HostReady", &[STARTING, "Live", SETTLED, UPGRADING], "it happens everywhere"),
    ("Free", &[STARTING, "Live", SETTLED, UPGRADING], "it happens everywhere"),
    ("DrainerGone", &[STARTING, "Live", SETTLED, UPGRADING], "it happens everywhere"),
    ("HostLeft", &["Asked Confirming"], "elsewhere flip_ready has returned, or returns within the step"),
    (
        "Down(State)",
        &[BEFORE_COMMIT, "GivenUp Draining"],
        "STATE comes before COMMIT, and with the channel's end unread it is not lost",
    ),
    ("Down(Commit)", &["Asked GivenUp Draining"], "COMMIT answers READY, and is sent once"),
    (
        "Down(Abort)",
        &[BEFORE_COMMIT, "GivenUp Draining"],
        "ABORT never follows COMMIT; before the predecessor's death only",
    ),
    (
        "Down(Stop)",
        &["Committed Confirming GivenUp Live Draining"],
        "STOP follows COMMIT and ends the channel: RELEASED did not come, its death not yet",
    ),
    (
        "Down(Released)",
        &["Committed Confirming GivenUp Live Draining"],
        "RELEASED follows COMMIT and ends the channel",
    ),
    ("Down(ReleasedAndUpgrade)", &["Committed Confirming GivenUp Live Draining"], "as without the request"),
    (
        "Down(Extend)",
        &[BEFORE_COMMIT, "Committed Confirming GivenUp Live Draining"],
        "Alone, Ready and Detached have read the end of the channel",
    ),
    ("Down(Garbage)", &[BEFORE_COMMIT, "Committed Confirming GivenUp Live Draining"], "as EXTEND"),
    ("PredecessorHungUp", &[STARTING, "Live", SETTLED], "an upgrade of its own is another world's"),
    ("PredecessorDied", &[STARTING, "Live", SETTLED], "an upgrade of its own is another world's"),
    (
        "Up(Ready)",
        &["↓Initialising ↓Ending"],
        "READY is sent once and is the first to be sent; later states have read it",
    ),
    (
        "Up(Live)",
        &["↓Committed ↓Announcing ↓Releasing"],
        "LIVE follows COMMIT and is sent once; the two last after flip_free gave up waiting for it",
    ),
    (
        "Up(Stopping)",
        &["↓Probation ↓Announcing ↓Releasing"],
        "STOPPING follows LIVE; settled states have closed the channel",
    ),
    (
        "Up(Withdrawn)",
        &["↓Initialising ↓Committed ↓Announcing ↓Releasing ↓Ending"],
        "WITHDRAWN never follows LIVE; settled states have closed the channel",
    ),
    ("Up(Extend)", &[WITH_SUCCESSOR], "settled states have closed the channel"),
    ("Up(Garbage)", &[WITH_SUCCESSOR], "settled states have closed the channel"),
    ("SuccessorHungUp", &[WITH_SUCCESSOR], "before Spawned nobody watches, settled states watch no more"),
    ("SuccessorDied", &[WITH_SUCCESSOR], "before Spawned nobody watches, settled states watch no more"),
    ("SuccessorAlive", &["↓Announcing"], "answers CheckSuccessor"),
    ("Spawned", &["↓Spawning ↓Ending"], "answers Spawn; after LetGo it is not reported"),
    ("SpawnFailed", &["↓Spawning ↓Ending"], "answers Spawn; after LetGo it is not reported"),
    ("Listened(true)", &["Widening"], "answers ListenFurther"),
    ("Listened(false)", &["Widening"], "answers ListenFurther"),
    ("Answered(Starting, true)", &["↓Asking"], "answers Ask; void with StopAsking"),
    ("Answered(Starting, false)", &["↓Asking"], "answers Ask; void with StopAsking"),
    ("Answered(State, true)", &["↓Initialising"], "answers Ask; void with StopAsking"),
    ("Answered(State, false)", &["↓Initialising"], "answers Ask; void with StopAsking"),
    ("StateSent(Some(Taken))", &["↓Initialising"], "answers SendState"),
    ("StateSent(Some(Gone))", &["↓Initialising"], "answers SendState"),
    ("StateSent(None)", &["↓Initialising"], "answers SendState"),
    (
        "ToldOfLoss",
        &["Alone GivenUp Draining"],
        "the predecessor is dead and promised state is lost: it neither waits for COMMIT nor serves",
    ),
    (
        "Announced",
        &["↓Announcing Draining"],
        "answers Announce, late where a stop came first; void with TakeBack",
    ),
    ("Sent(Taken)", &["Asked Confirming ↓Committed ↓Releasing"], "answers READY, LIVE, COMMIT, RELEASED"),
    ("Sent(Gone)", &["Asked Confirming ↓Committed ↓Releasing"], "answers READY, LIVE, COMMIT, RELEASED"),
    ("Timer(Upgrade)", &["↓Asking ↓Spawning ↓Initialising"], "runs there"),
    ("Timer(Spawn)", &["↓Spawning"], "runs there"),
    ("Timer(Live)", &["↓Committed"], "runs there"),
    ("Timer(Probation)", &["↓Probation"], "runs there"),
    ("Timer(SuccessorGone)", &["↓Initialising ↓Committed ↓Releasing"], "runs there"),
    ("Timer(Term)", &["↓Ending"], "runs there"),
    ("Timer(Kill)", &["↓Ending"], "runs there"),
    ("Timer(Commit)", &["Asked"], "runs there"),
    ("Timer(PredecessorGone)", &["Initialising Asked Confirming"], "runs there"),
];

const ACTIONS: &str = "Refuse Accept Spawn Terminate Kill CheckSuccessor Announce TakeBack ListenFurther LetGo Own Disown \
    CutDrain Log Finish Down(Commit) Down(Abort) Down(Released) Down(ReleasedAndUpgrade) Down(Stop) Up(Ready) Up(Live) \
    Up(Stopping) Up(Withdrawn) UpgradeDone(true) UpgradeDone(false) ReadyDone(true) ReadyDone(false) ReadyLost Ask(Starting) Ask(State) StopAsking SendState ShutdownUpgrade \
    ShutdownStop ShutdownDetach";

pub fn check(pairs: &Pairs, acts: &BTreeSet<String>) {
    let mut wrong = Vec::new();
    for (ev, places, why) in REACHED {
        let expected: BTreeSet<&str> = places.iter().flat_map(|group| group.split(' ')).collect();
        let seen = pairs.get(*ev).cloned().unwrap_or_default();
        let missing: Vec<_> = expected.difference(&seen).collect();
        let more: Vec<_> = seen.difference(&expected).collect();
        if !missing.is_empty() || !more.is_empty() {
            wrong.push(format!("{ev}: never in {missing:?}, unexpected in {more:?} (elsewhere not: {why})"));
        }
    }
    wrong.extend(
        pairs
            .keys()
            .filter(|ev| !REACHED.iter().any(|(known, ..)| known == ev))
            .map(|ev| format!("{ev}: not listed")),
    );
    let expected: BTreeSet<String> = ACTIONS.split_whitespace().map(String::from).collect();
    wrong.extend(expected.symmetric_difference(acts).map(|act| format!("action {act}")));
    println!("{} pairs of state and event", pairs.values().map(BTreeSet::len).sum::<usize>());
    assert!(wrong.is_empty(), "not reached as listed:\n{}", wrong.join("\n"));
}
