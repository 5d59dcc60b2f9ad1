//! Stops: the operator's command returns when the process is gone, and whoever asks by hand is understood, too.

use crate::served::{LIMIT, Served, assert_failed, rest};
use shellflip::control::Request;
use shellflip::error::Failure;
use std::io::{BufRead, BufReader, Write};
use std::time::{Duration, Instant};
use testkit::deadline::{scaled, wait_until};
use testkit::host::SOON;
use testkit::process::{Proc, Signal, signal};

#[test]
fn a_stop_returns_once_the_process_is_gone_its_drain_included() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    let address = served.host.address.clone();
    let began = Instant::now();
    let request = std::thread::spawn(move || testkit::load::get(&address, "/slow/700", scaled(SOON)));
    wait_until("the slow request has come", SOON, || served.status()["connections"] == 1);
    assert_eq!(served.ask(Request::Stop), Ok(None));
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert!(!Proc(first).alive() || Proc(first).state() == Some('Z'));
    assert!(!served.socket.exists());
    request.join().unwrap().expect("the answer to the slow request");
    served.wait_gone(first);
}

#[test]
fn a_stop_by_hand_names_the_process_and_needs_no_acknowledgement() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    // Neither an end of the input nor another line, as from `echo stop | nc -U` without -N.
    let mut stream = served.connect();
    let began = Instant::now();
    stream.write_all(b"stop\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, format!("pid {first}\n"));
    assert_eq!(served.status()["state"], "ready", "it waits for the acknowledgement");
    line.clear();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, format!("ok {first}\n"));
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    served.wait_gone(first);
    assert!(!served.socket.exists());
}

#[test]
fn the_end_of_the_input_acknowledges_and_so_does_the_operators_own_end() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    let began = Instant::now();
    assert_eq!(served.raw("stop\n"), format!("pid {first}\nok {first}\n"));
    assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
    served.wait_gone(first);
    let mut served = Served::start(&[]);
    let mut stream = served.connect();
    stream.write_all(b"stop\n").unwrap();
    drop(stream);
    served.wait_gone(served.first());
}

#[test]
fn a_stop_in_the_probation_waits_for_both() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::part(&[("PROBATION_MS", "60000")]);
    let first = served.first();
    let upgrade = served.ask_meanwhile(Request::Upgrade);
    let status = served.wait_for_status("/upgrade/phase", "probation");
    let second = status["upgrade"]["successor_pid"].as_i64().unwrap() as i32;
    assert_eq!(served.ask(Request::Stop), Ok(None));
    for pid in [first, second] {
        assert!(!Proc(pid).alive() || Proc(pid).state() == Some('Z'), "{pid} of {first}, {second}");
    }
    assert_failed(&upgrade.join().unwrap(), Failure::Stopping, libc::ESHUTDOWN);
    served.wait_gone(first);
    served.family.assert_none_left(SOON);
    assert!(!served.socket.exists());
}

/// Named before the successor was told to serve, acknowledged afterwards: the operator waits for both.
#[test]
fn whoever_ends_is_named_again_when_it_has_changed() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::part(&[("PROBATION_MS", "60000"), ("BEFORE", "wait:DIR/go")]);
    let first = served.first();
    let _upgrade = served.ask_meanwhile(Request::Upgrade);
    let status = served.wait_for_status("/upgrade/phase", "initialising");
    let second = status["upgrade"]["successor_pid"].as_i64().unwrap();
    let mut stream = served.connect();
    stream.write_all(b"stop\n").unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, format!("pid {first}\n"));
    served.go();
    served.wait_for_status("/upgrade/phase", "probation");
    stream.write_all(b"\n").unwrap();
    line.clear();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, format!("pid {first} {second}\n"));
    stream.write_all(b"\n").unwrap();
    line.clear();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, format!("ok {first}\n"));
    served.wait_gone(first);
    served.family.assert_none_left(SOON);
}

#[test]
fn a_stop_ends_a_successor_that_is_not_ready_first() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    served.host.call("/env/HOST_BEFORE_READY/hang");
    let upgrade = served.ask_meanwhile(Request::Upgrade);
    served.wait_for_status("/upgrade/phase", "initialising");
    assert_eq!(served.ask(Request::Stop), Ok(None));
    assert_failed(&upgrade.join().unwrap(), Failure::Stopping, libc::ESHUTDOWN);
    served.wait_gone(first);
    served.family.assert_none_left(SOON);
}

#[test]
fn a_process_that_drains_answers_nobody() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    let idle = testkit::load::Address::clone(&served.host.address);
    let testkit::load::Address::Tcp(idle) = idle else { panic!("{idle}") };
    let held = std::net::TcpStream::connect(idle).unwrap();
    wait_until("a counted connection", SOON, || served.status()["connections"] == 1);
    let waiting = served.connect();
    signal(first, Signal::SIGTERM);
    assert_eq!(rest(waiting), "", "closed unanswered");
    wait_until("no socket", SOON, || !served.socket.exists());
    drop(held);
    served.wait_gone(first);
}

#[test]
fn a_stop_before_flip_ready_has_returned_lets_it_fail() {
    let _limit = testkit::limit(LIMIT);
    let mut served =
        Served::until("listening", &[("HOST_BEFORE_READY", "wait:DIR/go"), ("HOST_PID_FILE", "DIR/pid")]);
    let first = served.first();
    let stop = served.ask_meanwhile(Request::Stop);
    wait_until("no socket", SOON, || !served.socket.exists());
    served.go();
    assert_eq!(stop.join().unwrap(), Ok(None));
    served.host.process.wait_for_output(&format!("ready -{}", libc::ECANCELED), SOON);
    served.wait_gone(first);
    assert!(!served.folder.path().join("pid").exists());
}
