//! What the load client wrote down: one record for each request, and the sums that tests and the demo ask for.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::answer::Identity;

/// How many failures are kept with their details.
const KEPT: usize = 50;

/// A moment on the clock of one load, in nanoseconds since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub(super) u64);

impl Mark {
    pub(super) fn since(epoch: Instant) -> Mark {
        Mark(epoch.elapsed().as_nanos() as u64)
    }

    /// Time since the start of the load.
    pub fn elapsed(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// How much later this is than `earlier`; zero when it is not.
    pub fn after(self, earlier: Mark) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Serialize for Mark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.elapsed().as_secs_f64())
    }
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// Nothing listened.
    Refused = 1,
    /// The connection was reset.
    Reset,
    /// It was closed before a byte of the answer.
    EarlyEof,
    /// It was closed in the middle of the answer.
    ShortAnswer,
    /// The answer was not complete in time.
    TimedOut,
    /// A complete answer with another status or body than expected.
    WrongAnswer,
    /// Anything else.
    Other,
}

const KINDS: [Kind; 7] = [
    Kind::Refused,
    Kind::Reset,
    Kind::EarlyEof,
    Kind::ShortAnswer,
    Kind::TimedOut,
    Kind::WrongAnswer,
    Kind::Other,
];

/// One failed request. The first fifty are kept.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// In which way.
    pub kind: Kind,
    /// What exactly, and on which request of which connection.
    pub detail: String,
    /// When it was sent, in seconds since the start.
    pub sent: Mark,
    /// When it had failed.
    pub failed: Mark,
}

/// One request. Ordered by `end`, since it is written when it is over.
#[derive(Debug, Clone, Copy)]
struct Record {
    start: u64,
    end: u64,
    /// Index of who answered, or which kind of failure it was.
    outcome: Result<u32, Kind>,
}

/// A server process that has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Who.
    #[serde(flatten)]
    pub identity: Identity,
    /// When its first answer was complete.
    pub first: Mark,
    /// When its latest answer was complete.
    pub last: Mark,
    /// When the latest of the requests it has answered was sent.
    pub last_sent: Mark,
    /// How many.
    pub answers: u64,
}

/// The totals at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Requests sent.
    pub sent: u64,
    /// Requests with a complete and right answer.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests sent and neither answered nor failed.
    pub in_flight: u64,
    /// Connections closed because an answer announced it.
    pub announced_closes: u64,
    /// Failures by kind.
    pub failures: BTreeMap<Kind, u64>,
    /// The process that gave the latest answer.
    pub latest: Option<Identity>,
}

/// What went on between two marks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interval {
    /// Requests sent in it.
    pub sent: u64,
    /// Complete and right answers in it.
    pub answered: u64,
    /// Requests that failed in it.
    pub failed: u64,
    /// Requests that were out when it began.
    pub in_flight_before: u64,
    /// The slowest of the requests that were out at some moment of it; one still out counts with its age.
    pub slowest: Option<Slowest>,
}

/// The slowest request of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Slowest {
    /// When it was sent.
    pub sent: Mark,
    /// How long it took.
    #[serde(serialize_with = "as_ms")]
    pub took: Duration,
    /// It has been answered, or has failed.
    pub finished: bool,
}

/// How long answers took, in milliseconds. Failed requests are not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// 999 of 1000 took no longer.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

fn as_ms<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64() * 1000.0)
}

/// The records of a load that may still be running.
pub(crate) struct Log {
    records: Vec<Record>,
    seen: Vec<Seen>,
    latest: Option<usize>,
    failures: Vec<Failure>,
    counts: [u64; KINDS.len() + 1],
    announced_closes: u64,
    /// For each connection, when its open request was sent.
    open: Vec<Option<u64>>,
}

impl fmt::Debug for Log {
    /// Without the records, of which there are millions where a failed test prints a report.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.records.len())
    }
}

impl Log {
    pub(super) fn new(slots: usize) -> Log {
        Log {
            records: Vec::new(),
            seen: Vec::new(),
            latest: None,
            failures: Vec::new(),
            counts: [0; KINDS.len() + 1],
            announced_closes: 0,
            open: vec![None; slots],
        }
    }

    pub(super) fn sent(&mut self, slot: usize, at: Mark) {
        self.open[slot] = Some(at.0);
    }

    pub(super) fn answered(&mut self, slot: usize, at: Mark, identity: &Identity) {
        let start = self.open[slot].take().unwrap_or(at.0);
        // From the end: at any time only the newest two or so answer.
        let index = self.seen.iter().rposition(|seen| seen.identity == *identity).unwrap_or_else(|| {
            let (first, last_sent) = (at, Mark(start));
            self.seen.push(Seen { identity: identity.clone(), first, last: at, last_sent, answers: 0 });
            self.seen.len() - 1
        });
        let seen = &mut self.seen[index];
        seen.answers += 1;
        seen.last = at;
        seen.last_sent = seen.last_sent.max(Mark(start));
        self.latest = Some(index);
        self.records.push(Record { start, end: at.0, outcome: Ok(index as u32) });
    }

    pub(super) fn failed(&mut self, slot: usize, at: Mark, kind: Kind, detail: impl FnOnce() -> String) {
        let start = self.open[slot].take().unwrap_or(at.0);
        self.counts[kind as usize] += 1;
        if self.failures.len() < KEPT {
            self.failures.push(Failure { kind, detail: detail(), sent: Mark(start), failed: at });
        }
        self.records.push(Record { start, end: at.0, outcome: Err(kind) });
    }

    pub(super) fn announced_close(&mut self) {
        self.announced_closes += 1;
    }

    fn open_starts(&self) -> impl Iterator<Item = u64> {
        self.open.iter().flatten().copied()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.clone()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let failed: u64 = self.counts.iter().sum();
        let in_flight = self.open_starts().count() as u64;
        let finished = self.records.len() as u64;
        Snapshot {
            sent: finished + in_flight,
            answered: finished - failed,
            failed,
            in_flight,
            announced_closes: self.announced_closes,
            failures: KINDS
                .iter()
                .map(|kind| (*kind, self.counts[*kind as usize]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            latest: self.latest.map(|index| self.seen[index].identity.clone()),
        }
    }

    pub(super) fn in_flight_at(&self, at: Mark) -> u64 {
        let after = self.records.partition_point(|record| record.end <= at.0);
        let finished = self.records[after..].iter().filter(|record| record.start <= at.0).count();
        (finished + self.open_starts().filter(|start| *start <= at.0).count()) as u64
    }

    pub(super) fn between(&self, from: Mark, to: Mark, now: Mark) -> Interval {
        // Whatever ended before `from` was also sent before it.
        let records = &self.records[self.records.partition_point(|record| record.end < from.0)..];
        let mut interval = Interval {
            sent: 0,
            answered: 0,
            failed: 0,
            in_flight_before: self.in_flight_at(from),
            slowest: None,
        };
        let mut note = |start: u64, end: u64, finished: bool| {
            interval.sent += u64::from(start >= from.0 && start <= to.0);
            let took = Duration::from_nanos(end - start);
            if start <= to.0 && interval.slowest.is_none_or(|slowest| took > slowest.took) {
                interval.slowest = Some(Slowest { sent: Mark(start), took, finished });
            }
        };
        for record in records {
            note(record.start, record.end, true);
        }
        for start in self.open_starts() {
            note(start, now.0.max(start), false);
        }
        for record in records.iter().take_while(|record| record.end <= to.0) {
            match record.outcome {
                Ok(_) => interval.answered += 1,
                Err(_) => interval.failed += 1,
            }
        }
        interval
    }

    fn latency(&self) -> Latency {
        let answered = self.records.iter().filter(|record| record.outcome.is_ok());
        let mut took: Vec<u64> = answered.map(|record| record.end - record.start).collect();
        took.sort_unstable();
        let at = |share: f64| {
            let rank = (took.len() as f64 * share).ceil() as usize;
            took.get(rank.saturating_sub(1)).map_or(0.0, |ns| *ns as f64 / 1e6)
        };
        Latency { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: at(1.0) }
    }
}

/// The result of a load.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How long it ran.
    pub seconds: f64,
    /// The totals.
    #[serde(flatten)]
    pub totals: Snapshot,
    /// Answers for each second.
    pub per_second: f64,
    /// How long answers took.
    pub latency: Latency,
    /// The first failures, with details.
    pub first_failures: Vec<Failure>,
    /// Every process that answered, in the order of its first answer.
    pub seen: Vec<Seen>,
    #[serde(skip)]
    log: Log,
    #[serde(skip)]
    end: Mark,
}

impl Report {
    pub(super) fn new(mut log: Log, end: Mark) -> Report {
        let totals = log.snapshot();
        let seconds = end.elapsed().as_secs_f64();
        Report {
            seconds,
            per_second: totals.answered as f64 / seconds,
            latency: log.latency(),
            first_failures: std::mem::take(&mut log.failures),
            seen: log.seen(),
            totals,
            log,
            end,
        }
    }

    /// What was sent, failed and slowest between two marks.
    pub fn between(&self, from: Mark, to: Mark) -> Interval {
        self.log.between(from, to, self.end)
    }

    /// How many requests had been sent and not answered at `at`.
    pub fn in_flight_at(&self, at: Mark) -> u64 {
        self.log.in_flight_at(at)
    }

    /// How many requests failed in that way.
    pub fn failed_by(&self, kind: Kind) -> u64 {
        self.totals.failures.get(&kind).copied().unwrap_or(0)
    }

    /// Nothing failed and something was answered.
    ///
    /// # Panics
    /// Otherwise, with the first failures.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.totals.answered > 0, "the server has not answered once");
        let first: Vec<_> = self.first_failures.iter().take(5).collect();
        let totals = &self.totals;
        assert!(totals.failed == 0, "{} of {} requests failed: {first:#?}", totals.failed, totals.sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_count_what_was_sent_failed_and_slowest_in_them() {
        let mut log = Log::new(3);
        let one = Identity::parse(b"version=1 pid=10 generation=0");
        log.sent(0, Mark(100));
        log.sent(1, Mark(150));
        log.answered(0, Mark(200), &one);
        log.sent(0, Mark(200));
        log.failed(0, Mark(260), Kind::Reset, || "gone".into());
        log.sent(2, Mark(240));
        log.answered(1, Mark(450), &one);
        assert_eq!(log.in_flight_at(Mark(199)), 2);
        let interval = log.between(Mark(200), Mark(300), Mark(500));
        assert_eq!((interval.sent, interval.answered, interval.failed), (2, 1, 1));
        let slowest = interval.slowest.unwrap();
        assert_eq!((slowest.sent, slowest.took.as_nanos(), slowest.finished), (Mark(150), 300, true));
        let snapshot = log.snapshot();
        assert_eq!((snapshot.sent, snapshot.answered, snapshot.failed, snapshot.in_flight), (4, 2, 1, 1));
        assert_eq!(log.seen()[0].answers, 2);
    }
}
