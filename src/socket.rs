//! One socket: made from an [`Address`], inspected, compared with an address, changed while it serves.
//!
//! Promises: a descriptor made here is close-on-exec, non-blocking and numbered 3 or more; `O_NONBLOCK` is set at most
//! once and never cleared, and no listener is ever shut down, since both would reach every process that shares the
//! socket. Called by the registry of named sockets.

mod describe;
mod options;
mod path;
#[cfg(test)]
mod tests;

pub use describe::{Description, accepts, describe, is_listener, matching, may_share_port};
pub use options::{apply_live, changes_live};
pub use path::{PathOwner, look_up_owner};

use crate::address::{Address, Endpoint, Host, Protocol, UnixKind, UnixName, quote};
use crate::error::{Error, Result};
use crate::sys::net::{self, SockAddr};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A socket that was just bound.
#[derive(Debug)]
pub struct Bound {
    /// The socket.
    pub fd: OwnedFd,
    /// The path that came into being with it.
    pub path: Option<PathOwner>,
}

/// Makes the socket and binds it. Nobody can connect yet, but to a datagram socket, where mode and owner hold from
/// the first moment.
pub fn bind(address: &Address) -> Result<Bound> {
    match &address.endpoint {
        Endpoint::Unix { name: UnixName::Path(path), kind } => path::bind(address, *kind, path),
        Endpoint::Unix { name: UnixName::Abstract(name), kind } => {
            let fd = net::socket(libc::AF_UNIX, unix_type(*kind)).map_err(|errno| refused(address, errno))?;
            net::bind(fd.as_fd(), &SockAddr::UnixAbstract(name.clone()))
                .map_err(|errno| refused(address, errno))?;
            Ok(Bound { fd, path: None })
        }
        Endpoint::Inet { protocol, host, port } => {
            let fd = match host {
                Host::V4(v4) => bind_inet(address, *protocol, SocketAddr::from((*v4, *port)), None),
                Host::V6 { address: v6, zone } => {
                    let scope = scope(address, zone.as_deref())?;
                    let local = SocketAddrV6::new(*v6, *port, 0, scope);
                    bind_inet(address, *protocol, local.into(), address.options.v6only)
                }
                Host::Any => bind_any(address, *protocol, *port),
            }?;
            Ok(Bound { fd, path: None })
        }
    }
}

/// Lets a bound socket accept connections; a datagram socket needs nothing. Without `backlog=` the kernel's limit
/// (`net.core.somaxconn`, 4096 by default) is the backlog.
pub fn listen(fd: BorrowedFd<'_>, address: &Address) -> Result<()> {
    if !address.accepts() {
        return Ok(());
    }
    // The kernel cuts a longer backlog to its limit.
    net::listen(fd, address.options.backlog.unwrap_or(i32::MAX)).map_err(|errno| refused(address, errno))
}

/// [`bind`], then [`listen`]; if that fails, the path is gone again.
pub fn bind_and_listen(address: &Address) -> Result<Bound> {
    let bound = bind(address)?;
    match listen(bound.fd.as_fd(), address) {
        Ok(()) => Ok(bound),
        Err(error) => {
            if let Some(path) = &bound.path {
                let _ = path.unlink_if_ours();
            }
            Err(error)
        }
    }
}

/// Sets `O_NONBLOCK` where it is missing; true if it was. It belongs to every process that shares the socket, so this
/// is for a socket's first claim only.
pub fn set_nonblocking_once(fd: BorrowedFd<'_>) -> Result<bool> {
    let failed = |errno| Error::system("cannot make an inherited socket non-blocking", errno);
    let flags = net::flags(fd).map_err(failed)?;
    if flags.contains(OFlag::O_NONBLOCK) {
        return Ok(false);
    }
    net::set_flags(fd, flags | OFlag::O_NONBLOCK).map_err(failed)?;
    Ok(true)
}

fn bind_inet(
    address: &Address,
    protocol: Protocol,
    local: SocketAddr,
    v6only: Option<bool>,
) -> Result<OwnedFd> {
    let (domain, local) = (SockAddr::Inet(local).domain(), SockAddr::Inet(local));
    let fd = net::socket(domain, inet_type(protocol)).map_err(|errno| refused(address, errno))?;
    options::before_bind(fd.as_fd(), domain, v6only, address)?;
    net::bind(fd.as_fd(), &local).map_err(|errno| refused(address, errno))?;
    options::apply_tcp(trying(address), fd.as_fd(), &address.options)?;
    Ok(fd)
}

/// All addresses of both families by one socket; of IPv4 alone where there is no IPv6.
fn bind_any(address: &Address, protocol: Protocol, port: u16) -> Result<OwnedFd> {
    match bind_inet(address, protocol, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), Some(false)) {
        Err(error) if no_ipv6(error.errno()) => {
            bind_inet(address, protocol, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), None)
        }
        other => other,
    }
}

/// What the kernel says where IPv6 is not built in or switched off.
fn no_ipv6(errno: Errno) -> bool {
    matches!(errno, Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
}

/// The number of an interface that is named, or numbered, by a zone.
fn scope(address: &Address, zone: Option<&[u8]>) -> Result<u32> {
    let Some(zone) = zone else { return Ok(0) };
    if let Some(index) = std::str::from_utf8(zone).ok().and_then(|zone| zone.parse().ok()) {
        return Ok(index);
    }
    net::interface_index(zone).map_err(|errno| {
        Error::system(format!("{}: there is no interface {}", trying(address), quote(zone)), errno)
    })
}

fn inet_type(protocol: Protocol) -> i32 {
    match protocol {
        Protocol::Tcp => libc::SOCK_STREAM,
        Protocol::Udp => libc::SOCK_DGRAM,
    }
}

fn unix_type(kind: UnixKind) -> i32 {
    match kind {
        UnixKind::Stream => libc::SOCK_STREAM,
        UnixKind::Datagram => libc::SOCK_DGRAM,
        UnixKind::SeqPacket => libc::SOCK_SEQPACKET,
    }
}

/// The beginning of every sentence about what could not be done. It is written when there is one.
#[derive(Clone, Copy)]
struct Trying<'a> {
    verb: &'static str,
    address: &'a Address,
}

impl fmt::Display for Trying<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.verb, self.address.endpoint)
    }
}

fn trying(address: &Address) -> Trying<'_> {
    Trying { verb: if address.accepts() { "listen on" } else { "bind" }, address }
}

fn changing(address: &Address) -> Trying<'_> {
    Trying { verb: "change", address }
}

fn refused(address: &Address, errno: Errno) -> Error {
    Error::system(trying(address).to_string(), errno)
}
