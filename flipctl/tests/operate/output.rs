//! Output that cannot be written: what was done stays done, and the exit status says so. And what is not written to a
//! terminal.

use crate::kit::{Ran, Stage, flipctl, write_old_pid_file};
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::host::SOON;
use testkit::process::{Family, Proc, copy_program, temp_dir};
use testkit::{limit, wait_until};

const LIMIT: Duration = Duration::from_secs(100);
const TOLD: &str = "flipctl: cannot write to standard output: no space left on device (ENOSPC)\n";

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

fn unwritten(mut command: Command) -> Ran {
    command.stdout(full()).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap().into()
}

#[test]
fn a_command_that_is_there_for_what_it_prints_has_failed() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    for arguments in [&["status"][..], &["status", "--json"], &["doctor"], &["doctor", "--json"]] {
        let ran = unwritten(stage.command(arguments)).expect(1);
        assert_eq!(ran.err, TOLD, "{arguments:?}");
    }
    for arguments in [&["completions", "zsh"][..], &["manual"], &["--help"], &["stop", "-h"], &["--version"]]
    {
        let mut command = flipctl(&Family::new());
        command.args(arguments);
        let ran = unwritten(command).expect(1);
        assert_eq!(ran.err, TOLD, "{arguments:?}");
    }
}

#[test]
fn what_was_done_is_told_by_the_exit_status() {
    let _limit = limit(LIMIT);
    for json in [&[][..], &["--json"]] {
        let stage = Stage::new(&[]);
        let by_socket = |name| unwritten(stage.command(&[&[name], json].concat()));
        let by_pid_file = |name| {
            let mut command = flipctl(&stage.family);
            command.arg(name).args(json).arg("--pid-file").arg(stage.path("pid"));
            unwritten(command)
        };
        let (first, start) = (stage.first(), stage.host.who().generation);
        assert_eq!(by_socket("upgrade").expect(0).err, TOLD);
        let second = stage.host.wait_for_other(first);
        assert_eq!(by_pid_file("upgrade").expect(0).err, TOLD);
        let third = stage.host.wait_for_other(second.pid);
        assert_eq!(third.generation, start + 2);
        stage.successors("exit:3");
        let ran = by_socket("upgrade").expect(12);
        assert!(ran.err.contains("upgrade failed: new process "), "{ran:?}");
        assert_eq!(ran.err.contains(TOLD), !json.is_empty(), "{ran:?}");
        assert_eq!(by_pid_file("stop").expect(0).err, TOLD);
        assert!(!Proc(third.pid).alive());
        let ran = by_socket("stop").expect(3);
        assert_eq!(ran.err.contains(TOLD), !json.is_empty(), "{ran:?}");
        for (name, alive) in [("detach", true), ("stop", false)] {
            let stage = Stage::new(&[]);
            let ran = unwritten(stage.command(&[&[name], json].concat())).expect(0);
            assert_eq!((ran.err.as_str(), Proc(stage.first()).alive()), (TOLD, alive));
        }
    }
}

#[test]
fn a_failure_keeps_its_exit_status_where_nobody_can_be_told() {
    let _limit = limit(LIMIT);
    let mut command = flipctl(&Family::new());
    command.args(["upgrade", "--socket", "/nowhere"]).stdout(full()).stderr(full());
    assert_eq!(command.status().unwrap().code(), Some(3));
}

#[test]
fn whoever_reads_no_further_ends_it() {
    let _limit = limit(LIMIT);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = flipctl(&Family::new());
    let status = command.arg("manual").stdout(writer).status().unwrap();
    assert_eq!(status.signal(), Some(nix::libc::SIGPIPE));
}

#[test]
fn a_name_that_a_process_has_chosen_does_nothing_to_the_terminal() {
    let _limit = limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let program = folder.path().join("a\x1b]0;b\n");
    copy_program("/bin/sleep", &program);
    let process = family.program(&program).arg("1000").start();
    let name = || std::fs::read_to_string(format!("/proc/{}/comm", process.pid())).unwrap_or_default();
    wait_until("a process of that name", SOON, || name().contains("]0;b"));
    let pid_file = folder.path().join("pid");
    write_old_pid_file(&pid_file, process.pid());
    let mut command = flipctl(&family);
    // As on a terminal: elsewhere escape sequences are taken out.
    command.args(["stop", "--pid-file"]).arg(&pid_file).env("CLICOLOR_FORCE", "1");
    let ran = Ran::from(command.output().unwrap()).expect(3);
    assert!(ran.err.ends_with("its number now belongs to a\u{fffd}]0;b\u{fffd}\n"), "{ran:?}");
}
