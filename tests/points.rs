//! Death and standstill of either side at each point of an upgrade: exactly the server is left that has to be, it can
//! be upgraded, and whoever connected while nobody could accept is answered.
#![cfg(feature = "faults")]

#[path = "points/cut.rs"]
mod cut;

use cut::{ALL_CONNECTIONS, Asked, CUTS, Cut, Held, go_on, kill, ready_line};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;
use testkit::host::{Host, SOON};
use testkit::process::{Family, Proc, Signal, signal};
use testkit::{wait_for, wait_until};

const MINUTES: Duration = Duration::from_secs(120);

/// Long before anybody looks.
const SHORT: [(&str, &str); 2] = [("SHELLFLIP_TEST_LIVE_MS", "300"), ("SHELLFLIP_TEST_TERM_MS", "200")];

fn errno(number: i32) -> i64 {
    -i64::from(number)
}

#[test]
fn a_predecessor_killed_at_any_point_is_succeeded() {
    let _limit = testkit::limit(MINUTES);
    for cut in CUTS {
        let mut held = Held::at(cut, Asked::BySignal, &[]);
        kill(held.predecessor);
        held.assert_still_queued();
        go_on(held.successor);
        let successor = held.successor;
        held.assert_answered_by(&[successor]);
        held.assert_serves(successor, 1);
        held.finish(ALL_CONNECTIONS);
    }
}

#[test]
fn a_predecessor_stopped_at_any_point_goes_on_where_it_was() {
    let _limit = testkit::limit(MINUTES);
    for cut in CUTS {
        let mut held = Held::at(cut, Asked::BySignal, &[]);
        let (predecessor, successor) = (held.predecessor, held.successor);
        successor_beside_a_stopped_predecessor(&mut held);
        go_on(predecessor);
        held.assert_answered_by(&[predecessor, successor]);
        held.assert_serves(successor, 1);
        held.assert_predecessor_drains();
        held.finish(0);
    }
}

#[test]
fn a_predecessor_stopped_at_any_point_and_killed_later_is_succeeded() {
    let _limit = testkit::limit(MINUTES);
    for cut in CUTS {
        let mut held = Held::at(cut, Asked::BySignal, &[]);
        let (predecessor, successor) = (held.predecessor, held.successor);
        successor_beside_a_stopped_predecessor(&mut held);
        kill(predecessor);
        held.assert_answered_by(&[successor]);
        held.assert_serves(successor, 1);
        held.finish(ALL_CONNECTIONS);
    }
}

/// Before COMMIT it waits, with all who connect; once it has COMMIT it serves.
fn successor_beside_a_stopped_predecessor(held: &mut Held) {
    let (predecessor, successor) = (held.predecessor, held.successor);
    go_on(successor);
    if held.cut < Cut::Commit {
        held.wait_sent_ready();
        held.assert_still_queued();
        let said = held.host.process.output();
        assert!(!said.contains(&ready_line(successor)), "{:?}: served without COMMIT:\n{said}", held.cut);
    } else {
        held.assert_answered_by(&[successor]);
        held.assert_serves(successor, 1);
        if held.cut < Cut::Released {
            let called = held.host.call("/upgrade");
            assert_eq!((called.rc, called.failure), (errno(libc::EAGAIN), 8), "{:?}: {called:?}", held.cut);
        }
    }
    assert_eq!(Proc(predecessor).state(), Some('T'), "{:?}", held.cut);
}

#[test]
fn a_successor_killed_before_it_was_released_leaves_the_predecessor_serving() {
    let _limit = testkit::limit(MINUTES);
    for cut in CUTS {
        let mut held = Held::at(cut, Asked::ByCall, &[]);
        let predecessor = held.predecessor;
        kill(held.successor);
        go_on(predecessor);
        if cut == Cut::Released {
            assert_eq!(held.told().rc, i64::from(held.successor));
            held.assert_predecessor_drains();
            held.assert_nobody_is_left();
            continue;
        }
        held.assert_answered_by(&[predecessor]);
        let told = held.told();
        assert_eq!((told.rc, told.failure), (errno(libc::ECONNABORTED), 3), "{cut:?}: {told:?}");
        let when = match cut {
            Cut::BeforeReady | Cut::Ready | Cut::BeforeCommit => "before it was ready",
            Cut::Commit | Cut::BeforeLive => "after it was told to serve and before it did",
            Cut::Live | Cut::BeforeReleased | Cut::Released => "right after it began to serve",
        };
        let line = format!("new process {} was ended by signal 9 {when}", held.successor);
        assert!(told.error.contains(&line), "{cut:?}: {told:?}");
        assert!(!told.error.contains("flip_init"), "{cut:?}: {told:?}");
        held.assert_early_connection_works();
        held.assert_serves(predecessor, 0);
        // In the last of these it served already.
        held.finish(if cut == Cut::BeforeReleased { ALL_CONNECTIONS } else { 0 });
    }
}

#[test]
fn a_successor_stopped_at_any_point_goes_on_where_it_was() {
    let _limit = testkit::limit(MINUTES);
    for cut in CUTS {
        let mut held = Held::at(cut, Asked::ByCall, &SHORT);
        let (predecessor, successor) = (held.predecessor, held.successor);
        predecessor_beside_a_stopped_successor(&mut held);
        go_on(successor);
        if cut == Cut::BeforeReady {
            assert_eq!(held.told().rc, i64::from(successor));
        }
        held.assert_serves(successor, 1);
        held.assert_answered_by(&[predecessor, successor]);
        held.assert_predecessor_drains();
        held.finish(0);
    }
}

#[test]
fn a_successor_stopped_for_ever_is_ended_before_commit_and_never_after() {
    let _limit = testkit::limit(MINUTES);
    for cut in CUTS {
        let mut environment = SHORT.to_vec();
        if cut == Cut::BeforeReady {
            environment.push(("UPGRADE_TIMEOUT_MS", "2000"));
        }
        let mut held = Held::at(cut, Asked::ByCall, &environment);
        let (predecessor, successor) = (held.predecessor, held.successor);
        predecessor_beside_a_stopped_successor(&mut held);
        if cut == Cut::BeforeReady {
            let told = held.told();
            assert_eq!((told.rc, told.failure), (errno(libc::ETIME), 4), "{told:?}");
            assert!(told.error.contains("was not ready by the upgrade deadline"), "{told:?}");
            assert!(!told.error.contains("flip_init"), "{told:?}");
            held.family.wait_gone(successor, SOON);
        } else {
            kill(successor);
        }
        if cut >= Cut::Live {
            held.assert_predecessor_drains();
            held.assert_nobody_is_left();
            continue;
        }
        if cut > Cut::BeforeReady {
            let line = "the unconfirmed new process: was ended by signal 9 after it was told to serve";
            held.host.process.wait_for_output(line, SOON);
        }
        held.assert_early_connection_works();
        held.assert_serves(predecessor, 0);
        held.finish(0);
    }
}

/// Until it has seen LIVE it serves, and from COMMIT on it does not touch the successor; then it releases it.
fn predecessor_beside_a_stopped_successor(held: &mut Held) {
    let (cut, predecessor, successor) = (held.cut, held.predecessor, held.successor);
    go_on(predecessor);
    if cut >= Cut::Live {
        assert_eq!(held.told().rc, i64::from(successor), "{cut:?}");
    } else {
        held.assert_answered_by(&[predecessor]);
        held.assert_serves(predecessor, 0);
    }
    if (Cut::Ready..Cut::Live).contains(&cut) {
        let told = held.told();
        assert_eq!((told.rc, told.failure), (errno(libc::ETIME), 12), "{cut:?}: {told:?}");
        assert!(told.error.contains("has not confirmed it"), "{cut:?}: {told:?}");
        let again = held.host.call("/upgrade");
        assert_eq!((again.rc, again.failure), (errno(libc::EALREADY), 9), "{cut:?}: {again:?}");
    }
    assert_eq!(Proc(successor).state(), Some('T'), "{cut:?}");
}

#[test]
fn a_successor_of_a_predecessor_that_stands_still_gives_up_in_the_end() {
    let _limit = testkit::limit(MINUTES);
    for cut in [Cut::BeforeReady, Cut::Ready, Cut::BeforeCommit] {
        let times = [("UPGRADE_TIMEOUT_MS", "1500"), ("SHELLFLIP_TEST_GRACE_MS", "500")];
        let mut held = Held::at(cut, Asked::ByCall, &times);
        let (predecessor, successor) = (held.predecessor, held.successor);
        go_on(successor);
        held.host.process.wait_for_output(&format!("ready -62 pid={successor} "), SOON);
        held.assert_still_queued();
        go_on(predecessor);
        held.assert_answered_by(&[predecessor]);
        let told = held.told();
        assert!([5, 2].contains(&told.failure), "{cut:?}: {told:?}");
        held.assert_early_connection_works();
        held.assert_serves(predecessor, 0);
        held.finish(0);
    }
}

/// The same deaths in a race with the other side, which is not held.
#[test]
fn a_side_that_dies_while_the_other_runs_leaves_the_other_serving() {
    let _limit = testkit::limit(MINUTES);
    for point in
        ["received:READY", "send:COMMIT", "sent:COMMIT", "received:LIVE", "send:RELEASED", "sent:RELEASED"]
    {
        let family = Family::new();
        let mut host = Host::start(&family, &[("SHELLFLIP_FAULT", &format!("{point}=kill"))]);
        signal(host.process.pid(), Signal::SIGUSR1);
        assert_eq!(host.process.wait(SOON).signal(), Some(9), "{point}");
        assert_eq!(host.who().generation, 1, "{point}");
        upgrade_and_stop(&host, &family, 2);
    }
    for point in ["send:READY", "sent:READY", "received:COMMIT", "send:LIVE"] {
        let family = Family::new();
        let host = Host::start(&family, &[("SHELLFLIP_FAULT_NEXT", &format!("{point}=kill"))]);
        let called = host.call("/upgrade");
        assert_eq!((called.rc, called.failure), (errno(libc::ECONNABORTED), 3), "{point}: {called:?}");
        assert_eq!(host.who().generation, 0, "{point}");
        host.call("/env/SHELLFLIP_FAULT_NEXT");
        upgrade_and_stop(&host, &family, 1);
    }
}

fn upgrade_and_stop(host: &Host, family: &Family, generation: i64) {
    let before = host.who();
    wait_for("an upgrade that is not too early", SOON, || {
        let called = host.call("/upgrade");
        assert!(called.rc > 0 || called.rc == errno(libc::EAGAIN), "{called:?}");
        (called.rc > 0).then_some(())
    });
    assert_eq!(host.wait_for_other(before.pid).generation, generation);
    wait_until("the old one is gone", SOON, || !Proc(before.pid).alive());
    assert_eq!(host.call("/request/2").rc, 0);
    family.assert_none_left(SOON);
}
