//! The named descriptors: what was inherited, what was claimed or made, and so what the successor will get.
//!
//! Called by the handle on the host's threads, and by the supervisor, which freezes it while a successor is on its way
//! (what crosses was decided when the table was written) and closes the library's copies at shutdown. How an address
//! finds its inherited socket is in `claim.rs`, what is special about `reuseport` groups in `group.rs`.

mod claim;
mod entries;
mod group;
mod store;

use crate::address::{self, Address, Protocol, quote};
use crate::channel::{Keep, TableEntry};
use crate::error::{Error, Failure, Result};
use crate::flip::lock;
use crate::inherit::{self, Activated};
use crate::log::{self, Level};
use crate::socket::{self, Bound, PathOwner};
use crate::sys::fd;
use claim::{Inherited, Match, Source};
use entries::Entries;
use nix::errno::Errno;
use std::collections::VecDeque;
use std::ffi::CString;
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// All of them.
#[derive(Debug)]
pub struct Registry {
    entries: Entries,
    unclaimed: VecDeque<Inherited>,
    /// The original of what the library has taken for itself: LISTEN_FDS still says that its number is open.
    for_library: Option<Inherited>,
    /// Where the predecessor may be listening with `reuseport`; `None` until somebody has to know.
    groups: Option<Vec<(Protocol, u16)>>,
    /// Started by an upgrade, and may not serve yet.
    waiting: bool,
    /// Everything is the successor's to unlink.
    disowned: bool,
    /// Being bound at this moment, without the lock.
    binding: Vec<Vec<u8>>,
    /// Paths of listeners that are closed already. Holding the inode keeps its number from being used again.
    closed: Vec<Closed>,
}

/// Passed on.
#[derive(Debug)]
struct Entry {
    name: Arc<[u8]>,
    /// Shared with a spawn that is under way.
    fd: Arc<OwnedFd>,
    path: Option<PathOwner>,
    /// Bound by this process: nobody else knows the path yet.
    bound_here: bool,
    /// A further member of an inherited group, or an inherited socket that was only bound: listens between COMMIT and
    /// LIVE.
    listens_later: bool,
    listener: bool,
    keep: Keep,
    /// Asked for by an address, and not added or taken: its flags are the library's to set.
    asked: bool,
    /// That address, while something is to be done with it: [`socket::changes_live`], or to listen later.
    address: Option<Box<Address>>,
    /// The same in the host's words, where [`Address::tells_all`].
    written: Option<Arc<[u8]>>,
}

#[derive(Debug)]
struct Closed {
    path: PathOwner,
    bound_here: bool,
    _inode: Option<OwnedFd>,
}

/// What the host asks a socket for.
#[derive(Debug)]
pub struct Asked {
    address: Address,
    /// Its text, where [`Address::tells_all`].
    written: Option<Arc<[u8]>>,
}

impl Asked {
    /// For this address. Looks up who is to own a path: not with a lock held.
    pub fn parse(text: &[u8]) -> Result<Asked> {
        let mut address = Address::parse(text)?;
        socket::look_up_owner(&mut address)?;
        let written = address.tells_all().then(|| text.into());
        Ok(Asked { address, written })
    }
}

/// One that is passed on, for the status.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name.
    pub name: Vec<u8>,
    /// Connections or datagrams arrive here.
    pub listener: bool,
    /// Where it is bound, if an address can say it.
    pub address: Option<String>,
    /// Its inode, as in /proc/PID/fd and /proc/net.
    pub inode: Option<u64>,
    /// As in the address's `keep=`.
    pub keep: Option<&'static str>,
}

/// Whether names can be added and removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Frozen {
    /// They can.
    Open,
    /// A successor is on its way with what there was.
    Upgrading,
    /// It has everything.
    Released,
}

/// A [`Frozen`], beside the lock, which a host's thread may hold while it looks up a name.
static FROZEN: AtomicU8 = AtomicU8::new(Frozen::Open as u8);

/// Whether names can be added and removed from now on. Who has to be sure that nobody still does takes the lock afterwards.
pub fn freeze(frozen: Frozen) {
    FROZEN.store(frozen as u8, SeqCst);
}

/// Whether any listener outlives a shutdown: spares `flip_accept` a look in all other processes.
static ANY_KEPT: AtomicBool = AtomicBool::new(false);

impl Registry {
    /// Generation 0, perhaps started by socket activation.
    pub fn fresh(listen_fds: Vec<Activated>) -> Registry {
        Registry::new(listen_fds.into_iter().map(Inherited::from).collect(), false)
    }

    /// Started by an upgrade.
    pub fn inherited(descriptors: Vec<(TableEntry, OwnedFd)>) -> Registry {
        Registry::new(descriptors.into_iter().map(Inherited::from).collect(), true)
    }

    fn new(unclaimed: VecDeque<Inherited>, successor: bool) -> Registry {
        ANY_KEPT.store(false, SeqCst);
        freeze(Frozen::Open);
        Registry {
            entries: Entries::with_room_for(unclaimed.len()),
            unclaimed,
            for_library: None,
            groups: None,
            waiting: successor,
            disowned: false,
            binding: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// The inheriting half of [`listen`].
    pub fn inherit(&mut self, asked: Asked) -> Result<OwnedFd> {
        let name = self.free_name(&asked.address)?;
        match self.find(&name, &asked)? {
            Some(found) => self.adopt(name, found, asked),
            None => Err(Error::NotFound(format!("nothing was inherited for {}", asked.address))),
        }
    }

    /// Passes any descriptor on; what had the name before is forgotten.
    pub fn add(&mut self, name: &[u8], fd: BorrowedFd) -> Result<()> {
        check_name(name)?;
        self.open(|| format!("cannot add {}", quote(name)))?;
        self.remember_groups();
        let copy = fd::dup_cloexec(fd, fd::FIRST)
            .map_err(|errno| Error::system(format!("cannot duplicate {}", quote(name)), errno))?;
        let listener = socket::is_listener(copy.as_fd())?;
        self.remove_entry(name);
        self.entries.push(Entry::added(name.into(), copy, listener));
        Ok(())
    }

    /// What was inherited under that name, once. Returns the caller's copy.
    pub fn take(&mut self, name: &[u8]) -> Result<OwnedFd> {
        check_name(name)?;
        let missing = || Error::NotFound(format!("nothing named {} was inherited", quote(name)));
        let index =
            self.unclaimed.iter().position(|inherited| *inherited.name == *name).ok_or_else(missing)?;
        if matches!(self.unclaimed[index].source, Source::Foreign(_)) {
            self.open(|| format!("cannot take {}", quote(name)))?;
        }
        let listener = socket::is_listener(self.unclaimed[index].borrow())?;
        // Before it goes: it may be a group's only member.
        self.remember_groups();
        let (copy, inherited) = self.claim(index, &quote(name))?;
        let (path, keep) = (inherited.path.clone(), inherited.keep);
        let fd = inherited.own();
        self.remove_entry(name);
        self.entries.push(Entry { path, keep, ..Entry::added(name.into(), fd, listener) });
        note_kept(keep);
        Ok(copy)
    }

    /// Stops passing it on, claimed or not. Never unlinks.
    pub fn forget(&mut self, name: &[u8]) -> Result<()> {
        check_name(name)?;
        self.open(|| format!("cannot forget {}", quote(name)))?;
        self.remember_groups();
        let before = self.unclaimed.len();
        self.unclaimed.retain(|inherited| *inherited.name != *name);
        if self.entries.remove(name).is_none() && self.unclaimed.len() == before {
            return Err(Error::NotFound(format!("there is nothing named {}", quote(name))));
        }
        Ok(())
    }

    /// The names that nobody has claimed yet.
    pub fn unclaimed(&self) -> impl Iterator<Item = &[u8]> {
        self.unclaimed.iter().map(|inherited| &inherited.name[..])
    }

    /// The name that the address asks for; further members of a group get `#2`, `#3` …
    fn free_name(&self, address: &Address) -> Result<Vec<u8>> {
        let name = address.name();
        if !self.is_taken(&name) {
            return Ok(name);
        }
        if address.options.reuseport != Some(true) {
            return Err(taken(address, &name));
        }
        let free = group::member_names(&name).find(|name| !self.is_taken(name));
        Ok(free.unwrap_or(name))
    }

    fn is_taken(&self, name: &[u8]) -> bool {
        self.entries.has(name) || self.binding.iter().any(|binding| binding == name)
    }

    fn adopt(&mut self, name: Vec<u8>, found: Match, asked: Asked) -> Result<OwnedFd> {
        let (index, address) = (found.index, &asked.address);
        let fd = self.unclaimed[index].borrow();
        let mut listens_later = address.accepts() && !found.listening;
        if matches!(self.unclaimed[index].source, Source::Foreign(_)) {
            self.open(|| format!("cannot take over {address}"))?;
            // Nobody serves it yet. In an upgrade the predecessor does, and may block on it: then it waits for flip_ready.
            socket::set_nonblocking_once(fd)?;
        }
        if listens_later && !self.waiting {
            socket::listen(fd, address)?;
            listens_later = false;
        }
        let (copy, inherited) = self.claim(index, address)?;
        let path = inherited.path.clone();
        let name = if *inherited.name == *name { Arc::clone(&inherited.name) } else { name.into() };
        let fd = inherited.own();
        let entry = Entry::listener(name, fd, asked, listens_later);
        let keep = entry.keep;
        self.entries.push(Entry { path, ..entry });
        note_kept(keep);
        Ok(copy)
    }

    /// Passes on what was bound meanwhile; where that fails, its path is gone again.
    fn enlist(&mut self, name: Vec<u8>, asked: Asked, bound: Result<Bound>) -> Result<OwnedFd> {
        let prepared = bound.and_then(|bound| {
            let prepared = self.prepare_to_enlist(&name, &asked.address, bound.fd.as_fd());
            let (copy, listens_later) = prepared.inspect_err(|_| {
                let _ = bound.path.as_ref().map(PathOwner::unlink_if_ours);
            })?;
            Ok((bound, copy, listens_later))
        });
        let (Bound { fd, path }, copy, listens_later) =
            prepared.map_err(|error| self.in_the_way(error, &asked.address))?;
        let entry = Entry::listener(name.into(), fd, asked, listens_later);
        note_kept(entry.keep);
        self.entries.push(Entry { path, bound_here: true, ..entry });
        Ok(copy)
    }

    /// All that can fail: the caller's copy, and whether it is too early to listen.
    fn prepare_to_enlist(
        &mut self,
        name: &[u8],
        address: &Address,
        fd: BorrowedFd,
    ) -> Result<(OwnedFd, bool)> {
        self.open(|| format!("cannot listen on {address}"))?;
        if self.entries.has(name) {
            return Err(taken(address, name));
        }
        let copy = copy_for_the_caller(&fd, address)?;
        // The kernel would queue a share of the running address on a process that may yet fail.
        let later = self.is_group(address);
        if !later {
            socket::listen(fd, address)?;
        }
        Ok((copy, later))
    }

    /// Whether names may be added and removed; the sentence begins with what was tried.
    fn open(&self, what: impl FnOnce() -> String) -> Result<()> {
        let (failure, why) = match FROZEN.load(SeqCst) {
            open if open == Frozen::Open as u8 => return Ok(()),
            upgrading if upgrading == Frozen::Upgrading as u8 => {
                (Failure::InProgress, "an upgrade is under way")
            }
            _ => (Failure::Stopping, "this process stops"),
        };
        Err(Error::upgrade(failure, format!("{}: {why}", what())))
    }

    fn remove_entry(&mut self, name: &[u8]) {
        if let Some(entry) = self.entries.remove(name) {
            self.close(entry);
        }
    }

    /// The path stays until the end, and stays ours.
    fn close(&mut self, entry: Entry) {
        if let Some(path) = entry.path {
            let _inode = path.hold();
            self.closed.push(Closed { path, bound_here: entry.bound_here, _inode });
        }
    }

    /// What the successor gets, in the order of its descriptors from 3.
    pub fn table(&self) -> Vec<TableEntry> {
        let entry = |entry: &Entry| TableEntry {
            name: entry.name.clone(),
            listener: entry.listener,
            owner: entry.path.clone(),
            keep: entry.keep,
            control: false,
            address: entry.written.clone(),
        };
        self.entries.iter().map(entry).collect()
    }

    /// What is passed on, for the status.
    pub fn listed(&self) -> Vec<Listed> {
        let listed = |entry: &Entry| {
            let described = socket::describe(entry.fd.as_fd()).ok().filter(|_| entry.listener);
            Listed {
                name: entry.name.to_vec(),
                listener: entry.listener,
                address: described.and_then(|is| is.endpoint()).map(|endpoint| endpoint.to_string()),
                inode: fd::inode(entry.fd.as_fd()),
                keep: match entry.keep {
                    Keep::None => None,
                    Keep::Stop => Some("stop"),
                    Keep::Always => Some("always"),
                },
            }
        };
        self.entries.iter().map(listed).collect()
    }

    /// The descriptors of [`Registry::table`].
    pub fn descriptors(&self) -> Vec<Arc<OwnedFd>> {
        self.entries.iter().map(|entry| Arc::clone(&entry.fd)).collect()
    }

    /// Further members of inherited groups listen, now that the predecessor has committed.
    pub fn listen_further(&mut self) -> Result<()> {
        self.waiting = false;
        for entry in self.entries.iter_mut().filter(|entry| entry.listens_later) {
            if let Some(address) = &entry.address {
                socket::listen(entry.fd.as_fd(), address)?;
            }
            entry.listens_later = false;
        }
        Ok(())
    }

    /// What can be changed on a live socket is changed now that this process serves. Returns what went wrong.
    pub fn apply_live(&self) -> Vec<String> {
        let apply = |entry: &Entry| {
            socket::set_nonblocking_once(entry.fd.as_fd())?;
            let Some(address) = &entry.address else { return Ok(()) };
            socket::apply_live(entry.fd.as_fd(), address, entry.path.as_ref())
        };
        let asked = self.entries.iter().filter(|entry| entry.asked);
        asked.filter_map(|entry| apply(entry).err()).map(|error: Error| error.to_string()).collect()
    }

    /// What nobody claimed is closed, its paths unlinked; returns the names. In generation 0 it is left alone.
    pub fn drop_unclaimed(&mut self) -> Vec<String> {
        let mut dropped = Vec::new();
        self.unclaimed.retain(|inherited| {
            let ours = matches!(inherited.source, Source::Ours(_));
            if ours {
                if let Some(path) = &inherited.path {
                    let _ = path.unlink_if_ours();
                }
                dropped.push(quote(&inherited.name));
            }
            !ours
        });
        dropped
    }

    /// This process will never serve: paths that nobody else knows of go at once, since the predecessor may end it as
    /// soon as it knows.
    pub fn withdraw(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.bound_here) {
            let _ = entry.path.take().map(|path| path.unlink_if_ours());
        }
    }

    /// The paths are the successor's to unlink.
    pub fn disown(&mut self) {
        self.disowned = true;
    }

    /// Shutdown: the library's copies are closed but for those that `kept` lets live; the paths stay until
    /// [`Registry::finish`].
    pub fn close_listeners(&mut self, kept: impl Fn(Keep) -> bool) {
        freeze(Frozen::Released);
        let go = self.entries.keep(|entry| kept(entry.keep));
        go.into_iter().for_each(|entry| self.close(entry));
        self.for_library = None;
        self.unclaimed.retain(|inherited| matches!(inherited.source, Source::Foreign(_)));
    }

    /// The end: paths are unlinked where they are ours (`owns`), and where nobody else ever knew of them.
    pub fn finish(&mut self, owns: bool) {
        freeze(Frozen::Released);
        // While the sockets are open, so that nobody takes the paths for stale.
        let disowned = self.disowned;
        let ours = |bound_here: bool| owns || (bound_here && !disowned);
        let open = self.entries.iter().filter_map(|entry| Some((entry.path.as_ref()?, entry.bound_here)));
        let closed = self.closed.iter().map(|closed| (&closed.path, closed.bound_here));
        for (path, _) in open.chain(closed).filter(|(_, bound_here)| ours(*bound_here)) {
            if let Err(error) = path.unlink_if_ours() {
                log::write(Level::Error, format_args!("{error}"));
            }
        }
        self.entries.clear();
        self.closed.clear();
        self.for_library = None;
        self.unclaimed.retain(|inherited| matches!(inherited.source, Source::Foreign(_)));
        ANY_KEPT.store(false, SeqCst);
    }

    /// What becomes of this listener at shutdown, by what it is: the host has a copy of its own.
    pub fn keep_of(&self, listener: BorrowedFd) -> Keep {
        let same = |entry: &&Entry| fd::same_file(entry.fd.as_fd(), listener);
        let kept = self.entries.iter().filter(|entry| entry.keep != Keep::None);
        kept.clone().find(same).map_or(Keep::None, |entry| entry.keep)
    }
}

/// The inherited socket where one matches, else a new one. Returns the caller's copy. A new one is bound without the lock,
/// since a file system or another replacer of a path may take their time, and everybody else needs it.
pub fn listen(registry: &Mutex<Registry>, asked: Asked) -> Result<OwnedFd> {
    let name = {
        let mut registry = lock(registry);
        let name = registry.free_name(&asked.address)?;
        if let Some(found) = registry.find(&name, &asked)? {
            return registry.adopt(name, found, asked);
        }
        registry.open(|| format!("cannot listen on {}", asked.address))?;
        registry.binding.push(name.clone());
        name
    };
    let bound = socket::bind(&asked.address);
    let mut registry = lock(registry);
    registry.binding.retain(|binding| *binding != name);
    registry.enlist(name, asked, bound)
}

fn taken(address: &Address, name: &[u8]) -> Error {
    Error::system(format!("cannot listen on {address}: the name {} is taken", quote(name)), Errno::EEXIST)
}

fn note_kept(keep: Keep) {
    ANY_KEPT.fetch_or(keep != Keep::None, SeqCst);
}

/// Whether a look at [`Registry::keep_of`] is worth the lock.
pub fn any_kept() -> bool {
    ANY_KEPT.load(SeqCst)
}

impl Entry {
    fn listener(name: Arc<[u8]>, fd: OwnedFd, asked: Asked, listens_later: bool) -> Entry {
        let Asked { address, written } = asked;
        let keep = match address.options.keep {
            None => Keep::None,
            Some(address::Keep::Stop) => Keep::Stop,
            Some(address::Keep::Always) => Keep::Always,
        };
        let address = (listens_later || socket::changes_live(&address)).then(|| Box::new(address));
        Entry { keep, asked: true, address, written, listens_later, ..Entry::added(name, fd, true) }
    }

    fn added(name: Arc<[u8]>, fd: OwnedFd, listener: bool) -> Entry {
        Entry {
            name,
            fd: Arc::new(fd),
            path: None,
            bound_here: false,
            listens_later: false,
            listener,
            keep: Keep::None,
            asked: false,
            address: None,
            written: None,
        }
    }
}

/// The value of LISTEN_FDNAMES for a table; none when it is too long for the environment.
pub fn listen_fdnames(table: &[TableEntry]) -> Option<CString> {
    let names = inherit::encode_names(table.iter().map(|entry| &entry.name[..]))?;
    CString::new(names).ok()
}

fn copy_for_the_caller(fd: &impl AsFd, what: &impl Display) -> Result<OwnedFd> {
    fd::dup_cloexec(fd.as_fd(), fd::FIRST)
        .map_err(|errno| Error::system(format!("cannot duplicate {what}"), errno))
}

fn check_name(name: &[u8]) -> Result<()> {
    match name.len() {
        1..=address::NAME_MAX => Ok(()),
        length => Err(Error::Invalid(format!("a name has 1 to 255 bytes, this one {length}"))),
    }
}
