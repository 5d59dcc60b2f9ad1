//! One side of a hand-over that does what its arguments say, in this order, right or wrong:
//!
//!   scripted successor STEP,…              started by a host under test
//!   scripted predecessor STEP,… PROGRAM    starts PROGRAM as its successor
//!
//! A message by its name says it: READY, COMMIT, WITHDRAWN:REASON, ABORT:REASON, RELEASED:0, RELEASED:1, EXTEND:MS. Further
//! steps: hear:NAME (the next message has to be that one), hear-end, garbage, foreign (COMMIT, a predecessor's to say), unknown
//! (a message of a later release),
//! close (the channel), wait:FILE and go:FILE (in the folder SCRIPTED_DIR), sleep:MS, exit:N, kill, hang, ignore-term. Of a successor:
//! serve (HTTP, on the first descriptor, from then on). Of a predecessor: deadline:MS (in HELLO), nonce (a wrong one),
//! pid:N (in the variables), hello:GENERATION, start, reap. After the last step it exits with 0.
//!
//! Each step is reported when it is done: `scripted did STEP`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use testkit::deadline::{scaled, wait_until};
use testkit::peer::{Field, Peer, ScriptedPredecessor, ScriptedSuccessor, entry, monotonic_ns, record, tag};

const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    // First of all: what it finds in its environment must not have been opened by anything else.
    let successor = ScriptedSuccessor::from_env();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let steps = arguments[1].split(',');
    match arguments[0].as_str() {
        "successor" => as_successor(successor.expect("nobody started this as a successor"), steps),
        "predecessor" => as_predecessor(&arguments[2], steps),
        other => panic!("{other}?"),
    }
}

fn as_successor<'a>(successor: ScriptedSuccessor, steps: impl Iterator<Item = &'a str>) {
    let generation = successor.hello.number(tag::GENERATION).expect("GENERATION");
    let mut listener = successor.descriptors.into_iter().next();
    let mut peer = Some(successor.peer);
    for step in steps {
        if step == "serve" {
            let listener = TcpListener::from(listener.take().expect("a listener"));
            std::thread::spawn(move || serve(&listener, generation));
        } else if step == "close" {
            peer = None;
        } else {
            take(step, peer.as_ref());
        }
        say(&format!("did {step}"));
    }
}

fn as_predecessor<'a>(program: &str, steps: impl Iterator<Item = &'a str>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.set_nonblocking(true).expect("O_NONBLOCK");
    let mut unstarted = Some(ScriptedPredecessor::new(vec![OwnedFd::from(listener)]));
    let mut deadline = 30_000;
    let mut child: Option<Child> = None;
    let mut peer = None;
    for step in steps {
        match step.split_once(':').unwrap_or((step, "")) {
            ("deadline", ms) => deadline = ms.parse().expect("milliseconds"),
            ("nonce", _) => before(&mut unstarted).nonce = [7; 16],
            ("pid", pid) => {
                let predecessor = before(&mut unstarted);
                let variable = predecessor.channel_variable.take().expect("a variable");
                predecessor.channel_variable = Some(variable.replace("$$", pid));
                predecessor.listen_pid = Some(pid.into());
            }
            ("hello", generation) => {
                let predecessor = before(&mut unstarted);
                let (mut fields, descriptors) = predecessor.hello(generation.parse().expect("a generation"));
                let at = monotonic_ns() + deadline * 1_000_000;
                fields[4] = Field::new(tag::COMMIT_DEADLINE, at.to_le_bytes());
                fields.push(entry("tcp://127.0.0.1:0", true, 0));
                let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
                predecessor.peer.say_with("HELLO", &fields, &numbers);
            }
            ("start", _) => {
                let mut predecessor = unstarted.take().expect("it starts one successor");
                let started = predecessor.start(program, [] as [&str; 0], |_| {});
                say(&format!("started {}", started.id()));
                child = Some(started);
                peer = Some(predecessor.peer);
            }
            ("reap", _) => {
                let status = child.take().expect("a successor").wait().expect("its status");
                match status.signal() {
                    Some(signal) => say(&format!("reaped signal {signal}")),
                    None => say(&format!("reaped {}", status.code().unwrap_or(-1))),
                }
            }
            ("close", _) => peer = None,
            _ => take(step, peer.as_ref().or(unstarted.as_ref().map(|unstarted| &unstarted.peer))),
        }
        say(&format!("did {step}"));
    }
}

fn before(unstarted: &mut Option<ScriptedPredecessor>) -> &mut ScriptedPredecessor {
    unstarted.as_mut().expect("a step before start")
}

/// What both sides can do.
fn take(step: &str, peer: Option<&Peer>) {
    let channel = || peer.expect("an open channel");
    let (word, value) = step.split_once(':').unwrap_or((step, ""));
    match word {
        "hear" => {
            let heard = channel().expect(value, scaled(PATIENCE));
            let further = heard.number(tag::UPGRADE_REQUESTED);
            say(&format!("heard {value} reason={:?} upgrade_requested={further:?}", heard.reason()));
        }
        "hear-end" => {
            let heard = channel().hear(scaled(PATIENCE));
            assert!(heard.is_none(), "{heard:?} instead of the end");
        }
        "garbage" => channel().say_raw(b"GET / HTTP/1.1", &[]).expect("sent"),
        "foreign" => channel().say_raw(&record(3, 0, &[]), &[]).expect("sent"),
        "unknown" => {
            let side = if is_successor() { 0x8000 } else { 0 };
            channel().say_raw(&record(side | 0x7f, 0, &[]), &[]).expect("sent");
        }
        "wait" => wait_until(&format!("the file {value}"), PATIENCE, || file(value).exists()),
        "go" => std::fs::write(file(value), "").expect("a file"),
        "sleep" => std::thread::sleep(Duration::from_millis(value.parse().expect("milliseconds"))),
        "exit" => std::process::exit(value.parse().expect("a status")),
        "kill" => testkit::process::signal(std::process::id() as i32, testkit::process::Signal::SIGKILL),
        "hang" => loop {
            std::thread::park();
        },
        // SAFETY: no handler, nothing of ours is touched.
        "ignore-term" => _ = unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) },
        "WITHDRAWN" | "ABORT" => channel().say_with(word, &[Field::new(tag::REASON, value)], &[]),
        "RELEASED" => {
            let further = u8::from(value == "1");
            channel().say_with(word, &[Field::new(tag::UPGRADE_REQUESTED, [further])], &[]);
        }
        "EXTEND" if !is_successor() => {
            let at = monotonic_ns() + value.parse::<u64>().expect("milliseconds") * 1_000_000;
            channel().say_with(word, &[Field::new(tag::COMMIT_DEADLINE, at.to_le_bytes())], &[]);
        }
        "EXTEND" => {
            let ms: u64 = value.parse().expect("milliseconds");
            channel().say_with(word, &[Field::new(tag::MS, ms.to_le_bytes())], &[]);
        }
        name => channel().say(name),
    }
}

fn is_successor() -> bool {
    std::env::args().nth(1).as_deref() == Some("successor")
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("SCRIPTED_DIR").expect("SCRIPTED_DIR")).join(name)
}

/// As one write: several processes share the output.
fn say(what: &str) {
    let line = format!("scripted {what} pid={}\n", std::process::id());
    let _ = std::io::stdout().write_all(line.as_bytes());
}

/// One answer for each connection.
fn serve(listener: &TcpListener, generation: u64) {
    let body =
        format!("{{\"version\":\"scripted\",\"pid\":{},\"generation\":{generation}}}", std::process::id());
    loop {
        let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        // The listener is shared and does not block: another generation may have been faster.
        let Ok((mut connection, _)) = listener.accept() else { continue };
        let body = body.clone();
        std::thread::spawn(move || {
            let mut request = Vec::new();
            let mut buffer = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                match connection.read(&mut buffer) {
                    Ok(length @ 1..) => request.extend_from_slice(&buffer[..length]),
                    _ => return,
                }
            }
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = connection.write_all(format!("{head}{body}").as_bytes());
        });
    }
}
