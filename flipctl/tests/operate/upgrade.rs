//! `flipctl upgrade` over the control socket: each end that an upgrade can take.

use crate::kit::{Ran, Stage};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use testkit::host::{SOON, c_program};
use testkit::process::{MARK_VARIABLE, Proc, Signal, signal};
use testkit::{limit, wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(100);

#[test]
fn an_upgrade_that_works_says_who_serves() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    let ran = stage.run(&["upgrade"]).expect(0);
    let who = stage.host.wait_for_other(stage.first());
    let end = format!("s: generation 1, pid {}, serves\n", who.pid);
    assert!(ran.out.starts_with("upgraded in ") && ran.out.ends_with(&end), "{ran:?}");
    assert_eq!((ran.out.lines().count(), ran.err.as_str()), (1, ""), "{ran:?}");

    let value = stage.run(&["upgrade", "--json"]).expect(0).json();
    assert_eq!(value["result"], "upgraded");
    assert_eq!((value["generation"].as_i64(), value["exit_status"].as_i64()), (Some(2), Some(0)));
    assert_eq!(value["pid"].as_i64(), Some(i64::from(stage.host.wait_for_other(who.pid).pid)));
}

/// Fails as it should; the old one serves on, says so, and the next upgrade works.
fn fails(stage: &Stage, status: i32, kind: i64, sentence: &str, phase: &str) {
    let pid = stage.first();
    let ran = stage.run(&["upgrade"]).expect(status);
    assert_eq!(ran.out, "");
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    assert!(ran.err.starts_with("flipctl: upgrade failed: "), "{ran:?}");
    assert!(ran.err.contains(sentence), "{ran:?} instead of {sentence:?}");
    assert!(ran.err.contains(&format!("; phase: {phase} (")), "{ran:?} instead of {phase:?}");
    assert!(ran.err.ends_with(&format!("; generation 0, pid {pid}, serves on\n")), "{ran:?}");
    assert_eq!(stage.host.who().pid, pid);

    let value = stage.run(&["upgrade", "--json"]).expect(status).json();
    assert_eq!(
        (value["result"].as_str(), value["exit_status"].as_i64()),
        (Some("failed"), Some(status.into()))
    );
    assert_eq!((value["failure"].as_i64(), value["phase"].as_str()), (Some(kind), Some(phase)));
    assert!(value["text"].as_str().is_some_and(|text| text.contains(sentence)), "{value}");

    let shown = stage.run(&["status"]).expect(0).out;
    assert!(shown.contains("last upgrade: failed") && shown.contains(sentence), "{shown}");
}

#[test]
fn a_new_version_that_crashes_is_told_with_its_exit_status_and_the_phase() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    stage.successors("exit:3");
    fails(&stage, 12, 2, "exited with status 3 before it was ready", "initialising");
    stage.successors("kill");
    fails(&stage, 13, 3, "was ended by signal 9 before it was ready", "initialising");
    stage.successors("");
    stage.run(&["upgrade"]).expect(0);
}

#[test]
fn a_new_version_that_dies_on_probation_is_told() {
    let _limit = limit(LIMIT);
    let stage = Stage::of(&c_program("tests/c/takes_part.c", &[]), &[("PROBATION_MS", "60000")]);
    let upgrade = stage.run_meanwhile(&["upgrade"]);
    wait_until("a probation", SOON, || stage.status()["upgrade"]["phase"] == "probation");
    let successor = stage.status()["upgrade"]["successor_pid"].as_i64().unwrap();
    signal(successor as i32, Signal::SIGKILL);
    let ran = upgrade.join().unwrap().expect(13);
    assert!(ran.err.contains("was ended by signal 9 right after it began to serve"), "{ran:?}");
    assert!(ran.err.contains("; phase: probation ("), "{ran:?}");
}

#[test]
fn a_new_version_that_hangs_is_told_at_the_deadline() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[("UPGRADE_TIMEOUT_MS", "1500"), ("SHELLFLIP_TEST_TERM_MS", "300")]);
    stage.successors("hang");
    let started = Instant::now();
    fails(&stage, 14, 4, "was not ready by the upgrade deadline", "initialising");
    assert!(started.elapsed() >= Duration::from_millis(3_000), "{:?}", started.elapsed());
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    assert_eq!(stage.host.call("/command/%2Fno%2Fsuch%2Fprogram").rc, 0);
    let ran = stage.run(&["upgrade"]).expect(11);
    assert!(ran.err.contains("cannot start /no/such/program: no such file or directory (ENOENT)"), "{ran:?}");
}

#[test]
fn a_host_that_refuses_is_quoted() {
    let _limit = limit(LIMIT);
    let program = c_program("tests/c/takes_part.c", &[]);
    let stage = Stage::of(&program, &[("EVENTS", "1"), ("STARTING", "refuse:a backup is running")]);
    fails(&stage, 15, 5, "a backup is running", "asking");
}

#[test]
fn of_two_at_once_one_works_and_the_other_is_told() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    let go = stage.path("go");
    stage.successors(&format!("wait:{}", go.display()));
    let first = stage.run_meanwhile(&["upgrade"]);
    let successor =
        wait_for("a successor that starts", SOON, || stage.status()["upgrade"]["successor_pid"].as_i64());

    // While both live the old one answers.
    let status = stage.status();
    assert_eq!(
        (status["pid"].as_i64(), status["generation"].as_i64()),
        (Some(stage.first().into()), Some(0))
    );
    let second = stage.run(&["upgrade"]).expect(19);
    assert!(
        second.err.contains(&format!("waiting until the new process is ready (pid {successor})")),
        "{second:?}"
    );
    assert!(second.err.contains("; generation 0, pid "), "{second:?}");

    std::fs::write(&go, "").unwrap();
    let first = first.join().unwrap().expect(0);
    assert!(first.out.contains(&format!("pid {successor}, serves")), "{first:?}");
    assert_eq!(stage.status()["generation"], 1);
}

#[test]
fn the_operators_own_time_out_ends_the_waiting_and_not_the_upgrade() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    let go = stage.path("go");
    stage.successors(&format!("wait:{}", go.display()));
    let ran = stage.run(&["upgrade", "--timeout", "5"]).expect(5);
    assert!(ran.err.contains("the upgrade goes on: waiting until the new process is ready (pid "), "{ran:?}");
    std::fs::write(&go, "").unwrap();
    wait_until("the upgrade's end", SOON, || stage.status()["generation"] == 1);
}

#[test]
fn a_successor_that_takes_over_from_a_dead_process_is_seen() {
    let _limit = limit(LIMIT);
    let mut stage = Stage::new(&[]);
    let go = stage.path("go");
    stage.successors(&format!("wait:{}", go.display()));
    let upgrade = stage.run_meanwhile(&["upgrade"]);
    let successor =
        wait_for("a successor that starts", SOON, || stage.status()["upgrade"]["successor_pid"].as_i64());
    stage.host.process.signal(Signal::SIGKILL);
    stage.host.process.wait(SOON);
    std::fs::write(&go, "").unwrap();
    let ran = upgrade.join().unwrap().expect(0);
    assert!(ran.out.contains(&format!("generation 1, pid {successor}, serves")), "{ran:?}");
}

/// What flipctl, started by that command, says of an upgrade that worked when it may look only after `meanwhile` was done
/// with the new process.
fn seen_after(command: impl FnOnce(&Stage) -> Command, meanwhile: impl FnOnce(&Stage, i32)) -> (Ran, i32) {
    let mut stage = Stage::new(&[]);
    let go = stage.path("go");
    stage.successors(&format!("wait:{}", go.display()));
    let asks = command(&stage).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("a successor that starts", SOON, || stage.status()["upgrade"]["successor_pid"].is_i64());
    let started = Proc(asks.id() as i32);
    let asking = started.children().first().unwrap_or(&started).0;
    signal(asking, Signal::SIGSTOP);
    Proc(asking).wait_stopped(SOON);
    std::fs::write(&go, "").unwrap();
    // It has answered then.
    assert!(stage.host.process.wait(SOON).success());
    let successor = stage.host.wait_for_other(stage.first()).pid;
    meanwhile(&stage, successor);
    signal(asking, Signal::SIGCONT);
    (asks.wait_with_output().unwrap().into(), successor)
}

#[test]
fn a_new_process_that_has_died_since_it_took_over_is_not_said_to_serve() {
    let _limit = limit(LIMIT);
    let says = |pid: i32| format!("process {pid} took over and has ended since (");
    let (ran, pid) = seen_after(
        |stage| stage.command(&["upgrade"]),
        |_, pid| {
            signal(pid, Signal::SIGKILL);
            // It became a child of ours, whom nobody has waited for.
            wait_until("a zombie", SOON, || Proc(pid).state() == Some('Z'));
        },
    );
    let ran = ran.expect(6);
    assert!(ran.err.starts_with(&format!("flipctl: {}", says(pid))) && ran.out.is_empty(), "{ran:?}");

    let (ran, pid) = seen_after(
        |stage| stage.command(&["upgrade", "--json"]),
        |stage, pid| {
            signal(pid, Signal::SIGKILL);
            stage.family.wait_gone(pid, SOON);
        },
    );
    let value = ran.expect(6).json();
    assert_eq!((value["result"].as_str(), value["exit_status"].as_i64()), (Some("unknown"), Some(6)));
    assert!(value["text"].as_str().is_some_and(|text| text.starts_with(&says(pid))), "{value}");
}

#[test]
fn a_new_process_that_lives_and_cannot_be_asked_is_said_to_serve() {
    let _limit = limit(LIMIT);
    let (ran, pid) = seen_after(
        |stage| stage.command(&["upgrade"]),
        |stage, _| std::fs::remove_file(stage.control()).unwrap(),
    );
    let ran = ran.expect(0);
    assert!(ran.out.ends_with(&format!(": generation 1, pid {pid}, serves\n")), "{ran:?}");
}

#[test]
fn the_end_of_a_process_in_another_pid_namespace_is_not_guessed() {
    if !nix::unistd::geteuid().is_root() {
        println!(
            "SKIPPED: upgrade::the_end_of_a_process_in_another_pid_namespace_is_not_guessed: only root may make a pid \
             namespace"
        );
        return;
    }
    let _limit = limit(LIMIT);
    let elsewhere = |stage: &Stage| {
        let flipctl = stage.command(&["upgrade"]);
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(flipctl.get_program()).args(flipctl.get_args());
        command.env(MARK_VARIABLE, stage.family.mark());
        command
    };
    let (ran, pid) = seen_after(elsewhere, |stage, _| std::fs::remove_file(stage.control()).unwrap());
    let ran = ran.expect(0);
    assert!(ran.out.ends_with(&format!(": generation 1, pid {pid}, serves\n")), "{ran:?}");
}

#[test]
fn when_both_die_the_result_is_unknown() {
    let _limit = limit(LIMIT);
    let mut stage = Stage::new(&[]);
    stage.successors("hang");
    let upgrade = stage.run_meanwhile(&["upgrade", "--timeout", "20"]);
    let successor =
        wait_for("a successor that starts", SOON, || stage.status()["upgrade"]["successor_pid"].as_i64());
    signal(successor as i32, Signal::SIGSTOP);
    stage.host.process.signal(Signal::SIGKILL);
    stage.host.process.wait(SOON);
    signal(successor as i32, Signal::SIGKILL);
    let ran = upgrade.join().unwrap().expect(6);
    assert!(ran.err.contains("no new process has been seen to serve"), "{ran:?}");
}
