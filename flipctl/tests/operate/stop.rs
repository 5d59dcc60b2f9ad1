//! `flipctl stop` and `flipctl detach` over the control socket.

use crate::kit::Stage;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;
use testkit::host::SOON;
use testkit::process::Proc;
use testkit::{limit, wait_until};

#[test]
fn a_stop_returns_when_the_process_is_gone_and_its_connections_are_finished() {
    let _limit = limit(Duration::from_secs(60));
    let mut stage = Stage::new(&[]);
    let address = stage.host.address.to_string();
    let mut slow = TcpStream::connect(address.trim_start_matches("tcp://")).unwrap();
    slow.write_all(b"GET /slow/1500 HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    wait_until("a connection that is counted", SOON, || stage.status()["connections"] == 1);
    let ran = stage.run(&["stop"]).expect(0);
    assert!(!Proc(stage.first()).alive(), "{ran:?}");
    assert!(ran.out.starts_with("stopped in ") && ran.err.is_empty(), "{ran:?}");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut slow, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stage.host.process.wait(SOON);
    assert!(!stage.control().exists());
    stage.run(&["stop"]).expect(3);
}

#[test]
fn a_stop_that_takes_longer_than_the_operator_waits_goes_on() {
    let _limit = limit(Duration::from_secs(60));
    let mut stage = Stage::new(&[]);
    let address = stage.host.address.to_string();
    let mut slow = TcpStream::connect(address.trim_start_matches("tcp://")).unwrap();
    slow.write_all(b"GET /slow/2000 HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    wait_until("a connection that is counted", SOON, || stage.status()["connections"] == 1);
    stage.run(&["stop", "--timeout", "0.5"]).expect(5);
    assert!(stage.host.process.wait(SOON).success());
}

#[test]
fn a_detached_server_serves_on_and_is_reached_no_more() {
    let _limit = limit(Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let ran = stage.run(&["detach", "--json"]).expect(0);
    assert_eq!(ran.json()["result"], "detached");
    assert_eq!(stage.host.who().pid, stage.first());
    stage.run(&["upgrade"]).expect(3);
    stage.run(&["status"]).expect(3);
}
