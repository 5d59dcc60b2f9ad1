//! Servers that cannot be reached, or not by everybody.

use crate::kit::{Ran, Stage, flipctl};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;
use testkit::limit;
use testkit::process::{Family, copy_program, temp_dir};

/// Somebody who has no rights anywhere.
const NOBODY: u32 = 65_534;

#[test]
fn a_socket_without_a_server_is_told_from_a_server_without_a_socket() {
    let _limit = limit(Duration::from_secs(100));
    let (family, folder) = (Family::new(), temp_dir());
    let stale = folder.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for command in ["upgrade", "stop", "detach", "status", "doctor"] {
        let run = |path: &PathBuf| -> Ran {
            flipctl(&family).arg(command).arg("--socket").arg(path).output().unwrap().into()
        };
        let ran = run(&folder.path().join("nothing")).expect(3);
        assert!(ran.err.contains("no such file or directory (ENOENT)") && ran.out.is_empty(), "{ran:?}");
        let ran = run(&stale).expect(3);
        assert!(ran.err.contains("connection refused (ECONNREFUSED)"), "{ran:?}");
        run(&file).expect(3);
        let mut json = flipctl(&family);
        let ran =
            Ran::from(json.args([command, "--json", "--socket"]).arg(&stale).output().unwrap()).expect(3);
        assert_eq!(
            (ran.json()["result"].as_str(), ran.json()["exit_status"].as_i64()),
            (Some("error"), Some(3))
        );
    }
}

#[test]
fn what_answers_and_is_no_control_socket_is_an_error() {
    let _limit = limit(Duration::from_secs(100));
    let (family, folder) = (Family::new(), temp_dir());
    let path = folder.path().join("other");
    let listener = UnixListener::bind(&path).unwrap();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = std::io::Read::read(&mut stream, &mut [0; 64]).unwrap();
        std::io::Write::write_all(&mut stream, b"220 mail.example.org ESMTP\n").unwrap();
    });
    let ran =
        Ran::from(flipctl(&family).arg("status").arg("--socket").arg(&path).output().unwrap()).expect(1);
    assert!(ran.err.contains("no answer of a control socket"), "{ran:?}");
    other.join().unwrap();
}

#[test]
fn a_socket_that_nobody_reads_is_said_to_be_so() {
    let _limit = limit(Duration::from_secs(100));
    let (family, folder) = (Family::new(), temp_dir());
    let path = folder.path().join("silent");
    let _listener = UnixListener::bind(&path).unwrap();
    for command in ["status", "doctor", "upgrade"] {
        let mut asks = flipctl(&family);
        let ran =
            Ran::from(asks.args([command, "--timeout", "0.3", "--socket"]).arg(&path).output().unwrap());
        let ran = ran.expect(5);
        assert!(
            ran.err.contains("no answer from unix://") && ran.err.contains("in 1 s"),
            "{command}: {ran:?}"
        );
    }
}

#[test]
fn another_user_is_denied_and_told_so() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: access::another_user_is_denied_and_told_so: only root can become another user");
        return;
    }
    let _limit = limit(Duration::from_secs(100));
    let stage = Stage::new(&[]);
    let open = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(stage.control().parent().unwrap());
    // Where the tests were built, that user may not be let in.
    let program = stage.path("flipctl");
    copy_program(env!("CARGO_BIN_EXE_flipctl"), &program);
    open(&program);
    let run = |arguments: &[&str]| -> Ran {
        let mut command = std::process::Command::new(&program);
        command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/").output().unwrap().into()
    };
    let control = stage.control().display().to_string();
    for command in ["upgrade", "stop", "status", "doctor"] {
        let ran = run(&[command, "--socket", &control]).expect(4);
        assert!(ran.err.contains("permission denied (EACCES)"), "{ran:?}");
    }
    let pid_file = stage.path("pid").display().to_string();
    let ran = run(&["upgrade", "--pid-file", &pid_file]).expect(4);
    assert!(ran.err.contains("(EPERM)") || ran.err.contains("(EACCES)"), "{ran:?}");
    assert_eq!(stage.host.who().generation, 0);
}
