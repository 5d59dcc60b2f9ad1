//! The pid file: whole at every moment, of the generation that was released, gone after a stop.

use crate::served::{GoOn, LIMIT, Served, assert_failed};
use shellflip::control::Request;
use shellflip::error::Failure;
use std::path::PathBuf;
use testkit::deadline::wait_until;
use testkit::host::{SOON, c_program};
use testkit::process::{Family, Output, Signal, signal, temp_dir};

const PID_FILE: (&str, &str) = ("HOST_PID_FILE", "DIR/pid");

fn file(served: &Served) -> PathBuf {
    served.folder.path().join("pid")
}

fn holder(served: &Served) -> i32 {
    let text = std::fs::read_to_string(file(served)).expect("a pid file");
    text.strip_suffix('\n').and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("{text:?}"))
}

#[test]
fn it_holds_the_pid_of_the_generation_that_was_released_and_is_whole_at_every_moment() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[PID_FILE]);
    let first = served.first();
    assert_eq!(holder(&served), first);
    let (going, goes_on) = GoOn::new();
    let read = std::thread::scope(|scope| {
        let reads = scope.spawn(|| {
            let mut read = 0u32;
            while goes_on() {
                assert!(holder(&served) > 1);
                read += 1;
            }
            read
        });
        for _ in 0..10 {
            let before = holder(&served);
            let pid = served.upgrade();
            assert_ne!(pid, before);
            // Whoever answers has been released, and has written it first.
            assert_eq!(served.status()["pid"], pid);
            assert_eq!(holder(&served), pid);
        }
        drop(going);
        reads.join().unwrap()
    });
    assert!(read > 100, "{read} reads");
    served.wait_gone(first);
    let path = file(&served);
    let left: Vec<_> =
        std::fs::read_dir(served.folder.path()).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    served.stop();
    assert!(!path.exists());
}

#[test]
fn it_is_not_the_new_ones_before_the_release_nor_after_a_failure() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[PID_FILE]);
    let first = served.first();
    served.next_waits();
    let upgrade = served.ask_meanwhile(Request::Upgrade);
    served.wait_for_status("/upgrade/phase", "initialising");
    assert_eq!(holder(&served), first);
    let second = served.status()["upgrade"]["successor_pid"].as_i64().expect("a successor") as i32;
    signal(second, Signal::SIGKILL);
    assert_failed(&upgrade.join().unwrap(), Failure::Signalled, libc::ECONNABORTED);
    assert_eq!(holder(&served), first);
    let path = file(&served);
    served.stop();
    assert!(!path.exists());
}

#[test]
fn a_successor_that_takes_over_writes_it() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[PID_FILE]);
    let first = served.first();
    served.next_waits();
    let _upgrade = served.ask_meanwhile(Request::Upgrade);
    served.wait_for_status("/upgrade/phase", "initialising");
    signal(first, Signal::SIGKILL);
    served.wait_gone(first);
    assert_eq!(holder(&served), first, "nobody has written it since");
    served.go();
    let status = served.status();
    assert_eq!(i64::from(holder(&served)), status["pid"].as_i64().unwrap());
    served.stop();
}

#[test]
fn one_that_holds_another_pid_is_not_removed() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[PID_FILE]);
    let path = file(&served);
    std::fs::write(&path, "1\n").unwrap();
    let folder = served.folder.path().to_path_buf();
    let (host, family) = (served.host, served.family);
    host.process.signal(Signal::SIGTERM);
    let mut process = host.process;
    process.wait(SOON);
    family.assert_none_left(SOON);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
    drop(folder);
}

#[test]
fn a_link_planted_in_its_place_is_not_followed() {
    let _limit = testkit::limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let (path, victim) = (folder.path().join("pid"), folder.path().join("victim"));
    std::fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, &path).unwrap();
    let program = family.program(c_program("tests/c/host.c", &[])).env("HOST_PID_FILE", &path);
    let mut process = program.output(Output::File).start();
    process.wait_for_output("ready 0", SOON);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", process.pid()));
    assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    // Planted while it runs.
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("moved"), &path).unwrap();
    process.signal(Signal::SIGTERM);
    process.wait(SOON);
    assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
    assert!(folder.path().join("moved").exists());
}

#[test]
fn the_first_generation_says_at_flip_ready_that_it_cannot_write_it() {
    let _limit = testkit::limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let missing = folder.path().join("missing/pid");
    let cases = [
        (missing.clone(), "", libc::ENOENT, "ENOENT"),
        (folder.path().join("pid"), "write#1=fail:28", libc::ENOSPC, "ENOSPC"),
        (folder.path().join("pid"), "create#1=fail:30", libc::EROFS, "EROFS"),
        (folder.path().join("pid"), "rename#1=fail:13", libc::EACCES, "EACCES"),
    ];
    for (path, fault, errno, name) in cases {
        let program = family
            .program(c_program("tests/c/host.c", &[]))
            .env("HOST_PID_FILE", &path)
            .env("SHELLFLIP_FAULT", fault);
        let mut process = program.output(Output::File).start();
        assert_eq!(process.wait(SOON).code(), Some(4), "{}", process.output());
        let says = process.output();
        assert!(says.contains(&format!("flip_ready: -{errno}: cannot write the pid file")), "{says}");
        assert!(says.contains(name), "{says}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    }
}

#[test]
fn a_released_generation_that_cannot_write_it_serves_and_says_so() {
    let _limit = testkit::limit(LIMIT);
    // Nor can the first one write down who succeeds it.
    let faults = [("SHELLFLIP_FAULT", "write#2=fail:28"), ("SHELLFLIP_FAULT_NEXT", "write#1=fail:28")];
    let mut served = Served::start(&[PID_FILE, ("SHELLFLIP_LOG", "error"), faults[0], faults[1]]);
    let first = served.first();
    let second = served.upgrade();
    let status = served.status();
    served.wait_gone(first);
    served.host.call("/env/SHELLFLIP_FAULT_NEXT");
    assert_eq!(status["pid"], second);
    let problem = status["pid_file_error"].as_str().unwrap_or_default().to_string();
    assert!(problem.contains("cannot write the pid file") && problem.contains("ENOSPC"), "{status}");
    served.host.process.wait_for_output(&problem, SOON);
    assert_eq!(holder(&served), first, "the old one is not lost");
    // The next one can.
    let third = served.upgrade();
    assert_eq!(served.status()["pid_file_error"], serde_json::Value::Null);
    assert_eq!(holder(&served), third);
    let path = file(&served);
    served.stop();
    wait_until("no pid file", SOON, || !path.exists());
}

#[test]
fn what_the_predecessor_has_written_is_enough() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[PID_FILE, ("SHELLFLIP_FAULT_NEXT", "write#1=fail:28")]);
    let first = served.first();
    let second = served.upgrade();
    assert_eq!(served.status()["pid_file_error"], serde_json::Value::Null);
    served.wait_gone(first);
    assert_eq!(holder(&served), second);
    let path = file(&served);
    served.stop();
    wait_until("no pid file", SOON, || !path.exists());
}

/// The kernel sends the thread that writes a signal besides, whose default ends the process.
#[test]
fn a_limit_of_file_sizes_is_an_error_at_the_start() {
    let _limit = testkit::limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let path = folder.path().join("pid");
    let limited = family.program("/bin/sh").args(["-c", "ulimit -f 0; exec \"$0\" >/dev/null 2>&1"]);
    let limited = limited.arg(c_program("tests/c/host.c", &[])).env("HOST_PID_FILE", &path);
    let status = limited.start().wait(SOON);
    // What host.c exits with when flip_ready fails.
    assert_eq!(status.code(), Some(4), "{status}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    family.assert_none_left(SOON);
}
