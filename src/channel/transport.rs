//! Sending and receiving on the channel, never waiting. Reading goes on until there is nothing or the end: what a
//! peer said before it died counts. Called by the supervisor and by `inherit`.

use super::message::{FromPredecessor, FromSuccessor, Message, Names};
use super::wire::MAX_RECORD;
use crate::error::{Error, Result};
use crate::sys::{fault, fd, scm};
use nix::errno::Errno;
use nix::sys::socket::SockType;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// One end of the channel: `Out` is said here, `In` is heard. Dropping it closes it.
#[derive(Debug)]
pub struct Channel<Out, In> {
    socket: OwnedFd,
    /// For whatever comes next: one that were made for each look would be given back to the kernel after it.
    buffer: RefCell<Vec<u8>>,
    /// The peer's end was closed with something of ours unread.
    reset: AtomicBool,
    direction: PhantomData<fn(Out) -> In>,
}

/// The predecessor's end.
pub type ToSuccessor = Channel<FromPredecessor, FromSuccessor>;
/// The successor's end.
pub type ToPredecessor = Channel<FromSuccessor, FromPredecessor>;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The socket took it: the peer can read it even if this process dies now.
    Taken,
    /// Nobody holds the other end: the peer is dead, dying, or closed it.
    PeerGone,
    /// The socket is full.
    WouldBlock,
}

/// What there was to read.
#[derive(Debug)]
pub enum Received<M> {
    /// This.
    Message(M),
    /// Nothing now; the channel is open.
    Nothing,
    /// Nothing any more: nobody holds the other end. Copies of it in other processes (forked workers) keep this
    /// from being seen, so death is a pidfd's to tell.
    Eof,
    /// What the peer sent is not this protocol, or could not be taken.
    Error(Error),
}

/// A new channel; both ends are CLOEXEC. The successor's end goes to it as a descriptor.
pub fn pair() -> Result<(ToSuccessor, ToPredecessor)> {
    let (one, other) = fd::socketpair(SockType::SeqPacket)
        .map_err(|errno| Error::system("cannot make a socketpair for the new process", errno))?;
    Ok((one.into(), other.into()))
}

impl<Out: Message, In: Message> Channel<Out, In> {
    /// Sends one message, or says why it was not sent.
    pub fn send(&self, message: &Out) -> Result<Sent> {
        let names = message.names();
        let encoded = message.encode()?;
        if encoded.bytes.len() > MAX_RECORD {
            return Err(Error::Invalid(format!(
                "cannot send {}: it is longer than {MAX_RECORD} bytes",
                names.name
            )));
        }
        match self.send_once(names, &encoded.bytes, &encoded.descriptors()) {
            Ok(_) => {
                // Taken is taken: a fault here can only be the death of this process.
                _ = fault::at(names.sent);
                Ok(Sent::Taken)
            }
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Ok(Sent::PeerGone),
            Err(Errno::EAGAIN) => Ok(Sent::WouldBlock),
            Err(errno) => Err(Error::system(format!("cannot send {}", names.name), errno)),
        }
    }

    fn send_once(
        &self,
        names: &Names,
        bytes: &[u8],
        descriptors: &[BorrowedFd],
    ) -> std::result::Result<usize, Errno> {
        fault::at(names.send)?;
        loop {
            match scm::send(self.as_fd(), bytes, descriptors) {
                Err(Errno::EINTR) => {}
                result => return result,
            }
        }
    }

    /// The next message, if there is one. Messages that a newer release sends and this one may skip are skipped.
    pub fn receive(&self) -> Received<In> {
        let mut buffer = self.buffer.borrow_mut();
        // Not filled with zeros: that would touch sixteen pages for a look at an empty queue.
        buffer.clear();
        buffer.reserve_exact(MAX_RECORD);
        let mut resets = 0;
        loop {
            let arrived = match scm::receive(self.as_fd(), &mut buffer) {
                Ok(arrived) => arrived,
                Err(Errno::EINTR) => continue,
                // A peer that died with a message of ours unread: what it sent before is queued behind this error.
                // The kernel reports it once; the count is for a kernel that does not.
                Err(Errno::ECONNRESET) if resets < 3 => {
                    self.reset.store(true, Relaxed);
                    resets += 1;
                    continue;
                }
                Err(Errno::EAGAIN) => return Received::Nothing,
                Err(Errno::ECONNRESET | Errno::ENOTCONN) => return Received::Eof,
                Err(errno) => return Received::Error(Error::system("cannot read the channel", errno)),
            };
            match understand(&buffer, arrived) {
                Ok(Some(received)) => return received,
                Ok(None) => {}
                Err(error) => return Received::Error(error),
            }
        }
    }
}

impl<Out, In> Channel<Out, In> {
    /// Whether something that was sent is unread, or was when the peer ended.
    pub fn left_unread(&self) -> bool {
        self.reset.load(Relaxed) || fd::unread_by_peer(self.as_fd()).unwrap_or(false)
    }
}

/// `None`: a message to be skipped.
fn understand<M: Message>(record: &[u8], arrived: scm::Arrived) -> Result<Option<Received<M>>> {
    // A record without bytes reads like the end, which is why there is none in the protocol.
    if record.is_empty() && arrived.descriptors.is_empty() && !arrived.descriptors_lost {
        return Ok(Some(Received::Eof));
    }
    if arrived.truncated {
        return Err(Error::Protocol(format!("the peer sent a record of more than {MAX_RECORD} bytes")));
    }
    if arrived.descriptors_lost {
        let limit = fd::descriptor_limit().map_or_else(|| "unknown".to_string(), |limit| limit.to_string());
        let text = format!(
            "cannot take the descriptors of a message: no number is free below the limit on open files \
             (RLIMIT_NOFILE, ulimit -n, is {limit}), or a security module forbids them"
        );
        return Err(Error::system(text, Errno::EMFILE));
    }
    let Some(message) = M::decode(record, arrived.descriptors)? else { return Ok(None) };
    fault::at(message.names().received).map_err(|errno| Error::system("cannot read the channel", errno))?;
    Ok(Some(Received::Message(message)))
}

impl<Out, In> From<OwnedFd> for Channel<Out, In> {
    fn from(socket: OwnedFd) -> Self {
        Channel { socket, buffer: RefCell::default(), reset: AtomicBool::new(false), direction: PhantomData }
    }
}

impl<Out, In> From<Channel<Out, In>> for OwnedFd {
    fn from(channel: Channel<Out, In>) -> OwnedFd {
        channel.socket
    }
}

impl<Out, In> AsFd for Channel<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
