//! `reuseport` groups: the kernel spreads new connections over all members that listen, and resets what is queued on one
//! that is closed. So a group is claimed whole, and grows only once this process may serve.

use super::Registry;
use super::claim::Inherited;
use crate::address::{Address, Endpoint, NAME_MAX, Protocol, quote};
use crate::socket::{self, Description};
use std::os::fd::{AsFd, BorrowedFd};

fn port(endpoint: &Endpoint) -> Option<(Protocol, u16)> {
    match endpoint {
        Endpoint::Inet { protocol, port, .. } => Some((*protocol, *port)),
        Endpoint::Unix { .. } => None,
    }
}

/// `name#2`, `name#3` …, the name cut where they would be too long.
pub(super) fn member_names(name: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (2u32..).map(move |n| {
        let suffix = format!("#{n}");
        [&name[..name.len().min(NAME_MAX - suffix.len())], suffix.as_bytes()].concat()
    })
}

/// What the members of one group have in common. Most sockets are in none, and one question tells.
fn group_of(fd: BorrowedFd) -> Option<Description> {
    if !socket::may_share_port(fd) {
        return None;
    }
    let is = socket::describe(fd).ok().filter(|is| is.reuseport)?;
    Some(Description { listening: true, ..is })
}

impl Registry {
    /// Whether the predecessor may be listening there with others.
    pub(super) fn is_group(&mut self, address: &Address) -> bool {
        if !self.waiting || address.options.reuseport != Some(true) {
            return false;
        }
        self.remember_groups();
        let groups = self.groups.as_deref().unwrap_or_default();
        port(&address.endpoint).is_some_and(|port| groups.contains(&port))
    }

    /// Where the predecessor has members, claimed or not: a new one may take its connections even where host or device
    /// differ, since the kernel prefers the closer match. Asked when it first matters, and before anything inherited goes.
    pub(super) fn remember_groups(&mut self) {
        if !self.waiting || self.groups.is_some() {
            return;
        }
        let claimed = self.entries.iter().filter(|entry| !entry.bound_here).map(|entry| entry.fd.as_fd());
        let inherited = self.unclaimed.iter().map(Inherited::borrow).chain(claimed);
        let groups = inherited.filter_map(|fd| port(&group_of(fd)?.endpoint()?)).collect();
        self.groups = Some(groups);
    }

    /// Members of a group that nobody claimed while others of it were.
    pub fn missing_members(&self) -> Vec<String> {
        let member = |inherited: &Inherited| Some((quote(&inherited.name), group_of(inherited.borrow())?));
        let unclaimed: Vec<_> = self.unclaimed.iter().filter_map(member).collect();
        if unclaimed.is_empty() {
            return Vec::new();
        }
        let claimed: Vec<_> = self.entries.iter().filter_map(|entry| group_of(entry.fd.as_fd())).collect();
        unclaimed.into_iter().filter(|(_, group)| claimed.contains(group)).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Asked, listen};
    use super::*;
    use crate::channel::TableEntry;
    use crate::flip::lock;
    use crate::sys::net;
    use std::sync::Mutex;

    #[test]
    fn a_further_member_waits_for_commit_also_where_the_first_one_was_taken_by_name() {
        let parse = |text: &str| Address::parse(text.as_bytes()).unwrap();
        let first = socket::bind_and_listen(&parse("tcp://127.0.0.1:0?reuseport=1")).unwrap();
        let endpoint = socket::describe(first.fd.as_fd()).unwrap().endpoint().unwrap();
        let entry = TableEntry { listener: true, ..TableEntry::named(b"first") };
        let registry = Mutex::new(Registry::inherited(vec![(entry, first.fd)]));
        lock(&registry).take(b"first").unwrap();
        let further = Asked::parse(format!("{endpoint}?reuseport=1").as_bytes()).unwrap();
        let further = listen(&registry, further).unwrap();
        assert!(!net::is_tcp_listener(further.as_fd()).unwrap());
        lock(&registry).listen_further().unwrap();
        assert!(net::is_tcp_listener(further.as_fd()).unwrap());
    }
}
