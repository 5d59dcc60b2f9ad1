//! The demo with a tiny server that does it right, and with ones that do not: it has to tell them apart.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use testkit::process::temp_dir;

const SERVER: &str = env!("CARGO_BIN_EXE_control_server");

fn script(directory: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn server(directory: &Path, version: &str, mode: &str) -> std::path::PathBuf {
    let text = format!("exec {SERVER} --mode {mode} --version {version} --relaunch \"$0\" \"$@\"");
    script(directory, &format!("v{version}"), &text)
}

fn demo(directory: &Path, mode: &str, more: &[&str]) -> (Output, String) {
    let _limit = testkit::limit(Duration::from_secs(90));
    let mut command = Command::new(env!("CARGO_BIN_EXE_flipdemo"));
    command.arg("--v1").arg(server(directory, "1", mode)).arg("--v2").arg(server(directory, "2", mode));
    let output = command.args(["--pause-ms", "50"]).args(more).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains('\u{1b}'), "colours are for terminals: {text:?}");
    (output, text)
}

#[test]
fn right_upgrades_a_crash_and_a_hang_lose_nothing() {
    let directory = temp_dir();
    let crash = script(directory.path(), "crash", "exit 3");
    let hang = script(directory.path(), "hang", "exec sleep 600");
    let (crash, hang) = (crash.to_str().unwrap(), hang.to_str().unwrap());
    let more = ["--upgrades", "6", "--crash", crash, "--hang", hang, "--upgrade-timeout-ms", "1000"];
    let (output, text) = demo(directory.path(), "inherit", &more);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for expected in
        ["crashed: old one serves on", "hung: old one serves on", "6 of 6 upgrades as expected", " 0 failed"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn lost_requests_end_the_demo_with_status_1() {
    let directory = temp_dir();
    let (output, text) = demo(directory.path(), "close-and-bind", &["--upgrades", "3"]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Refused"), "{text}");
}

#[test]
fn an_upgrade_that_does_not_happen_ends_the_demo_with_status_1() {
    let directory = temp_dir();
    let mut command = Command::new(env!("CARGO_BIN_EXE_flipdemo"));
    command.arg("--v1").arg(server(directory.path(), "1", "inherit"));
    command.arg("--v2").arg(script(directory.path(), "v2", "exit 3"));
    let output = command.args(["--limit-seconds", "2"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("not over after 2 s") && text.contains("upgrade failed"), "{text}");
}

#[test]
fn a_server_that_does_not_start_is_status_2() {
    let directory = temp_dir();
    let (output, _) = demo(directory.path(), "no-such-mode", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-mode"), "{output:?}");
}
