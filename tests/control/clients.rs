//! Clients that are slow, silent, too many, or talk nonsense: they harm nobody and are cut off.

use crate::served::{GoOn, LIMIT, Served, rest};
use nix::poll::{PollFd, PollFlags, poll};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use testkit::deadline::{scaled, wait_until};
use testkit::host::SOON;
use testkit::process::Proc;

/// Descriptors of the server.
fn descriptors(pid: i32) -> usize {
    Proc(pid).descriptors().len()
}

/// How much processor time it has used, user and system.
fn cpu(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let behind = stat.rsplit_once(')').expect("a command").1;
    // utime and stime, fields 14 and 15 of proc_pid_stat(5).
    let ticks: u64 =
        behind.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn a_thousand_silent_clients_take_nothing_from_an_operator() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    let before = descriptors(first);
    let silent: Vec<UnixStream> = (0..1000).map(|_| served.connect()).collect();
    assert_eq!(served.status()["pid"], first);
    // 32, and what a status and an upgrade need for a moment.
    assert!(descriptors(first) <= before + 40, "{} descriptors, {before} before", descriptors(first));
    let second = served.upgrade();
    assert_eq!(served.status()["pid"], second);
    for stream in silent {
        assert_eq!(rest(stream), "");
    }
    served.wait_gone(first);
    served.stop();
}

#[test]
fn a_silent_client_is_cut_off_after_seconds_and_costs_nothing_meanwhile() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[]);
    let used = cpu(served.first());
    let began = Instant::now();
    let silent = served.connect();
    let mut slow = served.connect();
    slow.write_all(b"sta").unwrap();
    assert_eq!((rest(silent), rest(slow)), (String::new(), String::new()));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(4) && took < scaled(Duration::from_secs(30)), "{took:?}");
    let used = cpu(served.first()) - used;
    assert!(used < Duration::from_millis(500), "{used:?} of processor time");
    served.stop();
}

#[test]
fn a_client_that_sends_a_byte_now_and_then_is_cut_off_too() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[]);
    let began = Instant::now();
    let mut slow = served.connect();
    let reader = slow.try_clone().unwrap();
    let end = std::thread::spawn(move || rest(reader));
    while slow.write_all(b" ").is_ok() {
        assert!(began.elapsed() < scaled(Duration::from_secs(30)));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(end.join().unwrap(), "");
    served.stop();
}

#[test]
fn nonsense_is_answered_with_one_line_and_the_end() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[]);
    let long = "x".repeat(64);
    for line in ["\n", "STOP\n", "upgrade now\n", "GET / HTTP/1.1\r\n", "\u{0}\u{1}\u{7f}\n", "{}\n", &long] {
        let mut stream = served.connect();
        stream.write_all(line.as_bytes()).unwrap();
        let answer = rest(stream);
        assert!(answer.starts_with("failed 0 22 ") && answer.ends_with("are\n"), "{line:?}: {answer:?}");
        assert_eq!(answer.lines().count(), 1, "{answer:?}");
    }
    // Nothing at all is nothing to answer.
    assert_eq!(served.raw(""), "");
    served.stop();
}

#[test]
fn floods_of_nonsense_and_of_requests_leave_the_service_as_it_is() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    let before = descriptors(first);
    let (going, goes_on) = GoOn::new();
    std::thread::scope(|scope| {
        for flood in [&b"\xff"[..], b"status\n", b"nonsense\n", b""] {
            scope.spawn(|| {
                let block = flood.repeat(10_000);
                while goes_on() {
                    // Refused while the queue is full, reset while it talks: that is its own affair.
                    let Ok(mut stream) = UnixStream::connect(&served.socket) else { continue };
                    let _ = stream.set_write_timeout(Some(Duration::from_millis(50)));
                    let _ = stream.write_all(&block);
                }
            });
        }
        let mut last = first;
        for _ in 0..5 {
            last = served.upgrade();
            assert_eq!(served.status()["pid"], last);
        }
        wait_until("few descriptors", SOON, || descriptors(last) <= before + 40);
        drop(going);
    });
    served.wait_gone(first);
    served.stop();
}

#[test]
fn an_answer_that_nobody_reads_is_given_up() {
    let _limit = testkit::limit(LIMIT);
    // A status of some hundred kilobytes: more than the socket's buffer.
    let served = Served::start(&[("HOST_BEFORE_READY", "many:900")]);
    let first = served.first();
    let length = served.status().to_string().len();
    assert!(length > 250_000, "{length}");
    let used = cpu(first);
    let deaf: Vec<UnixStream> = (0..8)
        .map(|_| {
            let mut stream = served.connect();
            stream.write_all(b"status\n").unwrap();
            stream
        })
        .collect();
    assert_eq!(served.status()["pid"], first);
    // Given up with a part of the answer on its way; the rest never comes.
    for mut stream in deaf {
        let mut hung_up = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        assert_eq!(poll(&mut hung_up, 30_000u16), Ok(1), "still open");
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        assert!(!text.is_empty() && !text.ends_with(b"\n"), "{} bytes", text.len());
    }
    let used = cpu(first) - used;
    assert!(used < Duration::from_secs(3), "{used:?} of processor time");
    served.stop();
}

#[test]
fn a_full_descriptor_table_is_waited_out_without_spinning() {
    let _limit = testkit::limit(LIMIT);
    let faults = "accept-operator#1=fail:24,accept-operator#2=fail:24,accept-operator#3=fail:24";
    let served = Served::start(&[("SHELLFLIP_FAULT", faults), ("SHELLFLIP_LOG", "error")]);
    let began = Instant::now();
    assert_eq!(served.status()["generation"], 0);
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    let lines = served.host.process.output().matches("control socket: cannot accept: ").count();
    assert_eq!(lines, 1);
    served.stop();
}
