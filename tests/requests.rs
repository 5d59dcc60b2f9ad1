//! A stop, an upgrade by call, an upgrade by signal, a detach and flip_free, in each state: DESIGN.md, "Requests by state".

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};
use testkit::host::{Called, Host, SOON, Who, c_program};
use testkit::limit;
use testkit::load::Address;
use testkit::process::{Family, Output, Signal, signal};
use testkit::scripted::{Stage, Successor};

const NOT_READY: (i32, i64) = (libc::EAGAIN, 8);
const IN_PROGRESS: (i32, i64) = (libc::EALREADY, 9);
const DRAINING: (i32, i64) = (libc::EBUSY, 10);
const STOPPING: (i32, i64) = (libc::ESHUTDOWN, 11);

const UPGRADE: &str = "/request/1";
const STOP: &str = "/request/2";
const DETACH: &str = "/request/3";

/// The host waits before flip_ready for the file `ready`.
const LATER: (&str, &str) = ("HOST_BEFORE_READY", "wait:DIR/ready");
/// Says what it refuses, and what it was asked and told.
const LOG: (&str, &str) = ("SHELLFLIP_LOG", "debug");

#[track_caller]
fn assert_refused(called: &Called, (errno, failure): (i32, i64)) {
    assert_eq!((called.rc, called.failure), (-i64::from(errno), failure), "{called:?}");
}

/// A signal, several times, each of which has arrived.
fn ask_by_signal(pid: i32, output: impl Fn() -> String) {
    let line = format!("shellflip[{pid}]: Ask(Upgrade, Unanswered) in ");
    for _ in 0..3 {
        let before = output().matches(&line).count();
        signal(pid, Signal::SIGUSR1);
        testkit::wait_until("the signal has arrived", SOON, || output().matches(&line).count() > before);
    }
}

/// Waits until this generation serves and the one before it, `pid`, is gone.
#[track_caller]
fn followed(stage: &Stage, pid: i32, generation: i64) -> Who {
    stage.family.wait_gone(pid, SOON);
    let who = stage.host.who();
    assert_eq!(who.generation, generation, "{}", stage.output());
    who
}

/// Nothing more was started than these, the next upgrade is the next generation, and then it ends.
#[track_caller]
fn assert_last(stage: &Stage, who: &Who) {
    let next = stage.assert_upgrades(who.pid);
    stage.family.wait_gone(who.pid, SOON);
    assert_eq!(next.generation, who.generation + 1);
    stage.end(next.pid);
    let started = stage.output().matches("init 0 ").count();
    assert_eq!(started as i64, next.generation + 1, "{}", stage.output());
}

/// Waits until this generation knows that its successor runs; before, it would end it by SIGKILL alone.
fn wait_until_spawned(stage: &Stage, pid: i32) {
    testkit::wait_until("the successor runs", SOON, || stage.ask(pid, "/successor").rc > 0);
}

/// A connection that this generation has accepted and that stays open.
fn hold(host: &Host, pid: i32) -> TcpStream {
    let Address::Tcp(address) = host.address else { panic!("{}", host.address) };
    let mut connection = TcpStream::connect(address).expect("a connection");
    connection.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    let mut answer = [0; 1024];
    let length = connection.read(&mut answer).expect("an answer");
    let mut text = String::from_utf8_lossy(&answer[..length]).into_owned();
    while !text.contains("generation") {
        let length = connection.read(&mut answer).expect("an answer");
        text.push_str(&String::from_utf8_lossy(&answer[..length]));
    }
    assert!(text.contains(&format!("\"pid\":{pid}")), "{text}");
    connection
}

// STARTING, generation 0

#[test]
fn starting_a_stop_makes_flip_ready_fail() {
    let _limit = limit(Duration::from_secs(60));
    for how in ["by call", "SIGTERM", "SIGINT"] {
        let mut stage = Stage::starting(&[LATER, LOG]);
        let pid = stage.host.process.pid();
        match how {
            "by call" => stage.tell(pid, STOP),
            "SIGTERM" => signal(pid, Signal::SIGTERM),
            _ => signal(pid, Signal::SIGINT),
        }
        stage.wait("shutdown: Stop");
        stage.go("ready");
        let status = stage.host.process.wait(SOON);
        assert!(stage.output().contains("\nready -125 "), "{how}: {}", stage.output());
        assert_eq!(status.code(), Some(4), "{how}");
        stage.family.assert_none_left(SOON);
    }
}

#[test]
fn starting_an_upgrade_by_call_and_a_detach_are_refused() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::starting(&[LATER, LOG]);
    let pid = stage.host.process.pid();
    assert_refused(&stage.ask(pid, "/upgrade"), NOT_READY);
    assert_eq!(stage.ask(pid, DETACH).rc, 0);
    stage.wait("not ready yet: flip_ready has not returned");
    stage.go("ready");
    stage.wait("ready 0 ");
    let who = stage.host.who();
    assert!(!stage.output().contains("\nshutdown "), "{}", stage.output());
    assert_last(&stage, &who);
}

#[test]
fn starting_an_upgrade_by_signal_is_remembered_once() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::starting(&[LATER, LOG]);
    let pid = stage.host.process.pid();
    ask_by_signal(pid, || stage.output());
    stage.go("ready");
    let who = followed(&stage, pid, 1);
    assert_last(&stage, &who);
}

#[test]
fn starting_free_gives_up() {
    let _limit = limit(Duration::from_secs(60));
    let mut stage = Stage::starting(&[LATER]);
    stage.tell(stage.host.process.pid(), "/free");
    stage.go("ready");
    assert_eq!(stage.host.process.wait(SOON).code(), Some(4));
    assert!(stage.output().contains("\nready -9 "), "{}", stage.output());
}

// STARTING, a successor that waits for COMMIT

#[test]
fn waiting_a_stop_or_free_withdraws() {
    let _limit = limit(Duration::from_secs(60));
    for (request, reason) in [
        (STOP, "the new process was asked to stop before it was ready"),
        ("/free", "the new program gave up before it was ready (flip_free); its own messages say why"),
    ] {
        let pair = Successor::new(&[], "hello:1,start,hear:READY,hear:WITHDRAWN,reap");
        let pid = pair.pid();
        pair.wait("scripted heard READY");
        pair.tell(pid, request);
        pair.wait("scripted reaped 4 ");
        let output = pair.output();
        assert!(output.contains(&format!("heard WITHDRAWN reason={reason:?}")), "{output}");
        assert!(output.contains("\nready -125 "), "{output}");
        pair.family.assert_none_left(SOON);
    }
}

#[test]
fn waiting_and_live_upgrades_by_call_and_a_detach_are_refused() {
    let _limit = limit(Duration::from_secs(60));
    let steps = "hello:1,start,hear:READY,wait:on,COMMIT,hear:LIVE,wait:release,RELEASED:0,wait:die,exit:0";
    let mut pair = Successor::new(&[("SHELLFLIP_LOG", "info")], steps);
    let pid = pair.pid();
    let line = "not ready yet: flip_ready has not returned, or the predecessor has not released";
    pair.wait("scripted heard READY");
    assert_refused(&pair.ask(pid, "/upgrade"), NOT_READY);
    assert_eq!(pair.ask(pid, DETACH).rc, 0);
    testkit::wait_until("both are logged", SOON, || pair.output().matches(line).count() == 2);
    pair.go("on");
    pair.wait("ready 0 ");
    assert_refused(&pair.ask(pid, "/upgrade"), NOT_READY);
    assert_eq!(pair.ask(pid, DETACH).rc, 0);
    testkit::wait_until("all are logged", SOON, || pair.output().matches(line).count() == 4);
    assert_eq!(pair.who().pid, pid);
    pair.go("release");
    pair.go("die");
    pair.predecessor.wait(SOON);
    let called = pair.upgrade(pid);
    assert!(called.rc > 0, "{called:?}");
    pair.family.wait_gone(pid, SOON);
    pair.tell(called.rc as i32, STOP);
    pair.family.assert_none_left(SOON);
    assert_eq!(pair.output().matches("init 0 ").count(), 2, "{}", pair.output());
}

#[test]
fn waiting_and_live_upgrades_by_signal_are_remembered_until_released() {
    let _limit = limit(Duration::from_secs(60));
    for state in ["scripted heard READY", "ready 0 "] {
        let steps =
            "hello:1,start,hear:READY,wait:on,COMMIT,hear:LIVE,wait:release,RELEASED:0,wait:die,exit:0";
        let mut pair = Successor::new(&[LOG], steps);
        let first = pair.pid();
        if state == "ready 0 " {
            pair.go("on");
        }
        pair.wait(state);
        ask_by_signal(first, || pair.output());
        pair.go("on");
        pair.wait("ready 0 ");
        assert_eq!(pair.who().pid, first);
        pair.go("release");
        pair.family.wait_gone(first, SOON);
        let second = pair.who();
        assert_eq!(second.generation, 2, "{state}: {}", pair.output());
        pair.go("die");
        pair.predecessor.wait(SOON);
        let called = pair.upgrade(second.pid);
        assert!(called.rc > 0, "{state}: {called:?}");
        pair.family.wait_gone(second.pid, SOON);
        pair.tell(called.rc as i32, STOP);
        pair.family.assert_none_left(SOON);
        assert_eq!(pair.output().matches("init 0 ").count(), 3, "{state}: {}", pair.output());
    }
}

// LIVE

#[test]
fn live_a_stop_or_free_ends_it_and_tells_the_predecessor() {
    let _limit = limit(Duration::from_secs(60));
    for request in [STOP, "/free"] {
        let pair = Successor::new(&[], "hello:1,start,hear:READY,COMMIT,hear:LIVE,hear:STOPPING,reap");
        let pid = pair.pid();
        pair.wait("ready 0 ");
        pair.tell(pid, request);
        pair.wait("scripted heard STOPPING");
        pair.wait("scripted reaped 0 ");
        assert!(request == "/free" || pair.output().contains("shutdown 2 "), "{}", pair.output());
        pair.family.assert_none_left(SOON);
    }
}

// READY

#[test]
fn ready_a_stop_ends_it() {
    let _limit = limit(Duration::from_secs(60));
    for how in [Some(Signal::SIGTERM), Some(Signal::SIGINT), None] {
        let mut stage = Stage::new(&[]);
        let pid = stage.host.process.pid();
        match how {
            Some(number) => signal(pid, number),
            None => stage.tell(pid, STOP),
        }
        assert_eq!(stage.host.process.wait(SOON).code(), Some(0), "{how:?}");
        assert!(stage.output().contains("shutdown 2 ") && stage.output().contains("drain 0 "));
    }
}

#[test]
fn ready_an_upgrade_by_signal_or_request_starts_one() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let first = stage.host.who();
    signal(first.pid, Signal::SIGUSR1);
    let second = followed(&stage, first.pid, 1);
    assert_eq!(stage.ask(second.pid, UPGRADE).rc, 0);
    let third = followed(&stage, second.pid, 2);
    assert_last(&stage, &third);
}

#[test]
fn ready_with_too_many_that_drain_refuses_a_call_and_remembers_a_signal() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[LOG]);
    let first = stage.host.who();
    let first_connection = hold(&stage.host, first.pid);
    let second = stage.assert_upgrades(first.pid);
    let second_connection = hold(&stage.host, second.pid);
    let third = stage.assert_upgrades(second.pid);
    testkit::wait_until("it counts two that drain", SOON, || {
        let called = stage.ask(third.pid, "/upgrade");
        (called.rc, called.failure) == (-i64::from(DRAINING.0), DRAINING.1)
    });
    ask_by_signal(third.pid, || stage.output());
    assert_refused(&stage.ask(third.pid, "/upgrade"), DRAINING);
    assert_eq!(stage.host.who(), third);
    drop(first_connection);
    stage.family.wait_gone(first.pid, SOON);
    let fourth = followed(&stage, third.pid, 3);
    drop(second_connection);
    stage.family.wait_gone(second.pid, SOON);
    assert_last(&stage, &fourth);
}

#[test]
fn ready_a_detach_leaves_everything_but_upgrades() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[LOG]);
    let pid = stage.host.process.pid();
    assert_eq!(stage.ask(pid, DETACH).rc, 0);
    stage.wait("\nshutdown 3 ");
    let who = stage.host.who();
    assert_refused(&stage.ask(pid, "/upgrade"), STOPPING);
    let refused = stage.output().matches("this process is stopping or detached").count();
    signal(pid, Signal::SIGUSR1);
    testkit::wait_until("a log line about the signal", SOON, || {
        stage.output().matches("this process is stopping or detached").count() > refused
    });
    assert_eq!(stage.ask(pid, DETACH).rc, 0);
    assert_eq!(stage.host.who(), who);
    stage.end(pid);
    let output = stage.output();
    assert!(output.contains("\nshutdown 2 ") && output.matches("\ninit ").count() == 0, "{output}");
    assert_eq!(output.matches("\nshutdown 3 ").count(), 1, "{output}");
}

#[test]
fn detached_free_frees() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let pid = stage.host.process.pid();
    assert_eq!(stage.ask(pid, DETACH).rc, 0);
    stage.wait("\nshutdown 3 ");
    stage.tell(pid, "/free");
    stage.family.assert_none_left(SOON);
}

// UPGRADING, before COMMIT

#[test]
fn before_commit_a_stop_or_detach_ends_the_successor_first() {
    let _limit = limit(Duration::from_secs(60));
    for (requests, kind) in
        [(&[STOP][..], 2), (&[DETACH][..], 3), (&[DETACH, STOP][..], 2), (&[STOP, DETACH], 2)]
    {
        // It takes its time to go, and is not killed meanwhile.
        let stage = Stage::new(&[("SHELLFLIP_TEST_TERM_MS", "600000")]);
        let first = stage.host.who();
        stage.script(first.pid, "ignore-term,hear:ABORT,wait:gone,exit:0");
        let upgrade = stage.ask_meanwhile(first.pid, "/upgrade");
        stage.wait("scripted did ignore-term");
        wait_until_spawned(&stage, first.pid);
        for request in requests {
            assert_eq!(stage.ask(first.pid, request).rc, 0);
        }
        stage.wait("scripted heard ABORT reason=\"this process is stopping or detached\"");
        assert_refused(&stage.ask(first.pid, "/upgrade"), IN_PROGRESS);
        assert_eq!(stage.host.who(), first);
        assert!(!stage.output().contains("\nshutdown "), "{requests:?}: {}", stage.output());
        stage.go("gone");
        assert_refused(&upgrade.join().expect("an answer"), STOPPING);
        stage.wait(&format!("\nshutdown {kind} "));
        if kind == 3 {
            assert_eq!(stage.host.who(), first);
            stage.assert_childless(first.pid);
            stage.end(first.pid);
        }
        stage.family.assert_none_left(SOON);
    }
}

#[test]
fn before_commit_a_stop_does_not_wait_for_a_successor_that_hangs() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let first = stage.host.who();
    stage.script(first.pid, "ignore-term,hear:ABORT,hang");
    let upgrade = stage.ask_meanwhile(first.pid, "/upgrade");
    stage.wait("scripted did ignore-term");
    wait_until_spawned(&stage, first.pid);
    let began = Instant::now();
    signal(first.pid, Signal::SIGTERM);
    assert_refused(&upgrade.join().expect("an answer"), STOPPING);
    // SIGKILL 2 s after SIGTERM.
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    stage.wait("\nshutdown 2 ");
    stage.family.assert_none_left(SOON);
}

#[test]
fn before_commit_a_second_call_is_refused_and_a_signal_leads_to_one_follow_up() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[LOG]);
    let first = stage.host.who();
    let load = stage.load();
    stage.script(first.pid, "wait:fail,exit:1");
    let upgrade = stage.ask_meanwhile(first.pid, "/upgrade");
    wait_until_spawned(&stage, first.pid);
    assert_refused(&stage.ask(first.pid, "/upgrade"), IN_PROGRESS);
    ask_by_signal(first.pid, || stage.output());
    stage.unscript(first.pid);
    stage.go("fail");
    let called = upgrade.join().expect("an answer");
    assert_eq!(called.rc, -i64::from(libc::ECONNABORTED), "{called:?}");
    let second = followed(&stage, first.pid, 1);
    stage.assert_unbroken(load, second.pid);
    assert_last(&stage, &second);
}

#[test]
fn before_commit_a_follow_up_that_fails_is_not_tried_again() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[LOG]);
    let first = stage.host.who();
    stage.script(first.pid, "wait:fail,exit:1");
    let upgrade = stage.ask_meanwhile(first.pid, "/upgrade");
    wait_until_spawned(&stage, first.pid);
    ask_by_signal(first.pid, || stage.output());
    stage.go("fail");
    upgrade.join().expect("an answer");
    let failed = "upgrade failed: new process ";
    testkit::wait_until("both have failed", SOON, || stage.output().matches(failed).count() == 2);
    assert_last(&stage, &first);
    assert_eq!(stage.output().matches(failed).count(), 2, "{}", stage.output());
}

#[test]
fn a_signal_during_an_upgrade_leads_to_exactly_one_follow_up() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[LOG]);
    let first = stage.host.who();
    let load = stage.load();
    stage.ask(first.pid, &format!("/env/HOST_BEFORE_READY/wait:{}", stage.file("ready").replace('/', "%2F")));
    let upgrade = stage.ask_meanwhile(first.pid, "/upgrade");
    stage.wait("generation=1\n");
    ask_by_signal(first.pid, || stage.output());
    stage.go("ready");
    let called = upgrade.join().expect("an answer");
    assert!(called.rc > 0, "{called:?}");
    stage.family.wait_gone(first.pid, SOON);
    let third = followed(&stage, called.rc as i32, 2);
    stage.assert_unbroken(load, third.pid);
    assert_last(&stage, &third);
}

#[test]
fn before_commit_free_ends_the_successor_and_returns() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let first = stage.host.who();
    stage.script(first.pid, "hear:ABORT,exit:0");
    let upgrade = stage.ask_meanwhile(first.pid, "/upgrade");
    wait_until_spawned(&stage, first.pid);
    stage.tell(first.pid, "/free");
    drop(upgrade.join());
    stage.family.assert_none_left(SOON);
    assert!(!stage.output().contains("shutdown 1 "), "{}", stage.output());
}

// UPGRADING, from COMMIT to RELEASED

const HELD: &str = "READY,hear:COMMIT,wait:live,serve,LIVE,hear:RELEASED,wait:end";

#[test]
fn after_commit_a_stop_is_passed_on() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let first = stage.host.who();
    stage.script(first.pid, "READY,hear:COMMIT,hear:STOP,exit:0");
    let upgrade = stage.ask_meanwhile(first.pid, "/upgrade");
    stage.wait("scripted heard COMMIT");
    stage.tell(first.pid, STOP);
    assert_refused(&upgrade.join().expect("an answer"), STOPPING);
    stage.wait("scripted heard STOP");
    stage.wait("\nshutdown 2 ");
    stage.family.assert_none_left(SOON);
}

#[test]
fn after_commit_a_stop_ends_a_real_successor_too() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[("SHELLFLIP_FAULT_LOG", "DIR/faults")]);
    let first = stage.host.who();
    stage.ask(first.pid, "/env/SHELLFLIP_FAULT_NEXT/received:COMMIT=sleep:500");
    let upgrade = stage.ask_meanwhile(first.pid, "/upgrade");
    let faults = || std::fs::read_to_string(stage.file("faults")).unwrap_or_default();
    testkit::wait_until("it has COMMIT", SOON, || faults().contains("received:COMMIT"));
    signal(first.pid, Signal::SIGTERM);
    assert_refused(&upgrade.join().expect("an answer"), STOPPING);
    stage.family.assert_none_left(SOON);
    let output = stage.output();
    assert!(output.contains("\nshutdown 2 ") && output.contains("\nready -125 "), "{output}");
}

#[test]
fn after_commit_a_call_and_a_detach_are_refused_and_a_signal_is_carried_on() {
    let _limit = limit(Duration::from_secs(60));
    for asks in [false, true] {
        let stage = Stage::new(&[LOG]);
        let first = stage.host.who();
        let load = stage.load();
        stage.script(first.pid, HELD);
        let upgrade = stage.ask_meanwhile(first.pid, "/upgrade");
        stage.wait("scripted heard COMMIT");
        assert_refused(&stage.ask(first.pid, "/upgrade"), IN_PROGRESS);
        let line = "another upgrade is under way";
        let before = stage.output().matches(line).count();
        assert_eq!(stage.ask(first.pid, DETACH).rc, 0);
        testkit::wait_until("the detach is refused", SOON, || stage.output().matches(line).count() > before);
        if asks {
            ask_by_signal(first.pid, || stage.output());
        }
        stage.go("live");
        let called = upgrade.join().expect("an answer");
        assert!(called.rc > 0, "{called:?}");
        let carried =
            format!("scripted heard RELEASED reason=\"\" upgrade_requested=Some({})", u8::from(asks));
        stage.wait(&carried);
        stage.family.wait_gone(first.pid, SOON);
        assert!(stage.output().contains("\nshutdown 1 "), "{}", stage.output());
        stage.assert_unbroken(load, called.rc as i32);
        stage.go("end");
        stage.family.assert_none_left(SOON);
    }
}

#[test]
fn after_commit_free_waits_for_live_and_hands_over() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[LOG]);
    let first = stage.host.who();
    stage.script(first.pid, HELD);
    let upgrade = stage.ask_meanwhile(first.pid, "/upgrade");
    stage.wait("scripted heard COMMIT");
    std::thread::scope(|scope| {
        scope.spawn(|| stage.tell(first.pid, "/free"));
        stage.wait(": Free in Upgrading(Committed");
        stage.go("live");
    });
    stage.wait("scripted heard RELEASED");
    stage.family.wait_gone(first.pid, SOON);
    drop(upgrade.join());
    assert_eq!(stage.host.who().version, "scripted");
    stage.go("end");
    stage.family.assert_none_left(SOON);
}

#[test]
fn after_commit_free_releases_at_the_live_deadline() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[("SHELLFLIP_TEST_LIVE_MS", "1000")]);
    let first = stage.host.who();
    stage.script(first.pid, "READY,hear:COMMIT,hear:RELEASED,serve,wait:end");
    let upgrade = stage.ask_meanwhile(first.pid, "/upgrade");
    stage.wait("scripted heard COMMIT");
    stage.tell(first.pid, "/free");
    stage.wait("scripted did serve");
    stage.family.wait_gone(first.pid, SOON);
    drop(upgrade.join());
    assert_eq!(stage.host.who().version, "scripted");
    stage.go("end");
    stage.family.assert_none_left(SOON);
}

// DRAINING

#[test]
fn draining_after_an_upgrade_everything_but_a_stop_is_refused() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[LOG]);
    let first = stage.host.who();
    let connection = hold(&stage.host, first.pid);
    let second = stage.assert_upgrades(first.pid);
    stage.wait("\nshutdown 1 ");
    assert_refused(&stage.ask(first.pid, "/upgrade"), STOPPING);
    let line = "this process is stopping or detached";
    for what in [UPGRADE, DETACH] {
        let before = stage.output().matches(line).count();
        assert_eq!(stage.ask(first.pid, what).rc, 0);
        testkit::wait_until("a log line", SOON, || stage.output().matches(line).count() > before);
    }
    cut(&stage, first.pid, |pid| signal(pid, Signal::SIGTERM));
    drop(connection);
    assert_eq!(stage.host.who(), second);
    assert_last(&stage, &second);
}

#[test]
fn draining_after_a_stop_a_second_one_cuts_it_short() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let first = stage.host.who();
    let connection = hold(&stage.host, first.pid);
    stage.tell(first.pid, STOP);
    stage.wait("\nshutdown 2 ");
    assert_refused(&stage.ask(first.pid, "/upgrade"), STOPPING);
    cut(&stage, first.pid, |pid| stage.tell(pid, STOP));
    drop(connection);
    stage.family.assert_none_left(SOON);
}

/// The drain, which has 30 s, ends 1.5 s from now.
fn cut(stage: &Stage, pid: i32, stop: impl Fn(i32)) {
    assert!(!stage.output().contains("\ndrain "), "{}", stage.output());
    let began = Instant::now();
    stop(pid);
    stage.wait("\ndrain -125 ");
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    stage.family.wait_gone(pid, SOON);
}

#[test]
fn draining_free_frees() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let first = stage.host.who();
    let connection = hold(&stage.host, first.pid);
    let second = stage.assert_upgrades(first.pid);
    stage.wait("\nshutdown 1 ");
    stage.tell(first.pid, "/free");
    stage.family.wait_gone(first.pid, SOON);
    drop(connection);
    stage.end(second.pid);
}

/// The first process has heard LIVE and goes on in a second: what comes until then is not the drain's.
fn about_to_release(generations: impl Fn(&Stage, i32)) {
    let log = ("SHELLFLIP_FAULT_LOG", "DIR/faults");
    let stage = Stage::new(&[("SHELLFLIP_FAULT", "received:LIVE#1=sleep:1000"), log]);
    let first = stage.host.who().pid;
    stage.tell(first, UPGRADE);
    testkit::wait_until("LIVE", SOON, || {
        std::fs::read_to_string(stage.file("faults")).is_ok_and(|text| text.contains("received:LIVE"))
    });
    generations(&stage, first);
}

#[test]
fn a_stop_that_comes_with_live_stops_both() {
    let _limit = limit(Duration::from_secs(60));
    about_to_release(|stage, first| {
        signal(first, Signal::SIGTERM);
        stage.family.assert_none_left(SOON);
    });
}

#[test]
fn an_upgrade_that_is_asked_for_as_live_comes_follows() {
    let _limit = limit(Duration::from_secs(60));
    about_to_release(|stage, first| {
        signal(first, Signal::SIGUSR1);
        stage.family.wait_gone(first, SOON);
        let last = testkit::wait_for("the one that follows", SOON, || {
            Some(stage.host.who()).filter(|who| who.generation == 2)
        });
        stage.end(last.pid);
    });
}

/// What `tests/c/handlers.c` printed, and the signal that ended it.
fn handlers(which: &str) -> (String, Option<i32>) {
    let family = Family::new();
    let program = family.program(c_program("tests/c/handlers.c", &[])).arg(which).output(Output::File);
    let mut process = program.start();
    let status = process.wait(SOON);
    family.assert_none_left(SOON);
    (process.output(), status.signal())
}

#[test]
fn a_handler_that_was_there_before_runs_with_the_mask_that_it_asked_for() {
    let _limit = limit(Duration::from_secs(60));
    assert_eq!(handlers("below"), ("blocked 1\nalive\n".into(), None));
}

#[test]
fn a_handler_that_is_put_back_after_the_end_leaves_the_signal_to_its_default() {
    let _limit = limit(Duration::from_secs(60));
    for which in ["late", "again"] {
        assert_eq!(handlers(which), (String::new(), Some(libc::SIGTERM)), "{which}");
    }
    assert_eq!(handlers("chained"), ("alive\n".into(), None));
}

#[test]
fn a_handler_below_the_library_and_one_on_top_are_called_once_each_however_often_it_comes_and_goes() {
    let _limit = limit(Duration::from_secs(60));
    assert_eq!(handlers("between"), ("1 1 1\n- 2 2\n1 3 3\n- 4 4\n1 5 5\n- 6 6\n".into(), None));
}

#[test]
fn a_child_that_no_fork_handler_has_seen_is_ended_by_a_signal_as_without_the_library() {
    let _limit = limit(Duration::from_secs(60));
    assert_eq!(handlers("cloned"), (format!("{}\n", libc::SIGTERM), None));
}
