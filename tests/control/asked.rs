//! Upgrades and detaches: who is told what.

use crate::served::{LIMIT, Served, assert_failed};
use shellflip::control::Request;
use shellflip::error::Failure;
use std::io::Write;
use std::time::{Duration, Instant};
use testkit::deadline::{scaled, wait_until};
use testkit::host::SOON;
use testkit::process::{Signal, signal};

#[test]
fn an_upgrade_is_answered_with_the_pid_of_the_successor_once_it_is_released() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    let second = served.upgrade();
    assert_eq!(served.status()["pid"], second);
    served.wait_gone(first);
    // By hand.
    let third = served.raw("upgrade\n");
    assert_eq!(third, format!("ok {}\n", served.status()["pid"]));
    served.family.wait_gone(second, SOON);
    served.stop();
}

#[test]
fn every_failure_crosses_the_socket_with_its_kind_its_errno_and_its_sentence() {
    let _limit = testkit::limit(LIMIT);
    let hasty = Served::start(&[("UPGRADE_TIMEOUT_MS", "500")]);
    let served = Served::start(&[]);
    let first = served.first();
    for (served, steps, failure, errno, says) in [
        (&served, "exit:3", Failure::Exited, libc::ECONNABORTED, "exited with status 3 before it was ready"),
        (
            &served,
            "kill",
            Failure::Signalled,
            libc::ECONNABORTED,
            "was ended by signal 9 before it was ready",
        ),
        (&hasty, "hang", Failure::Deadline, libc::ETIME, "was not ready by the upgrade deadline"),
        (&served, "free", Failure::Refused, libc::ECONNREFUSED, "gave up"),
    ] {
        assert_eq!(served.host.call(&format!("/env/HOST_BEFORE_READY/{steps}")).rc, 0);
        let text = assert_failed(&served.ask(Request::Upgrade), failure, errno);
        assert!(text.starts_with("new process ") && text.contains(says), "{text}");
        let last = &served.status()["last_upgrade"];
        assert_eq!(last["result"], "failed");
        assert_eq!(last["kind"], failure as i32);
        assert_eq!(last["failure"], failure.name());
        assert_eq!(last["text"], text);
    }
    served.host.call("/env/HOST_BEFORE_READY");
    served.host.call("/command/%2Fnot%2Fthere");
    let text = assert_failed(&served.ask(Request::Upgrade), Failure::Spawn, libc::ENOENT);
    assert!(text.contains("/not/there"), "{text}");
    assert_eq!(served.status()["pid"], first);
    served.stop();
    hasty.stop();
}

#[test]
fn the_hosts_reason_for_a_refusal_reaches_the_operator_and_the_host_is_told_who_asks() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::part(&[("EVENTS", "5"), ("STARTING", "refuse:not before noon")]);
    let text = assert_failed(&served.ask(Request::Upgrade), Failure::Refused, libc::ECONNREFUSED);
    assert_eq!(text, "this host refused: not before noon");
    let raw = served.raw("upgrade");
    assert_eq!(raw, format!("failed 5 {} this host refused: not before noon\n", libc::ECONNREFUSED));
    let asked = format!("asked for by process {} of user ", std::process::id());
    served.host.process.wait_for_output(&asked, SOON);
    served.stop();
}

#[test]
fn of_two_operators_one_gets_the_upgrade_and_the_other_is_told() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[]);
    served.next_waits();
    let one = served.ask_meanwhile(Request::Upgrade);
    served.wait_for_status("/upgrade/phase", "initialising");
    for _ in 0..3 {
        let text = assert_failed(&served.ask(Request::Upgrade), Failure::InProgress, libc::EALREADY);
        assert_eq!(text, "another upgrade is under way");
    }
    served.go();
    let second = one.join().unwrap().expect("the first operator's upgrade").expect("a pid");
    assert_eq!(served.status()["pid"], second);
    served.stop();
}

#[test]
fn whoever_gives_up_waiting_loses_nothing_but_the_answer() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::part(&[("EVENTS", "1"), ("STARTING", "hold")]);
    let first = served.first();
    let timeout =
        shellflip::control::request(&served.address(), Request::Upgrade, Some(Duration::from_millis(100)));
    assert_eq!(timeout.unwrap_err().errno() as i32, libc::ETIMEDOUT);
    let status = served.status();
    assert_eq!((&status["state"], &status["pid"]), (&"upgrading".into(), &first.into()));
    // Its client is gone, and is not missed.
    let mut rude = served.connect();
    rude.write_all(b"upgrade\n").unwrap();
    drop(rude);
    assert_failed(&served.ask(Request::Upgrade), Failure::InProgress, libc::EALREADY);
    served.stop();
}

#[test]
fn a_detach_takes_the_socket_away_and_the_process_serves_on() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    assert_eq!(served.ask(Request::Detach), Ok(None));
    assert!(!served.socket.exists());
    assert_eq!(served.host.who().pid, first);
    served.host.process.wait_for_output("shutdown 3", SOON);
    let refused = served.host.call("/upgrade");
    assert_eq!((refused.rc, refused.failure), (-i64::from(libc::ESHUTDOWN), 11));
    served.host.process.signal(Signal::SIGTERM);
    served.wait_gone(first);
}

#[test]
fn a_detach_ends_a_successor_that_is_not_ready_first_and_is_answered_then() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    served.host.call("/env/HOST_BEFORE_READY/hang");
    let upgrade = served.ask_meanwhile(Request::Upgrade);
    served.wait_for_status("/upgrade/phase", "initialising");
    assert_eq!(served.ask(Request::Detach), Ok(None));
    assert!(!served.socket.exists());
    let told = upgrade.join().unwrap();
    assert_failed(&told, Failure::Stopping, libc::ESHUTDOWN);
    assert_eq!(served.host.who().pid, first);
    served.host.process.signal(Signal::SIGTERM);
    served.wait_gone(first);
    served.family.assert_none_left(SOON);
}

#[test]
fn a_server_that_is_not_ready_says_so() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::until("listening", &[("HOST_BEFORE_READY", "wait:DIR/go")]);
    assert_eq!(served.status()["state"], "starting");
    assert_failed(&served.ask(Request::Upgrade), Failure::NotReady, libc::EAGAIN);
    assert_failed(&served.ask(Request::Detach), Failure::NotReady, libc::EAGAIN);
    served.go();
    served.wait_for_status("/state", "ready");
    served.stop();
}

/// kill -USR1, flip_request, flip_upgrade and the socket are one event of the state machine, and what cannot start at
/// once leads to one upgrade later, however often it was asked for.
#[test]
fn signals_while_an_operators_upgrade_runs_lead_to_exactly_one_more() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[("SHELLFLIP_LOG", "debug")]);
    let first = served.first();
    served.next_waits();
    let upgrade = served.ask_meanwhile(Request::Upgrade);
    served.wait_for_status("/upgrade/phase", "initialising");
    for _ in 0..3 {
        signal(first, Signal::SIGUSR1);
        assert_eq!(served.host.call("/request/1").rc, 0);
    }
    served.wait_for_status("/upgrade_remembered", true);
    served.go();
    let second = upgrade.join().unwrap().expect("the operator's upgrade").expect("a pid");
    let status = served.wait_for_status("/generation", 2);
    assert_ne!(status["pid"], second);
    served.family.wait_gone(second, SOON);
    // And then no more.
    assert_eq!(served.wait_for_status("/upgrade_remembered", false)["generation"], 2);
    let asked = |origin: &str| served.host.process.output().contains(&format!("Ask(Upgrade, {origin}) in "));
    assert!(asked("Answered") && asked("Unanswered"));
    let generations = served.host.process.output().matches("init 0 ").count();
    assert_eq!(generations, 3, "{}", served.host.process.output());
    served.stop();
}

#[test]
fn an_operators_upgrade_while_a_signals_runs_is_refused_and_the_signals_goes_on() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[]);
    let first = served.first();
    served.next_waits();
    signal(first, Signal::SIGUSR1);
    served.wait_for_status("/upgrade/phase", "initialising");
    assert_failed(&served.ask(Request::Upgrade), Failure::InProgress, libc::EALREADY);
    served.go();
    assert_eq!(served.wait_for_status("/generation", 1)["last_upgrade"]["result"], "released");
    served.stop();
}

#[test]
fn an_answer_comes_when_it_is_there_and_not_a_tick_later() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[]);
    let began = Instant::now();
    for _ in 0..20 {
        served.status();
    }
    assert!(began.elapsed() < scaled(Duration::from_secs(2)), "{:?} for 20", began.elapsed());
    wait_until("a last answer", SOON, || served.raw("status").starts_with('{'));
    served.stop();
}
