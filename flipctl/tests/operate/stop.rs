//! `flipctl stop` and `flipctl detach` over the control socket.

use crate::kit::Stage;
use std::io::{Read, Write};
use std::time::Duration;
use testkit::host::SOON;
use testkit::process::Proc;
use testkit::{limit, wait_until};

const LIMIT: Duration = Duration::from_secs(100);

#[test]
fn a_stop_returns_when_the_process_is_gone_and_its_connections_are_finished() {
    let _limit = limit(LIMIT);
    let mut stage = Stage::new(&[]);
    let mut client = stage.connection();
    let stop = stage.run_meanwhile(&["stop"]);
    wait_until("a server that has begun to stop", SOON, || !stage.control().exists());
    assert!(Proc(stage.first()).alive() && !stop.is_finished());
    client.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let ran = stop.join().unwrap().expect(0);
    assert!(!Proc(stage.first()).alive(), "{ran:?}");
    assert!(ran.out.starts_with("stopped in ") && ran.err.is_empty(), "{ran:?}");
    stage.host.process.wait(SOON);
    stage.run(&["stop"]).expect(3);
}

#[test]
fn a_stop_that_takes_longer_than_the_operator_waits_goes_on() {
    let _limit = limit(LIMIT);
    let mut stage = Stage::new(&[]);
    let client = stage.connection();
    stage.run(&["stop", "--timeout", "0.5"]).expect(5);
    assert!(Proc(stage.first()).alive());
    drop(client);
    assert!(stage.host.process.wait(SOON).success());
}

#[test]
fn a_detached_server_serves_on_and_is_reached_no_more() {
    let _limit = limit(LIMIT);
    let stage = Stage::new(&[]);
    let ran = stage.run(&["detach", "--json"]).expect(0);
    assert_eq!(ran.json()["result"], "detached");
    assert_eq!(stage.host.who().pid, stage.first());
    stage.run(&["upgrade"]).expect(3);
    stage.run(&["status"]).expect(3);
}
