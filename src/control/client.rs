//! The other end of a control socket: asks, waits, and says how it went. Runs on the caller's thread, with
//! descriptors of its own and no handle. Called by the C interface, the bindings and flipctl.
//!
//! A server that hands over closes every connection whose request it has not carried out, and its successor serves
//! the same socket: so whoever was closed without an answer asks again, by itself.

use super::Request;
use super::wire::{Answer, Asked, MAX_ANSWER};
use crate::address::{Address, Endpoint, UnixKind, UnixName};
use crate::error::{Error, Result};
use crate::sys::net::{self, SockAddr};
use crate::sys::{fd, process};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, send, setsockopt, sockopt};
use nix::unistd::Pid;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Whoever comes waits behind so many at most; further ones wait in connect(2).
const BACKLOG: i32 = 64;
/// How often a connection that was closed without an answer is made again.
const TRIES: u32 = 10;
/// Between two tries, and while the server's queue is full.
const PAUSE: Duration = Duration::from_millis(10);

/// The address of a control socket: `unix:///run/a.ctl`, `unix:@name`.
pub fn parse_address(text: &[u8]) -> Result<Address> {
    let mut address = Address::parse(text)?;
    let what = || format!("cannot use the address {address} for a control socket");
    if !matches!(address.endpoint, Endpoint::Unix { kind: UnixKind::Stream, .. }) {
        return Err(Error::Invalid(format!("{}: it must be unix:///path or unix:@name", what())));
    }
    if address.options.name.is_some() || address.options.keep.is_some() {
        return Err(Error::Invalid(format!("{}: name= and keep= are for listeners", what())));
    }
    // A path that everybody may connect to is never what was meant.
    if address.path().is_some() {
        address.options.mode.get_or_insert(0o600);
    }
    address.options.backlog.get_or_insert(BACKLOG);
    Ok(address)
}

/// Asks another process. An upgrade gives the pid of the successor; a stop returns once the process is gone; a detach
/// when it is done. Never `EINTR`.
///
/// `ETIMEDOUT`: `timeout` passed; what was asked for goes on. A request that failed has its kind
/// ([`Error::failure`]), errno and sentence from there; an errno without a kind is of the connection (`ECONNREFUSED`:
/// nobody listens; `ENOENT`; `EACCES`), or `ECONNRESET`: the server ended without an answer. `ESRCH`: a stop has begun, and
/// its end cannot be seen from here, since the server is in another pid namespace (or behind a proxy).
pub fn request(address: &Address, request: Request, timeout: Option<Duration>) -> Result<Option<i32>> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let asked = match request {
        Request::Upgrade => Asked::Upgrade,
        Request::Stop => Asked::Stop,
        Request::Detach => Asked::Detach,
    };
    // An upgrade that was read and not answered may be under way: asked for again it could be done twice.
    let again = |unread| unread || request != Request::Upgrade;
    let mut pid = None;
    repeat(address, asked, deadline, &again, &mut |connection| {
        match request {
            Request::Upgrade => pid = Some(connection.answer()?),
            Request::Detach => _ = connection.answer()?,
            Request::Stop => connection.stopped()?,
        }
        Ok(())
    })?;
    Ok(pid)
}

/// What another process tells about itself: one line of JSON, described in `docs/control.md`.
pub fn status(address: &Address, timeout: Option<Duration>) -> Result<String> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut status = String::new();
    repeat(address, Asked::Status, deadline, &|_| true, &mut |connection| {
        let line = connection.line()?;
        if line.first() != Some(&b'{') {
            let error = Answer::parse(&line).and_then(Answer::into_error);
            return Err(error.unwrap_or_else(|| no_answer(connection.address, &line)).into());
        }
        let unreadable = |_| Error::Protocol(format!("the status from {} is not UTF-8", connection.address));
        status = String::from_utf8(line).map_err(unreadable)?;
        Ok(())
    })?;
    Ok(status)
}

/// Why there is no answer.
enum Wrong {
    /// Final.
    Failed(Error),
    /// The connection ended; `unread`: before anybody had read the request.
    Closed { unread: bool },
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Wrong {
        Wrong::Failed(error)
    }
}

fn repeat(
    address: &Address,
    asked: Asked,
    deadline: Option<Instant>,
    again: &dyn Fn(bool) -> bool,
    read: &mut dyn FnMut(&mut Connection) -> std::result::Result<(), Wrong>,
) -> Result<()> {
    let mut tries = 0;
    loop {
        let connection = Connection::open(address, deadline)?;
        let mut connection = connection;
        let unread =
            match connection.send(&format!("{}\n", asked.word())).and_then(|()| read(&mut connection)) {
                Ok(()) => return Ok(()),
                Err(Wrong::Failed(error)) => return Err(error),
                Err(Wrong::Closed { unread }) => unread,
            };
        tries += 1;
        if tries == TRIES || !again(unread) {
            let what = format!("{} closed the connection and did not answer", address.endpoint);
            return Err(Error::system(what, Errno::ECONNRESET));
        }
        pause(deadline)?;
    }
}

fn pause(deadline: Option<Instant>) -> Result<()> {
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    if left.is_some_and(|left| left.is_zero()) {
        return Err(Error::TimedOut);
    }
    std::thread::sleep(left.map_or(PAUSE, |left| left.min(PAUSE)));
    Ok(())
}

fn no_answer(address: &Address, line: &[u8]) -> Error {
    let line = crate::address::quote(line);
    Error::Protocol(format!("{} answered {line}, which is no answer of a control socket", address.endpoint))
}

/// One try.
struct Connection<'a> {
    address: &'a Address,
    socket: OwnedFd,
    deadline: Option<Instant>,
    buffer: Vec<u8>,
    /// Who sent what came last, by its number in this pid namespace; 0: it has none here. Not SO_PEERCRED, which is
    /// whoever called listen(2): an older generation.
    sender: i32,
}

impl<'a> Connection<'a> {
    fn open(address: &'a Address, deadline: Option<Instant>) -> Result<Connection<'a>> {
        let failed = |errno| Error::system(format!("cannot connect to {}", address.endpoint), errno);
        let to = match &address.endpoint {
            Endpoint::Unix { kind: UnixKind::Stream, name: UnixName::Path(path) } => {
                SockAddr::UnixPath(path.clone())
            }
            Endpoint::Unix { kind: UnixKind::Stream, name: UnixName::Abstract(name) } => {
                SockAddr::UnixAbstract(name.clone())
            }
            _ => return Err(failed(Errno::EINVAL)),
        };
        let socket = net::socket(libc::AF_UNIX, libc::SOCK_STREAM).map_err(failed)?;
        loop {
            match net::connect(socket.as_fd(), &to) {
                Ok(()) => break,
                // The queue is full. poll(2) does not wait for that: unix(7).
                Err(Errno::EAGAIN) => pause(deadline)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        // Only now: before connect(2) it would give the socket a name, unix(7).
        setsockopt(&socket, sockopt::PassCred, &true).map_err(failed)?;
        Ok(Connection { address, socket, deadline, buffer: Vec::new(), sender: 0 })
    }

    /// Requests are shorter than any socket's buffer.
    fn send(&mut self, line: &str) -> std::result::Result<(), Wrong> {
        loop {
            match send(self.socket.as_raw_fd(), line.as_bytes(), MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(Wrong::Closed { unread: true }),
                Err(errno) => return Err(self.failed(errno).into()),
            }
        }
    }

    fn failed(&self, errno: Errno) -> Error {
        Error::system(format!("cannot talk to {}", self.address.endpoint), errno)
    }

    /// The next line, without its end.
    fn line(&mut self) -> std::result::Result<Vec<u8>, Wrong> {
        let mut chunk = [0; 16 * 1024];
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(line);
            }
            searched = self.buffer.len();
            if searched > MAX_ANSWER {
                return Err(no_answer(self.address, &self.buffer).into());
            }
            match self.receive(&mut chunk) {
                Ok(0) => return Err(Wrong::Closed { unread: false }),
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(Errno::EAGAIN) => self.wait(self.socket.as_fd())?,
                Err(Errno::EINTR) => {}
                // Closed with something of ours unread: unix_release_sock in net/unix/af_unix.c.
                Err(Errno::ECONNRESET) => return Err(Wrong::Closed { unread: true }),
                Err(errno) => return Err(self.failed(errno).into()),
            }
        }
    }

    /// One read, which never takes the bytes of two senders: unix_stream_read_generic in net/unix/af_unix.c.
    fn receive(&mut self, chunk: &mut [u8]) -> std::result::Result<usize, Errno> {
        let mut control = nix::cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(chunk)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        self.sender = received
            .cmsgs()
            .into_iter()
            .flatten()
            .find_map(|message| match message {
                ControlMessageOwned::ScmCredentials(sender) => Some(sender.pid()),
                _ => None,
            })
            .unwrap_or(0);
        Ok(received.bytes)
    }

    fn wait(&self, fd: std::os::fd::BorrowedFd) -> Result<()> {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        match fd::poll(&mut fds, left) {
            Ok(0) => Err(Error::TimedOut),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(self.failed(errno)),
        }
    }

    /// The last answer: a pid, or the failure.
    fn answer(&mut self) -> std::result::Result<i32, Wrong> {
        let line = self.line()?;
        match Answer::parse(&line) {
            Some(Answer::Ok(pid)) => Ok(pid),
            Some(failed @ Answer::Failed { .. }) => {
                Err(failed.into_error().unwrap_or_else(|| no_answer(self.address, &line)).into())
            }
            Some(Answer::Pids(_)) | None => Err(no_answer(self.address, &line).into()),
        }
    }

    /// A stop: whoever ends is named and waits until we hold on to it, so that its number cannot be another's. The one that
    /// names is among them: if it has another number here, all these numbers are somebody else's, or nobody's.
    fn stopped(&mut self) -> std::result::Result<(), Wrong> {
        let mut ending: Vec<OwnedFd> = Vec::new();
        let mut foreign = None;
        loop {
            let line = self.line()?;
            match Answer::parse(&line) {
                Some(Answer::Pids(pids)) => {
                    ending.clear();
                    foreign = pids.first().copied().filter(|_| !pids.contains(&self.sender));
                    for pid in pids.into_iter().filter(|_| foreign.is_none()) {
                        match process::pidfd_open(Pid::from_raw(pid)) {
                            Ok(pidfd) => ending.push(pidfd),
                            Err(Errno::ESRCH) => {}
                            Err(errno) => {
                                return Err(
                                    Error::system(format!("cannot watch process {pid}"), errno).into()
                                );
                            }
                        }
                    }
                    self.send("ok\n")?;
                }
                Some(Answer::Ok(_)) => break,
                Some(failed @ Answer::Failed { .. }) => {
                    return Err(failed.into_error().unwrap_or_else(|| no_answer(self.address, &line)).into());
                }
                None => return Err(no_answer(self.address, &line).into()),
            }
        }
        if let Some(pid) = foreign {
            let what = format!(
                "{} stops; when it has ended cannot be seen from here, since what it calls process {pid} is in another \
                 pid namespace",
                self.address.endpoint
            );
            return Err(Error::system(what, Errno::ESRCH).into());
        }
        for pidfd in &ending {
            while !crate::latch::fired(pidfd.as_fd()) {
                self.wait(pidfd.as_fd())?;
            }
        }
        Ok(())
    }
}
