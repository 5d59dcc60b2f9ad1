//! What was reached: every action, and every pair of state and event or the reason why there is no such pair.

use super::table::{Act, Ev, Msg, Table};
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
            Starting::Widening => "Widening",
            Starting::Confirming { .. } => "Confirming",
            Starting::GivenUp(_) => "GivenUp",
        },
        State::Live => "Live",
        State::Ready => "Ready",
        State::Upgrading(phase) => match phase {
            Phase::Spawning => "↓Spawning",
            Phase::Initialising { .. } => "↓Initialising",
            Phase::Committed { .. } => "↓Committed",
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
