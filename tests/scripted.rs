//! What a successor does about predecessors that fail, lie or stay silent. It serves when it was let or when the
//! predecessor is dead, and never otherwise.

use std::time::Duration;
use testkit::host::{SOON, c_program};
use testkit::limit;
use testkit::process::{Signal, signal};
use testkit::scripted::Successor;

const GRACE: (&str, &str) = ("SHELLFLIP_TEST_GRACE_MS", "300");
/// The host waits with flip_ready for the file `ready`.
const LATER: &str = "wait:DIR/ready";

/// What a predecessor does, and how the host that it started ends without having served.
struct Refused<'a> {
    name: &'static str,
    /// HOST_BEFORE_READY.
    host: &'static str,
    /// From HELLO on.
    steps: &'static str,
    /// In the output.
    says: &'a [&'a str],
}

fn refused<'a>(
    name: &'static str,
    host: &'static str,
    steps: &'static str,
    says: &'a [&'a str],
) -> Refused<'a> {
    Refused { name, host, steps, says }
}

fn run(cases: &[Refused]) {
    for Refused { name, host, steps, says } in cases {
        println!("case: {name}");
        let pair = Successor::new(&[GRACE, ("HOST_BEFORE_READY", host)], &format!("{steps},reap"));
        if steps.contains("wait:listening") {
            pair.wait("listening ");
            pair.go("listening");
        }
        pair.wait("scripted did reap");
        let output = pair.output();
        for line in *says {
            assert!(output.contains(line), "{name}: no {line:?} in\n{output}");
        }
        assert!(!output.contains("ready 0 "), "{name}: it served\n{output}");
        pair.family.assert_none_left(SOON);
    }
}

#[test]
fn a_successor_that_is_aborted_does_not_serve() {
    let _limit = limit(Duration::from_secs(60));
    let reason = "the predecessor gave up on this process: too slow";
    run(&[
        refused(
            "before READY",
            LATER,
            "hello:1,start,ABORT:too slow,go:ready",
            &["ready -125 ", "reaped 4 ", reason],
        ),
        refused(
            "after READY",
            "",
            "hello:1,start,hear:READY,ABORT:too slow",
            &["ready -125 ", "reaped 4 ", reason],
        ),
        refused(
            "in a loop of time-outs",
            "ready-loop:20",
            "hello:1,start,hear:READY,ABORT:too slow",
            &["ready -125 ", "reaped 4 ", reason],
        ),
    ]);
}

#[test]
fn a_successor_does_not_serve_under_a_predecessor_that_breaks_the_protocol() {
    let _limit = limit(Duration::from_secs(60));
    let out_of_turn = "the predecessor broke the protocol: COMMIT or RELEASED out of its turn";
    let closed = "the predecessor broke the protocol: the predecessor closed the channel and goes on running";
    run(&[
        refused(
            "COMMIT before READY",
            LATER,
            "hello:1,start,COMMIT,hear:WITHDRAWN,go:ready",
            &["ready -71 ", "reaped 4 ", out_of_turn],
        ),
        refused(
            "RELEASED before READY",
            LATER,
            "hello:1,start,RELEASED:0,hear:WITHDRAWN,go:ready",
            &["ready -71 ", "reaped 4 ", out_of_turn],
        ),
        refused(
            "RELEASED for COMMIT",
            "",
            "hello:1,start,hear:READY,RELEASED:0,hear:WITHDRAWN",
            &["ready -71 ", "reaped 4 ", out_of_turn],
        ),
        refused(
            "garbage before READY",
            LATER,
            "hello:1,start,garbage,hear:WITHDRAWN,go:ready",
            &["ready -71 ", "reaped 4 ", "the predecessor sent what is no message of this protocol"],
        ),
        refused(
            "garbage for COMMIT",
            "",
            "hello:1,start,hear:READY,garbage,hear:WITHDRAWN",
            &["ready -71 ", "reaped 4 ", "the predecessor sent what is no message of this protocol"],
        ),
        refused(
            "a second HELLO",
            "",
            "hello:1,hello:1,start",
            &["ready -71 ", "reaped 4 ", "a second HELLO"],
        ),
        refused(
            "closes the channel before READY and lives",
            LATER,
            "hello:1,start,close,go:ready",
            &["ready -71 ", "reaped 4 ", closed],
        ),
        refused(
            "closes the channel for COMMIT and lives",
            "",
            "hello:1,start,hear:READY,close",
            &["ready -71 ", "reaped 4 ", closed],
        ),
    ]);
}

#[test]
fn a_successor_withdraws_when_commit_does_not_come() {
    let _limit = limit(Duration::from_secs(60));
    let late = "the predecessor did not let this process serve by the upgrade deadline";
    let withdrawn = "heard WITHDRAWN reason=\"COMMIT did not come in time\"";
    let says: &[&str] = &["ready -62 ", "reaped 4 ", late, withdrawn];
    run(&[
        refused("at the deadline", "", "deadline:500,hello:1,start,hear:READY,hear:WITHDRAWN", says),
        refused(
            "in a loop of time-outs",
            "ready-loop:20",
            "deadline:500,hello:1,start,hear:READY,hear:WITHDRAWN",
            says,
        ),
    ]);
}

#[test]
fn a_stop_from_the_predecessor_is_obeyed_in_every_state() {
    let _limit = limit(Duration::from_secs(60));
    run(&[
        refused(
            "before READY",
            LATER,
            "hello:1,start,wait:listening,STOP,go:ready",
            &["ready -125 ", "reaped 4 "],
        ),
        refused("waiting", "", "hello:1,start,hear:READY,STOP", &["ready -125 ", "reaped 4 "]),
        refused("in a loop", "ready-loop:20", "hello:1,start,hear:READY,STOP", &["ready -125 ", "reaped 4 "]),
    ]);
    let pair = Successor::new(&[], "hello:1,start,hear:READY,COMMIT,hear:LIVE,STOP,hear-end,reap");
    pair.wait("scripted reaped 0 ");
    let output = pair.output();
    assert!(output.contains("ready 0 ") && output.contains("shutdown 2 "), "{output}");
    pair.family.assert_none_left(SOON);
}

#[test]
fn a_successor_takes_over_from_a_predecessor_that_dies() {
    let _limit = limit(Duration::from_secs(100));
    for (name, host, steps) in [
        ("before flip_ready", LATER, "hello:1,start,wait:die,kill"),
        ("by its exit before flip_ready", LATER, "hello:1,start,wait:die,exit:0"),
        ("closing the channel first", LATER, "hello:1,start,close,wait:die,exit:0"),
        ("for COMMIT", "", "hello:1,start,hear:READY,wait:die,kill"),
        ("in a loop of time-outs", "ready-loop:20", "hello:1,start,hear:READY,wait:die,kill"),
        ("right after COMMIT", "", "hello:1,start,hear:READY,wait:die,COMMIT,kill"),
        ("with LIVE unread", "", "hello:1,start,hear:READY,COMMIT,wait:die,kill"),
        ("after LIVE", "", "hello:1,start,hear:READY,COMMIT,hear:LIVE,wait:die,kill"),
    ] {
        println!("case: {name}");
        // With the time-out far away: its death is what counts.
        let grace = ("SHELLFLIP_TEST_GRACE_MS", "600000");
        let mut pair = Successor::new(&[grace, ("HOST_BEFORE_READY", host)], steps);
        let pid = pair.pid();
        pair.wait("listening ");
        if host == "ready-loop:20" {
            pair.wait("ready -110 ");
        }
        pair.go("die");
        pair.predecessor.wait(SOON);
        pair.go("ready");
        pair.wait("ready 0 ");
        let who = pair.who();
        assert_eq!((who.pid, who.generation), (pid, 1), "{name}\n{}", pair.output());
        upgrades_and_ends(name, &pair, pid);
    }
}

/// The host is left to itself: it can be upgraded.
fn upgrades_and_ends(name: &str, pair: &Successor, pid: i32) {
    assert_eq!(pair.ask(pid, "/env/HOST_BEFORE_READY").rc, 0);
    let called = pair.upgrade(pid);
    assert!(called.rc > 0, "{name}: {called:?}\n{}", pair.output());
    let next = called.rc as i32;
    pair.family.wait_gone(pid, SOON);
    let who = pair.who();
    assert_eq!((who.pid, who.generation), (next, 2), "{name}");
    pair.tell(next, "/request/2");
    pair.family.assert_none_left(SOON);
}

#[test]
fn what_comes_between_live_and_released_does_not_end_a_successor() {
    let _limit = limit(Duration::from_secs(60));
    for (name, steps) in [
        ("garbage", "hello:1,start,hear:READY,COMMIT,hear:LIVE,garbage,RELEASED:0,wait:die,exit:0"),
        ("ABORT", "hello:1,start,hear:READY,COMMIT,hear:LIVE,ABORT:no,RELEASED:0,wait:die,exit:0"),
        ("COMMIT again", "hello:1,start,hear:READY,COMMIT,hear:LIVE,COMMIT,RELEASED:0,wait:die,exit:0"),
        (
            "a later release",
            "hello:1,start,unknown,hear:READY,unknown,COMMIT,hear:LIVE,unknown,RELEASED:0,wait:die,exit:0",
        ),
        (
            "EXTEND",
            "deadline:300,hello:1,start,EXTEND:20000,hear:READY,sleep:600,COMMIT,hear:LIVE,RELEASED:0,wait:die,exit:0",
        ),
        ("the channel closed", "hello:1,start,hear:READY,COMMIT,hear:LIVE,close,wait:die,exit:0"),
    ] {
        println!("case: {name}");
        let mut pair = Successor::new(&[GRACE], steps);
        let pid = pair.pid();
        pair.wait("ready 0 ");
        pair.go("die");
        pair.predecessor.wait(SOON);
        assert_eq!(pair.who().pid, pid, "{name}\n{}", pair.output());
        upgrades_and_ends(name, &pair, pid);
    }
}

#[test]
fn a_request_that_released_carries_leads_to_exactly_one_upgrade() {
    let _limit = limit(Duration::from_secs(60));
    let mut pair =
        Successor::new(&[], "hello:1,start,hear:READY,COMMIT,hear:LIVE,RELEASED:1,wait:die,exit:0");
    let first = pair.pid();
    pair.family.wait_gone(first, SOON);
    let who = pair.who();
    assert_eq!(who.generation, 2, "{}", pair.output());
    pair.go("die");
    pair.predecessor.wait(SOON);
    // Were there a third on its way, this would be -EALREADY or give the fourth.
    let called = pair.upgrade(who.pid);
    assert!(called.rc > 0, "{called:?}\n{}", pair.output());
    pair.family.wait_gone(who.pid, SOON);
    let last = pair.who();
    assert_eq!((i64::from(last.pid), last.generation), (called.rc, 3));
    pair.tell(last.pid, "/request/2");
    pair.family.assert_none_left(SOON);
    assert_eq!(pair.output().matches("init 0 ").count(), 3, "{}", pair.output());
}

#[test]
fn a_successor_with_a_wrong_channel_says_so_and_ends() {
    let _limit = limit(Duration::from_secs(60));
    for (name, steps, says) in [
        ("a wrong nonce", "nonce,hello:1,start", "nonce"),
        ("no HELLO", "start", "HELLO"),
        ("garbage for HELLO", "garbage,start", "no message of this protocol"),
        ("COMMIT for HELLO", "COMMIT,start", "the first message is not HELLO"),
        ("a closed channel", "start,close", "HELLO"),
    ] {
        println!("case: {name}");
        let pair = Successor::new(&[], &format!("{steps},reap"));
        pair.wait("scripted did reap");
        let output = pair.output();
        let line = output.lines().find(|line| line.starts_with("flip_init: ")).unwrap_or_default();
        assert!(output.contains("scripted reaped 2 ") && line.contains(says), "{name}: {output}");
        pair.family.assert_none_left(SOON);
    }
}

#[test]
fn a_channel_that_is_meant_for_another_process_makes_no_successor() {
    let _limit = limit(Duration::from_secs(60));
    let mut pair = Successor::new(&[], "pid:1,hello:1,start,wait:die,exit:0");
    let pid = pair.pid();
    pair.wait("ready 0 ");
    assert_eq!((pair.who().pid, pair.who().generation), (pid, 0));
    pair.go("die");
    pair.predecessor.wait(SOON);
    assert_eq!(pair.who().pid, pid);
    signal(pid, Signal::SIGTERM);
    pair.family.assert_none_left(SOON);
}

#[test]
fn a_shell_between_predecessor_and_host_makes_no_successor() {
    let _limit = limit(Duration::from_secs(60));
    let folder = testkit::process::temp_dir();
    let wrapper = folder.path().join("wrapper");
    let host = c_program("tests/c/host.c", &[]);
    testkit::process::write_script(&wrapper, &format!("#!/bin/sh\n{}\nexit $?\n", host.display()));
    let pair = Successor::of(&wrapper, &[], "hello:1,start,reap");
    pair.wait("ready 0 ");
    let who = pair.who();
    assert_eq!(who.generation, 0);
    assert_ne!(who.pid, pair.pid());
    pair.tell(who.pid, "/request/2");
    pair.wait("scripted reaped 0 ");
    pair.family.assert_none_left(SOON);
}

#[test]
fn a_child_of_a_successor_does_not_take_itself_for_one() {
    let _limit = limit(Duration::from_secs(60));
    let steps = "hello:1,start,hear:READY,COMMIT,hear:LIVE,RELEASED:0,exit:0";
    let mut pair = Successor::new(&[("HOST_BEFORE_READY", "child")], steps);
    let pid = pair.pid();
    pair.predecessor.wait(SOON);
    testkit::wait_until("both serve", SOON, || pair.output().matches("ready 0 ").count() == 2);
    let output = pair.output();
    let child =
        output.lines().find_map(|line| line.strip_prefix("init 0 pid=")?.strip_suffix(" generation=0"));
    let child: i32 = child.and_then(|pid| pid.parse().ok()).expect(&output);
    assert_ne!(child, pid);
    assert!(output.contains(&format!("init 0 pid={pid} generation=1")), "{output}");
    for pid in [child, pid] {
        pair.tell(pid, "/request/2");
        pair.family.wait_gone(pid, SOON);
    }
    pair.family.assert_none_left(SOON);
}
