//! On a real systemd: the machine's own, and a newer one. Where the machine may not boot one, `notify.rs` has the same
//! scenarios with a socket in systemd's place.

#[path = "systemd/machine.rs"]
mod machine;
#[path = "systemd/server.rs"]
mod server;

use machine::{Machine, Release};
use server::Server;
use std::time::Duration;

fn machine(test: &str) -> Option<Machine> {
    if let Some(why) = machine::impossible() {
        println!("SKIPPED: {test}: cannot boot systemd: {why}");
        return None;
    }
    Some(Machine::boot(&Release::own().expect("systemd")))
}

#[test]
fn twenty_reloads_under_load_fail_no_request_and_the_main_pid_follows() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let Some(machine) = machine("twenty_reloads_under_load_fail_no_request_and_the_main_pid_follows") else {
        return;
    };
    let server = Server::start_by_signal(&machine);
    let load = server.load();
    for _ in 0..20 {
        server.reload_by_signal();
    }
    let report = load.stop();
    report.assert_clean();
    assert!(report.totals.answered > 1000, "{report:?}");
}
