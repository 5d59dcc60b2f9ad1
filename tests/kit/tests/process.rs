//! What the kit promises of processes: each is found, none is left, and a test that hangs is named.

use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use testkit::process::{Family, Output, Proc, Signal, signal};
use testkit::{limit, wait_for, wait_until};

const SOON: Duration = Duration::from_secs(10);

fn first_number(text: &str) -> Option<i32> {
    text.lines().next().filter(|_| text.contains('\n'))?.trim().parse().ok()
}

#[test]
fn a_process_that_its_parent_left_behind_is_found_and_ended() {
    let _limit = limit(Duration::from_secs(60));
    let family = Family::new();
    // A session of its own: nothing but the mark connects it to us.
    let mut shell = family.program("/bin/sh").args(["-c", "setsid sleep 600 & echo $!"]).start();
    assert!(shell.wait(SOON).success());
    let orphan = wait_for("the shell has named its child", SOON, || first_number(&shell.output()));
    wait_until("it sleeps", SOON, || Proc(orphan).command().first().is_some_and(|name| name == "sleep"));
    assert_eq!(family.leftovers(), [Proc(orphan)]);
    assert_eq!(Proc(orphan).parent(), Some(std::process::id() as i32), "we are its subreaper");
    drop(family);
    assert!(!Proc(orphan).alive());
}

#[test]
fn the_exit_of_an_adopted_process_is_known() {
    let family = Family::new();
    let mut shell = family.program("/bin/sh").args(["-c", "sh -c 'sleep 0.2; exit 7' & echo $!"]).start();
    shell.wait(SOON);
    let orphan = first_number(&shell.output()).unwrap();
    let status = family.wait_gone(orphan, SOON);
    assert_eq!(status.map(|status| format!("{status:?}")), Some(format!("Exited(Pid({orphan}), 7)")));
    family.assert_none_left(SOON);
}

#[test]
fn families_do_not_touch_each_other() {
    let (one, other) = (Family::new(), Family::new());
    let sleeper = one.program("sleep").arg("600").start();
    drop(other);
    assert!(sleeper.proc().alive());
    assert_eq!(one.leftovers(), [sleeper.proc()]);
}

#[test]
fn a_child_that_nobody_reaps_is_seen() {
    let family = Family::new();
    // exec keeps the child, and sleep never waits for it.
    let shell = family.program("/bin/sh").args(["-c", "true & exec sleep 600"]).start();
    let zombies = wait_for("a zombie", SOON, || Some(family.zombies()).filter(|zombies| !zombies.is_empty()));
    assert_eq!(zombies[0].parent(), Some(shell.pid()));
    assert_eq!(shell.proc().children(), zombies);
}

#[test]
fn proc_knows_descriptors_threads_signals_and_states() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let me = Proc::me();
    let descriptors = me.descriptors();
    let found = descriptors.iter().find(|descriptor| descriptor.number == listener.as_raw_fd()).unwrap();
    assert!(found.cloexec && found.inode.is_some() && found.target.starts_with("socket:["), "{found:?}");
    let input = descriptors.iter().find(|descriptor| descriptor.number == 0).unwrap();
    assert!(!input.cloexec);
    assert!(me.threads().unwrap() >= 1 && me.mappings().unwrap() > 5 && me.resident().unwrap() > 100_000);
    assert!(me.describe().contains("state"));

    let family = Family::new();
    let mut shell = family.program("/bin/sh").args(["-c", "trap '' HUP; echo on; exec sleep 600"]).start();
    shell.wait_for_output("on", SOON);
    let hangup = 1 << (Signal::SIGHUP as u64 - 1);
    assert_eq!(shell.proc().ignored().unwrap() & hangup, hangup);
    shell.signal(Signal::SIGSTOP);
    shell.proc().wait_stopped(SOON);
    signal(shell.pid(), Signal::SIGKILL);
    assert_eq!(shell.wait(SOON).signal(), Some(9));
    assert_eq!(shell.proc().state(), None);
}

#[test]
fn output_goes_through_a_pipe_on_request() {
    let family = Family::new();
    let mut cat = family.program("cat").output(Output::Pipe).start();
    std::io::Write::write_all(&mut cat.take_stdin().unwrap(), b"through").unwrap();
    assert_eq!(std::io::read_to_string(cat.take_stdout().unwrap()).unwrap(), "through");
    assert!(cat.wait(SOON).success());
}

#[test]
#[should_panic(expected = "before it answers")]
fn the_end_of_a_program_ends_the_wait_for_it() {
    let family = Family::new();
    family.program("false").start().wait_until("it answers", Duration::from_secs(600), || false);
}

#[test]
fn a_test_that_hangs_is_named_and_leaves_nothing() {
    let exe = std::env::current_exe().unwrap();
    let output = Command::new(exe).args(["--exact", "hangs", "--ignored"]).output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("hangs: still running after"), "{text}");
    let sleeper = text.lines().find(|line| line.contains("sleep 6543")).unwrap_or_else(|| panic!("{text}"));
    let pid = sleeper.trim().split(':').next().unwrap().parse().unwrap();
    assert!(!Proc(pid).alive(), "{text}");
}

#[test]
#[ignore = "run by a_test_that_hangs_is_named_and_leaves_nothing"]
fn hangs() {
    let _limit = limit(Duration::from_millis(300));
    let family = Family::new();
    family.program("sleep").arg("6543").start().wait(Duration::from_secs(600));
}
