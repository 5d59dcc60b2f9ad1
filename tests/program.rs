//! Which program an upgrade runs: what its path leads to now, found as the first one was found, for as many
//! generations as there are.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::host::{Called, Host, SOON, c_program};
use testkit::process::{
    Family, Proc, Signal, TempDir, copy_program, free_port, signal, temp_dir, write_script,
};
use testkit::{wait_for, wait_until};

const MINUTE: Duration = Duration::from_secs(60);

/// A host that says this version.
fn build(version: u32) -> PathBuf {
    c_program("tests/c/host.c", &[&format!("-DVERSION=\"{version}\"")])
}

/// Puts a program or link in the place of another, in one step, as a package manager does.
fn replace(path: &Path, make: impl FnOnce(&Path)) {
    let new = path.with_extension("new");
    make(&new);
    fs::rename(&new, path).expect("renamed");
}

fn install(path: &Path, version: u32) {
    replace(path, |new| copy_program(build(version), new));
}

fn script(path: &Path, text: &str) {
    replace(path, |new| write_script(new, text));
}

/// `releases/1`, `releases/2` … with a server each, and a link to the first.
fn releases() -> (TempDir, PathBuf) {
    let folder = temp_dir();
    for version in 1..=3 {
        let release = folder.path().join(format!("releases/{version}"));
        fs::create_dir_all(&release).expect("a folder");
        install(&release.join("server"), version);
    }
    let current = folder.path().join("current");
    symlink("releases/1", &current).expect("a link");
    (folder, current)
}

fn move_link(link: &Path, version: u32) {
    replace(link, |new| symlink(format!("releases/{version}"), new).expect("a link"));
}

/// Upgrades, and looks at who serves then.
#[track_caller]
fn upgrade(host: &Host, version: u32) -> Proc {
    let before = host.who();
    let called = host.call("/upgrade");
    assert!(called.rc > 0, "{called:?}\n{}", host.process.output());
    let after = host.wait_for_other(before.pid);
    assert_eq!((i64::from(after.pid), after.generation), (called.rc, before.generation + 1));
    assert_eq!(after.version, version.to_string());
    // Until then the old one may accept, and would take the next call for its own.
    wait_until("the old one is gone", SOON, || !Proc(before.pid).alive());
    Proc(after.pid)
}

/// The upgrade fails with this sentence, and nothing has changed.
#[track_caller]
fn refused(host: &Host, sentence: &str) -> Called {
    let before = host.who();
    let called = host.call("/upgrade");
    assert!(called.rc < 0 && called.error.contains(sentence), "{called:?}, not: {sentence}");
    assert_eq!(host.who(), before);
    called
}

#[track_caller]
fn stop(host: Host, family: &Family) {
    assert_eq!(host.call("/request/2").rc, 0);
    family.assert_none_left(SOON);
}

/// Three versions, one after the other, at `server`, however `host` was started.
#[track_caller]
fn two_upgrades(server: &Path, host: Host, family: &Family) {
    assert_eq!(host.who().version, "1");
    for version in 2..=3 {
        install(server, version);
        upgrade(&host, version);
    }
    stop(host, family);
}

/// A folder with version 1 in `bin/server`.
fn folder() -> (TempDir, PathBuf) {
    let folder = temp_dir();
    fs::create_dir(folder.path().join("bin")).expect("a folder");
    let server = folder.path().join("bin/server");
    install(&server, 1);
    (folder, server)
}

#[test]
fn a_file_that_was_replaced_runs_the_new_program() {
    let _limit = testkit::limit(MINUTE);
    let family = Family::new();
    let (_folder, server) = folder();
    let host = Host::start_program(&family, &server, &[]);
    two_upgrades(&server, host, &family);
}

#[test]
fn a_file_that_was_deleted_is_missed_until_it_is_back() {
    let _limit = testkit::limit(MINUTE);
    let family = Family::new();
    let (_folder, server) = folder();
    let host = Host::start_program(&family, &server, &[]);
    for version in 2..=3 {
        fs::remove_file(&server).expect("removed");
        let sentence = format!("cannot start {}: no such file or directory (ENOENT)", server.display());
        for _ in 0..2 {
            assert_eq!(refused(&host, &sentence).failure, 1);
        }
        install(&server, version);
        upgrade(&host, version);
    }
    stop(host, &family);
}

#[test]
fn a_link_that_moved_is_followed() {
    let _limit = testkit::limit(MINUTE);
    let family = Family::new();
    let (_folder, current) = releases();
    let host = Host::start_program(&family, &current.join("server"), &[]);
    for version in 2..=3 {
        move_link(&current, version);
        let process = upgrade(&host, version);
        assert!(
            process.executable().is_some_and(|path| path.ends_with(format!("releases/{version}/server")))
        );
    }
    stop(host, &family);
}

#[test]
fn a_program_that_is_a_link_itself_is_followed_when_that_moved() {
    let _limit = testkit::limit(MINUTE);
    let family = Family::new();
    let (folder, _) = releases();
    let server = folder.path().join("server");
    let point_to = |version| {
        replace(&server, |new| symlink(format!("releases/{version}/server"), new).expect("a link"));
    };
    point_to(1);
    let host = Host::start_program(&family, &server, &[]);
    for version in 2..=3 {
        point_to(version);
        upgrade(&host, version);
    }
    stop(host, &family);
}

#[test]
fn a_relative_path_is_relative_to_where_the_first_one_started() {
    let _limit = testkit::limit(MINUTE);
    for (argument, start) in [("bin/server", ""), ("./server", "bin"), ("../bin/server", "bin")] {
        let family = Family::new();
        let (folder, server) = folder();
        let start = folder.path().join(start);
        let host = Host::run(family.program(argument).directory(start));
        two_upgrades(&server, host, &family);
    }
}

#[test]
fn a_working_directory_that_was_changed_is_not_where_the_next_one_starts() {
    let _limit = testkit::limit(MINUTE);
    let family = Family::new();
    let (folder, server) = folder();
    let host = Host::run(family.program("bin/server").directory(folder.path()));
    for version in 2..=3 {
        assert_eq!(host.call("/chdir/%2F").rc, 0);
        install(&server, version);
        let process = upgrade(&host, version);
        let start = fs::read_link(format!("/proc/{}/cwd", process.0)).expect("its directory");
        assert_eq!(start, fs::canonicalize(folder.path()).expect("a path"));
    }
    stop(host, &family);
}

#[test]
fn a_program_found_through_path_is_found_there_again() {
    let _limit = testkit::limit(MINUTE);
    for path in ["/nonexistent:FOLDER/bin:/bin", "bin:/bin", "/usr/bin:./bin"] {
        let family = Family::new();
        let (folder, server) = folder();
        let path = path.replace("FOLDER", &folder.path().display().to_string());
        let program = family.program("/bin/sh").args(["-c", "exec server"]);
        let host = Host::run(program.env("PATH", path).directory(folder.path()));
        two_upgrades(&server, host, &family);
    }
}

#[test]
fn a_script_runs_again_with_the_interpreter_it_names_by_then() {
    let _limit = testkit::limit(MINUTE);
    // Found by its path, relative, and through PATH.
    for start in ["FOLDER/bin/run", "bin/run", "run"] {
        let family = Family::new();
        let (folder, server) = folder();
        let run = server.with_file_name("run");
        let text = |version| format!("#!{} --option\nanything\n", build(version).display());
        script(&run, &text(1));
        let argument = start.replace("FOLDER", &folder.path().display().to_string());
        let program = family.program("/bin/sh").args(["-c", &format!("exec {argument} one two")]);
        let host = Host::run(program.env("PATH", "bin:/bin").directory(folder.path()));
        let arguments = |process: Proc| process.command()[1..].to_vec();
        let first = arguments(host.process.proc());
        assert_eq!(first[0], "--option");
        assert_eq!(first[2..], ["one", "two"]);
        for version in 2..=3 {
            script(&run, &text(version));
            let process = upgrade(&host, version);
            assert_eq!(arguments(process), first);
        }
        stop(host, &family);
    }
}

#[test]
fn a_start_directory_behind_a_link_that_moved_is_entered_anew() {
    let _limit = testkit::limit(MINUTE);
    let family = Family::new();
    let (_folder, current) = releases();
    let host = Host::run(family.program("./server").directory(&current).env("PWD", &current));
    for version in 2..=3 {
        move_link(&current, version);
        let process = upgrade(&host, version);
        let start = fs::read_link(format!("/proc/{}/cwd", process.0)).expect("its directory");
        assert!(start.ends_with(format!("releases/{version}")), "{}", start.display());
    }
    stop(host, &family);
}

#[test]
fn a_start_directory_that_was_deleted_is_named() {
    let _limit = testkit::limit(MINUTE);
    let family = Family::new();
    let (folder, server) = folder();
    let start = folder.path().join("start");
    fs::create_dir(&start).expect("a folder");
    let host = Host::run(family.program(&server).directory(&start).env("PWD", &start));
    for version in 2..=3 {
        fs::remove_dir(&start).expect("removed");
        let sentence =
            format!("cannot start in directory {}: no such file or directory (ENOENT)", start.display());
        for _ in 0..2 {
            refused(&host, &sentence);
        }
        fs::create_dir(&start).expect("a folder");
        install(&server, version);
        upgrade(&host, version);
    }
    stop(host, &family);
}

#[test]
fn a_wrapper_that_execs_works_at_the_start_and_as_the_command() {
    let _limit = testkit::limit(MINUTE);
    let family = Family::new();
    let (folder, server) = folder();
    let wrapper = folder.path().join("wrapper");
    script(&wrapper, &format!("#!/bin/sh\nexec {} \"$@\"\n", server.display()));
    let host = Host::start_program(&family, &wrapper, &[]);
    install(&server, 2);
    upgrade(&host, 2);
    for version in 3..=4 {
        install(&server, version);
        assert_eq!(host.call(&command(&wrapper)).rc, 0);
        upgrade(&host, version);
    }
    stop(host, &family);
}

/// What asks the host for `flip_set_command`.
fn command(program: &Path) -> String {
    format!("/command/{}", program.display().to_string().replace('/', "%2F"))
}

/// A host on a port of its own, and the command that its next upgrade runs: a wrapper with these lines.
fn behind(family: &Family, lines: &str, environment: &[(&str, &str)]) -> (TempDir, Host) {
    let (folder, server) = folder();
    let wrapper = folder.path().join("wrapper");
    script(&wrapper, &format!("#!/bin/sh\n{}\n", lines.replace("SERVER", &server.display().to_string())));
    let host = Host::start_program(family, &server, environment);
    assert_eq!(host.call(&command(&wrapper)).rc, 0);
    (folder, host)
}

/// The program behind the wrapper began as a server of its own, and no line says that it was a successor.
fn assert_only_generation_0(host: &Host) {
    let output = host.process.output();
    assert_eq!(output.matches("init 0 ").count(), 2, "{output}");
    assert!(!output.contains("generation=1"), "{output}");
}

/// With the right command the next upgrade works.
fn assert_next_upgrade_works(folder: &TempDir, host: &Host) {
    assert_eq!(host.call(&command(&folder.path().join("bin/server"))).rc, 0);
    upgrade(host, 1);
}

#[test]
fn behind_a_wrapper_that_forks_and_waits_nobody_takes_itself_for_a_successor() {
    let _limit = testkit::limit(MINUTE);
    let family = Family::new();
    let address = format!("tcp://127.0.0.1:{}", free_port());
    let (folder, host) = behind(&family, "SERVER & wait $!", &[("HOST_ADDRESS", &address)]);
    // The address is in use, by the server that is to be replaced.
    let called = refused(&host, "exited with status 3 before it was ready");
    assert!(called.error.contains(NOT_IN_THAT_PROCESS), "{called:?}");
    host.process.wait_for_output(&format!("cannot listen on {address}"), SOON);
    assert_only_generation_0(&host);
    assert_next_upgrade_works(&folder, &host);
    stop(host, &family);
}

#[test]
fn behind_a_wrapper_that_forks_and_leaves_nobody_takes_itself_for_a_successor() {
    let _limit = testkit::limit(MINUTE);
    let family = Family::new();
    let (folder, host) = behind(&family, "SERVER &\nexit 7", &[]);
    // Its child holds a copy of the channel, so that no end of it is seen.
    let called = refused(&host, "exited with status 7 before it was ready");
    assert!(called.error.contains(NOT_IN_THAT_PROCESS), "{called:?}");
    end_the_other_server(&host);
    assert_only_generation_0(&host);
    assert_next_upgrade_works(&folder, &host);
    stop(host, &family);
}

#[test]
fn a_wrapper_that_forks_and_hangs_is_ended_at_the_deadline() {
    let _limit = testkit::limit(MINUTE);
    let family = Family::new();
    let lines = "SERVER &\ntrap 'kill $!; wait; exit 0' TERM\nwait";
    let (folder, host) = behind(&family, lines, &[("UPGRADE_TIMEOUT_MS", "1500")]);
    let called = refused(&host, "was not ready by the upgrade deadline");
    assert_eq!(called.failure, 4);
    assert!(called.error.contains("flip_init has not been called in that process"), "{called:?}");
    // Not after the time that its end took besides.
    assert!(called.error.contains("(after 1.5 s)"), "{called:?}");
    assert_only_generation_0(&host);
    assert_next_upgrade_works(&folder, &host);
    stop(host, &family);
}

/// The part of the line that says what is wrong with a wrapper.
const NOT_IN_THAT_PROCESS: &str = "flip_init was not called in that process";

/// A second server, on an address of its own, that nobody stops.
fn end_the_other_server(host: &Host) {
    let line = wait_for("the other server is ready", SOON, || {
        let output = host.process.output();
        output.lines().filter(|line| line.starts_with("ready 0 ")).nth(1).map(str::to_string)
    });
    let pid = line.split(' ').find_map(|word| word.strip_prefix("pid=")?.parse().ok()).expect("a pid");
    signal(pid, Signal::SIGTERM);
}
