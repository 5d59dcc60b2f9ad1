//! What the service manager is told, datagram by datagram and in order, on a socket in systemd's place. The real one is
//! in `systemd.rs`.

#[path = "notify/manager.rs"]
mod manager;
#[path = "lifecycle/part.rs"]
#[allow(dead_code)]
mod part;

use manager::Manager;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use part::Part;
use shellflip::control;
use std::time::{Duration, Instant};
use testkit::deadline::scaled;
use testkit::host::{Host, SOON};
use testkit::load::get;
use testkit::process::{Family, Proc};
use testkit::wait_until;

const READY: &[&str] = &["READY=1", "STATUS=Serving (generation 0)."];

fn limit() -> testkit::deadline::Limit {
    testkit::limit(Duration::from_secs(60))
}

/// A host in generation 0 whose READY was read.
fn started(family: &Family, manager: &Manager, environment: &[(&str, &str)]) -> (Host, i32) {
    let host = manager.start(family, false, environment);
    let pid = host.process.pid();
    manager.expect(pid, READY);
    (host, pid)
}

/// A request that is answered by `pid` after `ms`, meanwhile open.
fn slow(host: &Host, ms: u32) -> std::thread::JoinHandle<()> {
    let address = host.address.clone();
    let thread = std::thread::spawn(move || {
        get(&address, &format!("/slow/{ms}"), Duration::from_secs(60)).expect("an answer");
    });
    wait_until("the request is counted", SOON, || host.call("/count").rc >= 2);
    thread
}

#[test]
fn a_start_an_upgrade_and_a_stop() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let (host, first) = started(&family, &manager, &[]);
    manager.expect_silence();

    let open = slow(&host, 1500);
    let upgrade = host.call_meanwhile("/upgrade");
    let second = manager.expect_upgrade(first);
    manager.expect_main(first, second, 1);
    let barrier = manager.expect_barrier(first);
    // Until the manager has read that, nobody leaves, and nobody else speaks.
    manager.expect_silence();
    assert!(!host.process.output().contains("shutdown"), "{}", host.process.output());
    assert!(!upgrade.is_finished());
    drop(barrier);
    assert_eq!(upgrade.join().unwrap().rc, i64::from(second));
    assert_eq!(host.wait_for_other(first).pid, second);
    // A drainer says nothing, whatever happens to it.
    kill(Pid::from_raw(first), Signal::SIGTERM).unwrap();
    open.join().unwrap();
    family.wait_gone(first, SOON);
    manager.expect_silence();

    kill(Pid::from_raw(second), Signal::SIGTERM).unwrap();
    manager.expect(second, &["STOPPING=1", "STATUS=Stopping."]);
    family.wait_gone(second, SOON);
    assert!(manager.try_next().is_none());
}

#[test]
fn a_failed_upgrade_ends_the_reload_and_says_why() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let (host, first) = started(&family, &manager, &[]);
    host.call("/env/HOST_BEFORE_READY/exit:3");
    let called = host.upgrade();
    let second = manager.expect_upgrade(first);
    let status = format!(
        "STATUS=Serving (generation 0). No upgrade: new process {second} exited with status 3 before it was ready \
         (after … s)"
    );
    manager.expect(first, &["READY=1", &status]);
    assert!(status.contains(called.error.split(" (after").next().unwrap()), "{called:?}");
    // The next one works, asked for by a signal.
    host.call("/env/HOST_BEFORE_READY");
    kill(Pid::from_raw(first), Signal::SIGUSR1).unwrap();
    let third = manager.expect_upgrade(first);
    manager.expect_main(first, third, 1);
    drop(manager.expect_barrier(first));
    assert_eq!(host.wait_for_other(first).pid, third);
    manager.expect_silence();
}

#[test]
fn a_program_that_is_missing_is_a_failed_upgrade() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let (host, first) = started(&family, &manager, &[]);
    host.call("/command/%2Fnonexistent");
    assert_eq!(host.upgrade().rc, -i64::from(libc::ENOENT));
    manager.expect_request(first);
    let why = "cannot start /nonexistent: no such file or directory (ENOENT)";
    manager.expect(first, &["READY=1", &format!("STATUS=Serving (generation 0). No upgrade: {why}")]);
    manager.expect_silence();
}

#[test]
fn a_refusal_ends_the_reload_and_what_is_remembered_keeps_it() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let (host, mut pid) = started(&family, &manager, &[]);
    let mut open = Vec::new();
    for generation in 1..=2 {
        open.push(slow(&host, 3000));
        let upgrade = host.call_meanwhile("/upgrade");
        let next = manager.expect_upgrade(pid);
        manager.expect_main(pid, next, generation);
        drop(manager.expect_barrier(pid));
        upgrade.join().unwrap();
        pid = host.wait_for_other(pid).pid;
        assert_eq!(pid, next);
    }
    // Two older ones drain now; one may.
    assert_eq!(host.upgrade().rc, -i64::from(libc::EBUSY));
    manager.expect_request(pid);
    let why = "STATUS=Serving (generation 2). No upgrade: too many older generations are still draining";
    manager.expect(pid, &["READY=1", why]);

    kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
    manager.expect_request(pid);
    manager.expect(pid, &["STATUS=An upgrade was asked for, and waits for older generations to finish."]);
    // The older ones end, and what was asked for begins: RELOADING still holds.
    let said = manager.next();
    assert!(said.text.starts_with("STATUS=Upgrading: process "), "{said:?}");
    let said = manager.next();
    assert!(said.text.starts_with("MAINPID="), "{said:?}");
    drop(manager.expect_barrier(pid));
    open.into_iter().for_each(|open| open.join().unwrap());
    assert_eq!(host.wait_for_other(pid).generation, 3);
}

#[test]
fn a_detached_process_says_nothing_but_ends_the_reload_that_it_refuses() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let (host, pid) = started(&family, &manager, &[]);
    assert_eq!(host.call("/request/3").rc, 0);
    host.process.wait_for_output("shutdown 3", SOON);
    manager.expect_silence();
    kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
    manager.expect_request(pid);
    let why = "STATUS=Serving (generation 0). No upgrade: this process is stopping or detached";
    manager.expect(pid, &["READY=1", why]);
}

#[test]
fn a_slow_start_gets_more_time() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let steps = ("HOST_BEFORE_READY", "extend:4300000000");
    let host = manager.start(&family, false, &[steps, ("SHELLFLIP_TEST_EXTEND_MS", "300")]);
    let first = host.process.pid();
    // More than the 32 bits of some libraries.
    manager.expect(first, &["EXTEND_TIMEOUT_USEC=4300000000000"]);
    manager.expect(first, READY);
    host.call("/env/HOST_BEFORE_READY/extend:7000,sleep:1000");
    let upgrade = host.call_meanwhile("/upgrade");
    let second = manager.expect_upgrade(first);
    let (mut by_itself, mut by_the_host) = (0, 0);
    let announced = loop {
        let said = manager.next();
        assert_eq!(said.pid, first, "{said:?}");
        match said.text.as_str() {
            "EXTEND_TIMEOUT_USEC=15000000\n" => by_itself += 1,
            "EXTEND_TIMEOUT_USEC=7000000\n" => by_the_host += 1,
            _ => break said,
        }
    };
    assert!(by_itself >= 2 && by_the_host == 1, "{by_itself} {by_the_host}");
    assert!(announced.text.starts_with(&format!("MAINPID={second}\n")), "{announced:?}");
    drop(manager.expect_barrier(first));
    upgrade.join().unwrap();
    host.wait_for_other(first);
}

#[test]
fn a_long_drain_gets_more_time_unless_the_process_is_mute() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let folder = testkit::process::temp_dir();
    let (host, pid) = started(&family, &manager, &[("HOST_CONTROL", folder.path().to_str().unwrap())]);
    let control = |pid: i32| format!("unix://{}/{pid}", folder.path().display()).parse().expect("an address");
    let open = slow(&host, 2000);
    let upgrade = host.call_meanwhile("/upgrade");
    let next = manager.expect_upgrade(pid);
    manager.expect_main(pid, next, 1);
    drop(manager.expect_barrier(pid));
    upgrade.join().unwrap();
    host.wait_for_other(pid);
    assert_eq!(testkit::host::call(&control(pid), "/extend/9000").rc, 0);
    let again = slow(&host, 1000);
    kill(Pid::from_raw(next), Signal::SIGTERM).unwrap();
    let said = manager.next();
    assert!(said.pid == next && said.text.starts_with("STOPPING=1\nSTATUS=Stopping: "), "{said:?}");
    assert_eq!(testkit::host::call(&control(next), "/extend/9000").rc, 0);
    manager.expect(next, &["EXTEND_TIMEOUT_USEC=9000000"]);
    open.join().unwrap();
    again.join().unwrap();
    family.assert_none_left(SOON);
    assert!(manager.try_next().is_none());
}

#[test]
fn a_take_over_says_that_it_is_the_main_process() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let (host, first) = started(&family, &manager, &[]);
    host.call("/env/HOST_BEFORE_READY/sleep:1000");
    kill(Pid::from_raw(first), Signal::SIGUSR1).unwrap();
    let second = manager.expect_upgrade(first);
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let status = "STATUS=Serving (generation 1), since its predecessor died.";
    manager.expect(second, &[&format!("MAINPID={second}"), "READY=1", status]);
    host.wait_for_other(first);
    manager.expect_silence();
}

#[test]
fn a_new_process_that_dies_once_it_was_announced_is_taken_back() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let (host, first) = started(&family, &manager, &[]);
    let upgrade = host.call_meanwhile("/upgrade");
    let second = manager.expect_upgrade(first);
    manager.expect_main(first, second, 1);
    let barrier = manager.expect_barrier(first);
    kill(Pid::from_raw(second), Signal::SIGKILL).unwrap();
    manager.expect(first, &[&format!("MAINPID={first}"), "READY=1"]);
    drop(barrier);
    let why = format!("new process {second} was ended by signal 9 right after it began to serve (after … s)");
    manager.expect(first, &["READY=1", &format!("STATUS=Serving (generation 0). No upgrade: {why}")]);
    assert_eq!(upgrade.join().unwrap().failure, 3);
    assert_eq!(host.who().pid, first);
    // Its voice is its own again.
    let upgrade = host.call_meanwhile("/upgrade");
    let third = manager.expect_upgrade(first);
    manager.expect_main(first, third, 1);
    drop(manager.expect_barrier(first));
    assert_eq!(upgrade.join().unwrap().rc, i64::from(third));
}

#[test]
fn a_manager_that_does_not_read_is_told_later_and_both_serve_meanwhile() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let folder = testkit::process::temp_dir();
    let control = format!("unix:{}", folder.path().join("ctl").display());
    let (host, first) = started(&family, &manager, &[("HOST_CONTROL_SOCKET", &control)]);
    let address = control::parse_address(control.as_bytes()).expect("an address");
    let stuck = || {
        let status = control::status(&address, Some(scaled(SOON))).expect("a status");
        status.contains("\"notify_stuck\":true")
    };
    assert!(!stuck());
    let junk = manager.fill();
    let upgrade = host.call_meanwhile("/upgrade");
    host.process.wait_for_output("tried again every second", SOON);
    let second = host.wait_for_other(first).pid;
    // Both accept: ask until each has answered.
    wait_until("the old one answers too", SOON, || host.who().pid == first);
    assert!(!upgrade.is_finished());
    assert!(stuck());
    assert!(!host.process.output().contains("shutdown"), "{}", host.process.output());
    for _ in 0..junk {
        assert_eq!(manager.next().text, "X=1");
    }
    let emptied = Instant::now();
    assert_eq!(manager.expect_upgrade_late(first), second);
    drop(manager.expect_barrier(first));
    assert!(emptied.elapsed() < testkit::deadline::scaled(Duration::from_secs(5)));
    assert_eq!(upgrade.join().unwrap().rc, i64::from(second));
    family.wait_gone(first, SOON);
    assert!(!stuck());
}

#[test]
fn a_manager_that_never_reads_does_not_keep_flip_free_from_returning() {
    let _limit = limit();
    let manager = Manager::new();
    let part = Part::start(&[
        ("NOTIFY_SOCKET", &manager.address),
        ("SHELLFLIP_LOG", "error"),
        ("SHELLFLIP_TEST_BARRIER_MS", "400"),
    ]);
    let first = part.first();
    manager.expect(first, READY);
    manager.fill();
    let _upgrade = part.call_unanswered(first, "/upgrade");
    let second = part.successor();
    part.host.process.wait_for_output("tried again every second", SOON);
    let _freed = part.call_unanswered(first, "/free");
    part.host.process.wait_for_output("has not read the new main process", SOON);
    part.family.wait_gone(first, SOON);
    assert_eq!(part.host.who().pid, second);
}

#[test]
fn a_barrier_that_nobody_reads_is_waited_for_until_its_limit() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let (host, first) = started(&family, &manager, &[("SHELLFLIP_TEST_BARRIER_MS", "400")]);
    let upgrade = host.call_meanwhile("/upgrade");
    let second = manager.expect_upgrade(first);
    let begun = Instant::now();
    manager.expect_main(first, second, 1);
    let _barrier = manager.expect_barrier(first);
    assert_eq!(upgrade.join().unwrap().rc, i64::from(second));
    assert!(begun.elapsed() >= Duration::from_millis(350), "{:?}", begun.elapsed());
    assert!(host.process.output().contains("has not read the new main process"), "{}", host.process.output());
}

#[test]
fn a_name_in_the_abstract_namespace() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::unnamed();
    let (host, first) = started(&family, &manager, &[]);
    let upgrade = host.call_meanwhile("/upgrade");
    let second = manager.expect_upgrade(first);
    manager.expect_main(first, second, 1);
    drop(manager.expect_barrier(first));
    assert_eq!(upgrade.join().unwrap().rc, i64::from(second));
}

#[test]
fn a_socket_that_nobody_listens_on_any_more_hinders_nothing() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let (host, first) = started(&family, &manager, &[]);
    drop(manager);
    assert!(host.upgrade().rc > 0);
    let second = host.wait_for_other(first).pid;
    family.wait_gone(first, SOON);
    assert!(host.upgrade().rc > 0);
    host.wait_for_other(second);
    family.wait_gone(second, SOON);
}

#[test]
fn the_main_process_of_a_unit_without_a_notify_socket_is_refused() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let host = manager.start(&family, true, &[("NOTIFY_SOCKET", "")]);
    let pid = host.process.pid();
    let called = host.call("/upgrade");
    assert_eq!((called.rc, called.failure), (-i64::from(libc::EOPNOTSUPP), 13));
    assert!(called.error.contains("Type=notify"), "{called:?}");
    assert_eq!(host.who().pid, pid);
    assert!(manager.try_next().is_none());
}

#[test]
fn the_successor_of_systemds_child_is_systemds_child() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let host = manager.start(&family, true, &[]);
    let mut pid = host.process.pid();
    manager.expect(pid, READY);
    for generation in 1..=2 {
        let upgrade = host.call_meanwhile("/upgrade");
        let next = manager.expect_upgrade(pid);
        manager.expect_main(pid, next, generation);
        assert_eq!(Proc(next).parent(), Some(Proc::me().0));
        let named =
            |variable: &str| Proc(next).variable(variable).map(|value| String::from_utf8(value).unwrap());
        assert_eq!(named("SYSTEMD_EXEC_PID"), Some(next.to_string()));
        assert_eq!(named("WATCHDOG_PID"), Some(next.to_string()));
        assert_eq!(named("LISTEN_PID"), Some(next.to_string()));
        drop(manager.expect_barrier(pid));
        upgrade.join().unwrap();
        pid = host.wait_for_other(pid).pid;
    }
}

#[test]
fn the_watchdog_is_pinged_by_who_serves_without_a_gap() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let environment = [("HOST_WATCHDOG", "1"), ("WATCHDOG_USEC", "1000000")];
    let host = manager.start(&family, false, &environment);
    let first = host.process.pid();
    manager.expect(first, READY);
    let mut last = Instant::now();
    let mut main = first;
    let (mut pings, mut widest) = (0, Duration::ZERO);
    let mut upgrade = None;
    while pings < 12 {
        let said = manager.next();
        if let Some(pid) = said.text.strip_prefix("MAINPID=") {
            assert_eq!(said.pid, main);
            assert!(said.text.ends_with("WATCHDOG=1\n"), "{said:?}");
            main = pid.lines().next().unwrap().parse().unwrap();
        } else if said.pid != main && said.text != "BARRIER=1" {
            panic!("{said:?} is not of the main process {main}");
        }
        if said.text.contains("WATCHDOG=1\n") {
            pings += 1;
            widest = widest.max(last.elapsed());
            last = Instant::now();
        }
        if pings == 4 && upgrade.is_none() {
            upgrade = Some(host.call_meanwhile("/upgrade"));
        }
    }
    assert_ne!(main, first);
    assert!(widest < testkit::deadline::scaled(Duration::from_millis(900)), "{widest:?}");
}

#[test]
fn listeners_are_kept_in_the_store_under_their_names() {
    let _limit = limit();
    let family = Family::new();
    let manager = Manager::new();
    let name = "shellflip.tcp%3A//127.0.0.1%3A0";
    let host = manager.start(&family, false, &[("HOST_FD_STORE", "1")]);
    let first = host.process.pid();
    let store = |name: &str| ["FDSTORE=1".to_string(), "FDPOLL=0".to_string(), format!("FDNAME={name}")];
    let expect = |pid: i32, name: &str| {
        let lines = store(name);
        let said = manager.expect(pid, &lines.each_ref().map(String::as_str));
        assert_eq!(said.attached.len(), 1);
        nix::sys::stat::fstat(&said.attached[0]).unwrap().st_ino
    };
    // Before READY: from the moment on at which clients are told to come.
    let inode = expect(first, name);
    assert!(Proc(first).descriptors().iter().any(|fd| fd.inode == Some(inode)));
    manager.expect(first, READY);
    assert!(host.call("/listen/unix:@store-test%3Fname=other").rc >= 0);
    expect(first, "shellflip.other");
    assert_eq!(host.call("/forget/other").rc, 0);
    manager.expect(first, &["FDSTOREREMOVE=1", "FDNAME=shellflip.other"]);
    assert!(host.call("/listen/unix:@store-test-3%3Fname=third").rc >= 0);
    expect(first, "shellflip.third");

    let upgrade = host.call_meanwhile("/upgrade");
    let second = manager.expect_upgrade(first);
    manager.expect_main(first, second, 1);
    drop(manager.expect_barrier(first));
    upgrade.join().unwrap();
    // The new one has no use for it.
    manager.expect(second, &["FDSTOREREMOVE=1", "FDNAME=shellflip.third"]);
    assert_eq!(expect(second, name), inode);
    manager.expect_silence();
    kill(Pid::from_raw(second), Signal::SIGTERM).unwrap();
    let said = manager.next();
    assert!(said.text.starts_with("STOPPING=1\n"), "{said:?}");
}
