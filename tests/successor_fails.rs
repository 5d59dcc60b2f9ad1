//! What a predecessor does about successors that fail, lie or stay silent: who asked is told why, the old process has
//! served all along, nothing of the new one is left, and the next upgrade works.

use std::time::Duration;
use testkit::host::{Called, SOON, c_program};
use testkit::limit;
use testkit::process::{Family, Output, Proc, Signal, signal, temp_dir};
use testkit::scripted::Stage;

const EXITED: i64 = 2;
const SIGNALLED: i64 = 3;
const DEADLINE: i64 = 4;
const REFUSED: i64 = 5;
const PROTOCOL: i64 = 7;
const IN_PROGRESS: i64 = 9;
const UNCONFIRMED: i64 = 12;

/// Time-outs that normally take seconds. All a good upgrade needs is far shorter.
const QUICK: [(&str, &str); 2] = [("SHELLFLIP_TEST_GRACE_MS", "300"), ("SHELLFLIP_TEST_TERM_MS", "300")];

/// A new process that does not get there.
struct Case {
    name: &'static str,
    environment: &'static [(&'static str, &'static str)],
    new: New,
    errno: i32,
    failure: i64,
    sentence: &'static str,
}

enum New {
    /// The host itself, with these steps before `flip_ready`.
    Host(&'static str),
    /// A scripted successor.
    Scripted(&'static str),
}

fn case(name: &'static str, new: New, (errno, failure): (i32, i64), sentence: &'static str) -> Case {
    Case { name, environment: &[], new, errno, failure, sentence }
}

const ABORTED: (i32, i64) = (libc::ECONNABORTED, EXITED);
const KILLED: (i32, i64) = (libc::ECONNABORTED, SIGNALLED);
const LATE: (i32, i64) = (libc::ETIME, DEADLINE);
const GAVE_UP: (i32, i64) = (libc::ECONNREFUSED, REFUSED);
const WRONG: (i32, i64) = (libc::EPROTO, PROTOCOL);

/// Runs one case on a stage of its own: fails as it should, and the next upgrade works.
fn run(case: &Case) {
    println!("case: {}", case.name);
    let environment: Vec<_> = QUICK.iter().chain(case.environment).copied().collect();
    let stage = Stage::new(&environment);
    let first = stage.host.who();
    let load = stage.load();
    match case.new {
        New::Host(steps) => {
            assert_eq!(stage.ask(first.pid, &format!("/env/HOST_BEFORE_READY/{steps}")).rc, 0)
        }
        New::Scripted(steps) => stage.script(first.pid, steps),
    }
    let called = stage.ask(first.pid, "/upgrade");
    let pid = stage.ask(first.pid, "/successor").rc;
    assert_failed(case.name, &called, pid, (case.errno, case.failure), case.sentence, &stage);
    assert_eq!(stage.host.who(), first, "{}", case.name);
    assert_eq!(Proc(pid as i32).state(), None, "{}: {}", case.name, Proc(pid as i32).describe());
    end_workers(&stage);
    stage.assert_childless(first.pid);
    assert_eq!(stage.family.leftovers(), [Proc(first.pid)], "{}", case.name);

    let answered = load.seen();
    assert!(answered.iter().all(|seen| seen.identity.pid == first.pid), "{}: {answered:?}", case.name);
    let second = stage.assert_upgrades(first.pid);
    stage.family.wait_gone(first.pid, SOON);
    stage.assert_unbroken(load, second.pid);
    stage.end(second.pid);
}

#[track_caller]
fn assert_failed(
    name: &str,
    called: &Called,
    pid: i64,
    (errno, failure): (i32, i64),
    sentence: &str,
    stage: &Stage,
) {
    assert_eq!(
        (called.rc, called.failure),
        (-i64::from(errno), failure),
        "{name}: {called:?}\n{}",
        stage.output()
    );
    let sentence = format!("new process {pid} {sentence}");
    assert!(called.error.starts_with(&sentence), "{name}: {called:?} instead of {sentence:?}");
    let seconds = called.error.rsplit_once(" (after ").and_then(|(_, rest)| rest.strip_suffix(" s)"));
    let seconds: f64 = seconds.and_then(|number| number.parse().ok()).unwrap_or(-1.0);
    assert!((0.0..60.0).contains(&seconds), "{name}: {called:?}");
    if errno == libc::ETIME && failure == DEADLINE {
        assert!(seconds >= 1.0, "{name}: {called:?}");
    }
}

/// Forked workers live on as they should, and the failure did not wait for them.
fn end_workers(stage: &Stage) {
    let output = stage.output();
    for line in output.lines().filter_map(|line| line.strip_prefix("worker ")) {
        let pid = line.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a pid");
        assert!(Proc(pid).alive(), "worker {pid} of the dead process has been ended\n{output}");
        signal(pid, Signal::SIGKILL);
        stage.family.wait_gone(pid, SOON);
    }
}

#[test]
fn a_host_that_ends_before_it_is_ready_leaves_the_old_one_serving() {
    let _limit = limit(Duration::from_secs(100));
    for case in [
        case("exits with 0", New::Host("exit:0"), ABORTED, "exited with status 0 before it was ready"),
        case("exits with 1", New::Host("exit:1"), ABORTED, "exited with status 1 before it was ready"),
        case("is killed", New::Host("kill"), KILLED, "was ended by signal 9 before it was ready"),
        case(
            "frees its handle",
            New::Host("free"),
            GAVE_UP,
            "gave up: the new program gave up before it was ready (flip_free)",
        ),
    ] {
        run(&case);
    }
}

#[test]
fn a_worker_that_holds_the_channel_hides_nothing() {
    let _limit = limit(Duration::from_secs(100));
    // A GRACE far beyond the limit: the death has to be seen by itself, not by a time-out.
    let patient = &[("SHELLFLIP_TEST_GRACE_MS", "600000")];
    let one = "exited with status 1 before it was ready";
    let killed = "was ended by signal 9 before it was ready";
    for case in [
        Case { environment: patient, ..case("forks, exits", New::Host("fork,exit:1"), ABORTED, one) },
        Case { environment: patient, ..case("clones, exits", New::Host("worker,exit:1"), ABORTED, one) },
        Case { environment: patient, ..case("clones, is killed", New::Host("worker,kill"), KILLED, killed) },
        Case {
            environment: &[("UPGRADE_TIMEOUT_MS", "1500")],
            ..case("clones, hangs", New::Host("worker,hang"), LATE, "was not ready by the upgrade deadline")
        },
    ] {
        run(&case);
    }
}

#[test]
fn a_worker_that_holds_the_channel_does_not_hinder_its_master() {
    let _limit = limit(Duration::from_secs(60));
    for step in ["fork", "worker"] {
        let stage = Stage::new(&[]);
        let first = stage.host.who();
        let load = stage.load();
        stage.ask(first.pid, &format!("/env/HOST_BEFORE_READY/{step}"));
        let called = stage.ask(first.pid, "/upgrade");
        assert!(called.rc > 0, "{step}: {called:?}");
        let second = stage.host.wait_for_other(first.pid);
        stage.family.wait_gone(first.pid, SOON);
        // Its worker holds both of its channels by now.
        let third = stage.assert_upgrades(second.pid);
        stage.family.wait_gone(second.pid, SOON);
        end_workers(&stage);
        stage.assert_unbroken(load, third.pid);
        stage.end(third.pid);
    }
}

#[test]
fn a_successor_that_hangs_is_ended_at_the_upgrade_deadline() {
    let _limit = limit(Duration::from_secs(60));
    let late = "was not ready by the upgrade deadline";
    for (name, new) in [
        ("hangs", New::Host("hang")),
        ("hangs without the library", New::Scripted("hang")),
        ("ignores SIGTERM", New::Scripted("ignore-term,hang")),
    ] {
        let environment = &[("UPGRADE_TIMEOUT_MS", "1500")];
        run(&Case { environment, ..case(name, new, LATE, late) });
    }
}

#[test]
fn a_successor_that_breaks_the_protocol_before_commit_is_ended() {
    let _limit = limit(Duration::from_secs(100));
    for case in [
        case(
            "garbage for READY",
            New::Scripted("garbage,hang"),
            WRONG,
            "broke the protocol: the successor sent what is no message of this protocol",
        ),
        case(
            "the other side's message",
            New::Scripted("foreign,hang"),
            WRONG,
            "broke the protocol: the successor sent COMMIT: that is the other side's to say",
        ),
        case(
            "LIVE before COMMIT",
            New::Scripted("LIVE,hang"),
            WRONG,
            "broke the protocol: LIVE before COMMIT",
        ),
        case(
            "STOPPING before COMMIT",
            New::Scripted("STOPPING,hang"),
            WRONG,
            "broke the protocol: STOPPING before COMMIT",
        ),
        case(
            "closes the channel and lives",
            New::Scripted("close,hang"),
            WRONG,
            "broke the protocol: it closed the channel and goes on running",
        ),
    ] {
        run(&case);
    }
}

#[test]
fn a_successor_that_gives_up_or_dies_is_heard_out_first() {
    let _limit = limit(Duration::from_secs(100));
    let committed = "exited with status 3 after it was told to serve and before it did";
    for case in [
        case("gives up", New::Scripted("WITHDRAWN:no memory,exit:1"), GAVE_UP, "gave up: no memory"),
        case("gives up and stays", New::Scripted("WITHDRAWN:no memory,hang"), GAVE_UP, "gave up: no memory"),
        case("closes, then exits", New::Scripted("close,exit:3"), ABORTED, "exited with status 3 before"),
        case("READY and exits", New::Scripted("READY,exit:3"), ABORTED, "exited with status 3 "),
        case("dies of COMMIT", New::Scripted("READY,hear:COMMIT,exit:3"), ABORTED, committed),
        case("closes, exits", New::Scripted("READY,hear:COMMIT,close,exit:3"), ABORTED, committed),
        case(
            "is killed by COMMIT",
            New::Scripted("READY,hear:COMMIT,kill"),
            KILLED,
            "was ended by signal 9 after it was told to serve and before it did",
        ),
        Case {
            // The predecessor looks at LIVE when its sender is dead already.
            environment: &[("SHELLFLIP_FAULT", "received:LIVE#1=sleep:400")],
            ..case(
                "dies right after LIVE",
                New::Scripted("READY,hear:COMMIT,LIVE,exit:3"),
                ABORTED,
                "exited with status 3 right after it began to serve",
            )
        },
    ] {
        run(&case);
    }
}

#[test]
fn a_successor_that_was_told_to_serve_is_never_ended_whatever_it_does() {
    let _limit = limit(Duration::from_secs(100));
    let held = &[("SHELLFLIP_FAULT", "send:RELEASED#1=fail:11")];
    for case in [
        case(
            "closes the channel instead of LIVE",
            New::Scripted("READY,hear:COMMIT,close,wait:end"),
            WRONG,
            "broke the protocol: it closed the channel before it was live and goes on running",
        ),
        case(
            "gives up after COMMIT",
            New::Scripted("READY,hear:COMMIT,WITHDRAWN:no memory,wait:end"),
            GAVE_UP,
            "gave up: no memory",
        ),
        case(
            "is stopped before LIVE",
            New::Scripted("READY,hear:COMMIT,STOPPING,wait:end"),
            GAVE_UP,
            "gave up: it was asked to stop",
        ),
        Case {
            environment: held,
            ..case(
                "is stopped after LIVE",
                New::Scripted("READY,hear:COMMIT,LIVE,STOPPING,wait:end"),
                GAVE_UP,
                "gave up: it was asked to stop",
            )
        },
    ] {
        let environment: Vec<_> = QUICK.iter().chain(case.environment).copied().collect();
        let stage = Stage::new(&environment);
        let first = stage.host.who();
        let load = stage.load();
        let New::Scripted(steps) = case.new else { unreachable!() };
        stage.script(first.pid, steps);
        let called = stage.ask(first.pid, "/upgrade");
        let pid = stage.ask(first.pid, "/successor").rc;
        assert_failed(case.name, &called, pid, (case.errno, case.failure), case.sentence, &stage);
        assert_eq!(stage.host.who(), first, "{}", case.name);
        // It lives on beside the next upgrade, and is reaped when it goes.
        let second = stage.assert_upgrades(first.pid);
        assert!(Proc(pid as i32).alive(), "{}: it was ended", case.name);
        stage.family.wait_gone(first.pid, SOON);
        stage.go("end");
        stage.family.wait_gone(pid as i32, SOON);
        stage.assert_unbroken(load, second.pid);
        stage.end(second.pid);
    }
}

#[test]
fn a_successor_that_was_let_go_is_reaped_while_the_old_process_lives() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&QUICK);
    let first = stage.host.who();
    stage.script(first.pid, "READY,hear:COMMIT,close,wait:end");
    assert_eq!(stage.ask(first.pid, "/upgrade").rc, -i64::from(libc::EPROTO));
    assert_eq!(Proc(first.pid).children().len(), 1);
    stage.go("end");
    stage.assert_childless(first.pid);
    stage.end(first.pid);
}

#[test]
fn what_a_successor_says_too_often_or_too_much_after_commit_is_ignored() {
    let _limit = limit(Duration::from_secs(100));
    for (name, steps) in [
        ("READY twice before COMMIT", "READY,READY,hear:COMMIT,serve,LIVE,hear:RELEASED,wait:end"),
        ("READY again after COMMIT", "READY,hear:COMMIT,READY,serve,LIVE,hear:RELEASED,wait:end"),
        ("garbage after COMMIT", "READY,hear:COMMIT,garbage,serve,LIVE,hear:RELEASED,wait:end"),
        ("READY after LIVE", "READY,hear:COMMIT,serve,LIVE,READY,hear:RELEASED,wait:end"),
        (
            "a message of a later release",
            "unknown,READY,hear:COMMIT,unknown,serve,LIVE,hear:RELEASED,wait:end",
        ),
        ("EXTEND", "EXTEND:5000,hear:EXTEND,READY,hear:COMMIT,serve,LIVE,hear:RELEASED,wait:end"),
    ] {
        println!("case: {name}");
        // What follows LIVE is in the socket by the time the predecessor looks at LIVE.
        let stage = Stage::new(&[("SHELLFLIP_FAULT", "received:LIVE#1=sleep:300")]);
        let first = stage.host.who();
        let load = stage.load();
        stage.script(first.pid, steps);
        let called = stage.ask(first.pid, "/upgrade");
        assert!(called.rc > 0, "{name}: {called:?}\n{}", stage.output());
        stage.wait("scripted heard RELEASED");
        let second = stage.host.wait_for_other(first.pid);
        assert_eq!((second.version.as_str(), i64::from(second.pid)), ("scripted", called.rc), "{name}");
        stage.family.wait_gone(first.pid, SOON);
        stage.assert_unbroken(load, second.pid);
        stage.go("end");
        stage.family.assert_none_left(SOON);
    }
}

/// COMMIT, and no LIVE: the requester is told so, and everybody after it that an upgrade is under way.
fn unconfirmed(steps: &str) -> (Stage, i32, i32) {
    let environment: Vec<_> = QUICK.into_iter().chain([("SHELLFLIP_TEST_LIVE_MS", "1000")]).collect();
    let stage = Stage::new(&environment);
    let first = stage.host.who();
    stage.script(first.pid, steps);
    let called = stage.ask(first.pid, "/upgrade");
    let pid = stage.ask(first.pid, "/successor").rc;
    let sentence = "was told to serve and has not confirmed it; this process serves on until it does or ends";
    assert_failed(steps, &called, pid, (libc::ETIME, UNCONFIRMED), sentence, &stage);
    let called = stage.ask(first.pid, "/upgrade");
    assert_eq!((called.rc, called.failure), (-i64::from(libc::EALREADY), IN_PROGRESS), "{called:?}");
    assert_eq!(stage.host.who(), first);
    (stage, first.pid, pid as i32)
}

#[test]
fn a_late_live_settles_an_unconfirmed_upgrade() {
    let _limit = limit(Duration::from_secs(60));
    let (stage, first, second) = unconfirmed("READY,hear:COMMIT,wait:live,serve,LIVE,hear:RELEASED,wait:end");
    let load = stage.load();
    stage.go("live");
    assert_eq!(stage.host.wait_for_other(first).pid, second);
    stage.wait("scripted heard RELEASED");
    stage.family.wait_gone(first, SOON);
    assert!(stage.output().contains("shutdown 1 "), "{}", stage.output());
    stage.assert_unbroken(load, second);
    stage.go("end");
    stage.family.assert_none_left(SOON);
}

#[test]
fn the_end_of_a_successor_settles_an_unconfirmed_upgrade() {
    let _limit = limit(Duration::from_secs(60));
    for steps in [
        "READY,hear:COMMIT,wait:end,exit:0",
        "READY,hear:COMMIT,wait:end,kill",
        "READY,hear:COMMIT,wait:end,WITHDRAWN:too late,exit:1",
        "READY,hear:COMMIT,wait:end,close,exit:1",
    ] {
        let (stage, first, second) = unconfirmed(steps);
        let load = stage.load();
        stage.go("end");
        stage.assert_childless(first);
        assert!(!Proc(second).alive());
        let third = stage.assert_upgrades(first);
        stage.family.wait_gone(first, SOON);
        stage.assert_unbroken(load, third.pid);
        stage.end(third.pid);
    }
}

#[test]
fn a_crash_whose_core_is_still_written_when_the_probation_ends_is_a_crash() {
    let _limit = limit(Duration::from_secs(100));
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a pattern");
    let mut allowed = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit.
    unsafe { libc::getrlimit(libc::RLIMIT_CORE, &mut allowed) };
    let why = match (pattern.trim(), allowed.rlim_max) {
        (pattern, _) if pattern.starts_with('|') || pattern.contains('/') => "cores go elsewhere",
        (_, ..0x2000_0000) => "cores are not allowed",
        _ => "",
    };
    if !why.is_empty() {
        println!("SKIPPED: a_crash_whose_core_is_still_written_when_the_probation_ends_is_a_crash: {why}");
        return;
    }
    let (family, folder) = (Family::new(), temp_dir());
    let program = family.program(c_program("tests/c/core_dump.c", &[])).directory(folder.path());
    let mut process = program.output(Output::File).start();
    process.wait(SOON);
    let told = format!("{} {SIGNALLED}\n{}\n", -libc::ECONNABORTED, -libc::ETIMEDOUT);
    assert_eq!(process.output(), told);
    family.assert_none_left(SOON);
}
