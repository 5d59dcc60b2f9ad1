//! Messages and descriptors over a real pair, and peers that die, leak or flood.

use super::*;
use crate::channel::hello::{Hello, MAX_DRAINERS, Process};
use crate::channel::message::{FromPredecessor, FromSuccessor, Message};
use crate::channel::table;
use crate::channel::transport::{Received, Sent, ToPredecessor, ToSuccessor, pair};
use crate::channel::wire::{Field, Fields, MAX_RECORD, Writer};
use crate::error::Error;
use crate::sys::{fd, memfd, scm};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

#[test]
fn hello_arrives_with_the_descriptors_in_their_order() {
    let (predecessor, successor) = pair().unwrap();
    let hello = Hello { drainers: vec![], ..documented_hello() };
    let state = sealed(b"state");
    let pidfd = memfd::create(c"stands for a pidfd").unwrap();
    let drainer = memfd::create(c"stands for another").unwrap();
    let expected = (inode(&pidfd), inode(&drainer), inode(&state));
    let hello = Hello {
        predecessor: Process { pidfd, ..hello.predecessor },
        drainers: vec![Process { pid: 1, start: 2, pidfd: drainer, generation: None }],
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
    let process = |pid| Process { pid, start: 7, pidfd: some_fd(), generation: Some(pid + 5) };
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
    assert!(got.drainers.iter().all(|d| d.generation == Some(d.pid + 5)));

    let too_many = Hello { drainers: (1..=201).map(process).collect(), ..hello_without_table() };
    let error = FromPredecessor::Hello(Box::new(too_many)).encode().unwrap_err();
    assert_eq!(error.to_string(), "cannot hand over: 201 older generations still drain, 200 is the most");
}

/// To a release that knows no control socket it is one more listener, with a path that goes when nobody claims it; one
/// that knows no address in the table compares.
#[test]
fn the_mark_of_the_control_socket_and_the_address_may_be_skipped() {
    let owner = PathOwner { path: b"/run/a.ctl".to_vec(), dev: 1, ino: 2 };
    let address = Some(b"tcp://127.0.0.1:80"[..].into());
    let marked = TableEntry {
        listener: true,
        owner: Some(owner),
        control: true,
        address,
        ..entry(b"shellflip-control")
    };
    let Writer(bytes) = table::encode(std::slice::from_ref(&marked)).unwrap();
    let entry = Fields::new(&bytes).next_field().unwrap().unwrap();
    assert_eq!(table::decode_entry(&entry), Ok(marked.clone()));
    let mut known = Writer::default();
    let mut fields = Fields::new(entry.value);
    let mut skipped = 0;
    while let Some(field) = fields.next_field().unwrap() {
        // CONTROL and ADDRESS in docs/protocol.md.
        match field.tag {
            23 | 27 => skipped += usize::from(field.skip().is_ok()),
            tag => known.field(tag, field.value),
        }
    }
    assert_eq!(skipped, 2);
    let older = Field { value: &known.0, ..entry };
    assert_eq!(table::decode_entry(&older), Ok(TableEntry { control: false, address: None, ..marked }));
}

#[test]
fn the_largest_table_that_is_not_in_a_memfd_fits_into_a_record() {
    let process = |pid| Process { pid, start: 7, pidfd: some_fd(), generation: Some(pid + 5) };
    for entries in 90..130 {
        let table = (0..entries).map(|n| entry(format!("{n:0255}").as_bytes())).collect();
        let hello = Hello { drainers: (1..=200).map(process).collect(), ..hello(table) };
        let message = FromPredecessor::Hello(Box::new(hello));
        let encoded = message.encode().unwrap();
        assert!(encoded.bytes.len() <= MAX_RECORD);
        assert!(encoded.descriptors().len() <= scm::MAX_DESCRIPTORS);
    }
}

/// Closes the last copy of one end and waits until the other has seen it: while another test forks a process, that
/// one holds a copy too until it runs its program.
fn close_for_good(end: impl Into<OwnedFd>, other: &ToSuccessor) {
    drop(end.into());
    let mut closed = [PollFd::new(other.as_fd(), PollFlags::POLLHUP)];
    let deadline = fd::monotonic_ns() + 20_000_000_000;
    while !closed[0].any().unwrap_or_default() {
        assert!(fd::monotonic_ns() < deadline);
        _ = fd::poll(&mut closed, Some(Duration::from_secs(1)));
    }
}

#[test]
fn messages_of_a_dead_peer_are_read_before_its_end() {
    let (predecessor, successor) = pair().unwrap();
    assert!(matches!(predecessor.receive(), Received::Nothing));
    successor.send(&FromSuccessor::Ready).unwrap();
    successor.send(&FromSuccessor::Live).unwrap();
    close_for_good(successor, &predecessor);
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
    close_for_good(successor, &predecessor);
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
    close_for_good(successor, &predecessor);
    assert!(matches!(predecessor.receive(), Received::Message(FromSuccessor::Ready)), "by itself");
    assert!(matches!(predecessor.receive(), Received::Eof));

    // A send takes the reset away; what was said is still there.
    let (predecessor, successor) = pair().unwrap();
    predecessor.send(&FromPredecessor::Commit).unwrap();
    successor.send(&FromSuccessor::Ready).unwrap();
    close_for_good(successor, &predecessor);
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
    close_for_good(leaked, &predecessor);
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
        "channel::tests::peers::descriptors_that_find_no_room_are_a_clear_error_and_none_leaks",
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
    if !in_process_of_its_own("channel::tests::peers::no_descriptor_gets_a_standard_number") {
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
