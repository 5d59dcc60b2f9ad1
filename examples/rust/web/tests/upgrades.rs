//! hyper, axum and tonic servers are replaced ten times under keep-alive load, HTTP/1.1 and HTTP/2 at once: no request
//! fails. And how they stop.

mod http2;

use http2::{Asks, Held, Http2};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use testkit::deadline::{scaled, wait_for, wait_until};
use testkit::load::{Address, Config, Load};
use testkit::process::{Family, Proc, Signal, free_port, signal};

const SOON: Duration = Duration::from_secs(10);
/// Longer than any pause of these clients on a machine that is busy, shorter than a test's patience.
const GRACE_MS: &str = "1000";

fn upgrades(program: &str, grpc: bool) {
    let _limit = testkit::limit(Duration::from_secs(240));
    let (family, port) = (Family::new(), free_port());
    let address: Address = format!("tcp://127.0.0.1:{port}").parse().expect("an address");
    let program = family.program(program).arg(address.to_string()).env("IDLE_GRACE_MS", GRACE_MS);
    let mut server = program.start();
    server.wait_until("it answers", SOON, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let http1 = (!grpc)
        .then(|| Load::start(Config::http(address).connections(8).streams(2).prefix("{")).expect("a load"));
    let http2 = Http2::start(port, if grpc { Asks::Grpc } else { Asks::Http });
    let mut pid = server.pid();
    for number in 1..=10 {
        wait_until("answers of the one that serves", SOON, || http2.newest() == Some(pid));
        let (mark, answered) = (http1.as_ref().map(Load::mark), http2.answered());
        signal(pid, Signal::SIGUSR1);
        // Once: the old one still answers who is connected to it.
        let next = wait_for("answers of another", SOON, || http2.newest().filter(|newest| *newest != pid));
        wait_until("the old process has exited", SOON * 4, || !Proc(pid).alive());
        assert!(http2.answered() > answered, "upgrade {number} is void: no HTTP/2 request was answered");
        if let (Some(load), Some(mark)) = (&http1, mark) {
            assert!(load.between(mark, load.mark()).sent > 0, "upgrade {number} is void for HTTP/1.1");
            wait_until("it answers HTTP/1.1", SOON, || {
                load.seen().last().is_some_and(|seen| seen.identity.pid == next)
            });
        }
        pid = next;
    }
    let sums = http2.stop();
    assert!(sums.failures.is_empty(), "{} answered, {:#?}", sums.answered, sums.failures);
    assert!(sums.goaway >= 10, "{sums:?}: connections that were told to go elsewhere");
    if let Some(load) = http1 {
        load.stop().assert_clean();
    }
    signal(pid, Signal::SIGTERM);
    family.wait_gone(pid, SOON);
    drop(server);
    family.assert_none_left(SOON);
}

#[test]
fn hyper_loses_no_request_of_http_1_and_http_2() {
    upgrades(env!("CARGO_BIN_EXE_hyper"), false);
}

#[test]
fn axum_loses_no_request_of_http_1_and_http_2() {
    upgrades(env!("CARGO_BIN_EXE_axum"), false);
}

#[test]
fn tonic_loses_no_call() {
    upgrades(env!("CARGO_BIN_EXE_tonic"), true);
}

#[test]
fn axum_waits_for_upgraded_connections() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (family, port) = (Family::new(), free_port());
    let program = family.program(env!("CARGO_BIN_EXE_axum")).arg(format!("tcp://127.0.0.1:{port}"));
    let mut server = program.env("IDLE_GRACE_MS", "0").start();
    server.wait_until("it answers", SOON, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let ask = |path: &str, more: &str, last: &str| {
        let mut client = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        client.set_read_timeout(Some(scaled(SOON))).expect("a time-out");
        write!(client, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n").expect("sent");
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(last.as_bytes()) {
            assert_eq!(client.read(&mut byte).expect("an answer"), 1, "{}", String::from_utf8_lossy(&answer));
            answer.push(byte[0]);
        }
        (client, String::from_utf8_lossy(&answer).into_owned())
    };
    let (mut upgraded, answer) = ask("/echo", "Connection: Upgrade\r\nUpgrade: echo\r\n", "\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let (mut idle, answer) = ask("/", "", "}");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    signal(server.pid(), Signal::SIGTERM);
    assert_eq!(idle.read(&mut [0]).expect("its end: axum was told"), 0);
    for number in 0..100_u32 {
        let mut back = [0; 4];
        upgraded.write_all(&number.to_be_bytes()).expect("sent");
        upgraded.read_exact(&mut back).expect("returned");
        assert_eq!(back, number.to_be_bytes());
    }
    drop(upgraded);
    let status = server.wait(SOON);
    assert!(status.success(), "{status}: {}", server.output());
    assert_eq!(server.output(), "");
    family.assert_none_left(SOON);
}

/// Stops a server whose client does not end.
fn cut(program: &str, asks: Asks) {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (family, port) = (Family::new(), free_port());
    let program = family.program(program).arg(format!("tcp://127.0.0.1:{port}"));
    let mut server = program.env("IDLE_GRACE_MS", "0").env("DRAIN_TIMEOUT_MS", "1").start();
    server.wait_until("it answers", SOON, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let held = Held::open(port, asks);
    let pid = server.pid();
    signal(pid, Signal::SIGTERM);
    let status = server.wait(SOON);
    assert!(status.success(), "{status}: {}", server.output());
    assert!(server.output().contains(&format!("pid {pid} leaves ")), "{}", server.output());
    drop(held);
    family.assert_none_left(SOON);
}

#[test]
fn hyper_cuts_who_does_not_end_which_is_no_failure() {
    cut(env!("CARGO_BIN_EXE_hyper"), Asks::Http);
}

#[test]
fn axum_cuts_who_does_not_end_which_is_no_failure() {
    cut(env!("CARGO_BIN_EXE_axum"), Asks::Http);
}

#[test]
fn tonic_cuts_who_does_not_end_which_is_no_failure() {
    cut(env!("CARGO_BIN_EXE_tonic"), Asks::Grpc);
}
