//! `flipctl stop` and `flipctl detach` over the control socket.

use crate::kit::{Ran, Stage, flipctl};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::host::{Host, SOON, c_program};
use testkit::process::{Family, Proc, Signal, signal, temp_dir};
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
    let ran = stage.run(&["stop", "--timeout", "0.5"]).expect(5);
    assert!(ran.err.contains("the server was asked to stop and is still there after 0."), "{ran:?}");
    assert!(Proc(stage.first()).alive());
    drop(client);
    assert!(stage.host.process.wait(SOON).success());
}

/// A server whose generation 0 drains since it has that connection.
fn with_a_drainer() -> (Stage, TcpStream) {
    let stage = Stage::new(&[]);
    let client = stage.connection();
    stage.run(&["upgrade"]).expect(0);
    wait_until("one that drains", SOON, || stage.status()["draining"][0]["pid"] == stage.first());
    (stage, client)
}

#[test]
fn older_generations_drain_on_after_a_stop_and_are_named() {
    let _limit = limit(LIMIT);
    let (mut stage, client) = with_a_drainer();
    let ran = stage.run(&["stop"]).expect(0);
    let end = format!("; an older generation goes on draining: pid {}\n", stage.first());
    assert!(ran.out.starts_with("stopped in ") && ran.out.ends_with(&end), "{ran:?}");
    assert!(Proc(stage.first()).alive());
    drop(client);
    assert!(stage.host.process.wait(SOON).success());

    let (stage, _client) = with_a_drainer();
    let value = stage.run(&["stop", "--json"]).expect(0).json();
    let older = serde_json::json!([{ "generation": 0, "pid": stage.first() }]);
    assert_eq!((&value["result"], &value["draining"]), (&"stopped".into(), &older), "{value}");
}

#[test]
fn a_generation_that_ended_while_the_server_stopped_is_not_said_to_drain() {
    let _limit = limit(LIMIT);
    let (mut stage, client) = with_a_drainer();
    let address = stage.host.address.to_string();
    let of_the_new = TcpStream::connect(address.trim_start_matches("tcp://")).unwrap();
    wait_until("a connection of the new one", SOON, || stage.status()["connections"] == 1);
    let stop = stage.run_meanwhile(&["stop", "--json"]);
    wait_until("a server that has begun to stop", SOON, || !stage.control().exists());
    drop(client);
    assert!(stage.host.process.wait(SOON).success());
    drop(of_the_new);
    assert_eq!(stop.join().unwrap().expect(0).json()["draining"], serde_json::json!([]));
}

#[test]
fn a_second_stop_cuts_what_is_still_open() {
    let _limit = limit(LIMIT);
    let mut stage = Stage::new(&[("DRAIN_TIMEOUT_MS", "600000")]);
    let _client = stage.connection();
    let stop = stage.run_meanwhile(&["stop"]);
    wait_until("a server that has begun to stop", SOON, || !stage.control().exists());
    stage.run_with_pid_file(stage.path("pid"), &["stop"]).expect(0);
    stop.join().unwrap().expect(0);
    stage.host.process.wait(SOON);
    let cut = format!("drain -{}", nix::libc::ECANCELED);
    assert!(stage.host.process.output().contains(&cut), "{}", stage.host.process.output());
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

#[test]
fn a_stop_across_pid_namespaces_has_an_unknown_result() {
    if !nix::unistd::geteuid().is_root() {
        println!(
            "SKIPPED: stop::a_stop_across_pid_namespaces_has_an_unknown_result: only root may make a pid namespace"
        );
        return;
    }
    let _limit = limit(LIMIT);
    let expect = |ran: Ran, pid: i32| {
        let ran = ran.expect(6);
        assert!(ran.err.contains(&format!("process {pid} is in another pid namespace")), "{ran:?}");
        assert!(ran.out.is_empty(), "{ran:?}");
    };
    // The number is nobody's where flipctl is.
    let mut stage = Stage::new(&[]);
    let client = stage.connection();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(env!("CARGO_BIN_EXE_flipctl"));
    let ran = command.args(["stop", "--timeout", "20", "--socket"]).arg(stage.control()).output().unwrap();
    assert!(Proc(stage.first()).alive());
    expect(ran.into(), stage.first());
    drop(client);
    assert!(stage.host.process.wait(SOON).success());
    // It is another process's.
    let (family, folder) = (Family::new(), temp_dir());
    let control = folder.path().join("ctl");
    let inside = family.program("unshare").args(["--pid", "--fork", "--kill-child"]);
    let inside = inside.arg(c_program("tests/c/host.c", &[]));
    let mut host = Host::run(inside.env("HOST_CONTROL_SOCKET", format!("unix://{}", control.display())));
    let mut command = flipctl(&family);
    let ran = command.args(["stop", "--timeout", "20", "--socket"]).arg(&control).output().unwrap();
    expect(ran.into(), 1);
    assert!(host.process.wait(SOON).success());
}

#[test]
fn a_server_that_has_ended_before_it_could_be_watched_has_stopped() {
    let _limit = limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let control = folder.path().join("ctl");
    let listener = UnixListener::bind(&control).unwrap();
    let mut command = flipctl(&family);
    command.args(["stop", "--socket"]).arg(&control).stdout(Stdio::piped()).stderr(Stdio::piped());
    let asks = command.spawn().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    BufReader::new(&stream).read_line(&mut String::new()).unwrap();
    stream.write_all(b"{}\n").unwrap();
    let (stream, _) = listener.accept().unwrap();
    BufReader::new(&stream).read_line(&mut String::new()).unwrap();
    let asking = asks.id() as i32;
    signal(asking, Signal::SIGSTOP);
    Proc(asking).wait_stopped(SOON);
    let mut server = Command::new("sh");
    server.args(["-c", "echo pid $$; echo ok $$"]).stdout(OwnedFd::from(stream.try_clone().unwrap()));
    assert!(server.status().unwrap().success());
    signal(asking, Signal::SIGCONT);
    let ran = Ran::from(asks.wait_with_output().unwrap()).expect(0);
    assert!(ran.out.starts_with("stopped in "), "{ran:?}");
}
