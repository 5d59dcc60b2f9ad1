//! The command line, the manual page and the completions.

use crate::kit::{Ran, Stage, flipctl};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::limit;
use testkit::process::Family;

fn run(arguments: &[&str]) -> Ran {
    flipctl(&Family::new()).args(arguments).output().unwrap().into()
}

#[test]
fn nonsense_is_a_usage_error() {
    for arguments in [
        &["upgrade"][..],
        &[],
        &["fly"],
        &["upgrade", "--socket", "/a", "--pid-file", "/b"],
        &["upgrade", "--socket", "tcp://127.0.0.1:80"],
        &["upgrade", "--socket", "/a", "--timeout", "0"],
        &["upgrade", "--pid-file", "/a", "--signal", "NOPE"],
    ] {
        let ran = run(arguments).expect(2);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{ran:?}");
    }
}

#[test]
fn the_environment_says_which_server_unless_the_command_line_does() {
    let _limit = limit(Duration::from_secs(100));
    let stage = Stage::new(&[]);
    let status = |socket: &str, arguments: &[&str]| -> Ran {
        let mut command = flipctl(&stage.family);
        command.env("FLIPCTL_SOCKET", socket).env("FLIPCTL_PID_FILE", "/nowhere");
        command.arg("status").args(arguments).output().unwrap().into()
    };
    let control = stage.control().display().to_string();
    status(&control, &[]).expect(0);
    status(&format!("unix://{control}"), &[]).expect(0);
    status("/nowhere", &[]).expect(3);
    status("/nowhere", &["--socket", &control]).expect(0);
}

#[test]
fn the_manual_page_lists_commands_options_findings_and_exit_statuses() {
    let page = run(&["manual"]).expect(0).out;
    // Where roff has nothing to do, minus signs and dots are escaped.
    let plain = page
        .replace("\\-", "-")
        .replace("\\&", "")
        .replace("\\fB", "")
        .replace("\\fR", "")
        .replace("\\*(Aq", "'");
    let documentation = include_str!("../../../docs/flipctl.md");
    let rows = documentation
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    let mut compared = 0;
    for (what, meaning) in rows.filter(|(what, _)| what.starts_with('`') || what.parse::<u8>().is_ok()) {
        let item = format!(".TP\n{}\n{meaning}\n", what.trim_matches('`'));
        assert!(plain.contains(&item), "{item:?} in\n{plain}");
        compared += 1;
    }
    assert!(compared > 35, "{compared}");
    for text in [
        "SS upgrade",
        "SS stop",
        "SS detach",
        "SS status",
        "SS doctor",
        "SS completions",
        "--timeout",
        "FLIPCTL_SOCKET",
    ] {
        assert!(plain.contains(text), "{text:?} in\n{plain}");
    }
}

#[test]
fn the_manual_page_is_sound() {
    let page = run(&["manual"]).expect(0).out;
    let child = Command::new("groff")
        .args(["-man", "-Tutf8", "-ww", "-z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("SKIPPED: command_line::the_manual_page_is_sound: groff is not installed");
        return;
    };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let checked = Ran::from(child.wait_with_output().unwrap()).expect(0);
    assert_eq!(checked.err, "");
}

#[test]
fn there_are_completions_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).expect(0).out;
        for word in ["upgrade", "doctor", "pid-file"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let script = run(&["completions", "bash"]).out;
    let checked = Command::new("bash").args(["-n", "-c", &script]).output().unwrap();
    Ran::from(checked).expect(0);
}
