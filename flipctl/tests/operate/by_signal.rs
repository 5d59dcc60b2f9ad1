//! With nothing but a pid file.

use crate::kit::{Ran, Stage, flipctl, write_old_pid_file, write_pid_file};
use nix::sys::stat::Mode;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use testkit::host::SOON;
use testkit::process::{Family, Proc, temp_dir};
use testkit::{limit, wait_until};

const LIMIT: Duration = Duration::from_secs(100);

fn upgrade(family: &Family, pid_file: &Path) -> Ran {
    let mut command = flipctl(family);
    command.args(["upgrade", "--timeout", "2", "--pid-file"]).arg(pid_file).output().unwrap().into()
}

#[test]
fn another_process_in_the_pid_file_is_proof_of_success() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    let ran = stage.run_with_pid_file(stage.path("pid"), &["upgrade"]).expect(0);
    let who = stage.host.wait_for_other(stage.first());
    assert!(ran.out.ends_with(&format!(": pid {} serves\n", who.pid)), "{ran:?}");
    let mut command = flipctl(&stage.family);
    command.args(["upgrade", "--json"]).env("FLIPCTL_PID_FILE", stage.path("pid"));
    let value = Ran::from(command.output().unwrap()).expect(0).json();
    assert_eq!(value["pid"].as_i64(), Some(i64::from(stage.host.wait_for_other(who.pid).pid)));
}

#[test]
fn a_failure_that_cannot_be_seen_is_an_unknown_result() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    stage.successors("exit:3");
    let ran = stage.run_with_pid_file(stage.path("pid"), &["upgrade", "--timeout", "1.5"]).expect(6);
    assert!(ran.err.contains("result unknown: process ") && ran.err.contains("SIGUSR1"), "{ran:?}");
    // It was signalled all the same.
    wait_until("the end of the upgrade", SOON, || stage.status()["last_upgrade"]["result"] == "failed");
    assert_eq!(stage.host.who().pid, stage.first());
}

#[test]
fn a_server_that_is_started_anew_after_the_old_one_died_is_no_success() {
    let _limit = limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let pid_file = folder.path().join("pid");
    let server = |does: &str| {
        let script = format!(
            "umask 022; trap '{does}' USR1; echo $$ > {}; while :; do sleep 1000 & wait; done",
            pid_file.display()
        );
        family.program("sh").args(["-c", &script]).start()
    };
    let mut old = server("exit 1");
    let names =
        |pid: i32| std::fs::read_to_string(&pid_file).is_ok_and(|text| text.trim() == pid.to_string());
    wait_until("a pid file", SOON, || names(old.pid()));
    let mut command = flipctl(&family);
    command.args(["upgrade", "--pid-file"]).arg(&pid_file).stdout(Stdio::piped()).stderr(Stdio::piped());
    let upgrade = command.spawn().unwrap();
    old.wait(SOON);
    // flipctl has seen that when it has slept again.
    let sleeps = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", upgrade.id())).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = sleeps();
    wait_until("two more looks", SOON, || sleeps() >= before + 2);
    let new = server("");
    wait_until("a pid file of the new one", SOON, || names(new.pid()));
    let ran = Ran::from(upgrade.wait_with_output().unwrap()).expect(6);
    assert!(ran.err.contains(&format!("process {}, which the pid file", new.pid())), "{ran:?}");
    assert!(ran.err.contains("was started after that") && ran.out.is_empty(), "{ran:?}");
}

#[test]
fn a_process_that_has_the_number_of_a_dead_server_is_left_alone() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    let stale = stage.path("stale.pid");
    write_old_pid_file(&stale, stage.first());
    for command in ["upgrade", "stop", "doctor"] {
        let ran = stage.run_with_pid_file(&stale, &[command]).expect(3);
        assert!(ran.err.contains("is older than process"), "{ran:?}");
    }
    assert_eq!(stage.status()["last_upgrade"], serde_json::Value::Null);
    assert_eq!(stage.host.who().generation, 0);
}

#[test]
fn a_pid_file_of_a_stranger_is_not_believed() {
    if !nix::unistd::geteuid().is_root() {
        println!(
            "SKIPPED: by_signal::a_pid_file_of_a_stranger_is_not_believed: only root can give files away"
        );
        return;
    }
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    let path = stage.path("strange.pid");
    write_pid_file(&path, stage.first());
    std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
    let ran = stage.run_with_pid_file(&path, &["upgrade"]).expect(4);
    assert!(ran.err.contains("a stranger may have written it"), "{ran:?}");
    assert_eq!(stage.host.who().generation, 0);
}

#[test]
fn a_pid_file_that_others_may_have_chosen_is_not_believed() {
    let _limit = limit(Duration::from_secs(20));
    let (family, folder) = (Family::new(), temp_dir());
    // A service that any signal ends, with a pid file that would be believed.
    let victim = family.program("sleep").arg("1000").start();
    let path = |name: &str| folder.path().join(name);
    let refused = |pid_file: PathBuf, status: i32, text: &str| {
        for arguments in [&["stop"][..], &["upgrade"], &["detach", "--signal", "TERM"], &["doctor"]] {
            let mut command = flipctl(&family);
            command.args(arguments).args(["--timeout", "1", "--pid-file"]).arg(&pid_file);
            let ran = Ran::from(command.output().unwrap()).expect(status);
            assert!(ran.err.contains(text) && ran.out.is_empty(), "{arguments:?}: {ran:?}");
        }
        assert!(victim.proc().alive());
    };
    write_pid_file(path("pid"), victim.pid());
    std::os::unix::fs::symlink(path("pid"), path("link")).unwrap();
    refused(path("link"), 1, "is a symbolic link, which is not followed: whoever made it may have chosen");
    std::fs::hard_link(path("pid"), path("name")).unwrap();
    refused(path("name"), 1, "has 2 names (hard links)");
    std::fs::remove_file(path("name")).unwrap();
    nix::unistd::mkfifo(&path("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    refused(path("fifo"), 1, "is no regular file");
    refused(folder.path().into(), 1, "is no regular file");
    for mode in [0o664, 0o646, 0o666] {
        std::fs::set_permissions(path("pid"), Permissions::from_mode(mode)).unwrap();
        refused(path("pid"), 4, "may be written by others than its owner");
    }
    // Nothing else was wrong with it.
    std::fs::set_permissions(path("pid"), Permissions::from_mode(0o644)).unwrap();
    let stop = flipctl(&family).args(["stop", "--pid-file"]).arg(path("pid")).output().unwrap();
    Ran::from(stop).expect(0);
    assert!(!victim.proc().alive());
}

#[test]
fn a_process_that_the_signal_would_end_is_not_signalled() {
    let _limit = limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let sleeper = family.program("sleep").arg("1000").start();
    let pid_file = folder.path().join("pid");
    // Once it is sleep and not the test any more, which has handlers of its own.
    wait_until("a program that sleeps", SOON, || {
        sleeper.proc().command().first().is_some_and(|name| name == "sleep")
    });
    write_pid_file(&pid_file, sleeper.pid());
    let ran = upgrade(&family, &pid_file).expect(1);
    assert!(ran.err.contains("has no handler for SIGUSR1: SIGUSR1 would end it"), "{ran:?}");
    assert!(Proc(sleeper.pid()).alive());
    let stopped = flipctl(&family).args(["stop", "--pid-file"]).arg(&pid_file).output().unwrap();
    Ran::from(stopped).expect(0);
    assert!(!Proc(sleeper.pid()).alive());
    let ran = upgrade(&family, &pid_file).expect(3);
    assert!(ran.err.contains("no process "), "{ran:?}");
}

#[test]
fn a_stop_waits_for_the_process() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    let ran = stage.run_with_pid_file(stage.path("pid"), &["stop"]).expect(0);
    assert!(!Proc(stage.first()).alive(), "{ran:?}");
    assert!(!stage.path("pid").exists());
    stage.run_with_pid_file(stage.path("pid"), &["stop"]).expect(3);
}

#[test]
fn what_a_signal_cannot_do_is_said() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    let ran = stage.run_with_pid_file(stage.path("pid"), &["detach"]).expect(2);
    assert!(ran.err.contains("give --signal"), "{ran:?}");
    let ran = stage.run_with_pid_file(stage.path("pid"), &["status"]).expect(2);
    assert!(ran.err.contains("give --socket"), "{ran:?}");
}
