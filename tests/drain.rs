//! The end of a generation: how it is told that its connections are gone, when it has waited long enough, and how many may drain.

#[path = "lifecycle/part.rs"]
#[allow(dead_code)]
mod part;

use part::{LIMIT, Part, minus};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};
use testkit::deadline::{scaled, wait_until};
use testkit::host::{SOON, c_program};
use testkit::process::{Family, Output, Proc, Signal, signal};

const DEADLINE: i64 = 4;
const DRAINING: i64 = 10;

/// A connection that this generation, the only one that accepts, counts.
fn connect(part: &Part, pid: i32) -> TcpStream {
    let before = part.call(pid, "/count").rc;
    let stream = TcpStream::connect(part.public()).expect("a connection");
    wait_until("a counted connection", SOON, || part.call(pid, "/count").rc == before + 1);
    stream
}

fn stop(part: &Part, pid: i32) {
    assert_eq!(part.call(pid, "/request/2").rc, 0);
    part.wait_for_line("shutdown 2");
}

#[test]
fn the_drained_descriptor_is_readable_when_the_last_connection_ends() {
    let _limit = testkit::limit(LIMIT);
    let mut part = Part::start(&[("STAY", "1")]);
    let first = part.first();
    assert_eq!(part.call(first, "/drained/0").rc, 0);
    assert_eq!(part.call(first, "/drain/0").rc, minus(libc::EINVAL));
    let (one, two) = (connect(&part, first), connect(&part, first));
    stop(&part, first);
    drop(one);
    wait_until("one connection", SOON, || part.call(first, "/count").rc == 1);
    assert_eq!(part.call(first, "/drained/0").rc, 0);
    assert_eq!(part.call(first, "/drain/0").rc, minus(libc::ETIMEDOUT));
    let drained = part.call_meanwhile(first, "/drained/10000");
    part.wait_for_line("waits until drained, 10000 ms");
    drop(two);
    assert_eq!(drained.join().unwrap().rc, 1);
    assert_eq!(part.call(first, "/drain/0").rc, 0);
    part.host.process.signal(Signal::SIGKILL);
    part.host.process.wait(SOON);
    part.family.assert_none_left(SOON);
}

#[test]
fn at_the_drain_deadline_the_drain_is_over_with_etime() {
    let _limit = testkit::limit(LIMIT);
    let mut part = Part::start(&[("DRAIN_TIMEOUT_MS", "400"), ("STAY", "1")]);
    let first = part.first();
    let connection = connect(&part, first);
    let began = Instant::now();
    stop(&part, first);
    assert_eq!(part.call(first, "/drained/10000").rc, 1);
    assert!(began.elapsed() >= Duration::from_millis(400));
    let called = part.call(first, "/drain/-1");
    assert_eq!(called.rc, minus(libc::ETIME), "{called:?}");
    assert!(called.error.contains("the drain deadline passed with 1 connections open"), "{called:?}");
    assert_eq!(part.call(first, "/extend/60000").rc, minus(libc::EINVAL));
    assert_eq!(part.call(first, "/drain/-1").rc, minus(libc::ETIME));
    drop(connection);
    wait_until("no connection", SOON, || part.call(first, "/drain/0").rc == 0);
    assert_eq!(part.call(first, "/drained/0").rc, 1);
    part.host.process.signal(Signal::SIGKILL);
    part.host.process.wait(SOON);
    part.family.assert_none_left(SOON);
}

#[test]
fn a_second_stop_cuts_the_drain_short() {
    let _limit = testkit::limit(LIMIT);
    let mut part = Part::start(&[("STAY", "1")]);
    let first = part.first();
    let _connection = connect(&part, first);
    part.host.process.signal(Signal::SIGTERM);
    part.wait_for_line("shutdown 2");
    assert_eq!(part.call(first, "/drained/0").rc, 0);
    let drained = part.call_meanwhile(first, "/drained/20000");
    part.wait_for_line("waits until drained, 20000 ms");
    let began = Instant::now();
    part.host.process.signal(Signal::SIGTERM);
    part.wait_for_line("drained -125 a second stop cut the drain short; 1 connections open");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1400) && took < scaled(Duration::from_secs(8)), "{took:?}");
    assert_eq!(drained.join().unwrap().rc, 1);
    part.host.process.signal(Signal::SIGKILL);
    part.host.process.wait(SOON);
    part.family.assert_none_left(SOON);
}

#[test]
fn a_process_that_outlives_its_drain_is_ended_by_the_hard_stop() {
    let _limit = testkit::limit(LIMIT);
    let mut part = Part::start(&[("DRAIN_TIMEOUT_MS", "300"), ("HARD_STOP_MS", "300"), ("STAY", "1")]);
    let first = part.first();
    let _connection = connect(&part, first);
    let began = Instant::now();
    stop(&part, first);
    let status = part.host.process.wait(SOON);
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
    assert!(began.elapsed() >= Duration::from_millis(600));
    part.family.assert_none_left(SOON);
}

#[test]
fn the_hard_stop_ends_an_old_generation_and_not_the_new_one() {
    let _limit = testkit::limit(LIMIT);
    let mut part = Part::start(&[("DRAIN_TIMEOUT_MS", "200"), ("HARD_STOP_MS", "200"), ("STAY", "1")]);
    let first = part.first();
    let _connection = connect(&part, first);
    let second = part.upgrade(first);
    let status = part.host.process.wait(SOON);
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
    assert_eq!(part.host.who().pid, second);
    signal(second, Signal::SIGTERM);
    part.family.wait_gone(second, SOON);
    part.family.assert_none_left(SOON);
}

#[test]
fn flip_extend_moves_the_drain_deadline_both_ways() {
    let _limit = testkit::limit(LIMIT);
    let mut part = Part::start(&[("DRAIN_TIMEOUT_MS", "1000"), ("STAY", "1")]);
    let first = part.first();
    assert_eq!(part.call(first, "/extend/1000").rc, minus(libc::EINVAL));
    let _connection = connect(&part, first);
    stop(&part, first);
    assert_eq!(part.call(first, "/extend/0").rc, minus(libc::EINVAL));
    assert_eq!(part.call(first, "/extend/60000").rc, 0);
    // Past the deadline that was configured: still the caller's own time.
    assert_eq!(part.call(first, "/drain/1500").rc, minus(libc::ETIMEDOUT));
    assert_eq!(part.call(first, "/drained/0").rc, 0);
    let drained = part.call_meanwhile(first, "/drained/20000");
    part.wait_for_line("waits until drained, 20000 ms");
    assert_eq!(part.call(first, "/extend/100").rc, 0);
    part.wait_for_line("drained -62 the drain deadline passed with 1 connections open");
    assert_eq!(drained.join().unwrap().rc, 1);
    part.host.process.signal(Signal::SIGKILL);
    part.host.process.wait(SOON);
    part.family.assert_none_left(SOON);
}

#[test]
fn a_drain_that_was_cut_and_extended_again_ends_with_its_deadline() {
    let _limit = testkit::limit(LIMIT);
    let mut part = Part::start(&[("SHELLFLIP_LOG", "debug")]);
    let first = part.first();
    let _connection = connect(&part, first);
    stop(&part, first);
    assert_eq!(part.call(first, "/request/2").rc, 0);
    part.wait_for_line("CutDrain");
    assert_eq!(part.call(first, "/extend/60000").rc, 0);
    assert_eq!(part.call(first, "/drain/2500").rc, minus(libc::ETIMEDOUT));
    assert_eq!(part.call(first, "/extend/100").rc, 0);
    part.wait_for_line("drained -62 the drain deadline passed with 1 connections open");
    part.host.process.wait(SOON);
    part.family.assert_none_left(SOON);
}

#[test]
fn flip_extend_gives_a_slow_start_more_time() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("UPGRADE_TIMEOUT_MS", "700"), ("BEFORE", "sleep:1500")]);
    let first = part.first();
    let called = part.call(first, "/upgrade");
    assert_eq!((called.rc, called.failure), (minus(libc::ETIME), DEADLINE), "{called:?}");
    part.call(first, "/env/BEFORE/extend:20000,sleep:1500");
    let second = part.upgrade(first);
    part.wait_for_line("extended 0");
    signal(second, Signal::SIGTERM);
    part.family.wait_gone(second, SOON);
    wait_until("the end of the first", SOON, || !Proc(first).alive());
    part.family.assert_none_left(SOON);
}

#[test]
fn beyond_max_draining_an_upgrade_is_busy_and_a_signal_is_remembered() {
    let _limit = testkit::limit(Duration::from_secs(120));
    for most in 0..=2 {
        let part = Part::start(&[("MAX_DRAINING", &most.to_string()), ("DRAIN_TIMEOUT_MS", "60000")]);
        let mut chain = vec![part.first()];
        let mut connections = Vec::new();
        for _ in 0..=most {
            let last = chain[chain.len() - 1];
            connections.push(connect(&part, last));
            chain.push(part.upgrade(last));
        }
        let last = chain[chain.len() - 1];
        let called = testkit::deadline::wait_for("a released process", SOON, || {
            Some(part.call(last, "/upgrade")).filter(|called| called.rc != minus(libc::EAGAIN))
        });
        assert_eq!((called.rc, called.failure), (minus(libc::EBUSY), DRAINING), "{most}: {called:?}");
        assert!(called.error.contains("too many older generations are still draining"), "{called:?}");
        signal(last, Signal::SIGUSR1);
        assert_eq!(part.call(last, "/upgrade").rc, minus(libc::EBUSY));
        let further = format!("init generation={}", most + 2);
        assert!(part.lines(&further).is_empty());
        for pid in &chain {
            assert!(Proc(*pid).alive(), "{most}: {pid}");
        }
        // The oldest ends, and what was remembered follows.
        connections.remove(0);
        part.wait_for_line(&format!("ready 0 generation={}", most + 2));
        let next = part.host.wait_for_other(last).pid;
        drop(connections);
        for pid in &chain {
            wait_until("the end of an old generation", SOON, || !Proc(*pid).alive());
        }
        assert_eq!(part.lines("ready 0").len(), most + 3, "{most}");
        part.stop(next);
    }
}

#[test]
fn a_successor_is_told_of_the_end_of_its_predecessor() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[]);
    let first = part.first();
    assert_eq!(part.call(first, "/wait-predecessor/0").rc, 0);
    assert_eq!(part.call(first, "/predecessor/0").rc, 1);
    let connection = connect(&part, first);
    let second = part.upgrade(first);
    assert_eq!(part.call(second, "/predecessor/0").rc, 0);
    assert_eq!(part.call(second, "/wait-predecessor/100").rc, minus(libc::ETIMEDOUT));
    let waits = part.call_meanwhile(second, "/wait-predecessor/20000");
    drop(connection);
    assert_eq!(waits.join().unwrap().rc, 0);
    assert!(!Proc(first).alive());
    assert_eq!(part.call(second, "/predecessor/0").rc, 1);
    part.stop(second);
}

#[test]
fn a_drain_ends_where_the_kernel_refuses_the_barrier_that_counting_relies_on() {
    let _limit = testkit::limit(LIMIT);
    let family = Family::new();
    for since in ["never", "later"] {
        let program = family.program(c_program("tests/c/no_barrier.c", &[])).arg(since);
        let mut process = program.output(Output::File).start();
        let status = process.wait(SOON * 2);
        assert!(
            status.success() && process.output() == "drained\n",
            "{since}: {status}\n{}",
            process.output()
        );
    }
    family.assert_none_left(SOON);
}
