//! The listening control socket: inherited where the address is the same, else bound anew; on its way from generation
//! to generation it is never closed, so nobody who connects is ever refused.
//!
//! It crosses in the table of what is passed on, with a mark of its own. Before RELEASED the successor leaves what it
//! inherited alone; then ([`Sockets::own`]) it serves the one that it was configured with, and closes and unlinks any
//! other. Made by `flip_init`, owned by the supervisor.

use crate::address::Address;
use crate::channel::TableEntry;
use crate::error::{Error, Result};
use crate::fork::{NoFork, Private};
use crate::registry::Registry;
use crate::socket::{self, PathOwner};
use crate::sys::net;
use nix::errno::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Shared with a spawn that is under way.
pub type Listener = Arc<Private<OwnedFd>>;

/// The name under which it crosses, unless the host uses that itself. The mark in the table says what it is; the name
/// is for whoever reads LISTEN_FDNAMES.
const NAME: &[u8] = b"shellflip-control";

/// The socket of this generation, and one that its predecessor had elsewhere.
pub struct Sockets {
    ours: Option<Socket>,
    /// Inherited, and not what this program was configured with.
    other: Option<(Listener, Option<PathOwner>)>,
}

struct Socket {
    listener: Listener,
    address: Address,
    path: Option<PathOwner>,
    /// Nobody else knows of the path yet: it goes if this process never serves.
    bound_here: bool,
}

impl Sockets {
    /// As configured. `inherited`: the marked entry of the predecessor's table.
    pub fn open(
        wanted: Option<&Address>,
        inherited: Option<(TableEntry, OwnedFd)>,
        registry: &mut Registry,
    ) -> Result<Sockets> {
        let inherited = inherited.map(|(entry, fd)| (private(fd), entry.owner));
        let Some(address) = wanted else { return Ok(Sockets { ours: None, other: inherited }) };
        let what = |error: Error| match error {
            Error::System { what, errno } => Error::system(format!("control socket: {what}"), errno),
            other => other,
        };
        let mut address = address.clone();
        socket::look_up_owner(&mut address).map_err(what)?;
        if let Some((listener, path)) = &inherited
            && is_it(listener, path.as_ref(), &address)?
        {
            let (listener, path) = (Arc::clone(listener), path.clone());
            let ours = Some(Socket { listener, address, path, bound_here: false });
            return Ok(Sockets { ours, other: None });
        }
        let ours = match registry.claim_for_library(&address)? {
            Some(fd) => Socket { listener: private(fd), address, path: None, bound_here: false },
            None => {
                let bound = socket::bind_and_listen(&address).map_err(what)?;
                Socket { listener: private(bound.fd), address, path: bound.path, bound_here: true }
            }
        };
        Ok(Sockets { ours: Some(ours), other: inherited })
    }

    /// What to accept from.
    pub fn listener(&self) -> Option<&Listener> {
        self.ours.as_ref().map(|socket| &socket.listener)
    }

    /// What this process was configured with, until it is closed.
    pub fn address(&self) -> Option<&Address> {
        self.ours.as_ref().map(|socket| &socket.address)
    }

    /// How it crosses to a successor, beside the names that the host uses.
    pub fn entry(&self, others: &[TableEntry]) -> Option<(TableEntry, Listener)> {
        let socket = self.ours.as_ref()?;
        let taken = |name: &[u8]| others.iter().any(|entry| *entry.name == *name);
        let further = (2u32..).map(|n| [NAME, format!("#{n}").as_bytes()].concat());
        let name = std::iter::once(NAME.to_vec()).chain(further).find(|name| !taken(name))?;
        let owner = socket.path.clone();
        let entry = TableEntry { listener: true, owner, control: true, ..TableEntry::named(&name) };
        Some((entry, Arc::clone(&socket.listener)))
    }

    /// Everything has been handed over to this process. Returns what went wrong.
    pub fn own(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some((_open, Some(path))) = self.other.take() {
            wrong.extend(path.unlink_if_ours().err());
        }
        if let Some(socket) = self.ours.as_ref().filter(|socket| !socket.bound_here) {
            wrong.extend(
                socket::apply_live(socket.listener.as_fd(), &socket.address, socket.path.as_ref()).err(),
            );
        }
        wrong.into_iter().map(|error| format!("control socket: {error}")).collect()
    }

    /// It is the successor's from now on.
    pub fn disown(&mut self) {
        if let Some(socket) = &mut self.ours {
            socket.bound_here = false;
        }
    }

    /// This process will never serve: a path that nobody else knows of goes at once.
    pub fn withdraw(&mut self) {
        if self.ours.as_ref().is_some_and(|socket| socket.bound_here) {
            self.close(false);
        }
    }

    /// Closed; unlinked too where `owns`, and where nobody else ever knew of the path.
    pub fn close(&mut self, owns: bool) -> Option<Error> {
        let socket = self.ours.take()?;
        let path = socket.path.as_ref().filter(|_| owns || socket.bound_here)?;
        // While it is open, so that nobody takes the path for stale.
        path.unlink_if_ours().err()
    }
}

impl Drop for Sockets {
    /// A `flip_init` that fails leaves nothing behind.
    fn drop(&mut self) {
        self.close(false);
    }
}

fn private(fd: OwnedFd) -> Listener {
    Arc::new(NoFork::hold().private(fd))
}

/// By its address, or by where another path leads (/var/run/a for /run/a). One whose path somebody has removed is
/// not: it is made anew.
fn is_it(listener: &Listener, path: Option<&PathOwner>, address: &Address) -> Result<bool> {
    let status = |path: &[u8]| net::path_status(path).map(|status| (status.st_dev, status.st_ino));
    if socket::matching(listener.as_fd(), address, false)?.is_some() {
        return Ok(!path.is_some_and(|path| status(&path.path) == Err(Errno::ENOENT)));
    }
    Ok(match (path, address.path()) {
        (Some(path), Some(wanted)) => status(wanted) == Ok((path.dev, path.ino)),
        _ => false,
    })
}
