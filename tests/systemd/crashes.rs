//! A process that dies without being asked to.

use super::machine::Machine;
use super::server::Server;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use testkit::deadline::scaled;
use testkit::host::SOON;
use testkit::wait_until;

pub fn a_new_main_process_that_crashes_is_restarted_while_the_old_one_drains(machine: &Machine) {
    let server = Server::start(machine, "");
    let old = server.main_pid();
    let open = server.open();
    let new = server.reload();
    assert_eq!(machine.processes(server.unit).len(), 2);
    let crash = Instant::now();
    server.kill(new, "KILL");
    // Seen at once, and not when the drainer ends.
    wait_until("systemd has seen it", SOON, || server.state() != "active");
    assert_eq!(machine.processes(server.unit), [old]);
    // The drainer's request is answered all the same.
    assert_eq!(open.finish().expect("an answer"), old);
    let took = server.wait_for_restart(1, crash);
    println!("restarted {took:?} after a crash beside a drain");
    assert!(took < scaled(Duration::from_secs(2)), "restarted after {took:?}");
    assert_eq!(server.who(), server.main_pid());
    // A drain that would not end has the second and a half of SIGTERM, and no more.
    let open = server.open();
    let new = server.reload();
    let crash = Instant::now();
    server.kill(new, "KILL");
    let took = server.wait_for_restart(2, crash);
    println!("restarted {took:?} after a crash beside a drain that does not end");
    // Usually 1.7 s; the deadline is for a machine that is busy.
    assert!(took < scaled(Duration::from_secs(4)), "restarted after {took:?}");
    assert!(open.finish().is_err());
    server.reload();
}

/// Sets it when it is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

pub fn no_connection_is_refused_while_a_crashed_server_is_restarted(machine: &Machine) {
    let server = Server::start(machine, "Environment=FD_STORE=1");
    server.reload();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        // Also when something fails here: the scope waits for its threads.
        let _end = End(over);
        let knocking = scope.spawn(move || {
            machine.inside(|| {
                let mut count = 0;
                while !over.load(SeqCst) {
                    TcpStream::connect("127.0.0.1:8080").expect("to be let in");
                    count += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
                count
            })
        });
        // With an old one that drains, and without.
        let open = server.open();
        let new = server.reload();
        let crash = Instant::now();
        server.kill(new, "KILL");
        // Sent while nobody is there to accept it.
        let waiting = scope.spawn(|| server.get("/"));
        wait_until("systemd has seen it", SOON, || server.state() != "active");
        open.finish().expect("an answer");
        let took = server.wait_for_restart(1, crash);
        assert!(took < scaled(Duration::from_secs(2)), "restarted after {took:?}");
        assert_eq!(waiting.join().unwrap().expect("an answer"), server.main_pid());
        let only = server.main_pid();
        wait_until("the old one has gone", SOON, || machine.processes(server.unit) == [only]);
        server.kill(only, "KILL");
        wait_until("the second restart", SOON, || server.restarts() == 2 && server.state() == "active");
        assert_eq!(server.who(), server.main_pid());
        over.store(true, SeqCst);
        assert!(knocking.join().unwrap() > 100);
    });
    server.reload();
}

/// systemd takes the end of the main process for the end of the unit, whoever else serves: there is no take-over. What it
/// does instead is Restart=.
pub fn the_death_of_the_old_process_in_an_upgrade_restarts_the_unit(machine: &Machine) {
    let server = Server::start_host(machine, "");
    let old = server.main_pid();
    server.begin_slow_reload("sleep:1000");
    server.kill(old, "KILL");
    server.wait_for_restart(1, Instant::now());
    wait_until("one process", SOON, || machine.processes(server.unit) == [server.main_pid()]);
    assert_eq!(server.who(), server.main_pid());
    server.reload();
}
