//! The registry and the service manager's descriptor store: which listeners go there, and what came back from it.

use super::Registry;
use super::claim::{Inherited, Source};
use crate::channel::Keep;
use crate::inherit::{self, Activated};
use crate::socket::{self, PathOwner};
use crate::sys::fd;
use crate::sys::net::SockAddr;
use crate::systemd::store::{self, Known, Stored};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;

impl Registry {
    /// The listeners, under their names in the store.
    pub fn for_store(&self) -> Vec<Stored> {
        let listeners = self.entries.iter().filter(|entry| entry.listener);
        listeners
            .map(|entry| (store::name(&entry.name, entry.path.as_ref()), Arc::clone(&entry.fd)))
            .collect()
    }

    /// The names in the store of what nobody has claimed, and [`Registry::drop_unclaimed`] will close.
    pub fn unclaimed_in_store(&self) -> Vec<String> {
        let ours = self.unclaimed.iter().filter(|one| matches!(one.source, Source::Ours(_)));
        ours.map(|one| one.in_store.clone().unwrap_or_else(|| store::name(&one.name, one.path.as_ref())))
            .collect()
    }
}

/// What the store gave back is this library's from the start: unlike a socket of a .socket unit it is meant for nobody
/// else in the host, and closed if it is not claimed.
pub(super) fn given_back(one: Activated, known: Known) -> Inherited {
    let _ = fd::set_cloexec_raw(one.number);
    inherit::claimed(one.number);
    // SAFETY: open, as `inherit` has seen, and by its name put into the store by this library, for this library.
    let owned = unsafe { OwnedFd::from_raw_fd(one.number) };
    let path = known.inode.and_then(|(dev, ino)| match socket::describe(owned.as_fd()).ok()?.local {
        SockAddr::UnixPath(path) => Some(PathOwner { path, dev, ino }),
        _ => None,
    });
    let in_store = Some(String::from_utf8_lossy(&one.name).into_owned());
    let named = known.name.is_some();
    let name = known.name.unwrap_or(one.name);
    Inherited { name, source: Source::Ours(owned), path, keep: Keep::None, named, in_store }
}
