//! The clients of the control socket. Everything is non-blocking and happens in the supervisor's turns: a client that
//! is slow, silent, floods or talks nonsense costs a slot for seconds and nothing else.
//!
//! It knows lines and connections, not what the requests mean: [`Server::turn`] returns what was asked,
//! [`Server::answer`] tells how it went. One request for each connection, which is closed after its answer.

use super::connection::{Connection, Stage};
use super::socket::Sockets;
use super::wire::Asked;
use crate::address::{Endpoint, UnixName};
use crate::error::explain;
use crate::fork::NoFork;
use crate::log::{self, Level};
use crate::sys::{accept, file, net};
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// So many clients at once; a further one takes the place of the one that has been silent for longest.
const CLIENTS: usize = 32;
/// Accepted in one turn at most: the others of the supervisor have their turn too, and each client is listened to
/// before it can be put out.
const ACCEPTS: usize = CLIENTS / 2;
/// After accept(2) has failed for want of descriptors or memory.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Between two lines about who was refused: anybody may ask, as often as they like.
const QUIET: Duration = Duration::from_secs(60);

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
    clients: Vec<Connection>,
    next: u64,
    /// No accept(2) before this.
    exhausted: Option<Instant>,
    /// The log says so already.
    complained: bool,
    refusals: Refusals,
}

#[derive(Default)]
struct Refusals {
    /// Not before this.
    next_line: Option<Instant>,
    /// So many since the last line.
    unsaid: u64,
}

impl Refusals {
    /// The line that is due at `now`, if one is.
    fn note(&mut self, who: net::Peer, now: Instant) -> Option<String> {
        if self.next_line.is_some_and(|at| now < at) {
            self.unsaid += 1;
            return None;
        }
        self.next_line = Some(now + QUIET);
        let unsaid = match std::mem::take(&mut self.unsaid) {
            0 => String::new(),
            more => format!(", and {more} requests since the last such line"),
        };
        Some(format!("control socket: refused {who}{unsaid}"))
    }
}

impl Server {
    pub fn new(sockets: Sockets) -> Server {
        Server {
            sockets,
            clients: Vec::new(),
            next: 0,
            exhausted: None,
            complained: false,
            refusals: Refusals::default(),
        }
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
        let ours = |client: &&Connection| reads || matches!(client.stage, Stage::Telling(..));
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
                Stage::Asking(_) | Stage::Acknowledging(_) if reads => {
                    heard.extend(client.read());
                    if std::mem::take(&mut client.refused)
                        && let Some(line) = self.refusals.note(client.who, now)
                    {
                        log::write(Level::Error, format_args!("{line}"));
                    }
                }
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
        client.name(pids);
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

    fn client(&mut self, id: ClientId) -> Option<&mut Connection> {
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
                    if !std::mem::replace(&mut self.complained, true) {
                        let why = explain(errno);
                        log::write(Level::Error, format_args!("control socket: cannot accept: {why}"));
                    }
                    self.exhausted = Some(now + EXHAUSTED);
                    return;
                }
            };
            drop(no_fork);
            self.complained = false;
            let Ok(who) = net::peer(socket.as_fd()) else { continue };
            self.next += 1;
            let id = ClientId(self.next);
            let denied = !self.may_ask(who);
            self.make_room();
            if self.clients.len() < CLIENTS {
                self.clients.push(Connection::new(id, socket, who, denied));
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
        !guarded || who.uid == 0 || (who.uid == own && who.uid != overflow_uid())
    }

    /// The one that has been silent for longest makes place, then one that does not read its answer.
    fn make_room(&mut self) {
        if self.clients.len() < CLIENTS {
            return;
        }
        let silent = |client: &Connection| matches!(client.stage, Stage::Asking(_));
        let slow = |client: &Connection| matches!(client.stage, Stage::Telling(..));
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

/// The user id that the kernel shows for users whom this namespace does not know.
fn overflow_uid() -> u32 {
    let id = file::read_proc(c"/proc/sys/kernel/overflowuid").unwrap_or_default();
    std::str::from_utf8(id.trim_ascii()).ok().and_then(|id| id.parse().ok()).unwrap_or(65534)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_again_and_again_gets_a_line_a_minute() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let who = net::Peer { pid: 7, uid: 1000 };
        assert_eq!(refusals.note(who, start).unwrap(), "control socket: refused process 7 of user 1000");
        for _ in 0..5 {
            assert_eq!(refusals.note(who, start + Duration::from_secs(59)), None);
        }
        let line = refusals.note(who, start + QUIET).unwrap();
        assert!(line.ends_with(", and 5 requests since the last such line"), "{line}");
        assert!(refusals.note(who, start + 2 * QUIET).unwrap().ends_with("user 1000"));
    }
}
