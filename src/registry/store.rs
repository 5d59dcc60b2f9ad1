//! The registry and the service manager's descriptor store: which listeners go there, and what came back from it.

use super::Registry;
use super::claim::{Inherited, Source};
use crate::channel::Keep;
use crate::inherit::{self, Activated};
use crate::socket::{self, PathOwner};
use crate::sys::fd;
use crate::sys::net::SockAddr;
use crate::systemd::store::{self, Known, Stored};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

impl Registry {
    /// The listeners, under their names in the store.
    pub fn for_store(&self) -> Vec<Stored> {
        let listeners = self.entries.iter().filter(|entry| entry.listener);
        listeners
            .map(|entry| (store::name(&entry.name, entry.path.as_ref()), Arc::clone(&entry.fd)))
            .collect()
    }

    /// What the store gave back is this library's: unlike a socket of a .socket unit it is meant for nobody else in the
    /// host, and closed if it is not claimed. Not before `flip_init` is sure to succeed: it could not be found again.
    /// The same for what the library has taken for itself.
    pub fn own_what_is_ours(&mut self) {
        let stored = self.unclaimed.iter_mut().filter(|one| one.in_store.is_some());
        for one in stored.chain(&mut self.for_library) {
            one.source = match one.source {
                Source::Foreign(number) => {
                    inherit::claimed(number);
                    let _ = fd::set_cloexec_raw(number);
                    // SAFETY: as in given_back(); owned once, since it is not Foreign any more.
                    Source::Ours(unsafe { OwnedFd::from_raw_fd(number) })
                }
                Source::Ours(_) => continue,
            };
        }
    }

    /// The names in the store of what nobody has claimed, and [`Registry::drop_unclaimed`] will close.
    pub fn unclaimed_in_store(&self) -> Vec<String> {
        let ours = self.unclaimed.iter().filter(|one| matches!(one.source, Source::Ours(_)));
        ours.map(|one| one.in_store.clone().unwrap_or_else(|| store::name(&one.name, one.path.as_ref())))
            .collect()
    }
}

/// What the store gave back.
pub(super) fn given_back(one: Activated, known: Known) -> Inherited {
    let _ = fd::set_cloexec_raw(one.number);
    // SAFETY: open, as `inherit` has seen, and by its name put into the store by this library, for this library.
    let stored = unsafe { BorrowedFd::borrow_raw(one.number) };
    let path = known.inode.and_then(|(dev, ino)| match socket::describe(stored).ok()?.local {
        SockAddr::UnixPath(path) => Some(PathOwner { path, dev, ino }),
        _ => None,
    });
    let in_store = Some(String::from_utf8_lossy(&one.name).into_owned());
    let named = known.name.is_some();
    let name = known.name.unwrap_or(one.name);
    Inherited {
        name: name.into(),
        source: Source::Foreign(one.number),
        path,
        keep: Keep::None,
        named,
        in_store,
        written: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::IntoRawFd;

    #[test]
    fn what_the_store_gave_back_outlives_a_start_that_fails_and_is_closed_after_one_that_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, number) = (listener.local_addr().unwrap(), listener.into_raw_fd());
        let start = || {
            let name = b"shellflip.web".to_vec();
            Registry::fresh(vec![Activated { number, name, named: true }])
        };
        drop(start());
        assert!(TcpStream::connect(address).is_ok());
        let mut registry = start();
        registry.own_what_is_ours();
        assert_eq!(registry.unclaimed_in_store(), ["shellflip.web"]);
        assert_eq!(registry.drop_unclaimed(), ["\"web\""]);
        assert!(TcpStream::connect(address).is_err());
    }
}
