//! What descriptors this process was started with: by a predecessor (an upgrade), by systemd (socket activation), or
//! none. Reads a copy of the environment and the descriptors that it names, and says which variables are to be
//! removed; it promises that a variable meant for another process is never acted on. Called once, by `flip_init`.
//!
//! The rules are in `docs/protocol.md`, "How the successor finds the channel", and in sd_listen_fds(3).

mod names;

pub use names::{encode as encode_names, from_systemd as names_from_systemd};

use crate::address::decode_name;
use crate::channel::{FromPredecessor, Hello, Nonce, Received, TableEntry, ToPredecessor};
use crate::error::{Error, Result, explain};
use crate::startup::variable;
use crate::sys::fd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Which process a predecessor's hand-over is meant for, on which descriptor, and by which upgrade.
pub const CHANNEL: &str = "SHELLFLIP_CHANNEL";
/// Which process the descriptors are meant for.
pub const LISTEN_PID: &str = "LISTEN_PID";
/// How many there are.
pub const LISTEN_FDS: &str = "LISTEN_FDS";
/// Their names.
pub const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";
/// A second proof of who is meant (systemd 258), which the successor's pid does not fit.
pub const LISTEN_PIDFDID: &str = "LISTEN_PIDFDID";

/// HELLO is queued before this process runs; only a broken predecessor lets it wait.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Numbers from systemd that a handle of this process has claimed, and so closed with itself or at shutdown: they may be
/// anything by now, and LISTEN_FDS is left as it is.
static CLAIMED: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// That number is not to be found again.
pub fn claimed(number: RawFd) {
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).push(number);
}

/// The variables of the environment that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `SHELLFLIP_CHANNEL`.
    pub channel: Option<Vec<u8>>,
    /// `LISTEN_PID`.
    pub listen_pid: Option<Vec<u8>>,
    /// `LISTEN_FDS`.
    pub listen_fds: Option<Vec<u8>>,
    /// `LISTEN_FDNAMES`.
    pub listen_fdnames: Option<Vec<u8>>,
}

/// A descriptor from systemd. Nobody owns it before it is claimed: it may be meant for another part of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activated {
    /// Its number.
    pub number: RawFd,
    /// Unique: a further descriptor of the same name is `name#2` …
    pub name: Vec<u8>,
    /// Somebody chose the name. systemd's stand-ins `unknown` and `stored` tell nothing about the socket.
    pub named: bool,
}

/// What a predecessor handed over.
#[derive(Debug)]
pub struct Upgrade {
    /// To speak with it.
    pub channel: ToPredecessor,
    /// What it said first; its table is in `descriptors`.
    pub hello: Hello,
    /// The descriptors from 3 on, all CLOEXEC.
    pub descriptors: Vec<(TableEntry, OwnedFd)>,
}

/// How this process was started.
#[derive(Debug)]
pub enum Inheritance {
    /// Not by an upgrade: generation 0.
    Fresh {
        /// What systemd passed.
        listen_fds: Vec<Activated>,
    },
    /// By an upgrade.
    Upgrade(Box<Upgrade>),
}

/// The answer of [`find`].
#[derive(Debug)]
pub struct Found {
    /// How this process was started.
    pub inheritance: Inheritance,
    /// What is to be removed from the environment, so that no child of ours takes itself for who was meant.
    pub remove: Vec<&'static str>,
}

impl Environment {
    /// Picks the variables out of an environment. Of two with one name the first counts, as in getenv(3).
    pub fn of(environment: &[CString]) -> Environment {
        let value = |name: &str| variable(environment, name.as_bytes()).map(<[u8]>::to_vec);
        Environment {
            channel: value(CHANNEL),
            listen_pid: value(LISTEN_PID),
            listen_fds: value(LISTEN_FDS),
            listen_fdnames: value(LISTEN_FDNAMES),
        }
    }

    /// Whether it says that the process `pid` is a successor.
    pub fn is_successor(&self, pid: u32) -> bool {
        self.channel.as_deref().is_some_and(|channel| meant_for(channel, pid).is_some())
    }
}

/// What the process `pid`, this one, was started with. With `secure` (AT_SECURE) nothing: then its environment comes
/// from somebody with fewer rights.
///
/// # Safety
///
/// - `environment` is what this process was started with, and the descriptors it names still belong to nobody.
/// - Once this returned an upgrade, it is not called again with the same values: the descriptors are owned now.
pub unsafe fn find(environment: &Environment, pid: u32, secure: bool) -> Result<Found> {
    let stale = if environment.channel.is_some() { vec![CHANNEL] } else { vec![] };
    let fresh = |listen_fds| Found { inheritance: Inheritance::Fresh { listen_fds }, remove: stale };
    if secure {
        return Ok(fresh(vec![]));
    }
    match environment.channel.as_deref().and_then(|channel| meant_for(channel, pid)) {
        // SAFETY: as promised by the caller.
        Some(place) => unsafe { upgrade(environment, place, pid) },
        None => activated(environment, pid).map(fresh),
    }
}

/// The part of SHELLFLIP_CHANNEL behind the pid, if that is ours.
pub fn meant_for(channel: &[u8], pid: u32) -> Option<&[u8]> {
    let end = channel.iter().position(|byte| *byte == b':').unwrap_or(channel.len());
    let (whose, rest) = channel.split_at(end);
    (number(whose) == Some(pid)).then(|| rest.strip_prefix(b":").unwrap_or(rest))
}

/// # Safety
///
/// As for [`find`].
unsafe fn upgrade(environment: &Environment, place: &[u8], pid: u32) -> Result<Found> {
    // The value is not shown: it may hold a nonce.
    let (socket, nonce) =
        parse_place(place).ok_or_else(|| wrong("its value is not <pid>:<fd>:<nonce>".into()))?;
    // Not owned before it is seen to be what it should: closed by an error it could be somebody's after all, in a program
    // that has executed itself with these variables.
    // SAFETY: only asked what it is; the kernel says EBADF where it is none.
    match fd::socket_kind(unsafe { BorrowedFd::borrow_raw(socket) }) {
        Ok((libc::AF_UNIX, libc::SOCK_SEQPACKET)) => {}
        Err(errno @ Errno::EBADF) => {
            return Err(wrong(format!("its descriptor {socket} is not open")).because(&explain(errno)));
        }
        _ => return Err(wrong("its descriptor is not a unix socket of type SOCK_SEQPACKET".into()).into()),
    }
    // First of all that is done: a copy in a child of ours would keep the predecessor from seeing our end.
    fd::set_cloexec_raw(socket)
        .map_err(|errno| wrong(format!("its descriptor {socket} is not open")).because(&explain(errno)))?;
    let count = listen_fds(environment, pid)?;
    let numbers = fd::FIRST..fd::FIRST + count;
    if numbers.contains(&socket) {
        return Err(wrong(format!("its descriptor {socket} is one of the {count} in LISTEN_FDS")).into());
    }
    // Before HELLO is received: what it attaches may get the number of one that is missing.
    all_open(numbers.clone(), &[])?;
    // SAFETY: open, as just seen, and nobody's, as promised by the caller.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let channel = ToPredecessor::from(socket);
    let mut hello = wait_for_hello(&channel)?;
    if hello.nonce != nonce {
        return Err(wrong("HELLO has another nonce, so it is of another upgrade".into()).into());
    }
    let table = std::mem::take(&mut hello.table);
    if table.len() != numbers.len() {
        let (named, passed) = (table.len(), numbers.len());
        return Err(wrong(format!("HELLO names {named} descriptors, LISTEN_FDS says {passed}")).into());
    }
    check_names(environment, &table)?;
    fd::set_cloexec_range(numbers.clone()).map_err(|errno| {
        Error::system(format!("cannot keep {count} inherited descriptors from children"), errno)
    })?;
    // SAFETY: open, as seen above, and nobody's, as promised by the caller.
    let descriptors =
        table.into_iter().zip(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) })).collect();
    let inheritance = Inheritance::Upgrade(Box::new(Upgrade { channel, hello: *hello, descriptors }));
    Ok(Found { inheritance, remove: vec![LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PIDFDID, CHANNEL] })
}

/// `<fd>:<nonce>`
pub fn parse_place(place: &[u8]) -> Option<(RawFd, Nonce)> {
    let colon = place.iter().position(|byte| *byte == b':')?;
    let socket = RawFd::try_from(number(&place[..colon])?).ok().filter(|socket| *socket >= fd::FIRST)?;
    Some((socket, Nonce::from_hex(&place[colon + 1..])?))
}

fn wait_for_hello(channel: &ToPredecessor) -> Result<Box<Hello>> {
    let deadline = fd::monotonic_ns() + HELLO_TIMEOUT.as_nanos() as u64;
    loop {
        match channel.receive() {
            Received::Message(FromPredecessor::Hello(hello)) => return Ok(hello),
            Received::Message(_) => return Err(wrong("the first message is not HELLO".into()).into()),
            Received::Eof => return Err(wrong("the channel was closed before HELLO came".into()).into()),
            Received::Error(error) => return Err(error),
            Received::Nothing => {}
        }
        let left = deadline.saturating_sub(fd::monotonic_ns());
        if left == 0 {
            return Err(wrong(format!("no HELLO came in {} s", HELLO_TIMEOUT.as_secs())).into());
        }
        match fd::poll(
            &mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)],
            Some(Duration::from_nanos(left)),
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("cannot wait for the predecessor", errno)),
        }
    }
}

/// LISTEN_FDS of an upgrade. There may be nothing to pass on, and then it may be missing.
fn listen_fds(environment: &Environment, pid: u32) -> Result<RawFd> {
    let Some(count) = &environment.listen_fds else { return Ok(0) };
    let count = parse_count(count)?;
    if count > 0 && environment.listen_pid.as_deref().and_then(number) != Some(pid) {
        return Err(wrong("LISTEN_PID is not this process".into()).into());
    }
    Ok(count)
}

/// HELLO has the true names; LISTEN_FDNAMES may be missing, but must not say something else.
fn check_names(environment: &Environment, table: &[TableEntry]) -> Result<()> {
    let Some(listed) = environment.listen_fdnames.as_deref().filter(|_| !table.is_empty()) else {
        return Ok(());
    };
    let mut listed = listed.split(|byte| *byte == b':');
    let is = |listed: &[u8], name: &[u8]| match listed.contains(&b'%') {
        false => listed == name,
        true => decode_name(listed).is_some_and(|listed| listed == name),
    };
    let agree = table.iter().all(|entry| listed.next().is_some_and(|listed| is(listed, &entry.name)));
    if agree && listed.next().is_none() {
        return Ok(());
    }
    Err(wrong("HELLO and LISTEN_FDNAMES disagree about the names of the descriptors".into()).into())
}

/// Socket activation by systemd, or by who does the same.
fn activated(environment: &Environment, pid: u32) -> Result<Vec<Activated>> {
    if environment.listen_pid.as_deref().and_then(number) != Some(pid) {
        return Ok(vec![]);
    }
    let Some(count) = &environment.listen_fds else { return Ok(vec![]) };
    let numbers = fd::FIRST..fd::FIRST + parse_count(count)?;
    let claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    all_open(numbers.clone(), &claimed)?;
    let named = names::from_systemd(environment.listen_fdnames.as_deref(), numbers.len())?;
    let all = numbers.zip(named).filter(|(number, _)| !claimed.contains(number));
    Ok(all.map(|(number, (name, named))| Activated { number, name, named }).collect())
}

fn parse_count(count: &[u8]) -> Result<RawFd> {
    let parsed = number(count).and_then(|count| RawFd::try_from(count).ok());
    parsed.filter(|count| *count <= RawFd::MAX - fd::FIRST).ok_or_else(|| {
        Error::Protocol(format!(
            "LISTEN_FDS is \"{}\", which is no number of descriptors",
            count.escape_ascii()
        ))
    })
}

fn all_open(mut numbers: std::ops::Range<RawFd>, but: &[RawFd]) -> Result<()> {
    let count = numbers.len();
    match numbers.find(|number| !but.contains(number) && !fd::is_open(*number)) {
        None => Ok(()),
        Some(number) => Err(Error::Protocol(format!(
            "LISTEN_FDS says that {count} descriptors were passed on, but descriptor {number} is not open"
        ))),
    }
}

/// Decimal digits and nothing else.
fn number(text: &[u8]) -> Option<u32> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Why a hand-over that is meant for this process cannot be accepted.
struct Wrong(String);

fn wrong(what: String) -> Wrong {
    Wrong(format!("{CHANNEL} says that this process was started by an upgrade, but {what}"))
}

impl Wrong {
    fn because(self, why: &str) -> Error {
        Error::Protocol(format!("{}: {why}", self.0))
    }
}

impl From<Wrong> for Error {
    fn from(wrong: Wrong) -> Error {
        Error::Protocol(wrong.0)
    }
}
