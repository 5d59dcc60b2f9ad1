//! How long the phases of an upgrade took: of the one under way, and of the last one. Kept by the supervisor, told by
//! the status; a successor learns with RELEASED how it came into being.

use crate::error::Failure;
use crate::log::Seconds;
use crate::upgrade::{Phase, State};
use std::time::{Duration, Instant};

/// The name of a phase and how long it took.
pub(super) type Spent = (String, Duration);

/// The upgrade under way.
pub(super) struct Current {
    phases: Vec<(&'static str, Instant)>,
}

/// The last one that is over.
pub(super) struct Record {
    /// None: it was released.
    pub failure: Option<Failure>,
    pub text: String,
    pub successor: Option<i32>,
    pub ended: Instant,
    pub phases: Vec<Spent>,
}

/// Both.
#[derive(Default)]
pub(super) struct History {
    pub current: Option<Current>,
    pub last: Option<Record>,
}

impl Current {
    /// When it began.
    pub fn began(&self) -> Option<Instant> {
        self.phases.first().map(|(_, began)| *began)
    }

    /// Where it is, and since when.
    pub fn phase(&self) -> Option<(&'static str, Instant)> {
        self.phases.last().copied()
    }

    /// What it has spent until now.
    pub fn spent(&self) -> Vec<Spent> {
        let ends = self.phases.iter().skip(1).map(|(_, began)| *began).chain([Instant::now()]);
        let spent = self.phases.iter().zip(ends);
        spent.map(|((name, began), end)| (name.to_string(), end.saturating_duration_since(*began))).collect()
    }

    /// For the successor.
    pub fn spent_ms(&self) -> Vec<(String, u64)> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.spent().into_iter().map(|(name, time)| (name, ms(time))).collect()
    }
}

impl History {
    /// What the predecessor says of the upgrade that made this process.
    pub fn begotten(&mut self, phases: Vec<(String, u64)>) {
        let phases: Vec<Spent> =
            phases.into_iter().map(|(name, ms)| (name, Duration::from_millis(ms))).collect();
        let after: Duration =
            phases.iter().map(|(_, time)| *time).fold(Duration::ZERO, Duration::saturating_add);
        let pid = std::process::id();
        let text = format!("upgraded to process {pid} after {:.3} s", Seconds(after));
        let (successor, ended) = (i32::try_from(pid).ok(), Instant::now());
        self.last = Some(Record { failure: None, text, successor, ended, phases });
    }

    /// Where the machine has got to.
    pub fn note(&mut self, state: &State) {
        let State::Upgrading(phase) = state else {
            self.current = None;
            return;
        };
        let current = self.current.get_or_insert_with(|| Current { phases: Vec::new() });
        let name = name(phase);
        if current.phase().is_none_or(|(last, _)| last != name) {
            current.phases.push((name, Instant::now()));
        }
    }

    /// It is over. `unconfirmed`: for the requester only.
    pub fn done(&mut self, failure: Option<Failure>, text: &str, successor: Option<i32>, unconfirmed: bool) {
        let phases = self.current.as_ref().map(Current::spent).unwrap_or_default();
        let ended = Instant::now();
        self.last = Some(Record { failure, text: text.to_string(), successor, ended, phases });
        if !unconfirmed {
            self.current = None;
        }
    }
}

/// As the status and the successor are told.
fn name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Asking => "asking",
        Phase::Spawning => "spawning",
        Phase::Initialising { .. } => "initialising",
        Phase::Committed { .. } => "committed",
        Phase::Probation { .. } => "probation",
        Phase::Announcing { .. } => "announcing",
        Phase::Releasing { .. } => "releasing",
        Phase::Ending { .. } => "ending",
    }
}
