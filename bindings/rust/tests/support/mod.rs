//! The example programs as these tests run them.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;
use testkit::load::{Load, Report};
use testkit::process::{Family, Proc, Process, Signal, signal};
use testkit::{wait_for, wait_until};

/// How long anything that normally takes milliseconds may take.
pub const SOON: Duration = Duration::from_secs(10);

/// A program of examples/rust, built here.
pub fn example(name: &str) -> PathBuf {
    example_of_version(name, None)
}

/// The same, built as this version. A copy, since all versions are built to one path.
pub fn example_of_version(name: &str, version: Option<&str>) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    build.args(["build", "--quiet", "--example", name, "--manifest-path", manifest]);
    // As the runner builds the tests: builds with and without the faults share one libshellflip.so.
    build.args(["--all-features", "--features", "shellflip/faults"]);
    if let Some(version) = version {
        build.env("VERSION", version);
    }
    assert!(build.status().expect("cargo").success(), "the example {name} cannot be built");
    let deps = std::env::current_exe().expect("the test's own path");
    let built = deps.parent().and_then(Path::parent).expect("target/debug").join("examples").join(name);
    let copy = deps.with_file_name(format!("{name}-{}-{}", version.unwrap_or("one"), std::process::id()));
    std::fs::copy(built, &copy).expect("a copy of the example");
    copy
}

/// Waits until that generation says that it serves; its pid.
pub fn serving(server: &Process, generation: u64) -> i32 {
    let line = format!("generation {generation}: serving");
    server.wait_for_output(&line, SOON);
    let output = server.output();
    let line = output.lines().rfind(|other| other.contains(&line)).expect("the line");
    let pid = line.split("pid ").nth(1).and_then(|rest| rest.split(',').next()).expect("its pid");
    pid.parse().expect("a pid")
}

/// Ten upgrades by signal under load: each has requests in it, none fails, and each generation is gone in the end.
pub fn ten_upgrades(family: &Family, load: Load, least: u64) -> Report {
    wait_until("answers", SOON, || load.snapshot().answered >= least);
    let mut pid = load.seen().last().expect("somebody answers").identity.pid;
    for number in 1..=10 {
        let began = load.mark();
        signal(pid, Signal::SIGUSR1);
        let other = || load.seen().last().map(|seen| seen.identity.pid).filter(|other| *other != pid);
        let next = wait_for("another process answers", SOON, other);
        wait_until("the old process has exited", SOON * 4, || !Proc(pid).alive());
        let sent = load.between(began, load.mark()).sent;
        assert!(sent > 0, "upgrade {number} is void: no request was sent during it");
        pid = next;
    }
    let seen = load.seen().len();
    assert!(seen >= 11, "{seen} processes have answered");
    let report = load.stop();
    report.assert_clean();
    signal(pid, Signal::SIGTERM);
    family.wait_gone(pid, SOON);
    family.assert_none_left(SOON);
    report
}
