//! `systemctl reload`: what it does, what it returns, and when.

use super::machine::Machine;
use super::server::Server;
use std::time::{Duration, Instant};
use testkit::host::{SOON, c_program};
use testkit::{wait_for, wait_until};

pub fn twenty_reloads_under_load_fail_no_request(machine: &Machine) {
    let server = Server::start(machine, "");
    let load = server.load();
    for _ in 0..20 {
        let now = server.reload();
        assert_eq!(server.who(), now);
    }
    let report = load.stop();
    report.assert_clean();
    assert!(report.totals.answered > 1000, "{report:?}");
    server.assert_always_active();
}

/// It ends within microseconds of its shutdown: whatever systemd learned later than that would end the new process.
pub fn a_server_without_connections_is_replaced_200_times(machine: &Machine) {
    let server = Server::start(machine, "");
    for _ in 0..200 {
        server.reload();
    }
    assert_eq!(server.who(), server.main_pid());
    server.assert_always_active();
}

pub fn a_failed_upgrade_leaves_the_unit_as_it_was_and_says_why(machine: &Machine) {
    let server = Server::start(machine, "");
    let before = server.main_pid();
    let load = server.load();
    machine.install(&c_program("examples/c/http_epoll.c", &["-DCRASH_IN_INIT"]), "server");
    // A reload of type notify-reload cannot fail: docs/systemd.md says where to look.
    let succeeds = machine.version >= 253;
    assert_eq!(server.try_reload() == 0, succeeds);
    assert_eq!(server.main_pid(), before);
    let status = server.status();
    assert!(status.contains("No upgrade: new process") && status.contains("exited"), "{status}");
    wait_until("the journal", SOON, || server.journal().contains("upgrade failed: new process"));
    assert_eq!(server.state(), "active");
    machine.install(&c_program("examples/c/http_epoll.c", &[]), "server");
    server.reload();
    load.stop().assert_clean();
    server.assert_always_active();
}

/// Type=notify with ExecReload=kill, as many units have it: systemctl returns too early, but nothing is lost.
pub fn a_reload_that_only_signals_comes_through(machine: &Machine) {
    let server = Server::start(machine, "Type=notify\nExecReload=\nExecReload=sh -c 'kill -USR1 $MAINPID'");
    let load = server.load();
    for _ in 0..10 {
        let before = server.main_pid();
        assert_eq!(server.try_reload(), 0);
        wait_for("another main process", SOON, || Some(server.main_pid()).filter(|now| *now != before));
    }
    load.stop().assert_clean();
    wait_until("the end of the last reload", SOON, || server.state() == "active");
    server.assert_always_active();
}

pub fn a_slow_start_outlives_the_time_out_of_the_unit(machine: &Machine) {
    let server = Server::start_host(machine, "TimeoutStartSec=2s\nTimeoutStopSec=30s");
    server.call("/env/HOST_BEFORE_READY/sleep:6000");
    let begun = Instant::now();
    server.reload();
    assert!(begun.elapsed() > Duration::from_secs(5));
    server.assert_always_active();
}
