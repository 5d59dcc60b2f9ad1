//! One client of the control socket: its request as it comes in, its answer as it goes out, never waiting for either. Called
//! by [`super::server`], which knows how many there are and when their time is over.

use super::server::{ClientId, Heard};
use super::wire::{self, Answer, Line, MAX_REQUEST};
use crate::error::Error;
use crate::fork::Private;
use crate::sys::net;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a request may take to come, and an answer to be read.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a stop waits for its acknowledgement.
const ACKNOWLEDGE: Duration = Duration::from_secs(2);
const DENIED: &str = "only root and the user that this server runs as may use its abstract control socket";

pub(super) struct Connection {
    pub id: ClientId,
    pub socket: Private<OwnedFd>,
    pub who: net::Peer,
    /// It may not ask, and is told so when it does: an answer to a question that is still on its way would get lost.
    pub denied: bool,
    /// It has asked all the same, and nobody has been told of it yet.
    pub refused: bool,
    pub stage: Stage,
    /// It is cut off then; none: it waits for us.
    pub until: Option<Instant>,
}

pub(super) enum Stage {
    /// Its request is coming.
    Asking(Vec<u8>),
    /// It has asked, and will be answered.
    Waiting,
    /// It has been told who will end.
    Acknowledging(Vec<i32>),
    /// Its answer is going out.
    Telling(Vec<u8>, usize),
    /// To be closed.
    Done,
}

impl Connection {
    /// Just accepted.
    pub fn new(id: ClientId, socket: Private<OwnedFd>, who: net::Peer, denied: bool) -> Connection {
        let (stage, until) = (Stage::Asking(Vec::new()), Some(Instant::now() + PATIENCE));
        Connection { id, socket, who, denied, refused: false, stage, until }
    }

    /// It has asked: what follows has its own time.
    pub fn wait(&mut self) {
        self.stage = Stage::Waiting;
        self.until = None;
    }

    /// One read: whoever has more to say has a further turn, or none.
    pub fn read(&mut self) -> Option<Heard> {
        let mut chunk = [0; MAX_REQUEST];
        let (length, ended) = match recv(self.socket.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => (0, true),
            Ok(length) => (length, false),
            Err(Errno::EAGAIN | Errno::EINTR) => return None,
            // It has closed its end, with something of ours unread.
            Err(Errno::ECONNRESET) if matches!(self.stage, Stage::Acknowledging(_)) => (0, true),
            Err(_) => {
                self.stage = Stage::Done;
                return None;
            }
        };
        match &mut self.stage {
            // Any line, or its end, acknowledges.
            Stage::Acknowledging(pids) => {
                if !ended && !chunk[..length].contains(&b'\n') {
                    return None;
                }
                let heard = Heard::Acknowledged(self.id, std::mem::take(pids));
                self.wait();
                Some(heard)
            }
            Stage::Asking(line) => {
                line.extend_from_slice(&chunk[..length]);
                if ended && line.is_empty() {
                    self.stage = Stage::Done;
                    return None;
                }
                match wire::parse_request(line, ended) {
                    Line::Unfinished => None,
                    Line::Request(..) if self.denied => {
                        self.refused = true;
                        let error = Error::Refused { errno: Errno::EACCES, text: DENIED.into() };
                        self.tell(Answer::failed(&error).to_string().into_bytes());
                        None
                    }
                    Line::Request(asked, _) => {
                        self.wait();
                        Some(Heard::Asked(self.id, asked))
                    }
                    Line::Garbage(text) => {
                        self.tell(Answer::failed(&Error::Invalid(text)).to_string().into_bytes());
                        None
                    }
                }
            }
            Stage::Waiting | Stage::Telling(..) | Stage::Done => None,
        }
    }

    /// Who will end: its answer to a stop, to be acknowledged.
    pub fn name(&mut self, pids: Vec<i32>) {
        self.tell(Answer::Pids(pids.clone()).to_string().into_bytes());
        // Taken by the socket, as a line so short is, and not the last word.
        if matches!(self.stage, Stage::Done) {
            self.stage = Stage::Acknowledging(pids);
            self.until = Some(Instant::now() + ACKNOWLEDGE);
        }
    }

    /// The last word to it.
    pub fn tell(&mut self, bytes: Vec<u8>) {
        self.stage = Stage::Telling(bytes, 0);
        self.until = Some(Instant::now() + PATIENCE);
        self.write();
    }

    /// As much of it as the socket takes.
    pub fn write(&mut self) {
        let Stage::Telling(bytes, sent) = &mut self.stage else { return };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        while *sent < bytes.len() {
            match send(self.socket.as_raw_fd(), &bytes[*sent..], flags) {
                Ok(length) => *sent += length,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => break,
            }
        }
        self.stage = Stage::Done;
    }

    /// It has closed its end, in both directions.
    pub fn has_gone(&self) -> bool {
        crate::latch::hung_up(self.socket.as_fd())
    }
}
