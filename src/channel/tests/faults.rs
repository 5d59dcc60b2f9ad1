//! System calls of the channel that fail at a named point.

use super::{entry, hello, in_process_with};
use crate::channel::message::{FromPredecessor, FromSuccessor};
use crate::channel::transport::{Received, Sent, pair};
use nix::errno::Errno;

fn with_faults(test: &str, faults: &str) -> bool {
    in_process_with(&format!("channel::tests::faults::{test}"), &[("SHELLFLIP_FAULT", faults)])
}

#[test]
fn interrupted_calls_are_repeated() {
    if !with_faults("interrupted_calls_are_repeated", "sendmsg#1=fail:4,recvmsg#1=fail:4,recvmsg#2=fail:4") {
        return;
    }
    let (predecessor, successor) = pair().unwrap();
    assert_eq!(predecessor.send(&FromPredecessor::Commit).unwrap(), Sent::Taken);
    assert!(matches!(successor.receive(), Received::Message(FromPredecessor::Commit)));
}

#[test]
fn a_send_that_fails_says_how() {
    let faults =
        "send:COMMIT=fail:32,send:STOP=fail:11,send:ABORT=fail:12,sent:RELEASED=fail:5,send:READY=fail:104";
    if !with_faults("a_send_that_fails_says_how", faults) {
        return;
    }
    let (predecessor, successor) = pair().unwrap();
    assert_eq!(successor.send(&FromSuccessor::Ready).unwrap(), Sent::PeerGone);
    assert_eq!(predecessor.send(&FromPredecessor::Commit).unwrap(), Sent::PeerGone);
    assert_eq!(predecessor.send(&FromPredecessor::Stop).unwrap(), Sent::WouldBlock);
    let error = predecessor.send(&FromPredecessor::Abort("no".into())).unwrap_err();
    assert_eq!(error.to_string(), "cannot send ABORT: out of memory (ENOMEM)");
    assert!(matches!(successor.receive(), Received::Nothing));
    // What the socket took cannot fail any more.
    let released = FromPredecessor::Released { upgrade_requested: false, phases: Vec::new() };
    assert_eq!(predecessor.send(&released).unwrap(), Sent::Taken);
    assert!(matches!(successor.receive(), Received::Message(FromPredecessor::Released { .. })));
}

#[test]
fn a_receive_that_fails_says_how() {
    let faults = "recvmsg#1=fail:12,received:COMMIT=fail:5,recvmsg#3=fail:104,recvmsg#4=fail:104,recvmsg#5=fail:104,recvmsg#6=fail:104";
    if !with_faults("a_receive_that_fails_says_how", faults) {
        return;
    }
    let (predecessor, successor) = pair().unwrap();
    predecessor.send(&FromPredecessor::Commit).unwrap();
    let Received::Error(error) = successor.receive() else { panic!("no error") };
    assert_eq!(error.errno(), Errno::ENOMEM);
    let Received::Error(error) = successor.receive() else { panic!("no error") };
    assert_eq!(error.errno(), Errno::EIO);
    assert!(matches!(successor.receive(), Received::Eof), "resets without end are an end");
}

#[test]
fn a_table_that_finds_no_memfd_is_an_error_before_anything_is_sent() {
    let test = "a_table_that_finds_no_memfd_is_an_error_before_anything_is_sent";
    for fault in ["memfd_create", "write", "seal"] {
        if !with_faults(test, &format!("{fault}=fail:28")) {
            continue;
        }
        let table = (0..1000).map(|n| entry(format!("{n:0255}").as_bytes())).collect();
        let (predecessor, successor) = pair().unwrap();
        let error = predecessor.send(&FromPredecessor::Hello(Box::new(hello(table)))).unwrap_err();
        assert_eq!(error.errno(), Errno::ENOSPC);
        assert!(error.to_string().starts_with("cannot make a memfd for the table of descriptors: "));
        assert!(matches!(successor.receive(), Received::Nothing));
        return;
    }
}
