//! The signal that is to upgrade the server.

use crate::patient::{Patient, by_pid_file, codes};
use std::time::Duration;
use testkit::limit;

const LIMIT: Duration = Duration::from_secs(100);

#[test]
fn a_handler_that_is_not_there_any_more_is_found() {
    let _limit = limit(LIMIT);
    for (illness, code, then) in [
        ("unhandled", "signal-without-handler", "SIGUSR1 ends the server at once"),
        ("ignored", "signal-without-handler", "SIGUSR1 is ignored"),
        ("blocked", "signal-blocked", "pending for ever"),
    ] {
        let patient = Patient::new(illness);
        let value = patient.json(&[]);
        assert_eq!(codes(&value), [code], "{illness}");
        assert!(value["findings"][0]["then"].as_str().unwrap().contains(then), "{value}");
    }
}

#[test]
fn without_a_control_socket_it_is_sigusr1_or_what_the_operator_says() {
    let _limit = limit(LIMIT);
    let patient = Patient::new("unhandled");
    let pid = patient.process.pid();
    let look =
        |arguments: &[&str]| codes(&by_pid_file(&patient.family, &patient.path(""), pid, arguments).json());
    assert_eq!(look(&[]), ["signal-without-handler"]);
    assert_eq!(look(&["--signal", "TERM"]), [] as [&str; 0]);
    assert_eq!(look(&["--signal", "HUP"]), ["signal-without-handler"]);
    assert_eq!(patient.findings(&["--signal", "TERM"]), [] as [&str; 0]);
}
