//! What came with the start of this process, and how an address finds its socket there: by name, then by what the
//! socket is.

use super::store::given_back;
use super::{Registry, copy_for_the_caller};
use crate::address::{Address, Endpoint, Host, quote};
use crate::channel::{Keep, TableEntry};
use crate::error::{Error, Result};
use crate::inherit::{self, Activated};
use crate::socket::{self, Description, PathOwner};
use crate::sys::fd;
use crate::systemd::store;
use nix::errno::Errno;
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Nobody has asked for it yet.
#[derive(Debug)]
pub(super) struct Inherited {
    pub name: Vec<u8>,
    pub source: Source,
    pub path: Option<PathOwner>,
    pub keep: Keep,
    /// False for the stand-ins of a service manager, which tell nothing.
    pub named: bool,
    /// Its name in the manager's store, if it came from there.
    pub in_store: Option<String>,
}

#[derive(Debug)]
pub(super) enum Source {
    /// From our predecessor: ours.
    Ours(OwnedFd),
    /// From a service manager, in generation 0: left alone until it is claimed, or found to be ours once `flip_init` is
    /// sure to succeed.
    Foreign(RawFd),
}

impl From<Activated> for Inherited {
    fn from(one: Activated) -> Inherited {
        if let Some(known) = store::known(&one.name) {
            return given_back(one, known);
        }
        let source = Source::Foreign(one.number);
        Inherited { name: one.name, source, path: None, keep: Keep::None, named: one.named, in_store: None }
    }
}

impl From<(TableEntry, OwnedFd)> for Inherited {
    fn from((entry, fd): (TableEntry, OwnedFd)) -> Inherited {
        let source = Source::Ours(fd);
        let (path, keep) = (entry.owner, entry.keep);
        Inherited { name: entry.name, source, path, keep, named: true, in_store: None }
    }
}

impl Inherited {
    pub fn borrow(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Ours(fd) => fd.as_fd(),
            // SAFETY: passed to this process, which leaves it alone until it is claimed here.
            Source::Foreign(raw) => unsafe { BorrowedFd::borrow_raw(*raw) },
        }
    }

    /// Claimed: ours from now on.
    pub fn own(self) -> OwnedFd {
        match self.source {
            Source::Ours(fd) => fd,
            Source::Foreign(raw) => {
                inherit::claimed(raw);
                // SAFETY: passed to this process for this purpose, and claimed once.
                unsafe { OwnedFd::from_raw_fd(raw) }
            }
        }
    }

    pub fn describe(&self) -> Option<Description> {
        socket::describe(self.borrow()).ok()
    }
}

impl Registry {
    /// The index of the match among what is unclaimed, and what it is.
    pub(super) fn find(&self, name: &[u8], address: &Address) -> Result<Option<(usize, Description)>> {
        for by_name in [true, false] {
            for (index, inherited) in self.unclaimed.iter().enumerate() {
                let candidate = !by_name || (inherited.named && inherited.name == name);
                if candidate && let Some(is) = socket::matching(inherited.borrow(), address, by_name)? {
                    return Ok(Some((index, is)));
                }
            }
        }
        Ok(None)
    }

    /// A socket for the library itself that a service manager has passed for this address, listening and
    /// non-blocking.
    pub fn claim_for_library(&mut self, address: &Address) -> Result<Option<OwnedFd>> {
        let Some((index, is)) = self.find(&address.name(), address)? else { return Ok(None) };
        if !matches!(self.unclaimed[index].source, Source::Foreign(_)) {
            return Ok(None);
        }
        let (_, inherited) = self.claim(index, address)?;
        let fd = inherited.own();
        socket::set_nonblocking_once(fd.as_fd())?;
        if !is.listening {
            socket::listen(fd.as_fd(), address)?;
        }
        Ok(Some(fd))
    }

    /// Takes it out of what is unclaimed, with a copy for the caller. All that can fail comes first: what is lost here
    /// would be closed.
    pub(super) fn claim(&mut self, index: usize, what: &impl Display) -> Result<(OwnedFd, Inherited)> {
        let copy = copy_for_the_caller(&self.unclaimed[index].borrow(), what)?;
        if let Source::Foreign(raw) = self.unclaimed[index].source {
            fd::set_cloexec_raw(raw).map_err(|errno| Error::system(format!("cannot take {what}"), errno))?;
        }
        let gone = || Error::NotFound(format!("{what} was claimed already"));
        Ok((copy, self.unclaimed.remove(index).ok_or_else(gone)?))
    }

    /// Names the inherited socket that holds the address in another form (127.0.0.1 for 0.0.0.0).
    pub(super) fn in_the_way(&self, error: Error, address: &Address) -> Error {
        if error.errno() != Errno::EADDRINUSE {
            return error;
        }
        let held = self.unclaimed.iter().find_map(|inherited| {
            let description = inherited.describe()?;
            let holds = overlap(&description.endpoint()?, &address.endpoint);
            holds.then(|| format!("{description} (inherited as {})", quote(&inherited.name)))
        });
        match held {
            None => error,
            Some(held) => {
                Error::system(format!("cannot listen on {address}: {held} is in the way"), Errno::EADDRINUSE)
            }
        }
    }
}

/// Whether the kernel takes them for the same place.
fn overlap(one: &Endpoint, other: &Endpoint) -> bool {
    let all = |host: &Host| match host {
        Host::Any => true,
        Host::V4(address) => address.is_unspecified(),
        Host::V6 { address, .. } => address.is_unspecified(),
    };
    match (one, other) {
        (
            Endpoint::Inet { protocol, host, port },
            Endpoint::Inet { protocol: other_protocol, host: other_host, port: other_port },
        ) => {
            let hosts = host == other_host || all(host) || all(other_host);
            protocol == other_protocol && port == other_port && hosts
        }
        (Endpoint::Unix { name, .. }, Endpoint::Unix { name: other, .. }) => name == other,
        _ => false,
    }
}
