//! What the load client counts, against servers that misbehave on purpose in one way each.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use testkit::load::{Address, Config, Kind, Load, Report};
use testkit::{limit, wait_until};

const SOON: Duration = Duration::from_secs(10);
const BODY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nversion=1 pid=7 generation=0\r\n";

/// A server that does `serve` with every connection, until the test process ends.
fn tcp(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads one request; false when the client is gone.
fn request(stream: &mut impl Read) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return false;
        }
        head.push(byte[0]);
    }
    true
}

/// Runs `config` until it has 20 answers or failures.
fn load(config: Config) -> Report {
    let _limit = limit(Duration::from_secs(60));
    let load = Load::start(config).unwrap();
    wait_until("twenty requests are over", SOON, || {
        let snapshot = load.snapshot();
        snapshot.answered + snapshot.failed >= 20
    });
    load.stop()
}

/// A server whose answer is `answer`, after which it closes.
fn answers_and_closes(answer: &'static str) -> Address {
    tcp(move |mut stream| {
        if request(&mut stream) {
            let _ = stream.write_all(answer.as_bytes());
        }
    })
}

#[track_caller]
fn assert_all_fail(report: &Report, kind: Kind) {
    let totals = &report.totals;
    assert_eq!((totals.answered, totals.failed), (0, totals.sent), "{report:#?}");
    assert_eq!(report.failed_by(kind), totals.failed, "{report:#?}");
    assert!(!report.first_failures.is_empty());
}

#[test]
fn a_close_that_the_answer_announced_is_no_failure() {
    let address = answers_and_closes("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let report = load(Config::http(address).connections(2).streams(1));
    report.assert_clean();
    assert!(report.totals.announced_closes > 0);
}

#[test]
fn a_close_that_nothing_announced_is_a_failure() {
    let report = load(Config::http(answers_and_closes(BODY)).connections(2).streams(0));
    // The answer before it is right; what fails is the request that follows it.
    let totals = &report.totals;
    assert!(totals.answered > 0 && totals.failed > 0, "{report:#?}");
    assert_eq!(
        report.failed_by(Kind::EarlyEof) + report.failed_by(Kind::Reset),
        totals.failed,
        "{report:#?}"
    );
}

#[test]
fn a_half_close_that_nothing_announced_is_a_failure_at_once() {
    let address = tcp(|mut stream| {
        if request(&mut stream) {
            let _ = stream.write_all(BODY.as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            while request(&mut stream) {}
        }
    });
    let report = load(Config::http(address).connections(1).streams(0));
    assert!(report.failed_by(Kind::EarlyEof) >= 9, "{report:#?}");
    assert!(report.seconds < 5.0);
}

#[test]
fn a_close_without_an_answer_is_an_early_eof() {
    assert_all_fail(&load(Config::http(answers_and_closes("")).connections(2)), Kind::EarlyEof);
}

#[test]
fn a_close_inside_the_answer_is_a_short_answer() {
    for answer in [&BODY[..10], &BODY[..BODY.len() - 1]] {
        assert_all_fail(&load(Config::http(answers_and_closes(answer)).connections(2)), Kind::ShortAnswer);
    }
}

#[test]
fn a_reset_is_a_reset() {
    let address = tcp(|mut stream| {
        request(&mut stream);
        setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    });
    assert_all_fail(&load(Config::http(address).connections(2)), Kind::Reset);
}

#[test]
fn a_port_where_nothing_listens_is_refused() {
    let port = testkit::process::free_port();
    let address: Address = format!("tcp://127.0.0.1:{port}").parse().unwrap();
    assert_all_fail(&load(Config::http(address).connections(2)), Kind::Refused);
    let missing: Address = "unix:///nowhere/at/all.sock".parse().unwrap();
    assert_all_fail(&load(Config::http(missing).connections(2)), Kind::Refused);
}

#[test]
fn an_answer_that_does_not_come_is_a_time_out() {
    let address = tcp(|mut stream| while request(&mut stream) {});
    let config = Config::http(address).connections(10).streams(10).timeout(Duration::from_millis(100));
    assert_all_fail(&load(config), Kind::TimedOut);
}

#[test]
fn an_unexpected_answer_is_a_wrong_answer() {
    let serve = || {
        tcp(|mut stream| {
            while request(&mut stream) {
                let _ = stream.write_all(BODY.as_bytes());
            }
        })
    };
    let config = || Config::http(serve()).connections(2).streams(0);
    load(config().prefix("version=1")).assert_clean();
    assert_all_fail(&load(config().prefix("version=2")), Kind::WrongAnswer);
    assert_all_fail(&load(config().check(|_| Err("never right".into()))), Kind::WrongAnswer);
    let error = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    assert_all_fail(&load(Config::http(answers_and_closes(error)).connections(2)), Kind::WrongAnswer);
    assert_all_fail(
        &load(Config::http(answers_and_closes("nonsense\r\n")).connections(2)),
        Kind::WrongAnswer,
    );
    let twice = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more";
    assert_all_fail(&load(Config::http(answers_and_closes(twice)).connections(2)), Kind::Other);
}

#[test]
fn no_connection_waits_while_another_is_served() {
    let address = tcp(|mut stream| {
        // As fast as can be, so that answers come before the client has looked elsewhere.
        while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
            let _ = stream.write_all(BODY.as_bytes());
        }
    });
    let load = Load::start(Config::http(address).connections(32).streams(0)).unwrap();
    wait_until("many answers", SOON, || load.snapshot().answered > 20_000);
    let at = load.mark();
    // All but at most one: the client's one thread may be between the answer on a connection and its next request.
    let in_flight = load.in_flight_at(at);
    assert!((31..=32).contains(&in_flight), "{in_flight}");
    wait_until("every request sent before is answered", SOON, || {
        load.between(at, at).slowest.is_none_or(|slowest| slowest.finished)
            && load.snapshot().answered > 20_100
    });
    let report = load.stop();
    report.assert_clean();
    // The one that was just being sent at the mark may have been noted after it was asked for.
    assert!((in_flight..=32).contains(&report.in_flight_at(at)), "{in_flight}, {}", report.in_flight_at(at));
    // 32 requests are out at any time, which gives their mean age; where a few connections have it all, half of
    // the answers take next to nothing.
    let mean_ms = 32.0 * 1000.0 * report.seconds / report.totals.answered as f64;
    assert!(report.latency.p50_ms > mean_ms / 6.0, "mean {mean_ms} ms, {:?}", report.latency);
    assert_eq!(report.seen[0].identity.pid, 7);
}

#[test]
fn a_server_that_says_hello_is_read_to_the_end() {
    let address = tcp(|mut stream| _ = stream.write_all(b"hello from pid 12 generation 3\n"));
    let report = load(Config::hello(address).prefix("hello"));
    report.assert_clean();
    let identity = &report.seen[0].identity;
    assert_eq!((identity.pid, identity.generation), (12, Some(3)));
    let address = tcp(|mut stream| _ = stream.write_all(b"hel"));
    assert_all_fail(&load(Config::hello(address)), Kind::ShortAnswer);
    assert_all_fail(&load(Config::hello(tcp(drop))), Kind::EarlyEof);
}

#[test]
fn unix_sockets_are_loaded_too_by_path_and_by_name() {
    let directory = testkit::process::temp_dir();
    let path = directory.path().join("socket");
    let name = format!("testkit-load-{}", std::process::id());
    let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
    for (listener, address) in [
        (UnixListener::bind(&path).unwrap(), format!("unix://{}", path.display())),
        (UnixListener::bind_addr(&abstract_address).unwrap(), format!("unix:@{name}")),
    ] {
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                if request(&mut stream) {
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        let address: Address = address.parse().unwrap();
        load(Config::http(address).connections(3).streams(2)).assert_clean();
    }
}
