//! The clients of the control socket. Everything is non-blocking and happens in the supervisor's turns: a client that is slow,
//! silent, floods or talks nonsense costs a slot for seconds and nothing else.
//!
//! It knows lines and connections, not what the requests mean: [`Server::turn`] returns what was asked, [`Server::answer`]
//! tells how it went. One request for each connection, which is closed after its answer.

use super::socket::Sockets;
use super::wire::{self, Answer, Asked, Line, MAX_REQUEST};
use crate::address::{Endpoint, UnixName};
use crate::error::{Error, explain};
use crate::fork::{NoFork, Private};
use crate::log::{self, Level};
use crate::sys::{accept, net};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// So many clients at once; a further one takes the place of the one that has been silent for longest.
const CLIENTS: usize = 32;
/// Accepted in one turn at most: the others of the supervisor have their turn too, and each client is listened to before it
/// can be put out.
const ACCEPTS: usize = CLIENTS / 2;
/// How long a request may take to come, and an answer to be read.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a stop waits for its acknowledgement.
const ACKNOWLEDGE: Duration = Duration::from_secs(2);
/// After accept(2) has failed for want of descriptors or memory.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// One connection, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientId(u64);

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A request. A stop is to be answered with [`Server::name`] first.
    Asked(ClientId, Asked),
    /// Whoever asked for a stop knows these pids, or does not want to.
    Acknowledged(ClientId, Vec<i32>),
}

/// The socket and its clients.
pub struct Server {
    pub sockets: Sockets,
    clients: Vec<Client>,
    next: u64,
    /// No accept(2) before this.
    exhausted: Option<Instant>,
    /// User ids of the kernel's for users that this namespace does not know.
    overflow: u32,
}

struct Client {
    id: ClientId,
    socket: Private<OwnedFd>,
    who: net::Peer,
    /// It may not ask, and is told so when it does: an answer to a question that is still on its way would get lost.
    denied: bool,
    stage: Stage,
    /// It is cut off then; none: it waits for us.
    until: Option<Instant>,
}

enum Stage {
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

impl Server {
    pub fn new(sockets: Sockets) -> Server {
        let overflow = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
        let overflow = overflow.and_then(|id| id.trim().parse().ok()).unwrap_or(65534);
        Server { sockets, clients: Vec::new(), next: 0, exhausted: None, overflow }
    }

    /// What to poll. `reads`: requests are this process's to answer.
    pub fn watched(&self, reads: bool) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut watched = Vec::new();
        if let Some(listener) = self.sockets.listener().filter(|_| reads && self.exhausted.is_none()) {
            watched.push((listener.as_fd(), PollFlags::POLLIN));
        }
        for client in &self.clients {
            let events = match client.stage {
                Stage::Asking(_) | Stage::Acknowledging(_) if reads => PollFlags::POLLIN,
                Stage::Asking(_) | Stage::Acknowledging(_) => continue,
                // Its end comes unasked (POLLHUP); what else it may send is not read.
                Stage::Waiting | Stage::Done => PollFlags::empty(),
                Stage::Telling(..) => PollFlags::POLLOUT,
            };
            watched.push((client.socket.as_fd(), events));
        }
        watched
    }

    /// When there is something to do even if nobody says anything.
    pub fn timer(&self, reads: bool) -> Option<Instant> {
        let ours = |client: &&Client| reads || matches!(client.stage, Stage::Telling(..));
        let clients = self.clients.iter().filter(ours).filter_map(|client| client.until);
        clients.chain(self.exhausted.filter(|_| reads)).min()
    }

    /// Everything that can be done without waiting; returns what was asked.
    pub fn turn(&mut self, reads: bool) -> Vec<Heard> {
        let now = Instant::now();
        let mut heard = Vec::new();
        if reads {
            if self.exhausted.is_some_and(|until| until <= now) {
                self.exhausted = None;
            }
            self.accept(now);
        }
        for client in &mut self.clients {
            match &client.stage {
                Stage::Asking(_) | Stage::Acknowledging(_) if reads => heard.extend(client.read(now)),
                Stage::Waiting if client.has_gone() => client.stage = Stage::Done,
                Stage::Telling(..) => client.write(),
                _ => {}
            }
        }
        self.tidy();
        heard
    }

    /// Who will end: the answer to a stop that waits for its acknowledgement.
    pub fn name(&mut self, id: ClientId, pids: Vec<i32>) {
        let Some(client) = self.client(id) else { return };
        client.tell(Answer::Pids(pids.clone()).to_string().into_bytes());
        if matches!(client.stage, Stage::Done) {
            // Taken by the socket, and not its last word.
            client.stage = Stage::Acknowledging(pids);
            client.until = Some(Instant::now() + ACKNOWLEDGE);
        }
        self.tidy();
    }

    /// The last word to this client.
    pub fn answer(&mut self, id: ClientId, line: String) {
        let Some(client) = self.client(id) else { return };
        client.tell(line.into_bytes());
        self.tidy();
    }

    /// Closed unanswered.
    pub fn forget(&mut self, id: ClientId) {
        self.clients.retain(|client| client.id != id);
    }

    /// For the log and the host.
    pub fn who(&self, id: ClientId) -> Option<net::Peer> {
        self.clients.iter().find(|client| client.id == id).map(|client| client.who)
    }

    /// Nobody connects to this process any more.
    pub fn close(&mut self, owns: bool) {
        if let Some(error) = self.sockets.close(owns) {
            log::write(Level::Error, format_args!("{error}"));
        }
    }

    /// Every client is closed unanswered, but for answers that are going out.
    pub fn dismiss(&mut self) {
        self.clients.retain(|client| matches!(client.stage, Stage::Telling(..)));
    }

    fn client(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.id == id)
    }

    fn tidy(&mut self) {
        self.clients.retain(|client| !matches!(client.stage, Stage::Done));
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.sockets.listener().filter(|_| self.exhausted.is_none()) else { return };
            let no_fork = NoFork::hold();
            let socket = match accept::accept_nonblocking(listener.as_fd()) {
                Ok(socket) => no_fork.private(socket),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
                Err(errno) => {
                    drop(no_fork);
                    log::write(
                        Level::Error,
                        format_args!("control socket: cannot accept: {}", explain(errno)),
                    );
                    self.exhausted = Some(now + EXHAUSTED);
                    return;
                }
            };
            drop(no_fork);
            let Ok(who) = net::peer(socket.as_fd()) else { continue };
            self.next += 1;
            let id = ClientId(self.next);
            let stage = Stage::Asking(Vec::new());
            let denied = !self.may_ask(who);
            self.make_room();
            if self.clients.len() < CLIENTS {
                self.clients.push(Client { id, socket, who, denied, stage, until: Some(now + PATIENCE) });
            }
        }
    }

    /// Paths have a mode and an owner; an abstract name can be connected to by anybody in this network namespace.
    fn may_ask(&self, who: net::Peer) -> bool {
        let is_abstract =
            |endpoint: &Endpoint| matches!(endpoint, Endpoint::Unix { name: UnixName::Abstract(_), .. });
        let guarded = self.sockets.address().is_some_and(|address| is_abstract(&address.endpoint));
        // SAFETY: geteuid has no conditions.
        let own = unsafe { libc::geteuid() };
        !guarded || who.uid == 0 || (who.uid == own && who.uid != self.overflow)
    }

    /// The one that has been silent for longest makes place, then one that does not read its answer.
    fn make_room(&mut self) {
        if self.clients.len() < CLIENTS {
            return;
        }
        let silent = |client: &Client| matches!(client.stage, Stage::Asking(_));
        let slow = |client: &Client| matches!(client.stage, Stage::Telling(..));
        // In the order in which they came.
        let oldest = self.clients.iter().position(silent).or_else(|| self.clients.iter().position(slow));
        oldest.map(|index| self.clients.remove(index));
    }

    /// Those whose time is over.
    pub fn expire(&mut self) -> Vec<Heard> {
        let now = Instant::now();
        let mut heard = Vec::new();
        for client in self.clients.iter_mut().filter(|client| client.until.is_some_and(|until| until <= now))
        {
            if let Stage::Acknowledging(pids) = &client.stage {
                heard.push(Heard::Acknowledged(client.id, pids.clone()));
                client.wait();
            } else {
                client.stage = Stage::Done;
            }
        }
        self.tidy();
        heard
    }
}

impl Client {
    fn wait(&mut self) {
        self.stage = Stage::Waiting;
        self.until = None;
    }

    /// One read: whoever has more to say has a further turn, or none.
    fn read(&mut self, now: Instant) -> Option<Heard> {
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
                        log::write(Level::Error, format_args!("control socket: refused {}", self.who));
                        let text = "only root and the user that this server runs as may use its abstract control socket";
                        let error = Error::Refused { errno: Errno::EACCES, text: text.into() };
                        self.tell(Answer::failed(&error).to_string().into_bytes());
                        None
                    }
                    Line::Request(asked, _) => {
                        self.wait();
                        Some(Heard::Asked(self.id, asked))
                    }
                    Line::Garbage(text) => {
                        self.until = Some(now + PATIENCE);
                        self.tell(Answer::failed(&Error::Invalid(text)).to_string().into_bytes());
                        None
                    }
                }
            }
            Stage::Waiting | Stage::Telling(..) | Stage::Done => None,
        }
    }

    fn tell(&mut self, bytes: Vec<u8>) {
        self.stage = Stage::Telling(bytes, 0);
        self.until = Some(Instant::now() + PATIENCE);
        self.write();
    }

    fn write(&mut self) {
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
    fn has_gone(&self) -> bool {
        crate::latch::hung_up(self.socket.as_fd())
    }
}
