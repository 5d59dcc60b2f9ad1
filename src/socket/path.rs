//! A unix socket that has a path: who may use it, who may replace it, who may remove it.
//!
//! **In use or stale?** A datagram socket connects to the path. The kernel looks up which socket is bound to that
//! inode before it compares types: ECONNREFUSED means none (its owner is dead), EPROTOTYPE means one of another type,
//! listening or not. So the question never puts a connection into a live server's queue, and a socket that is bound
//! but does not listen yet is not taken for a dead one. (unix_find_bsd in net/unix/af_unix.c, the same since 5.10.)
//!
//! **Two replacers of one stale path.** Whoever replaces holds an flock(2) on `<path>.lock` from the question to its
//! own bind(2). The second one gets the lock afterwards and finds the first one's socket in use. Whoever finds no
//! path at all binds without the lock: bind(2) is atomic, so between the unlink and the bind of a replacer it either
//! wins, and the replacer gets EADDRINUSE, or loses. The replacer unlinks only the inode it asked about, which it
//! holds open, so that its number cannot be given to another. A foreign program that removes and binds
//! between the last look and the unlink can still lose its path; the kernel has no unlink by inode.
//!
//! **Mode and owner.** Linux gives the path the mode of the socket's own inode less the umask, and the owner of the
//! process (fchown(2) before has no effect; fchmod(2) after bind none either). So the socket gets mode 0200 first, the
//! path is born closed to all other users, then comes the owner, then the mode, and then listen(2).

use super::{Bound, refused, trying, unix_type};
use crate::address::{Address, Owner, UnixKind, quote};
use crate::error::{Error, Result, explain};
use crate::sys::file;
use crate::sys::net::{self, SockAddr};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag};
use nix::unistd::{Gid, Uid};
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long another process may hold the lock: it needs it for a few system calls.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// The mode of a path that is not ready: write permission is what connecting takes, and nobody but this process's own
/// user has it. With 0, that user could not ask whether a leftover is stale.
const CLOSED: u32 = 0o200;

/// The right to remove a path: plain fields, because the right goes from one generation to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathOwner {
    /// The path as it was bound.
    pub path: Vec<u8>,
    /// The device of its inode.
    pub dev: u64,
    /// The number of its inode.
    pub ino: u64,
}

impl PathOwner {
    /// Holds the inode, if it is still there and ours: its number cannot be given to another one meanwhile.
    pub fn hold(&self) -> Option<OwnedFd> {
        let (held, status) = hold_socket(&"", &self.path).ok()?;
        ((status.st_dev, status.st_ino) == (self.dev, self.ino)).then_some(held)
    }

    /// Removes the path if it still leads to our inode; true if it did. Call while the socket is open: then nobody
    /// takes the path for stale, and the number of its inode cannot be given to another one.
    pub fn unlink_if_ours(&self) -> Result<bool> {
        let failed = |errno| Error::system(format!("cannot remove the socket {}", quote(&self.path)), errno);
        match net::path_status(&self.path) {
            Ok(status) if is_socket(&status) && (status.st_dev, status.st_ino) == (self.dev, self.ino) => {}
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(false),
            Err(errno) => return Err(failed(errno)),
        }
        match net::unlink(&self.path) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(failed(errno)),
        }
    }
}

/// Makes and binds the socket of a path, in place of a stale one.
pub fn bind(address: &Address, kind: UnixKind, path: &[u8]) -> Result<Bound> {
    let what = &trying(address);
    let fd = net::socket(libc::AF_UNIX, unix_type(kind)).map_err(|errno| refused(address, errno))?;
    let restricted = address.options.mode.is_some() || address.options.owner.is_some();
    if restricted {
        net::set_socket_mode(fd.as_fd(), CLOSED).map_err(|errno| refused(address, errno))?;
    }
    let local = SockAddr::UnixPath(path.to_vec());
    match net::bind(fd.as_fd(), &local) {
        Err(Errno::EADDRINUSE) => {
            // First without the lock: whoever may not write to the directory shall hear that the address is in use.
            find_stale(what, path)?;
            let _lock = Lock::acquire(what, path)?;
            if let Some(stale) = find_stale(what, path)? {
                remove(what, path, &stale)?;
            }
            net::bind(fd.as_fd(), &local)
        }
        other => other,
    }
    .map_err(|errno| refused(address, errno))?;
    // Without a descriptor: where none is left for the rest, the path has to go again.
    let status = net::path_status(path).map_err(|errno| Error::system(what.to_string(), errno))?;
    let owner = PathOwner { path: path.to_vec(), dev: status.st_dev, ino: status.st_ino };
    if restricted {
        let mode = address.options.mode.unwrap_or_else(default_mode);
        let permitted = hold_ours(what, path, Some(&owner))
            .and_then(|held| permit(what, held.as_fd(), address.options.owner.as_ref(), Some(mode)));
        if let Err(error) = permitted {
            let _ = owner.unlink_if_ours();
            return Err(error);
        }
    }
    Ok(Bound { fd, path: Some(owner) })
}

/// The socket at the path, unless it is another than the one that is known to be ours.
pub(super) fn hold_ours(what: &dyn Display, path: &[u8], ours: Option<&PathOwner>) -> Result<OwnedFd> {
    let (held, status) = hold_socket(what, path)?;
    if ours.is_some_and(|ours| (ours.dev, ours.ino) != (status.st_dev, status.st_ino)) {
        let text = format!("{what}: another socket is in its place, which is left alone");
        return Err(Error::system(text, Errno::EADDRINUSE));
    }
    Ok(held)
}

/// What is at the path, if that is a socket. `what` begins the sentence of an error, here and below.
fn hold_socket(what: &dyn Display, path: &[u8]) -> Result<(OwnedFd, FileStat)> {
    let held = net::hold(path).map_err(|errno| Error::system(what.to_string(), errno))?;
    let status = net::status(held.as_fd()).map_err(|errno| Error::system(what.to_string(), errno))?;
    if !is_socket(&status) {
        let kind = kind_of(&status);
        let text = format!("{what}: there is {kind} in its place, which is left alone");
        return Err(Error::system(text, Errno::EADDRINUSE));
    }
    Ok((held, status))
}

/// Puts numbers in place of the names in `owner=`. That may take as long as a name service wants, so it is done first of
/// all, by the host's thread, while nobody waits for it: neither clients of a path that is half ready nor, in a successor
/// that has said LIVE, everybody.
pub fn look_up_owner(address: &mut Address) -> Result<()> {
    let Some(Owner { user, group }) = address.options.owner.clone() else { return Ok(()) };
    let what = trying(address);
    let user = user.map(|name| lookup(&what, "user", &name, net::user_id).map(Uid::as_raw)).transpose()?;
    let group =
        group.map(|name| lookup(&what, "group", &name, net::group_id).map(Gid::as_raw)).transpose()?;
    let number = |id: Option<u32>| id.map(|id| id.to_string().into_bytes());
    address.options.owner = Some(Owner { user: number(user), group: number(group) });
    Ok(())
}

/// First the owner, then the mode: the other way round it would be the old owner who is let in.
pub(super) fn permit(
    what: &dyn Display,
    held: BorrowedFd<'_>,
    owner: Option<&Owner>,
    mode: Option<u32>,
) -> Result<()> {
    if let Some(Owner { user, group }) = owner {
        let user = user.as_deref().map(|name| lookup(what, "user", name, net::user_id)).transpose()?;
        let group = group.as_deref().map(|name| lookup(what, "group", name, net::group_id)).transpose()?;
        net::set_owner(held, user, group)
            .map_err(|errno| Error::system(format!("{what}: cannot set its owner"), errno))?;
    }
    if let Some(mode) = mode {
        net::set_mode(held, mode)
            .map_err(|errno| Error::system(format!("{what}: cannot set its mode"), errno))?;
    }
    Ok(())
}

fn lookup<Id: From<u32>>(
    what: &dyn Display,
    kind: &str,
    name: &[u8],
    find: fn(&str) -> net::Result<Option<Id>>,
) -> Result<Id> {
    let unknown = || Error::Invalid(format!("{what}: there is no {kind} {}", quote(name)));
    let name = std::str::from_utf8(name).map_err(|_| unknown())?;
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        // chown(2) takes the largest number for "leave it".
        return name.parse().ok().filter(|id| *id != u32::MAX).map(Id::from).ok_or_else(unknown);
    }
    let failed = |errno| Error::system(format!("{what}: cannot look up the {kind} {name}"), errno);
    find(name).map_err(failed)?.ok_or_else(unknown)
}

/// What the umask would have given. Reading it by umask(2) would change it for every thread.
fn default_mode() -> u32 {
    let status = file::read_proc(c"/proc/thread-self/status").unwrap_or_default();
    let umask = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Umask:"));
    let umask = umask.and_then(|umask| std::str::from_utf8(umask.trim_ascii()).ok());
    let umask = umask.and_then(|umask| u32::from_str_radix(umask, 8).ok());
    0o777 & !umask.unwrap_or(0o077)
}

/// A socket that is dead, held so that its inode's number stays its own.
struct Stale {
    _held: OwnedFd,
    status: FileStat,
}

/// The dead socket at the path, `None` if the path is gone; an error if it is in use or no socket.
fn find_stale(what: &dyn Display, path: &[u8]) -> Result<Option<Stale>> {
    let (held, status) = match hold_socket(what, path) {
        Err(error) if error.errno() == Errno::ENOENT => return Ok(None),
        other => other?,
    };
    let probe = net::socket(libc::AF_UNIX, libc::SOCK_DGRAM)
        .map_err(|errno| Error::system(what.to_string(), errno))?;
    match net::connect(probe.as_fd(), &SockAddr::UnixPath(path.to_vec())) {
        Err(Errno::ECONNREFUSED) => Ok(Some(Stale { _held: held, status })),
        Err(Errno::ENOENT) => Ok(None),
        // EPERM: a datagram socket that talks to one peer only.
        Ok(()) | Err(Errno::EPROTOTYPE | Errno::EPERM) => {
            Err(Error::system(what.to_string(), Errno::EADDRINUSE))
        }
        Err(errno) => {
            let why = explain(errno);
            let text = format!("{what}: the socket there may be in use, asking it gave: {why}");
            Err(Error::system(text, Errno::EADDRINUSE))
        }
    }
}

/// Unlinks the path if it still leads to the dead socket. The caller holds the lock.
fn remove(what: &dyn Display, path: &[u8], stale: &Stale) -> Result<()> {
    match net::path_status(path) {
        Ok(now) if (now.st_dev, now.st_ino) == (stale.status.st_dev, stale.status.st_ino) => {}
        Ok(_) => return Err(Error::system(what.to_string(), Errno::EADDRINUSE)),
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(Error::system(what.to_string(), errno)),
    }
    match net::unlink(path) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Error::system(format!("{what}: cannot remove the stale socket there"), errno)),
    }
}

fn is_socket(status: &FileStat) -> bool {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
}

fn kind_of(status: &FileStat) -> &'static str {
    match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => "a regular file",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFLNK => "a symbolic link",
        SFlag::S_IFIFO => "a FIFO",
        _ => "a device",
    }
}

/// The lock beside the path. The file is removed before it is given free, and whoever got a removed file tries again,
/// so nothing is left behind unless its holder was killed or the kernel refused it; such a leftover is free.
pub struct Lock {
    path: Vec<u8>,
    _file: net::Locked,
}

impl Lock {
    /// Waits for the lock beside `socket`, but not for long.
    pub(super) fn acquire(what: &dyn Display, socket: &[u8]) -> Result<Lock> {
        let path = [socket, b".lock"].concat();
        let failed = |errno| Error::system(format!("{what}: cannot take the lock {}", quote(&path)), errno);
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match net::try_lock(net::open_lock(&path).map_err(failed)?) {
                Ok(file) => {
                    let ours = net::status(file.as_fd()).map_err(failed)?;
                    let ours = (ours.st_dev, ours.st_ino);
                    if net::path_status(&path).is_ok_and(|now| (now.st_dev, now.st_ino) == ours) {
                        return Ok(Lock { path, _file: file });
                    }
                }
                Err(Errno::EWOULDBLOCK | Errno::EINTR) => std::thread::sleep(LOCK_POLL),
                Err(errno) => return Err(failed(errno)),
            }
            if Instant::now() >= deadline {
                let path = quote(&path);
                return Err(Error::Deadline(format!(
                    "{what}: another process has held the lock {path} for 5 s"
                )));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = net::unlink(&self.path);
    }
}
