//! `flipctl status`.

use crate::kit::Stage;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use testkit::host::SOON;
use testkit::process::Signal;
use testkit::{limit, wait_until};

#[test]
fn json_is_what_the_server_says() {
    let _limit = limit(Duration::from_secs(100));
    let stage = Stage::new(&[]);
    let mut socket = UnixStream::connect(stage.control()).unwrap();
    socket.write_all(b"status\n").unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut raw = String::new();
    socket.read_to_string(&mut raw).unwrap();
    let ours = stage.run(&["status", "--json"]).expect(0).out;
    let still = |text: &str| {
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        value.as_object_mut().unwrap().remove("uptime_ms");
        value
    };
    assert_eq!(still(&ours), still(&raw));
    assert_eq!(ours.lines().count(), 1);
}

#[test]
fn generations_that_drain_and_the_phases_of_the_upgrade_are_shown() {
    let _limit = limit(Duration::from_secs(100));
    let stage = Stage::new(&[]);
    // It stays open, so that the old process stays.
    let _client = stage.connection();
    stage.run(&["upgrade"]).expect(0);
    let shown = stage.run(&["status"]).expect(0).out;
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    let row = |first: &str| rows.iter().find(|row| row.first() == Some(&first)).cloned().unwrap_or_default();
    let pid = stage.first().to_string();
    assert_eq!(row("0")[..3], ["0", pid.as_str(), "draining"], "{shown}");
    assert_eq!(row("1")[2], "serving", "{shown}");
    for text in ["generation 1, pid ", "last upgrade: released", "waiting until the new process is ready"] {
        assert!(shown.contains(text), "{text:?} in\n{shown}");
    }
    assert!(shown.contains(&stage.host.address.to_string()), "{shown}");
}

#[test]
fn an_upgrade_that_a_signal_asked_for_and_that_has_to_wait_is_shown() {
    let _limit = limit(Duration::from_secs(100));
    let mut stage = Stage::new(&[]);
    let go = stage.path("go");
    stage.successors(&format!("wait:{}", go.display()));
    let upgrade = stage.run_meanwhile(&["upgrade"]);
    wait_until("an upgrade", SOON, || stage.status()["upgrade"]["successor_pid"].is_i64());
    let says = "\nupgrade remembered: ";
    let shown = stage.run(&["status"]).expect(0).out;
    assert!(!shown.contains(says), "{shown}");
    stage.host.process.signal(Signal::SIGUSR1);
    wait_until("an upgrade that is remembered", SOON, || stage.status()["upgrade_remembered"] == true);
    let shown = stage.run(&["status"]).expect(0).out;
    assert!(shown.contains(says), "{shown}");
    std::fs::write(&go, "").unwrap();
    upgrade.join().unwrap().expect(0);
    assert!(stage.host.process.wait(SOON).success());
}
