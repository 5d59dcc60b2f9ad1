//! The manager's descriptor store (FileDescriptorStoreMax= of systemd.service(5)): what of it is ours, by which names.
//!
//! systemd gives the store back to the next start as part of LISTEN_FDS. A name there begins with [`PREFIX`], by which
//! `inherit` tells ours from those of a .socket unit, goes on percent-encoded, since systemd takes up to 255 printable
//! characters without a colon, and may end in the inode of a unix path, so that the right to remove it is not lost.

use crate::address::{decode_name, encode_name};
use crate::socket::PathOwner;
use sd_notify::NotifyState;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

/// How our names in the store begin.
const PREFIX: &str = "shellflip.";
/// … and those of names that are too long: what follows only tells them apart.
const SHORTENED: &str = "shellflip#";
/// systemd's limit.
const LONGEST: usize = 255;

/// A listener and its name in the store.
pub(crate) type Stored = (String, Arc<OwnedFd>);

/// What this process has put there, by name.
#[derive(Default)]
pub(super) struct Store(Vec<(String, Weak<OwnedFd>)>);

impl Store {
    /// What to remove (without a descriptor) and what to add, in this order, so that the store holds just these.
    pub fn changes(&mut self, wanted: Vec<Stored>) -> Vec<(String, Option<Arc<OwnedFd>>)> {
        let mut changes = Vec::new();
        self.0.retain(|(name, known)| {
            let same = |(other, fd): &Stored| other == name && std::ptr::eq(known.as_ptr(), Arc::as_ptr(fd));
            let stays = wanted.iter().any(same);
            if !stays {
                changes.push((name.clone(), None));
            }
            stays
        });
        for (name, fd) in wanted {
            if let Err(place) = self.0.binary_search_by(|(known, _)| known.cmp(&name)) {
                self.0.insert(place, (name.clone(), Arc::downgrade(&fd)));
                changes.push((name, Some(fd)));
            }
        }
        changes
    }
}

/// The datagram for one change.
pub(super) fn text(name: &str, add: bool) -> String {
    let name = format!("FDNAME={name}");
    // FDPOLL=0: a socket that is bound and does not listen yet would count as hung up, and be dropped.
    let states: &[NotifyState] = match add {
        true => {
            &[NotifyState::Custom("FDSTORE=1"), NotifyState::Custom("FDPOLL=0"), NotifyState::Custom(&name)]
        }
        false => &[NotifyState::Custom("FDSTOREREMOVE=1"), NotifyState::Custom(&name)],
    };
    super::lines(states)
}

/// The name in the store of what is called `name` here; `path` is the unix path to be removed in the end.
pub(crate) fn name(name: &[u8], path: Option<&PathOwner>) -> String {
    let inode = path.map(|path| format!("@{:x}.{:x}", path.dev, path.ino)).unwrap_or_default();
    // The sign that divides them must not be part of the name.
    let whole = format!("{PREFIX}{}{inode}", encode_name(name).replace('@', "%40"));
    if whole.len() <= LONGEST {
        return whole;
    }
    // FNV-1a: stable over releases, which std's hashes are not.
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = whole.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{SHORTENED}{hash:016x}{inode}")
}

/// Whether a [`name`] is of a listener with a path that is this library's to remove.
pub(crate) fn has_path(name: &str) -> bool {
    name.contains('@')
}

/// A name that came back from the store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// As it was here; `None`: it was too long, and the socket has to be known by its address.
    pub name: Option<Vec<u8>>,
    /// Device and inode of its unix path.
    pub inode: Option<(u64, u64)>,
}

/// What a name in LISTEN_FDNAMES says, if it is one of [`name`].
pub(crate) fn known(listed: &[u8]) -> Option<Known> {
    let listed = std::str::from_utf8(listed).ok()?;
    let (rest, shortened) = match listed.strip_prefix(PREFIX) {
        Some(rest) => (rest, false),
        None => (listed.strip_prefix(SHORTENED)?, true),
    };
    let (encoded, inode) = match rest.split_once('@') {
        None => (rest, None),
        Some((encoded, inode)) => {
            let (dev, ino) = inode.split_once('.')?;
            (encoded, Some((u64::from_str_radix(dev, 16).ok()?, u64::from_str_radix(ino, 16).ok()?)))
        }
    };
    let name = if shortened { None } else { Some(decode_name(encoded.as_bytes())?) };
    Some(Known { name, inode })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/dev/null").unwrap().into())
    }

    #[test]
    fn any_name_comes_back_from_the_store_and_systemd_takes_it() {
        let every_byte: Vec<u8> = (0..=255).collect();
        let path = PathOwner { path: b"/run/a@b.sock".to_vec(), dev: 0xfe01, ino: 77 };
        for one in [&b"http"[..], b"tcp://[::1]:80", b"a@b", b"unix:///run/a@b.sock#2", &every_byte[..70]] {
            for path in [None, Some(&path)] {
                let stored = name(one, path);
                let valid = |byte: u8| (b' '..127).contains(&byte) && byte != b':';
                assert!(stored.len() <= 255 && stored.bytes().all(valid), "{stored}");
                let known = known(stored.as_bytes()).unwrap();
                assert_eq!(known.name.as_deref(), Some(one));
                assert_eq!(known.inode, path.map(|path| (path.dev, path.ino)));
            }
        }
        let long = name(&[b'x'; 255], Some(&path));
        assert!(long.len() <= 255);
        assert_eq!(known(long.as_bytes()), Some(Known { name: None, inode: Some((0xfe01, 77)) }));
        assert_ne!(name(&[b'x'; 255], None), name(&[b'x'; 254], None));
        for other in [&b"http.socket"[..], b"stored", b"shellflip", b"shellflip.a@", b"shellflip.%"] {
            assert_eq!(known(other), None);
        }
    }

    #[test]
    fn only_what_changed_is_said_and_removals_come_first() {
        let (one, two) = (descriptor(), descriptor());
        let mut store = Store::default();
        let names = |changes: Vec<(String, Option<Arc<OwnedFd>>)>| {
            changes.into_iter().map(|(name, fd)| (name, fd.is_some())).collect::<Vec<_>>()
        };
        let entry = |name: &str, fd: &Arc<OwnedFd>| (name.to_string(), Arc::clone(fd));
        assert_eq!(
            names(store.changes(vec![entry("a", &one), entry("b", &two)])),
            [("a".into(), true), ("b".into(), true)]
        );
        assert_eq!(names(store.changes(vec![entry("a", &one), entry("b", &two)])), []);
        let three = descriptor();
        assert_eq!(
            names(store.changes(vec![entry("b", &three), entry("c", &one)])),
            [("a".into(), false), ("b".into(), false), ("b".into(), true), ("c".into(), true)]
        );
    }
}
