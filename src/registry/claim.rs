//! What came with the start of this process, and how an address finds its socket there: by name, then by what the
//! socket is.

use super::Registry;
use crate::address::{Address, Endpoint, quote};
use crate::channel::{Keep, TableEntry};
use crate::error::{Error, Result};
use crate::inherit::Activated;
use crate::socket::{self, Description, PathOwner};
use crate::sys::fd;
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Nobody has asked for it yet.
#[derive(Debug)]
pub(super) struct Inherited {
    pub name: Vec<u8>,
    pub source: Source,
    pub path: Option<PathOwner>,
    pub keep: Keep,
    /// False for the stand-ins of a service manager, which tell nothing.
    named: bool,
}

#[derive(Debug)]
pub(super) enum Source {
    /// From our predecessor: ours.
    Ours(OwnedFd),
    /// From a service manager, in generation 0: left alone until it is claimed.
    Foreign(RawFd),
}

impl From<Activated> for Inherited {
    fn from(one: Activated) -> Inherited {
        let source = Source::Foreign(one.number);
        Inherited { name: one.name, source, path: None, keep: Keep::None, named: one.named }
    }
}

impl From<(TableEntry, OwnedFd)> for Inherited {
    fn from((entry, fd): (TableEntry, OwnedFd)) -> Inherited {
        let source = Source::Ours(fd);
        Inherited { name: entry.name, source, path: entry.owner, keep: entry.keep, named: true }
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
    pub fn own(self) -> Result<OwnedFd> {
        match self.source {
            Source::Ours(fd) => Ok(fd),
            Source::Foreign(raw) => {
                fd::set_cloexec_raw(raw)
                    .map_err(|errno| Error::system(format!("cannot take descriptor {raw}"), errno))?;
                // SAFETY: passed to this process for this purpose, and claimed once.
                Ok(unsafe { OwnedFd::from_raw_fd(raw) })
            }
        }
    }

    fn describe(&self) -> Option<Description> {
        socket::describe(self.borrow()).ok()
    }
}

impl Registry {
    /// Takes the match out of what is unclaimed.
    pub(super) fn claim(&mut self, name: &[u8], address: &Address) -> Result<Option<Inherited>> {
        for by_name in [true, false] {
            for index in 0..self.unclaimed.len() {
                let inherited = &self.unclaimed[index];
                let candidate = !by_name || (inherited.named && inherited.name == name);
                if candidate && socket::matches(inherited.borrow(), address, by_name)? {
                    return Ok(self.unclaimed.remove(index));
                }
            }
        }
        Ok(None)
    }

    /// Whether the predecessor has members of this address's `reuseport` group: all are entries by now, or unclaimed.
    pub(super) fn is_group(&self, address: &Address) -> Result<bool> {
        if address.options.reuseport != Some(true) {
            return Ok(false);
        }
        for entry in self.entries.iter().filter(|entry| !entry.bound_here) {
            if socket::matches(entry.fd.as_fd(), address, false)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Members of a `reuseport` group that nobody claimed while others of the group were: closing one resets what is
    /// queued on it.
    pub fn missing_members(&self) -> Vec<String> {
        let group = |fd: BorrowedFd| {
            let description = socket::describe(fd).ok()?;
            description.reuseport.then(|| description.endpoint()).flatten()
        };
        let unclaimed: Vec<(&Inherited, Endpoint)> = self
            .unclaimed
            .iter()
            .filter_map(|inherited| Some((inherited, group(inherited.borrow())?)))
            .collect();
        if unclaimed.is_empty() {
            return Vec::new();
        }
        let claimed: Vec<Endpoint> =
            self.entries.iter().filter_map(|entry| group(entry.fd.as_fd())).collect();
        let missing = unclaimed.into_iter().filter(|(_, endpoint)| claimed.contains(endpoint));
        missing.map(|(inherited, _)| quote(&inherited.name)).collect()
    }

    /// Names the inherited socket that holds the address in another form (127.0.0.1 for 0.0.0.0).
    pub(super) fn in_the_way(&self, error: Error, address: &Address) -> Error {
        let port = |endpoint: &Endpoint| match endpoint {
            Endpoint::Inet { protocol, port, .. } => Some((*protocol, *port)),
            Endpoint::Unix { .. } => None,
        };
        let wanted = port(&address.endpoint);
        if error.errno() != Errno::EADDRINUSE || wanted.is_none() {
            return error;
        }
        let held = self.unclaimed.iter().find_map(|inherited| {
            let description = inherited.describe()?;
            let holds = description.endpoint().as_ref().and_then(port) == wanted;
            holds.then(|| format!("{description} (inherited as {})", quote(&inherited.name)))
        });
        match held {
            None => error,
            Some(held) => Error::system(
                format!("cannot listen on {address}: {held} is in the way until the predecessor is gone"),
                Errno::EADDRINUSE,
            ),
        }
    }
}
