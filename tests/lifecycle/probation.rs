//! Probation: both generations serve, and the old one has never stopped if the new one dies.

use crate::part::{LIMIT, Part, minus};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use testkit::deadline::wait_until;
use testkit::host::SOON;
use testkit::load::{Config, Load};
use testkit::process::{Proc, Signal, signal};

/// The pids that answer, over a few dozen new connections.
fn answering(part: &Part) -> BTreeSet<i32> {
    (0..60).map(|_| part.host.who().pid).collect()
}

#[test]
fn both_serve_for_the_time_of_the_probation_and_then_shutdown_fires() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "8"), ("PROBATION_MS", "1500")]);
    let first = part.first();
    let load = Load::start(Config::http(part.host.address.clone()).connections(8)).expect("load");
    // Holds the old one until its last event has been read.
    let idle = std::net::TcpStream::connect(part.public()).expect("a connection");
    wait_until("nine connections", SOON, || part.call(first, "/count").rc >= 9);
    let began = Instant::now();
    let upgrade = part.call_meanwhile(first, "/upgrade");
    let second = part.successor();
    part.wait_for_line("ready 0 generation=1");
    wait_until("answers of both", SOON, || answering(&part) == BTreeSet::from([first, second]));
    assert!(part.lines("shutdown 1").is_empty());
    // The new one is not released yet.
    assert_eq!(part.call(second, "/upgrade").rc, minus(libc::EAGAIN));
    assert_eq!(part.call(first, "/upgrade").rc, minus(libc::EALREADY));
    let called = upgrade.join().unwrap();
    assert_eq!(called.rc, i64::from(second), "{called:?}");
    assert!(began.elapsed() >= Duration::from_millis(1500));
    part.wait_for_line("event 8 failure 0: a successor serves");
    drop(idle);
    wait_until("the end of the old one", SOON, || !Proc(first).alive());
    let report = load.stop();
    assert!(report.totals.failures.is_empty(), "{report:?}");
    part.stop(second);
}

#[test]
fn a_successor_that_dies_within_its_probation_fails_the_upgrade_and_nobody_else_notices() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "12"), ("PROBATION_MS", "60000")]);
    let first = part.first();
    // Keep-alive connections from before the upgrade: all of them are the old one's.
    let load = Load::start(Config::http(part.host.address.clone()).connections(8).streams(0)).expect("load");
    wait_until("eight connections", SOON, || part.call(first, "/count").rc == 8);
    let upgrade = part.call_meanwhile(first, "/upgrade");
    let second = part.successor();
    part.wait_for_line("ready 0 generation=1");
    wait_until("answers of both", SOON, || answering(&part) == BTreeSet::from([first, second]));
    signal(second, Signal::SIGKILL);
    let called = upgrade.join().unwrap();
    assert_eq!((called.rc, called.failure), (minus(libc::ECONNABORTED), 3), "{called:?}");
    assert!(called.error.contains("right after it began to serve"), "{called:?}");
    part.wait_for_line("event 4 failure 3: new process");
    assert!(part.lines("shutdown").is_empty() && part.lines("event 8").is_empty());
    assert_eq!(answering(&part), BTreeSet::from([first]));
    assert!(part.family.zombies().is_empty());
    let report = load.stop();
    assert!(report.totals.failures.is_empty(), "{report:?}");
    assert_eq!(report.seen.len(), 1, "{report:?}");

    let upgrade = part.call_unanswered(first, "/upgrade");
    part.wait_for_lines("init generation=1", 2);
    let third = part.successor();
    part.wait_for_lines("ready 0 generation=1", 2);
    // A stop during the probation stops both.
    signal(first, Signal::SIGTERM);
    part.family.wait_gone(third, SOON);
    drop(upgrade);
    let mut host = part.host;
    host.process.wait(SOON);
    part.family.assert_none_left(SOON);
}

#[test]
fn the_successor_of_a_predecessor_that_dies_within_the_probation_serves_on_alone() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("PROBATION_MS", "60000")]);
    let first = part.first();
    let upgrade = part.call_unanswered(first, "/upgrade");
    let second = part.successor();
    part.wait_for_line("ready 0 generation=1");
    signal(first, Signal::SIGKILL);
    assert_eq!(part.call(second, "/wait-predecessor/10000").rc, 0);
    assert_eq!(answering(&part), BTreeSet::from([second]));
    drop(upgrade);
    part.stop(second);
}
