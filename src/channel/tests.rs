//! The channel against its description: golden bytes, other releases, garbage, and peers that die.

use super::message::{FromPredecessor, FromSuccessor, Hello, MAX_DRAINERS, Message, Nonce, Process};
use super::table::{Keep, TableEntry};
use super::transport::{Received, Sent, ToPredecessor, pair};
use super::wire::MAX_RECORD;
use crate::error::Error;
use crate::socket::PathOwner;
use crate::sys::{fd, scm};
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Any descriptor does for a pidfd here: nothing on the channel looks into it.
fn some_fd() -> OwnedFd {
    fd::eventfd().unwrap()
}

fn sealed(bytes: &[u8]) -> OwnedFd {
    let memfd = fd::memfd(c"test").unwrap();
    fd::write_all(memfd.as_fd(), bytes).unwrap();
    fd::seal(memfd.as_fd()).unwrap();
    memfd
}

fn entry(name: &[u8]) -> TableEntry {
    TableEntry { name: name.to_vec(), listener: false, owner: None, keep: Keep::None }
}

fn hello(table: Vec<TableEntry>) -> Hello {
    Hello {
        nonce: Nonce([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        generation: 3,
        predecessor: Process { pid: 4711, start: 123_456_789, pidfd: some_fd() },
        commit_deadline: 70_000_000_000,
        state_promised: true,
        table,
        drainers: vec![Process { pid: 4700, start: 123_450_000, pidfd: some_fd() }],
    }
}

fn documented_hello() -> Hello {
    let path = PathOwner { path: "/run/a.sock".into(), dev: 26, ino: 5150 };
    let unix = TableEntry { name: b"health".to_vec(), listener: true, owner: Some(path), keep: Keep::Always };
    hello(vec![TableEntry { listener: true, ..entry(b"tcp://127.0.0.1:8080") }, unix, entry(b"\xff:data")])
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
            FromPredecessor::Released { upgrade_requested: true },
            "53 46 4c 50 01 00 05 00 00 00 00 00 0a 00 00 00 01 00 00 00 01",
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
    10 00 00 00 2e 00 00 00
      11 00 00 00 14 00 00 00 74 63 70 3a 2f 2f 31 32 37 2e 30 2e 30 2e 31 3a 38 30 38 30
      12 00 00 00 01 00 00 00 01
      13 00 00 00 01 00 00 00 00
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

#[test]
fn hello_arrives_with_the_descriptors_in_their_order() {
    let (predecessor, successor) = pair().unwrap();
    let hello = Hello { drainers: vec![], ..documented_hello() };
    let state = sealed(b"state");
    let pidfd = fd::memfd(c"stands for a pidfd").unwrap();
    let drainer = fd::memfd(c"stands for another").unwrap();
    let expected = (inode(&pidfd), inode(&drainer), inode(&state));
    let hello = Hello {
        predecessor: Process { pidfd, ..hello.predecessor },
        drainers: vec![Process { pid: 1, start: 2, pidfd: drainer }],
        ..hello
    };
    let table = hello.table.clone();
    let message = FromPredecessor::Hello(Box::new(hello));
    assert_eq!(predecessor.send(&message).unwrap(), Sent::Taken);
    assert_eq!(predecessor.send(&FromPredecessor::State(state)).unwrap(), Sent::Taken);
    let Received::Message(FromPredecessor::Hello(got)) = successor.receive() else { panic!("no HELLO") };
    let Received::Message(FromPredecessor::State(memfd)) = successor.receive() else { panic!("no STATE") };
    assert_eq!(got.table, table);
    assert_eq!((inode(&got.predecessor.pidfd), inode(&got.drainers[0].pidfd), inode(&memfd)), expected);
    for fd in [&got.predecessor.pidfd, &got.drainers[0].pidfd, &memfd] {
        assert!(fd.as_raw_fd() >= 3);
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
    assert_eq!(fd::read_from_start(memfd.as_fd(), 99).unwrap(), b"state");
    assert!(matches!(successor.receive(), Received::Nothing));
}

#[test]
fn a_thousand_long_names_and_two_hundred_drainers_cross_in_one_hello() {
    let long = |n: usize| entry(format!("{n:0255}").as_bytes());
    let process = |pid| Process { pid, start: 7, pidfd: some_fd() };
    let hello = Hello {
        drainers: (1..=MAX_DRAINERS as u32).map(process).collect(),
        ..hello((0..1000).map(long).collect())
    };
    let table = hello.table.clone();
    let (predecessor, successor) = pair().unwrap();
    let message = FromPredecessor::Hello(Box::new(hello));
    assert!(message.encode().unwrap().bytes.len() < 32 * 1024);
    assert_eq!(predecessor.send(&message).unwrap(), Sent::Taken);
    let Received::Message(FromPredecessor::Hello(got)) = successor.receive() else { panic!("no HELLO") };
    assert_eq!(got.table, table);
    assert_eq!(got.drainers.iter().map(|d| d.pid).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());

    let too_many = Hello { drainers: (1..=201).map(process).collect(), ..hello_without_table() };
    let error = FromPredecessor::Hello(Box::new(too_many)).encode().unwrap_err();
    assert_eq!(error.to_string(), "cannot hand over: 201 older generations still drain, 200 is the most");
}

fn hello_without_table() -> Hello {
    hello(vec![])
}

#[test]
fn the_largest_table_that_is_not_in_a_memfd_fits_into_a_record() {
    let process = |pid| Process { pid, start: 7, pidfd: some_fd() };
    for entries in 90..130 {
        let table = (0..entries).map(|n| entry(format!("{n:0255}").as_bytes())).collect();
        let hello = Hello { drainers: (1..=200).map(process).collect(), ..hello(table) };
        let message = FromPredecessor::Hello(Box::new(hello));
        let encoded = message.encode().unwrap();
        assert!(encoded.bytes.len() <= MAX_RECORD);
        assert!(encoded.descriptors().len() <= scm::MAX_DESCRIPTORS);
    }
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
    for (outer, inner) in [(0x10, HELLO.find("11 00").unwrap()), (7, HELLO.find("03 00").unwrap())] {
        assert!(inner > 0);
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

#[test]
fn what_is_wrong_is_said() {
    let cases = [
        ("", "the successor sent what is no message of this protocol: it has 0 bytes, fewer than a header"),
        (
            "53 46 4c 51 01 00 01 80 00 00 00 00",
            "the successor sent what is no message of this protocol: it does not begin with SFLP",
        ),
        (
            "53 46 4c 50 02 00 01 80 00 00 00 00",
            "the successor sent what is no message of this protocol: \
             it is of version 2 of the protocol, this release speaks version 1",
        ),
        ("53 46 4c 50 01 00 03 00 00 00 00 00", "the successor sent COMMIT: that is the other side's to say"),
        (
            "53 46 4c 50 01 00 01 80 00 00 00 00 00",
            "the successor sent READY: the field at byte 12 is cut short",
        ),
        (
            "53 46 4c 50 01 00 01 80 00 00 00 00 63 00 00 00 ff ff ff ff 00",
            "the successor sent READY: the field at byte 12 is cut short",
        ),
        ("53 46 4c 50 01 00 04 80 00 00 00 00", "the successor sent WITHDRAWN: it has no reason"),
        (
            "53 46 4c 50 01 00 04 80 00 00 00 00 09 00 00 00 00 00 00 00 09 00 00 00 00 00 00 00",
            "the successor sent WITHDRAWN: it has more than one reason",
        ),
        (
            "53 46 4c 50 01 00 05 80 00 00 00 00 0b 00 00 00 04 00 00 00 30 75 00 00",
            "the successor sent EXTEND: its milliseconds has 4 bytes instead of 8",
        ),
    ];
    for (record, text) in cases {
        assert_eq!(refused::<FromSuccessor>(&hex(record), vec![]), text);
    }
    let released = hex("53 46 4c 50 01 00 05 00 00 00 00 00 0a 00 00 00 01 00 00 00 02");
    assert!(refused::<FromPredecessor>(&released, vec![]).ends_with("is 2, neither 0 nor 1"));
}

#[test]
fn a_hello_that_contradicts_itself_is_refused() {
    let fds = || (0..3).map(|_| some_fd()).collect::<Vec<_>>();
    let base = || FromPredecessor::Hello(Box::new(hello_without_table())).encode().unwrap().bytes;
    let refuse = |tag, value: &[u8]| refused::<FromPredecessor>(&with_field(base(), tag, 0, value), fds());
    assert_eq!(refuse(1, &[0; 16]), "the predecessor sent HELLO: it has more than one nonce");
    assert!(refuse(7, b"").ends_with("it has no pid of a draining generation"));
    let name =
        |name: &[u8]| with_field(with_field(with_field(vec![], 17, 0, name), 18, 0, &[0]), 19, 0, &[0]);
    let in_first = "the predecessor sent HELLO: in the entry of descriptor 3, ";
    assert_eq!(refuse(16, &name(b"")), format!("{in_first}a name has 0 bytes, 1 to 255 are allowed"));
    assert_eq!(
        refuse(16, &name(&[65; 256])),
        format!("{in_first}a name has 256 bytes, 1 to 255 are allowed")
    );
    assert!(refuse(16, &with_field(name(b"n"), 20, 0, b"/run/a")).contains("a path without its device"));
    assert!(refuse(16, &with_field(name(b"n"), 17, 0, b"m")).contains("more than one name"));
    let twice = with_field(with_field(base(), 16, 0, &name(b"n")), 16, 0, &name(b"n"));
    assert_eq!(
        refused::<FromPredecessor>(&twice, fds()),
        "the predecessor sent HELLO: it names two descriptors n"
    );
    let memfd_and_inline = with_field(with_field(base(), 8, 0, &[0; 8]), 16, 0, &name(b"n"));
    assert!(refused::<FromPredecessor>(&memfd_and_inline, fds()).ends_with("a memfd with another one"));
    assert_eq!(
        refuse(8, &[0; 8]),
        "the predecessor sent HELLO: its table of descriptors is not in a sealed memfd"
    );
    let two = || (0..2).map(|_| some_fd());
    let with_table = |size: u64, memfd| {
        let descriptors = two().chain([memfd]).collect();
        refused::<FromPredecessor>(&with_field(base(), 8, 0, &size.to_le_bytes()), descriptors)
    };
    assert!(with_table(9, sealed(b"1234")).ends_with("has 4 bytes, 9 were announced"));
    assert!(with_table(4, sealed(b"1234")).ends_with("the field at byte 0 is cut short"));
    assert!(with_table(u64::MAX, sealed(b"1234")).ends_with("were announced"));

    let refused_with = |n| refused::<FromPredecessor>(&base(), (0..n).map(|_| some_fd()).collect());
    assert_eq!(refused_with(0), "the predecessor sent HELLO: the pidfd of the predecessor is missing");
    assert_eq!(refused_with(1), "the predecessor sent HELLO: the pidfd of a draining generation is missing");
    assert!(FromPredecessor::decode(&base(), fds()).unwrap().is_some(), "surplus descriptors are no error");
    for pid in [0u32, u32::MAX, i32::MAX as u32 + 1] {
        let mut record = base();
        let at = record.windows(4).position(|w| w == 4711u32.to_le_bytes()).unwrap();
        record[at..at + 4].copy_from_slice(&pid.to_le_bytes());
        assert_eq!(
            refused::<FromPredecessor>(&record, fds()),
            format!("the predecessor sent HELLO: its pid is {pid}")
        );
    }
    let not_sealed = fd::memfd(c"test").unwrap();
    let state = hex("53 46 4c 50 01 00 02 00 00 00 00 00");
    assert!(
        refused::<FromPredecessor>(&state, vec![not_sealed])
            .ends_with("its descriptor is not a sealed memfd")
    );
    assert!(refused::<FromPredecessor>(&state, vec![]).ends_with("the memfd is missing"));
}

#[test]
fn surplus_descriptors_are_closed() {
    let (mine, theirs) = fd::socketpair(nix::sys::socket::SockType::Stream).unwrap();
    let commit = hex("53 46 4c 50 01 00 03 00 00 00 00 00");
    FromPredecessor::decode(&commit, vec![theirs]).unwrap().unwrap();
    assert_eq!(nix::unistd::read(&mine, &mut [0]), Ok(0));
}

#[test]
fn a_reason_is_one_line_of_limited_length() {
    let message = FromSuccessor::Withdrawn("no\nconfig\u{1b}".into());
    let again = FromSuccessor::decode(&message.encode().unwrap().bytes, vec![]).unwrap();
    assert_eq!(again, Some(FromSuccessor::Withdrawn("no config ".into())));
    let message = FromSuccessor::Withdrawn("é".repeat(100_000));
    let again = FromSuccessor::decode(&message.encode().unwrap().bytes, vec![]).unwrap();
    assert_eq!(again, Some(FromSuccessor::Withdrawn("é".repeat(2048))));
    let raw = with_field(hex("53 46 4c 50 01 00 04 80 00 00 00 00"), 9, 0, b"\xff\xfe");
    assert!(FromSuccessor::decode(&raw, vec![]).unwrap().is_some());
}

/// xorshift64: the same mutations in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

#[test]
fn no_garbage_makes_it_panic_and_what_is_accepted_can_be_sent_again() {
    let mut random = Random(0x5368656c6c666c69);
    let big = (0..200).map(|n| entry(format!("{n:0255}").as_bytes())).collect();
    let with_memfd = FromPredecessor::Hello(Box::new(hello(big))).encode().unwrap().bytes.clone();
    let mut seeds: Vec<Vec<u8>> = vec![with_memfd];
    seeds.extend(from_predecessor().iter().map(|(_, _, golden)| hex(golden)));
    seeds.extend(from_successor().iter().map(|(_, _, golden)| hex(golden)));
    let table = sealed(&hex(HELLO)[hex(HELLO).len() - 40..]);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..150_000 {
        // HELLO has most to go wrong, so every second round is one.
        let seed = if round % 2 == 0 { round / 2 % 2 } else { random.below(seeds.len()) };
        let mut record = seeds[seed].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(record.len().max(1));
            let any = random.below(256) as u8;
            match random.below(6) {
                0 if at < record.len() => record[at] = any,
                1 if at < record.len() => record[at] ^= 1 << (any % 8),
                2 => record.truncate(at),
                3 => record.insert(at.min(record.len()), any),
                4 if at < record.len() => record.drain(at..record.len().min(at + 8)).for_each(drop),
                5 => {
                    let from = random.below(record.len().max(1)).min(at);
                    let copy = record.get(from..at).unwrap_or_default().to_vec();
                    record.splice(at.min(record.len())..at.min(record.len()), copy);
                }
                _ => {}
            }
        }
        let descriptors = (0..random.below(4)).map(|_| table.try_clone().unwrap()).collect();
        let outcome = match FromPredecessor::decode(&record, descriptors) {
            Ok(Some(message)) => message.encode().map(drop),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        let other = match FromSuccessor::decode(&record, vec![]) {
            Ok(Some(message)) => message.encode().map(drop),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        for outcome in [outcome, other] {
            match outcome {
                Ok(()) => accepted += 1,
                Err(Error::Protocol(text)) => {
                    assert!(text.starts_with("the ") && !text.contains('\n'), "{text}");
                    refused += 1;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    assert!(accepted > 10_000 && refused > 50_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn messages_of_a_dead_peer_are_read_before_its_end() {
    let (predecessor, successor) = pair().unwrap();
    assert!(matches!(predecessor.receive(), Received::Nothing));
    successor.send(&FromSuccessor::Ready).unwrap();
    successor.send(&FromSuccessor::Live).unwrap();
    drop(successor);
    assert!(matches!(predecessor.receive(), Received::Message(FromSuccessor::Ready)));
    assert!(matches!(predecessor.receive(), Received::Message(FromSuccessor::Live)));
    assert!(matches!(predecessor.receive(), Received::Eof));
    assert_eq!(predecessor.send(&FromPredecessor::Commit).unwrap(), Sent::PeerGone);
}

#[test]
fn a_peer_that_died_with_a_message_unread_is_still_heard() {
    let (predecessor, successor) = pair().unwrap();
    predecessor.send(&FromPredecessor::Commit).unwrap();
    successor.send(&FromSuccessor::Ready).unwrap();
    drop(successor);
    // The kernel does report ECONNRESET first: else this test would test nothing.
    let mut buffer = [0; 64];
    let peeked = nix::sys::socket::recv(
        predecessor.as_fd().as_raw_fd(),
        &mut buffer,
        nix::sys::socket::MsgFlags::MSG_DONTWAIT | nix::sys::socket::MsgFlags::MSG_PEEK,
    );
    assert_eq!(peeked, Err(Errno::ECONNRESET));
    assert!(matches!(predecessor.receive(), Received::Message(FromSuccessor::Ready)));
    assert!(matches!(predecessor.receive(), Received::Eof));

    let (predecessor, successor) = pair().unwrap();
    predecessor.send(&FromPredecessor::Commit).unwrap();
    successor.send(&FromSuccessor::Ready).unwrap();
    drop(successor);
    assert!(matches!(predecessor.receive(), Received::Message(FromSuccessor::Ready)), "by itself");
    assert!(matches!(predecessor.receive(), Received::Eof));

    // A send takes the reset away; what was said is still there.
    let (predecessor, successor) = pair().unwrap();
    predecessor.send(&FromPredecessor::Commit).unwrap();
    successor.send(&FromSuccessor::Ready).unwrap();
    drop(successor);
    assert_eq!(predecessor.send(&FromPredecessor::Commit).unwrap(), Sent::PeerGone);
    assert_eq!(predecessor.send(&FromPredecessor::Commit).unwrap(), Sent::PeerGone);
    assert!(matches!(predecessor.receive(), Received::Message(FromSuccessor::Ready)));
}

#[test]
fn a_leaked_copy_of_the_peers_end_hides_its_end() {
    let (predecessor, successor) = pair().unwrap();
    let leaked = successor.as_fd().try_clone_to_owned().unwrap();
    successor.send(&FromSuccessor::Ready).unwrap();
    drop(successor);
    assert!(matches!(predecessor.receive(), Received::Message(FromSuccessor::Ready)));
    assert!(matches!(predecessor.receive(), Received::Nothing));
    assert_eq!(predecessor.send(&FromPredecessor::Commit).unwrap(), Sent::Taken);
    drop(leaked);
    assert!(matches!(predecessor.receive(), Received::Eof));
}

#[test]
fn a_full_channel_does_not_block() {
    let (predecessor, successor) = pair().unwrap();
    let taken =
        (0..100_000).take_while(|_| successor.send(&FromSuccessor::Extend { ms: 1 }).unwrap() == Sent::Taken);
    let taken = taken.count();
    assert!((1..100_000).contains(&taken));
    assert_eq!(successor.send(&FromSuccessor::Ready).unwrap(), Sent::WouldBlock);
    for _ in 0..taken {
        assert!(matches!(predecessor.receive(), Received::Message(FromSuccessor::Extend { ms: 1 })));
    }
    assert!(matches!(predecessor.receive(), Received::Nothing));
}

#[test]
fn records_that_are_empty_or_too_long_are_no_messages() {
    let (one, other) = fd::socketpair(nix::sys::socket::SockType::SeqPacket).unwrap();
    let successor = ToPredecessor::from(other);
    scm::send(one.as_fd(), &[], &[]).unwrap();
    assert!(matches!(successor.receive(), Received::Eof));
    let mut long = hex("53 46 4c 50 01 00 03 00 00 00 00 00");
    long = with_field(long, 0x7777, 0, &vec![0; MAX_RECORD - 20]);
    assert_eq!(long.len(), MAX_RECORD);
    scm::send(one.as_fd(), &long, &[]).unwrap();
    assert!(matches!(successor.receive(), Received::Message(FromPredecessor::Commit)));
    long.push(0);
    scm::send(one.as_fd(), &long, &[]).unwrap();
    let Received::Error(error) = successor.receive() else { panic!("accepted") };
    assert_eq!(error.to_string(), "the peer sent a record of more than 65536 bytes");
    scm::send(one.as_fd(), &[], &[one.as_fd()]).unwrap();
    assert!(matches!(successor.receive(), Received::Error(Error::Protocol(_))));
}

#[test]
fn descriptors_that_find_no_room_are_a_clear_error_and_none_leaks() {
    if !in_process_of_its_own(
        "channel::tests::descriptors_that_find_no_room_are_a_clear_error_and_none_leaks",
    ) {
        return;
    }
    let (predecessor, successor) = pair().unwrap();
    let message = FromPredecessor::Hello(Box::new(documented_hello()));
    let open = |limit: i32| (0..limit).filter(|number| fd::is_open(*number)).count();
    let limit = 64;
    for free in 0..2 {
        predecessor.send(&message).unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit, 4096).unwrap();
        let mut fill = Vec::new();
        while let Ok(fd) = fd::dup_cloexec(predecessor.as_fd(), 3) {
            fill.push(fd);
        }
        fill.truncate(fill.len() - free);
        let before = open(limit as i32);
        let Received::Error(error) = successor.receive() else { panic!("received without room") };
        assert_eq!(error.errno(), Errno::EMFILE);
        assert!(error.to_string().contains("RLIMIT_NOFILE, ulimit -n, is 64"), "{error}");
        assert_eq!(open(limit as i32), before);
    }
    predecessor.send(&message).unwrap();
    assert!(matches!(successor.receive(), Received::Message(FromPredecessor::Hello(_))));
}

#[test]
fn no_descriptor_gets_a_standard_number() {
    if !in_process_of_its_own("channel::tests::no_descriptor_gets_a_standard_number") {
        return;
    }
    let message = FromPredecessor::Hello(Box::new(documented_hello()));
    // SAFETY: this process has these three open, and does nothing after this but check and exit.
    unsafe {
        libc::close(0);
        libc::close(1);
    }
    let (predecessor, successor) = pair().unwrap();
    assert!(predecessor.as_fd().as_raw_fd() >= 3 && successor.as_fd().as_raw_fd() >= 3);
    predecessor.send(&message).unwrap();
    let Received::Message(FromPredecessor::Hello(hello)) = successor.receive() else { panic!("no HELLO") };
    assert!(hello.predecessor.pidfd.as_raw_fd() >= 3 && hello.drainers[0].pidfd.as_raw_fd() >= 3);
    assert!(!fd::is_open(0) && !fd::is_open(1));
}

/// Runs the calling test once more in a process whose limits and descriptors it may change; true in that process.
fn in_process_of_its_own(test: &str) -> bool {
    const MARK: &str = "SHELLFLIP_TEST_OWN_PROCESS";
    if std::env::var_os(MARK).is_some() {
        eprintln!("{MARK} runs {test}");
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("{MARK} runs {test}")), "no test of this name: {said}");
    false
}
