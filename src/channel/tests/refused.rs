//! What is not accepted, in which words, and that nothing makes it panic.

use super::*;
use crate::channel::message::{FromPredecessor, FromSuccessor, Message};
use crate::error::Error;
use crate::sys::{fd, memfd};

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
fn phases_are_whole_or_the_release_is_refused_and_too_many_are_cut() {
    let base =
        || FromPredecessor::Released { upgrade_requested: true, phases: Vec::new() }.encode().unwrap().bytes;
    let refuse = |phase: &[u8]| refused::<FromPredecessor>(&with_field(base(), 24, 0, phase), vec![]);
    assert_eq!(refuse(b""), "the predecessor sent RELEASED: it has no name of a phase");
    let name = || with_field(vec![], 25, 0, b"a\nb");
    assert!(refuse(&name()).ends_with("it has no time of a phase"));
    assert!(refuse(&with_field(name(), 11, 0, &[0; 4])).ends_with("has 4 bytes instead of 8"));
    let phase = with_field(name(), 11, 0, &7u64.to_le_bytes());
    let many = (0..100).fold(base(), |record, _| with_field(record, 24, 0, &phase));
    let decoded = FromPredecessor::decode(&many, vec![]).unwrap().unwrap();
    let FromPredecessor::Released { upgrade_requested: true, phases } = decoded else {
        panic!("{decoded:?}")
    };
    assert_eq!(phases, vec![("a b".to_string(), 7); 64]);
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
    let addressed = |length: usize| with_field(name(b"n"), 27, 0, &vec![65; length]);
    assert_eq!(
        refuse(16, &addressed(4097)),
        format!("{in_first}an address has 4097 bytes, 4096 is the most")
    );
    assert!(refuse(16, &with_field(addressed(9), 27, 0, b"A")).contains("more than one address"));
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
    let not_sealed = memfd::create(c"test").unwrap();
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
