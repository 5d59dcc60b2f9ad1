//! `systemctl stop`, and ends that concern nobody.

use super::machine::Machine;
use super::server::Server;
use std::time::{Duration, Instant};
use testkit::deadline::scaled;
use testkit::host::SOON;
use testkit::wait_until;

/// Everything has ended by itself, and systemd saw no reason to use force.
fn assert_stopped(server: &Server) {
    let status = server.machine.run(&["systemctl", "status", server.unit]).1;
    // Where the reload has a process of its own, that is ended by the stop too, and systemd calls it a failure.
    let result = server.machine.property(server.unit, "Result");
    assert!(
        result == "success" || (result == "signal" && server.machine.version < 253),
        "{result}: {status}"
    );
    assert!(server.machine.processes(server.unit).is_empty());
    let journal = server.journal();
    for word in ["timed out", "Killing process", "SIGKILL", "remains running"] {
        assert!(!journal.contains(word), "{word}: {journal}");
    }
}

pub fn a_stop_in_an_upgrade_ends_everything(machine: &Machine) {
    let server = Server::start_host(machine, "");
    server.begin_slow_reload("sleep:60000");
    let begun = Instant::now();
    machine.must(&["systemctl", "stop", server.unit]);
    // The new process is given two seconds after SIGTERM, and this host sleeps through them.
    assert!(begun.elapsed() < scaled(Duration::from_secs(8)), "{:?}", begun.elapsed());
    assert_stopped(&server);
    machine.must(&["systemctl", "start", server.unit]);
    assert_eq!(server.who(), server.main_pid());
}

pub fn a_stop_in_a_drain_lets_requests_finish(machine: &Machine) {
    let server = Server::start(machine, "");
    let old = server.open();
    server.reload();
    let new = server.open();
    assert_eq!(machine.processes(server.unit).len(), 2);
    machine.must(&["systemctl", "stop", "--no-block", server.unit]);
    wait_until("the stop has begun", SOON, || server.state() == "deactivating");
    old.finish().expect("the old one's answer");
    new.finish().expect("the new one's answer");
    wait_until("the end", SOON, || server.state() != "deactivating");
    assert_stopped(&server);
}

/// Even where systemd listens to all (NotifyAccess=all).
pub fn a_draining_process_never_makes_systemd_do_anything(machine: &Machine) {
    let server = Server::start(machine, "NotifyAccess=all");
    for signal in ["TERM", "KILL", "USR1"] {
        let old = server.main_pid();
        let open = server.open();
        let new = server.reload();
        let status = server.status();
        server.kill(old, signal);
        assert_eq!(open.finish().is_ok(), signal != "KILL");
        wait_until("its end", SOON, || machine.processes(server.unit) == [new]);
        assert_eq!((server.main_pid(), server.status()), (new, status));
    }
    server.assert_always_active();
    server.reload();
}
