//! What came with the start of this process, and how an address finds its socket there: by name, then by what the
//! socket is, where the predecessor was not asked for it in the same words.

use super::store::given_back;
use super::{Asked, Registry, copy_for_the_caller};
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
use std::sync::Arc;

/// Nobody has asked for it yet.
#[derive(Debug)]
pub(super) struct Inherited {
    pub name: Arc<[u8]>,
    pub source: Source,
    pub path: Option<PathOwner>,
    pub keep: Keep,
    /// False for the stand-ins of a service manager, which tell nothing.
    pub named: bool,
    /// Its name in the manager's store, if it came from there.
    pub in_store: Option<String>,
    /// With this text our predecessor was asked for it.
    pub written: Option<Arc<[u8]>>,
}

/// One of what is unclaimed that fits.
pub(super) struct Match {
    pub index: usize,
    /// It accepts connections.
    pub listening: bool,
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
        Inherited {
            name: one.name.into(),
            source,
            path: None,
            keep: Keep::None,
            named: one.named,
            in_store: None,
            written: None,
        }
    }
}

impl From<(TableEntry, OwnedFd)> for Inherited {
    fn from((entry, fd): (TableEntry, OwnedFd)) -> Inherited {
        let source = Source::Ours(fd);
        let (path, keep) = (entry.owner, entry.keep);
        let written = entry.address;
        Inherited { name: entry.name, source, path, keep, named: true, in_store: None, written }
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

    /// Whether it is what the address asks for, and listens. Where the predecessor was asked for it in the same words
    /// it has compared already, and one question is left: a server may have thousands of them.
    fn fits(&self, asked: &Asked, by_name: bool) -> Result<Option<bool>> {
        let same = asked.written.is_some() && self.written.as_deref() == asked.written.as_deref();
        if same && socket::accepts(self.borrow()) {
            return Ok(Some(true));
        }
        let is = socket::matching(self.borrow(), &asked.address, by_name)?;
        Ok(is.map(|is| is.listening))
    }
}

impl Registry {
    /// The match among what is unclaimed.
    pub(super) fn find(&self, name: &[u8], asked: &Asked) -> Result<Option<Match>> {
        for by_name in [true, false] {
            for (index, inherited) in self.unclaimed.iter().enumerate() {
                let candidate = !by_name || (inherited.named && *inherited.name == *name);
                if candidate && let Some(listening) = inherited.fits(asked, by_name)? {
                    return Ok(Some(Match { index, listening }));
                }
            }
        }
        Ok(None)
    }

    /// A copy of a socket that a service manager has passed for this address, for the library itself, listening and
    /// non-blocking. The original stays until `flip_init` is sure to succeed: it could not be found again.
    pub fn claim_for_library(&mut self, address: &Address) -> Result<Option<OwnedFd>> {
        let asked = Asked { address: address.clone(), written: None };
        let Some(found) = self.find(&address.name(), &asked)? else { return Ok(None) };
        if !matches!(self.unclaimed[found.index].source, Source::Foreign(_)) {
            return Ok(None);
        }
        let copy = copy_for_the_caller(&self.unclaimed[found.index].borrow(), address)?;
        socket::set_nonblocking_once(copy.as_fd())?;
        if !found.listening {
            socket::listen(copy.as_fd(), address)?;
        }
        self.for_library = self.unclaimed.remove(found.index);
        Ok(Some(copy))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    fn bound(text: &str) -> OwnedFd {
        socket::bind_and_listen(&Address::parse(text.as_bytes()).unwrap()).unwrap().fd
    }

    /// A successor's registry with one socket, which its predecessor was asked for as `written`.
    fn inherited(fd: OwnedFd, written: &str) -> Registry {
        let address = Some(written.as_bytes().into());
        let entry = TableEntry { listener: true, address, ..TableEntry::named(b"web") };
        Registry::inherited(vec![(entry, fd)])
    }

    fn ask(registry: &mut Registry, text: &str) -> Result<OwnedFd> {
        registry.inherit(Asked::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn what_the_library_takes_for_itself_can_be_found_again_by_a_flip_init_after_one_that_failed() {
        let address = Address::parse(b"tcp://127.0.0.1:0?name=control").unwrap();
        let listener = bound("tcp://127.0.0.1:0");
        let (is, number) = (fd::inode(listener.as_fd()), listener.into_raw_fd());
        let start = || Registry::fresh(vec![Activated { number, name: b"control".to_vec(), named: true }]);
        for _ in 0..2 {
            let claimed = start().claim_for_library(&address).unwrap().unwrap();
            assert_eq!(fd::inode(claimed.as_fd()), is);
        }
        let mut registry = start();
        let claimed = registry.claim_for_library(&address).unwrap().unwrap();
        registry.own_what_is_ours();
        assert_eq!(registry.unclaimed().count(), 0);
        assert_eq!(fd::inode(claimed.as_fd()), is);
        // SAFETY: only asked whether it is open.
        let original = unsafe { BorrowedFd::borrow_raw(number) };
        assert_eq!(fd::inode(original), is);
        registry.finish(true);
        assert_ne!(fd::inode(original), is);
    }

    /// A comparison would refuse these: it is not made.
    #[test]
    fn what_the_predecessor_was_asked_for_in_the_same_words_is_not_compared_again() {
        let fd = bound("tcp://127.0.0.1:0");
        let is = fd::inode(fd.as_fd());
        let mut registry = inherited(fd, "tcp://127.0.0.1:9?name=web");
        let claimed = ask(&mut registry, "tcp://127.0.0.1:9?name=web").unwrap();
        assert_eq!(fd::inode(claimed.as_fd()), is);
        let [entry] = registry.table().try_into().unwrap();
        assert_eq!(entry.address.as_deref(), Some(&b"tcp://127.0.0.1:9?name=web"[..]));
    }

    #[test]
    fn other_words_for_it_are_compared() {
        let fd = bound("tcp://127.0.0.1:0");
        let port = match socket::describe(fd.as_fd()).unwrap().endpoint() {
            Some(Endpoint::Inet { port, .. }) => port,
            other => panic!("{other:?}"),
        };
        let mut registry = inherited(fd, "tcp://127.0.0.1:9?name=web");
        for other in ["tcp://localhost:9?name=web", "tcp://127.0.0.1:9", "tcp://127.0.0.1:9?name=api"] {
            assert_eq!(ask(&mut registry, other).unwrap_err().errno(), Errno::ENOENT, "{other}");
        }
        ask(&mut registry, &format!("tcp://localhost:{port}?name=web")).unwrap();
    }

    #[test]
    fn one_that_does_not_listen_any_more_is_compared() {
        let fd = socket::bind(&Address::parse(b"tcp://127.0.0.1:0").unwrap()).unwrap().fd;
        let mut registry = inherited(fd, "tcp://127.0.0.1:9?name=web");
        let refused = ask(&mut registry, "tcp://127.0.0.1:9?name=web").unwrap_err();
        assert_eq!(refused.errno(), Errno::ENOENT);
    }

    #[test]
    fn the_words_are_kept_only_where_nothing_that_they_say_can_change() {
        let kept = |text: &str| Asked::parse(text.as_bytes()).unwrap().written.is_some();
        for settled in ["tcp://127.0.0.1:80", "tcp://:80?keep=stop", "tcp://[::1]:80?v6only=1&name=a"] {
            assert!(kept(settled), "{settled}");
        }
        for open in [
            "tcp://[fe80::1%25lo]:80",
            "tcp://127.0.0.1:80?device=lo",
            "tcp://127.0.0.1:80?reuseport=1",
            "udp://127.0.0.1:80",
            "unix:///run/a",
            "unix:@a",
        ] {
            assert!(!kept(open), "{open}");
        }
    }
}
