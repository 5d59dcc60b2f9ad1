//! The path of the socket: mode and owner from the first instant, stale and live ones, those that somebody removed.

use crate::served::{GoOn, LIMIT, Served};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use testkit::deadline::wait_until;
use testkit::host::{SOON, c_program};
use testkit::process::{Family, Output, Signal, signal, temp_dir};

#[test]
fn mode_and_owner_are_right_from_the_first_instant() {
    let _limit = testkit::limit(LIMIT);
    let root = nix::unistd::geteuid().is_root();
    let cases = [("", 0o600, false), ("?mode=0660", 0o660, false), ("?mode=0660&owner=:23456", 0o660, true)];
    for (query, mode, owner) in cases.into_iter().filter(|(_, _, owner)| root || !owner) {
        let (family, folder) = (Family::new(), temp_dir());
        let path = folder.path().join("ctl");
        let (going, goes_on) = GoOn::new();
        let seen = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = BTreeSet::new();
                while goes_on() {
                    if let Ok(status) = std::fs::symlink_metadata(&path) {
                        seen.insert((status.mode() & 0o7777, status.gid()));
                    }
                }
                seen
            });
            for _ in 0..10 {
                let mut program = family
                    .program(c_program("tests/c/host.c", &[]))
                    .env("HOST_CONTROL_SOCKET", format!("unix://{}{query}", path.display()));
                // SAFETY: umask(2) is async-signal-safe.
                unsafe {
                    program.command().pre_exec(|| {
                        libc::umask(0);
                        Ok(())
                    })
                };
                let mut process = program.output(Output::File).start();
                process.wait_for_output("ready 0", SOON);
                process.signal(Signal::SIGTERM);
                process.wait(SOON);
            }
            drop(going);
            watcher.join().unwrap()
        });
        // Until it is right nobody else may connect (0200), and the mode never comes before the owner.
        let gid = if owner { 23456 } else { nix::unistd::getegid().as_raw() };
        assert!(seen.contains(&(mode, gid)), "{query}: {seen:?}");
        for (mode_seen, gid_seen) in &seen {
            assert!(*mode_seen == 0o200 || (*mode_seen, *gid_seen) == (mode, gid), "{query}: {seen:?}");
        }
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    let address = format!("unix://{}", served.socket.display());
    let second_instance = |served: &Served| {
        let program =
            served.family.program(c_program("tests/c/host.c", &[])).env("HOST_CONTROL_SOCKET", &address);
        let mut process = program.output(Output::File).start();
        let status = process.wait(SOON);
        assert_eq!(status.code(), Some(2), "{}", process.output());
        process.output()
    };
    // Live.
    let says = second_instance(&served);
    assert!(
        says.contains("control socket: cannot listen on unix:///") && says.contains("(EADDRINUSE)"),
        "{says}"
    );
    assert_eq!(served.status()["pid"], first);
    // Stale.
    signal(first, Signal::SIGKILL);
    served.wait_gone(first);
    assert!(served.socket.exists());
    let program =
        served.family.program(c_program("tests/c/host.c", &[])).env("HOST_CONTROL_SOCKET", &address);
    let mut again = program.output(Output::File).start();
    again.wait_for_output("ready 0", SOON);
    assert_eq!(served.status()["pid"], again.pid());
    again.signal(Signal::SIGTERM);
    again.wait(SOON);
    assert!(!served.socket.exists());
    // A file.
    std::fs::write(&served.socket, "precious").unwrap();
    let says = second_instance(&served);
    assert!(says.contains("there is a regular file in its place, which is left alone"), "{says}");
    assert_eq!(std::fs::read_to_string(&served.socket).unwrap(), "precious");
}

#[test]
fn a_path_that_somebody_took_away_comes_back_with_the_next_upgrade() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    std::fs::remove_file(&served.socket).unwrap();
    let called = served.host.upgrade();
    assert!(called.rc > 0, "{called:?}");
    assert_eq!(served.wait_for_status("/generation", 1)["pid"], called.rc);
    served.wait_gone(first);
    served.stop();
}

/// A service manager that made the socket also removes it.
#[test]
fn one_that_a_service_manager_passes_is_used_and_not_unlinked() {
    let _limit = testkit::limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let path = folder.path().join("ctl");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let high = nix::fcntl::fcntl(&listener, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(200)).unwrap();
    let mut program = family
        .program("/bin/sh")
        .args(["-c", "export LISTEN_PID=$$; exec \"$0\""])
        .arg(c_program("tests/c/host.c", &[]))
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "a.socket")
        .env("HOST_CONTROL_SOCKET", format!("unix://{}", path.display()));
    // SAFETY: dup2 is async-signal-safe.
    unsafe {
        program.command().pre_exec(move || match libc::dup2(high, 3) {
            3 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    let host = testkit::host::Host::run(program.output(Output::File));
    drop(listener);
    // SAFETY: this test's own, from fcntl.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(high) });
    let mut served = Served { host, family, folder, socket: path };
    let first = served.first();
    assert_eq!(served.status()["pid"], first);
    let second = served.upgrade();
    assert_eq!(served.status()["pid"], second);
    served.wait_gone(first);
    assert_eq!(served.ask(shellflip::control::Request::Stop), Ok(None));
    served.family.assert_none_left(SOON);
    assert!(served.socket.exists());
}

#[test]
fn somebody_elses_socket_in_its_place_is_left_alone() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    std::fs::remove_file(&served.socket).unwrap();
    let _theirs = std::os::unix::net::UnixListener::bind(&served.socket).unwrap();
    served.host.process.signal(Signal::SIGTERM);
    served.wait_gone(served.first());
    assert!(served.socket.exists());
}

#[test]
fn a_flip_init_that_fails_afterwards_leaves_no_path() {
    let _limit = testkit::limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let path = folder.path().join("ctl");
    for fault in ["thread#1=fail:11", "sigaction#1=fail:22"] {
        let program = family
            .program(c_program("tests/c/host.c", &[]))
            .env("HOST_CONTROL_SOCKET", format!("unix://{}", path.display()))
            .env("SHELLFLIP_FAULT", fault);
        let mut process = program.output(Output::File).start();
        assert_eq!(process.wait(SOON).code(), Some(2), "{fault}: {}", process.output());
        wait_until("no path", SOON, || !path.exists());
    }
}

#[test]
fn flip_free_in_a_process_that_serves_is_a_stop() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[("HOST_PID_FILE", "DIR/pid")]);
    let first = served.first();
    served.upgrade();
    served.wait_gone(first);
    assert!(served.folder.path().join("pid").exists());
    // The process may end before it has answered.
    let address = served.host.address.to_string();
    let mut stream = std::net::TcpStream::connect(address.trim_start_matches("tcp://")).unwrap();
    stream.write_all(b"GET /free HTTP/1.1\r\n\r\n").unwrap();
    served.family.assert_none_left(SOON);
    assert!(!served.socket.exists() && !served.folder.path().join("pid").exists());
}
