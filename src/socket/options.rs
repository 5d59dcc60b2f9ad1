//! Socket options and path permissions: what must be set before bind(2), and what can be set on a socket that serves.
//! Called by `socket` when it makes one, and by the registry when `flip_ready` has returned 0.

use super::path::{PathOwner, hold_ours, permit};
use super::{Trying, changing, trying};
use crate::address::{Address, Options};
use crate::error::{Error, Result};
use crate::sys::net;
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd};

/// What bind(2) looks at.
pub fn before_bind(fd: BorrowedFd<'_>, domain: i32, v6only: Option<bool>, address: &Address) -> Result<()> {
    let what = trying(address);
    let Options { reuseport, freebind, transparent, device, .. } = &address.options;
    let v6 = domain == libc::AF_INET6;
    let (level, free, transp) = of_ip(domain);
    // For UDP it would let another process take the port away. For TCP it skips TIME_WAIT only.
    let reuseaddr = address.accepts().then_some(true);
    let switches = [
        ("reuseaddr", reuseaddr, libc::SOL_SOCKET, libc::SO_REUSEADDR),
        ("reuseport", *reuseport, libc::SOL_SOCKET, libc::SO_REUSEPORT),
        ("v6only", v6only.filter(|_| v6), libc::SOL_IPV6, libc::IPV6_V6ONLY),
        ("freebind", *freebind, level, free),
        ("transparent", *transparent, level, transp),
    ];
    for (key, value, level, name) in switches {
        if let Some(on) = value {
            set(fd, what, key, level, name, i32::from(on))?;
        }
    }
    if let Some(device) = device {
        net::set_device(fd, device).map_err(|errno| refused(what, "device", errno))?;
    }
    Ok(())
}

/// The level, freebind and transparent.
fn of_ip(domain: i32) -> (i32, i32, i32) {
    match domain {
        libc::AF_INET6 => (libc::SOL_IPV6, libc::IPV6_FREEBIND, libc::IPV6_TRANSPARENT),
        _ => (libc::SOL_IP, libc::IP_FREEBIND, libc::IP_TRANSPARENT),
    }
}

/// What TCP takes at any time.
pub(super) fn apply_tcp(what: Trying<'_>, fd: BorrowedFd<'_>, options: &Options) -> Result<()> {
    let all = [
        ("nodelay", options.nodelay.map(i32::from), libc::TCP_NODELAY),
        ("defer", options.defer, libc::TCP_DEFER_ACCEPT),
        ("fastopen", options.fastopen, libc::TCP_FASTOPEN),
    ];
    for (key, value, name) in all {
        if let Some(value) = value {
            set(fd, what, key, libc::SOL_TCP, name, value)?;
        }
    }
    Ok(())
}

/// Whether there is anything in the address for [`apply_live`] to do.
pub fn changes_live(address: &Address) -> bool {
    let Options { backlog, mode, owner, nodelay, defer, fastopen, transparent, .. } = &address.options;
    let numbers = [backlog, defer, fastopen].into_iter().any(Option::is_some);
    numbers || nodelay.is_some() || transparent.is_some() || mode.is_some() || owner.is_some()
}

/// Brings an inherited socket to what the address asks: backlog, nodelay, defer, fastopen, transparent, mode, owner. What the
/// address does not name stays as it is. The socket is shared: call when `flip_ready` has returned, never before.
/// `path_owner` knows the inode of its path: one that somebody put in its place is left alone.
pub fn apply_live(fd: BorrowedFd<'_>, address: &Address, path_owner: Option<&PathOwner>) -> Result<()> {
    let what = changing(address);
    apply_tcp(what, fd, &address.options)?;
    if let Some(on) = address.options.transparent {
        let domain = net::option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN);
        let (level, _, name) = of_ip(domain.map_err(|errno| refused(what, "transparent", errno))?);
        // A right is needed for it, which the host may have given up since.
        if net::option(fd, level, name) != Ok(i32::from(on)) {
            set(fd, what, "transparent", level, name, i32::from(on))?;
        }
    }
    if let Some(backlog) = address.options.backlog {
        net::listen(fd, backlog).map_err(|errno| refused(what, "backlog", errno))?;
    }
    let Options { mode, owner, .. } = &address.options;
    if let Some(path) = address.path().filter(|_| mode.is_some() || owner.is_some()) {
        let held = hold_ours(&what, path, path_owner)?;
        permit(&what, held.as_fd(), owner.as_ref(), *mode)?;
    }
    Ok(())
}

fn set(fd: BorrowedFd<'_>, what: Trying<'_>, key: &str, level: i32, name: i32, value: i32) -> Result<()> {
    net::set_option(fd, level, name, value).map_err(|errno| refused(what, key, errno))
}

fn refused(what: Trying<'_>, key: &str, errno: Errno) -> Error {
    Error::system(format!("{what}: the option {key} was refused"), errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that is not named here is forgotten in an upgrade.
    #[test]
    fn each_option_of_a_live_socket_is_one() {
        let changes = |text: &str| changes_live(&Address::parse(text.as_bytes()).unwrap());
        for tcp in ["backlog=9", "nodelay=1", "nodelay=0", "defer=1", "fastopen=9", "transparent=1"] {
            assert!(changes(&format!("tcp://127.0.0.1:80?{tcp}")), "{tcp}");
        }
        assert!(changes("unix:///run/a?mode=0600") && changes("unix:///run/a?owner=0"));
        let others = "name=a&reuseport=1&v6only=1&device=lo&freebind=1&keep=stop";
        assert!(!changes(&format!("tcp://[::1]:80?{others}")) && !changes("unix:///run/a"));
    }
}
