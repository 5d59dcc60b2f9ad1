//! The channel against its description, `docs/protocol.md`, byte by byte, and against other releases.

use super::hello::{Hello, Nonce, Process};
use super::message::{FromPredecessor, FromSuccessor, Message};
use super::table::{Keep, TableEntry};
use super::transport::{Received, pair};
use crate::error::Error;
use crate::socket::PathOwner;
use crate::sys::{fd, memfd, scm};
use std::os::fd::{AsFd, OwnedFd};

#[cfg(feature = "faults")]
mod faults;
mod peers;
mod refused;

/// Any descriptor does for a pidfd here: nothing on the channel looks into it.
fn some_fd() -> OwnedFd {
    fd::eventfd().unwrap()
}

fn sealed(bytes: &[u8]) -> OwnedFd {
    let memfd = memfd::create(c"test").unwrap();
    fd::write_all(memfd.as_fd(), bytes).unwrap();
    memfd::seal(memfd.as_fd()).unwrap();
    memfd
}

fn entry(name: &[u8]) -> TableEntry {
    TableEntry::named(name)
}

fn hello(table: Vec<TableEntry>) -> Hello {
    Hello {
        nonce: Nonce([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        generation: 3,
        predecessor: Process { pid: 4711, start: 123_456_789, pidfd: some_fd(), generation: Some(2) },
        commit_deadline: 70_000_000_000,
        state_promised: true,
        table,
        drainers: vec![Process { pid: 4700, start: 123_450_000, pidfd: some_fd(), generation: None }],
    }
}

fn documented_hello() -> Hello {
    let path = PathOwner { path: "/run/a.sock".into(), dev: 26, ino: 5150 };
    let unix = TableEntry { listener: true, owner: Some(path), keep: Keep::Always, ..entry(b"health") };
    let address = Some(b"tcp://127.0.0.1:8080?backlog=16"[..].into());
    let tcp = TableEntry { listener: true, address, ..entry(b"tcp://127.0.0.1:8080") };
    hello(vec![tcp, unix, entry(b"\xff:data")])
}

/// Block `name` of docs/protocol.md: a code block with the info string `golden NAME`, bytes in hexadecimal,
/// remarks behind `#`.
fn documented(name: &str) -> Vec<u8> {
    let text = include_str!("../../docs/protocol.md");
    let start = format!("```golden {name}\n");
    let block = text.split(&start).nth(1).and_then(|rest| rest.split("```").next());
    hex(block.unwrap_or_else(|| panic!("docs/protocol.md has no golden bytes of {name}")))
}

fn hex(text: &str) -> Vec<u8> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(str::split_whitespace).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn from_predecessor() -> Vec<(&'static str, FromPredecessor, &'static str)> {
    vec![
        ("HELLO", FromPredecessor::Hello(Box::new(documented_hello())), HELLO),
        ("STATE", FromPredecessor::State(sealed(b"state")), "53 46 4c 50 01 00 02 00 00 00 00 00"),
        ("COMMIT", FromPredecessor::Commit, "53 46 4c 50 01 00 03 00 00 00 00 00"),
        (
            "ABORT",
            FromPredecessor::Abort("too slow".into()),
            "53 46 4c 50 01 00 04 00 00 00 00 00 09 00 00 00 08 00 00 00 74 6f 6f 20 73 6c 6f 77",
        ),
        (
            "RELEASED",
            FromPredecessor::Released { upgrade_requested: true, phases: Vec::new() },
            "53 46 4c 50 01 00 05 00 00 00 00 00 0a 00 00 00 01 00 00 00 01",
        ),
        (
            "RELEASED with phases",
            FromPredecessor::Released {
                upgrade_requested: false,
                phases: vec![("spawning".into(), 3), ("committed".into(), 1500)],
            },
            "53 46 4c 50 01 00 05 00 00 00 00 00 0a 00 00 00 01 00 00 00 00
             18 00 00 00 20 00 00 00 19 00 00 00 08 00 00 00 73 70 61 77 6e 69 6e 67
             0b 00 00 00 08 00 00 00 03 00 00 00 00 00 00 00
             18 00 00 00 21 00 00 00 19 00 00 00 09 00 00 00 63 6f 6d 6d 69 74 74 65 64
             0b 00 00 00 08 00 00 00 dc 05 00 00 00 00 00 00",
        ),
        ("STOP", FromPredecessor::Stop, "53 46 4c 50 01 00 06 00 00 00 00 00"),
        (
            "EXTEND from the predecessor",
            FromPredecessor::Extend { commit_deadline: 90_000_000_000 },
            "53 46 4c 50 01 00 07 00 00 00 00 00 05 00 00 00 08 00 00 00 00 04 6b f4 14 00 00 00",
        ),
    ]
}

fn from_successor() -> Vec<(&'static str, FromSuccessor, &'static str)> {
    vec![
        ("READY", FromSuccessor::Ready, "53 46 4c 50 01 00 01 80 00 00 00 00"),
        ("LIVE", FromSuccessor::Live, "53 46 4c 50 01 00 02 80 00 00 00 00"),
        ("STOPPING", FromSuccessor::Stopping, "53 46 4c 50 01 00 03 80 00 00 00 00"),
        (
            "WITHDRAWN",
            FromSuccessor::Withdrawn("no config".into()),
            "53 46 4c 50 01 00 04 80 00 00 00 00 09 00 00 00 09 00 00 00 6e 6f 20 63 6f 6e 66 69 67",
        ),
        (
            "EXTEND from the successor",
            FromSuccessor::Extend { ms: 30_000 },
            "53 46 4c 50 01 00 05 80 00 00 00 00 0b 00 00 00 08 00 00 00 30 75 00 00 00 00 00 00",
        ),
    ]
}

const HELLO: &str = "
    53 46 4c 50 01 00 01 00 00 00 00 00
    01 00 00 00 10 00 00 00 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f
    02 00 00 00 04 00 00 00 03 00 00 00
    03 00 00 00 04 00 00 00 67 12 00 00
    04 00 00 00 08 00 00 00 15 cd 5b 07 00 00 00 00
    05 00 00 00 08 00 00 00 00 3c 53 4c 10 00 00 00
    06 00 00 00 01 00 00 00 01
    07 00 00 00 1c 00 00 00 03 00 00 00 04 00 00 00 5c 12 00 00 04 00 00 00 08 00 00 00 90 b2 5b 07 00 00 00 00
    10 00 00 00 55 00 00 00
      11 00 00 00 14 00 00 00 74 63 70 3a 2f 2f 31 32 37 2e 30 2e 30 2e 31 3a 38 30 38 30
      12 00 00 00 01 00 00 00 01
      13 00 00 00 01 00 00 00 00
      1b 00 00 00 1f 00 00 00
        74 63 70 3a 2f 2f 31 32 37 2e 30 2e 30 2e 31 3a 38 30 38 30
        3f 62 61 63 6b 6c 6f 67 3d 31 36
    10 00 00 00 53 00 00 00
      11 00 00 00 06 00 00 00 68 65 61 6c 74 68
      12 00 00 00 01 00 00 00 01
      13 00 00 00 01 00 00 00 02
      14 00 00 00 0b 00 00 00 2f 72 75 6e 2f 61 2e 73 6f 63 6b
      15 00 00 00 08 00 00 00 1a 00 00 00 00 00 00 00
      16 00 00 00 08 00 00 00 1e 14 00 00 00 00 00 00
    10 00 00 00 20 00 00 00
      11 00 00 00 06 00 00 00 ff 3a 64 61 74 61
      12 00 00 00 01 00 00 00 00
      13 00 00 00 01 00 00 00 00
";

/// What a descriptor refers to, to tell descriptors apart on the other side.
fn inode(fd: impl AsFd) -> u64 {
    nix::sys::stat::fstat(fd).unwrap().st_ino
}

fn owned(encoded: &super::message::Encoded) -> Vec<OwnedFd> {
    encoded.descriptors().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect()
}

fn check_golden<M: Message + std::fmt::Debug>(name: &str, message: &M, golden: &str) {
    let golden = hex(golden);
    assert_eq!(documented(name), golden, "docs/protocol.md and this test differ about {name}");
    let encoded = message.encode().unwrap();
    assert_eq!(encoded.bytes, golden, "{name}");
    let again = M::decode(&encoded.bytes, owned(&encoded)).unwrap().unwrap();
    assert_eq!(again.encode().unwrap().bytes, golden, "{name} after a round trip");
    assert_eq!(without_numbers(&again), without_numbers(message));
}

/// The debug text of a message without the numbers of descriptors, which differ after a round trip.
fn without_numbers(message: &impl std::fmt::Debug) -> String {
    let text = format!("{message:?}");
    text.split("fd: ").map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit())).collect()
}

#[test]
fn every_message_has_the_bytes_that_are_documented() {
    for (name, message, golden) in from_predecessor() {
        check_golden(name, &message, golden);
    }
    for (name, message, golden) in from_successor() {
        check_golden(name, &message, golden);
    }
}

fn hello_without_table() -> Hello {
    hello(vec![])
}

/// A field with the given tag and flags behind a record.
fn with_field(mut record: Vec<u8>, tag: u16, flags: u16, value: &[u8]) -> Vec<u8> {
    record.extend_from_slice(&tag.to_le_bytes());
    record.extend_from_slice(&flags.to_le_bytes());
    record.extend_from_slice(&(value.len() as u32).to_le_bytes());
    record.extend_from_slice(value);
    record
}

fn refused<M: Message>(record: &[u8], descriptors: Vec<OwnedFd>) -> String {
    match M::decode(record, descriptors) {
        Ok(_) => panic!("accepted {record:02x?}"),
        Err(error) => {
            assert!(matches!(error, Error::Protocol(_)), "{error:?}");
            error.to_string()
        }
    }
}

#[test]
fn fields_of_a_newer_release_are_skipped_unless_critical() {
    for (_, _, golden) in from_successor() {
        let record = with_field(hex(golden), 0x7777, 0xfffe, b"news");
        assert!(FromSuccessor::decode(&record, vec![]).unwrap().is_some());
        let record = with_field(hex(golden), 0x7777, 1, b"news");
        assert!(
            refused::<FromSuccessor>(&record, vec![])
                .ends_with(": its field 30583 is critical and this release does not know it")
        );
    }
    for (_, message, golden) in from_predecessor() {
        let descriptors = || owned(&message.encode().unwrap());
        let record = with_field(hex(golden), 0x7777, 0, b"news");
        assert!(FromPredecessor::decode(&record, descriptors()).unwrap().is_some());
        let record = with_field(hex(golden), 0x7777, 1, b"news");
        assert!(refused::<FromPredecessor>(&record, descriptors()).contains("field 30583 is critical"));
    }
    // Within an entry of the table and within a drainer, too.
    for outer in [16, 7] {
        for (flags, accepted) in [(0, true), (1, false)] {
            let value = match outer {
                7 => with_field(with_field(vec![], 3, 0, &[1, 0, 0, 0]), 4, 0, &[0; 8]),
                _ => with_field(with_field(with_field(vec![], 17, 0, b"n"), 18, 0, &[0]), 19, 0, &[0]),
            };
            let record = with_field(hex(HELLO), outer, 0, &with_field(value, 0x7777, flags, b"news"));
            let descriptors = (0..3).map(|_| some_fd()).collect();
            assert_eq!(FromPredecessor::decode(&record, descriptors).is_ok(), accepted, "{outer} {flags}");
        }
    }
}

#[test]
fn messages_of_a_newer_release_are_skipped_unless_critical() {
    let unknown = |kind: u16, flags: u8| {
        let mut record = hex("53 46 4c 50 01 00 00 00 00 00 00 00 ff ff ff");
        record[6..8].copy_from_slice(&kind.to_le_bytes());
        record[8] = flags;
        record
    };
    assert!(FromPredecessor::decode(&unknown(99, 0), vec![some_fd()]).unwrap().is_none());
    assert!(FromSuccessor::decode(&unknown(0x8063, 0), vec![]).unwrap().is_none());
    assert_eq!(
        refused::<FromPredecessor>(&unknown(99, 1), vec![]),
        "the predecessor sent message 99: it is critical and this release does not know it"
    );
    assert!(refused::<FromSuccessor>(&unknown(0x8063, 1), vec![]).contains("message 32867: it is critical"));

    let (predecessor, successor) = pair().unwrap();
    scm::send(predecessor.as_fd(), &unknown(99, 0), &[some_fd().as_fd()]).unwrap();
    predecessor.send(&FromPredecessor::Commit).unwrap();
    assert!(matches!(successor.receive(), Received::Message(FromPredecessor::Commit)));
}

/// Runs the calling test once more in a process whose limits and descriptors it may change; true in that process.
fn in_process_of_its_own(test: &str) -> bool {
    in_process_with(test, &[])
}

/// The same, with these variables set for it.
fn in_process_with(test: &str, variables: &[(&str, &str)]) -> bool {
    const MARK: &str = "SHELLFLIP_TEST_OWN_PROCESS";
    if std::env::var_os(MARK).is_some() {
        eprintln!("{MARK} runs {test}");
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("{MARK} runs {test}")), "no test of this name: {said}");
    false
}
