//! The named descriptors: what was inherited, what was claimed or made, and so what the successor will get.
//!
//! Called by the handle on the host's threads, and by the supervisor, which freezes it while a successor is on its way
//! (what crosses was decided when the table was written) and closes the library's copies at shutdown.

use crate::address::{self, Address, Endpoint};
use crate::channel::{Keep, TableEntry};
use crate::error::{Error, Failure, Result};
use crate::inherit::Activated;
use crate::log::{self, Level};
use crate::socket::{self, PathOwner};
use crate::sys::fd;
use nix::errno::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// All of them.
#[derive(Debug)]
pub struct Registry {
    entries: Vec<Entry>,
    unclaimed: Vec<Inherited>,
    frozen: Frozen,
    /// Everything is the successor's to unlink.
    disowned: bool,
    /// Paths of listeners that are closed already. Holding the inode keeps its number from being used again.
    closed: Vec<Closed>,
}

#[derive(Debug)]
struct Closed {
    path: PathOwner,
    bound_here: bool,
    _inode: Option<OwnedFd>,
}

/// Passed on.
#[derive(Debug)]
struct Entry {
    name: Vec<u8>,
    /// Shared with a spawn that is under way.
    fd: Arc<OwnedFd>,
    path: Option<PathOwner>,
    /// Bound by this process: nobody else knows the path yet.
    bound_here: bool,
    address: Address,
}

/// Came with the start of this process, and nobody has asked for it yet.
#[derive(Debug)]
struct Inherited {
    name: Vec<u8>,
    socket: Source,
    path: Option<PathOwner>,
}

#[derive(Debug)]
enum Source {
    /// From our predecessor: ours.
    Ours(OwnedFd),
    /// From a service manager, in generation 0: left alone until it is claimed.
    Foreign(RawFd),
}

/// Whether new names can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// They can.
    Open,
    /// A successor is on its way with what there was.
    Upgrading,
    /// It has everything.
    Released,
}

impl Registry {
    /// Generation 0, perhaps started by socket activation.
    pub fn fresh(listen_fds: Vec<Activated>) -> Registry {
        let unclaimed = listen_fds
            .into_iter()
            .map(|one| Inherited { name: one.name, socket: Source::Foreign(one.number), path: None })
            .collect();
        Registry { entries: Vec::new(), unclaimed, frozen: Frozen::Open, disowned: false, closed: Vec::new() }
    }

    /// Started by an upgrade.
    pub fn inherited(descriptors: Vec<(TableEntry, OwnedFd)>) -> Registry {
        let unclaimed = descriptors
            .into_iter()
            .map(|(entry, fd)| Inherited { name: entry.name, socket: Source::Ours(fd), path: entry.owner })
            .collect();
        Registry { entries: Vec::new(), unclaimed, frozen: Frozen::Open, disowned: false, closed: Vec::new() }
    }

    /// The inherited socket where one matches, else a new one. Returns the caller's copy.
    pub fn listen(&mut self, address: Address) -> Result<OwnedFd> {
        let name = self.free_name(&address)?;
        let entry = match self.claim(&name, &address)? {
            Some(inherited) => {
                let fd = match inherited.socket {
                    Source::Ours(fd) => fd,
                    Source::Foreign(raw) => {
                        fd::set_cloexec_raw(raw)
                            .map_err(|errno| Error::system(format!("cannot take descriptor {raw}"), errno))?;
                        // SAFETY: passed to this process for this purpose, and claimed once.
                        unsafe { OwnedFd::from_raw_fd(raw) }
                    }
                };
                socket::set_nonblocking_once(fd.as_fd())?;
                Entry { name, fd: Arc::new(fd), path: inherited.path, bound_here: false, address }
            }
            None => self.bind(name, address)?,
        };
        let copy = fd::dup_cloexec(entry.fd.as_fd(), fd::FIRST).map_err(|errno| {
            Error::system(format!("cannot duplicate the listener {}", entry.address), errno)
        })?;
        self.entries.push(entry);
        Ok(copy)
    }

    /// The name that the address asks for; further members of a group get `#2`, `#3` …
    fn free_name(&self, address: &Address) -> Result<Vec<u8>> {
        let name = address.name();
        let taken = |name: &[u8]| self.entries.iter().any(|entry| entry.name == name);
        if !taken(&name) {
            return Ok(name);
        }
        if address.options.reuseport != Some(true) {
            return Err(Error::system(
                format!("cannot listen on {address}: the name {} is taken", String::from_utf8_lossy(&name)),
                Errno::EEXIST,
            ));
        }
        let member = |n: usize| [&name[..], format!("#{n}").as_bytes()].concat();
        Ok((2..).map(member).find(|name| !taken(name)).unwrap_or(name))
    }

    /// By name, then by what the socket is.
    fn claim(&mut self, name: &[u8], address: &Address) -> Result<Option<Inherited>> {
        let fits = |inherited: &Inherited, by_name| socket::matches(inherited.borrow(), address, by_name);
        for by_name in [true, false] {
            for index in 0..self.unclaimed.len() {
                if (!by_name || self.unclaimed[index].name == name) && fits(&self.unclaimed[index], by_name)?
                {
                    return Ok(Some(self.unclaimed.remove(index)));
                }
            }
        }
        Ok(None)
    }

    fn bind(&mut self, name: Vec<u8>, address: Address) -> Result<Entry> {
        match self.frozen {
            Frozen::Open => {}
            Frozen::Upgrading => {
                return Err(Error::Upgrade {
                    failure: Failure::InProgress,
                    text: format!("cannot listen on {address} now: an upgrade is under way"),
                });
            }
            Frozen::Released => {
                return Err(Error::Upgrade {
                    failure: Failure::Stopping,
                    text: format!("cannot listen on {address}: this process stops"),
                });
            }
        }
        match socket::bind_and_listen(&address) {
            Ok(bound) => {
                Ok(Entry { name, fd: Arc::new(bound.fd), path: bound.path, bound_here: true, address })
            }
            Err(error) if error.errno() == Errno::EADDRINUSE => Err(self.in_the_way(error, &address)),
            Err(error) => Err(error),
        }
    }

    /// Names the inherited socket that holds the address in another form (127.0.0.1 for 0.0.0.0).
    fn in_the_way(&self, error: Error, address: &Address) -> Error {
        let port = |endpoint: &Endpoint| match endpoint {
            Endpoint::Inet { protocol, port, .. } => Some((*protocol, *port)),
            Endpoint::Unix { .. } => None,
        };
        let Some(wanted) = port(&address.endpoint) else { return error };
        let held = self.unclaimed.iter().find_map(|inherited| {
            let description = socket::describe(inherited.borrow()).ok()?;
            (description.endpoint().as_ref().and_then(port) == Some(wanted)).then(|| {
                format!("{} (inherited as {})", description, String::from_utf8_lossy(&inherited.name))
            })
        });
        match held {
            None => error,
            Some(held) => Error::system(
                format!("cannot listen on {address}: {held} is in the way until the predecessor is gone"),
                Errno::EADDRINUSE,
            ),
        }
    }

    /// What the successor gets, in the order of its descriptors from 3.
    pub fn table(&self) -> Vec<TableEntry> {
        let entry = |entry: &Entry| TableEntry {
            name: entry.name.clone(),
            listener: true,
            owner: entry.path.clone(),
            keep: Keep::None,
        };
        self.entries.iter().map(entry).collect()
    }

    /// The descriptors of [`Registry::table`].
    pub fn descriptors(&self) -> Vec<Arc<OwnedFd>> {
        self.entries.iter().map(|entry| Arc::clone(&entry.fd)).collect()
    }

    /// The value of LISTEN_FDNAMES for [`Registry::table`].
    pub fn listen_fdnames(&self) -> Option<CString> {
        let names: Vec<String> = self.entries.iter().map(|entry| address::encode_name(&entry.name)).collect();
        CString::new(names.join(":")).ok()
    }

    /// Whether new names can be made from now on.
    pub fn freeze(&mut self, frozen: Frozen) {
        self.frozen = frozen;
    }

    /// What can be changed on a live socket is changed now that this process serves. Returns what went wrong.
    pub fn apply_live(&self) -> Vec<String> {
        let apply = |entry: &Entry| socket::apply_live(entry.fd.as_fd(), &entry.address).err();
        self.entries.iter().filter_map(apply).map(|error| error.to_string()).collect()
    }

    /// What nobody claimed is closed, its paths unlinked; returns the names. In generation 0 it is left alone.
    pub fn drop_unclaimed(&mut self) -> Vec<String> {
        let mut dropped = Vec::new();
        self.unclaimed.retain(|inherited| {
            let ours = matches!(inherited.socket, Source::Ours(_));
            if ours {
                if let Some(path) = &inherited.path {
                    let _ = path.unlink_if_ours();
                }
                dropped.push(String::from_utf8_lossy(&inherited.name).into_owned());
            }
            !ours
        });
        dropped
    }

    /// The paths are the successor's to unlink.
    pub fn disown(&mut self) {
        self.disowned = true;
    }

    /// Shutdown: the library's copies are closed, the paths stay until [`Registry::finish`].
    pub fn close_listeners(&mut self) {
        for entry in self.entries.drain(..) {
            if let Some(path) = entry.path {
                let _inode = path.hold();
                self.closed.push(Closed { path, bound_here: entry.bound_here, _inode });
            }
        }
        self.unclaimed.retain(|inherited| matches!(inherited.socket, Source::Foreign(_)));
    }

    /// The end: paths are unlinked where they are ours (`owns`), and where nobody else ever knew of them.
    pub fn finish(&mut self, owns: bool) {
        let disowned = self.disowned;
        let ours = |bound_here: bool| owns || (bound_here && !disowned);
        let open = self.entries.iter().filter_map(|entry| Some((entry.path.as_ref()?, entry.bound_here)));
        let closed = self.closed.iter().map(|closed| (&closed.path, closed.bound_here));
        for (path, _) in open.chain(closed).filter(|(_, bound_here)| ours(*bound_here)) {
            if let Err(error) = path.unlink_if_ours() {
                log::write(Level::Error, format_args!("{error}"));
            }
        }
        self.closed.clear();
        self.close_listeners();
        self.closed.clear();
    }
}

impl Inherited {
    fn borrow(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Source::Ours(fd) => fd.as_fd(),
            // SAFETY: passed to this process, which leaves it alone until it is claimed here.
            Source::Foreign(raw) => unsafe { BorrowedFd::borrow_raw(*raw) },
        }
    }
}
