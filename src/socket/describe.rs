//! What a socket is, asked of the kernel, and whether that is what an address wants. Called by the registry for
//! sockets that this process inherited or was given.

use super::{inet_type, no_ipv6, scope, unix_type};
use crate::address::{Address, Endpoint, Host, Options, Protocol, UnixKind, UnixName};
use crate::error::{Error, Result};
use crate::sys::net::{self, SockAddr};
use nix::errno::Errno;
use std::ffi::OsStr;
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the kernel says about a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// `AF_INET` …
    pub family: i32,
    /// `SOCK_STREAM` …
    pub kind: i32,
    /// `IPPROTO_TCP` …; 0 for unix sockets.
    pub protocol: i32,
    /// Where it is bound.
    pub local: SockAddr,
    /// It accepts connections.
    pub listening: bool,
    /// It talks to one peer: an accepted connection, or a client's end.
    pub connected: bool,
    /// `SO_REUSEPORT`
    pub reuseport: bool,
    /// `IPV6_V6ONLY`; false for other families.
    pub v6only: bool,
    /// The device it is bound to, empty for none. [`GONE`] when that is not there any more.
    pub device: Vec<u8>,
}

/// In the place of the name of a device that is gone: no device has such a name, and no address names it.
pub const GONE: &[u8] = b"/gone";

/// Asks the kernel. `ENOTSOCK` if it is none.
pub fn describe(fd: BorrowedFd<'_>) -> Result<Description> {
    ask(fd).map_err(|errno| Error::system("cannot inspect the socket", errno))
}

/// What the socket is, if that is what [`super::bind`] would make of the address now, apart from what
/// [`super::apply_live`] can change. Port 0 is any port where the socket was found by its name, else none.
pub fn matching(fd: BorrowedFd<'_>, address: &Address, by_name: bool) -> Result<Option<Description>> {
    let Some(is) = describe_any(fd)? else { return Ok(None) };
    if is.connected
        || !is.is_kind(&address.endpoint)
        || is.reuseport != address.options.reuseport.unwrap_or(false)
    {
        return Ok(None);
    }
    // bind(2) itself binds a socket with a zone to its device.
    let by_zone = matches!(is.local, SockAddr::Inet(SocketAddr::V6(local)) if local.scope_id() != 0);
    let device = address.options.device.as_deref();
    if is.device != device.unwrap_or_default() && (device.is_some() || !by_zone) {
        return Ok(None);
    }
    let fits = match (&address.endpoint, &is.local) {
        // Where the path is gone no client can come; the service manager's store gives such sockets back.
        (Endpoint::Unix { name: UnixName::Path(wanted), .. }, SockAddr::UnixPath(path)) => {
            path == wanted && !is_gone(path)
        }
        (Endpoint::Unix { name: UnixName::Abstract(wanted), .. }, SockAddr::UnixAbstract(name)) => {
            name == wanted
        }
        (Endpoint::Inet { host, port, .. }, SockAddr::Inet(local)) => {
            let port_fits = if *port == 0 { by_name && local.port() != 0 } else { local.port() == *port };
            port_fits && host_fits(&is, address, host, local)?
        }
        _ => false,
    };
    Ok(fits.then_some(is))
}

/// True if a successor would go on accepting or receiving here: it listens, or is a datagram socket that is bound and
/// has no peer of its own. False for whatever is no socket.
pub fn is_listener(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(describe_any(fd)?
        .is_some_and(|is| is.listening || (is.kind == libc::SOCK_DGRAM && is.is_bound() && !is.connected)))
}

/// Whether it accepts connections: the cheapest of all questions.
pub fn accepts(fd: BorrowedFd<'_>) -> bool {
    net::option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|does| does != 0)
}

/// False: it is in no `reuseport` group. True: [`describe`] knows.
pub fn may_share_port(fd: BorrowedFd<'_>) -> bool {
    net::option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT).is_ok_and(|is| is != 0)
}

/// [`describe`], `None` for an open descriptor that is no socket.
fn describe_any(fd: BorrowedFd<'_>) -> Result<Option<Description>> {
    match describe(fd) {
        Err(error) if error.errno() == Errno::ENOTSOCK => Ok(None),
        // An O_PATH descriptor is open, but no socket call knows it.
        Err(error) if error.errno() == Errno::EBADF && net::flags(fd).is_ok() => Ok(None),
        other => other.map(Some),
    }
}

fn ask(fd: BorrowedFd<'_>) -> net::Result<Description> {
    let option = |name| net::option(fd, libc::SOL_SOCKET, name);
    let local = net::local_address(fd)?;
    let family = match local.domain() {
        libc::AF_UNSPEC => option(libc::SO_DOMAIN)?,
        family => family,
    };
    let inet = matches!(family, libc::AF_INET | libc::AF_INET6);
    // A server may have thousands of these: each question counts.
    let (kind, protocol, listening) = if inet && net::is_tcp_listener(fd)? {
        (libc::SOCK_STREAM, libc::IPPROTO_TCP, true)
    } else {
        (option(libc::SO_TYPE)?, option(libc::SO_PROTOCOL)?, option(libc::SO_ACCEPTCONN)? != 0)
    };
    Ok(Description {
        family,
        kind,
        protocol,
        local,
        listening,
        connected: !listening && net::has_peer(fd)?,
        reuseport: inet && option(libc::SO_REUSEPORT)? != 0,
        v6only: family == libc::AF_INET6 && net::option(fd, libc::SOL_IPV6, libc::IPV6_V6ONLY)? != 0,
        device: match inet.then(|| net::device(fd)) {
            Some(Err(Errno::ENODEV)) => GONE.to_vec(),
            Some(device) => device?,
            None => Vec::new(),
        },
    })
}

fn host_fits(is: &Description, address: &Address, host: &Host, local: &SocketAddr) -> Result<bool> {
    Ok(match (host, local) {
        (Host::V4(wanted), SocketAddr::V4(local)) => local.ip() == wanted,
        (Host::V6 { address: wanted, zone }, SocketAddr::V6(local)) => {
            // A zone that is not named is the device's, or there is none; the kernel forgets one that is not needed.
            local.ip() == wanted
                && (zone.is_none()
                    || !needs_zone(wanted)
                    || local.scope_id() == scope(address, zone.as_deref())?)
                && v6only_fits(is, address, local.ip().is_unspecified())?
        }
        (Host::Any, SocketAddr::V6(local)) => local.ip().is_unspecified() && !is.v6only,
        (Host::Any, SocketAddr::V4(local)) => local.ip().is_unspecified() && !has_ipv6(),
        _ => false,
    })
}

/// Whether the address alone does not say where it is: RFC 4007.
fn needs_zone(address: &Ipv6Addr) -> bool {
    let link_local_group = address.is_multicast() && matches!(address.segments()[0] & 0xf, 1 | 2);
    address.is_unicast_link_local() || link_local_group
}

/// False for what cannot be looked up, and for a relative path, which is one of the directory at the time.
fn is_gone(path: &[u8]) -> bool {
    let path = Path::new(OsStr::from_bytes(path));
    path.is_absolute() && path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Without the key, a socket on `[::]` must be what a new one would be; on any other address it makes no difference.
fn v6only_fits(is: &Description, address: &Address, all: bool) -> Result<bool> {
    match address.options.v6only {
        Some(wanted) => Ok(is.v6only == wanted),
        None if all => {
            let new = net::socket(libc::AF_INET6, is.kind)
                .and_then(|fd| net::option(fd.as_fd(), libc::SOL_IPV6, libc::IPV6_V6ONLY));
            let new =
                new.map_err(|errno| Error::system("cannot make an IPv6 socket to compare with", errno))?;
            Ok(is.v6only == (new != 0))
        }
        None => Ok(true),
    }
}

/// Whether `tcp://:port` would be bound to both families.
fn has_ipv6() -> bool {
    let any = SockAddr::Inet(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    let bound = net::socket(libc::AF_INET6, libc::SOCK_DGRAM).and_then(|fd| net::bind(fd.as_fd(), &any));
    !bound.is_err_and(no_ipv6)
}

impl Description {
    /// It has a local address.
    pub fn is_bound(&self) -> bool {
        match &self.local {
            SockAddr::Inet(local) => local.port() != 0,
            SockAddr::UnixPath(_) | SockAddr::UnixAbstract(_) => true,
            SockAddr::UnixUnnamed | SockAddr::Other(_) => false,
        }
    }

    fn is_kind(&self, endpoint: &Endpoint) -> bool {
        match endpoint {
            Endpoint::Inet { protocol, .. } => {
                self.kind == inet_type(*protocol) && self.inet_protocol() == Some(*protocol)
            }
            Endpoint::Unix { kind, .. } => self.family == libc::AF_UNIX && self.kind == unix_type(*kind),
        }
    }

    fn inet_protocol(&self) -> Option<Protocol> {
        match self.protocol {
            // Multipath TCP serves plain TCP clients too; Go listens that way by default.
            libc::IPPROTO_TCP | libc::IPPROTO_MPTCP => Some(Protocol::Tcp),
            libc::IPPROTO_UDP => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// The socket as an address, if an address can say it.
    pub fn endpoint(&self) -> Option<Endpoint> {
        let unix = |name| {
            let kind = match self.kind {
                libc::SOCK_STREAM => UnixKind::Stream,
                libc::SOCK_DGRAM => UnixKind::Datagram,
                libc::SOCK_SEQPACKET => UnixKind::SeqPacket,
                _ => return None,
            };
            Some(Endpoint::Unix { kind, name })
        };
        match &self.local {
            SockAddr::Inet(local) => {
                let host = match local.ip() {
                    IpAddr::V4(v4) => Host::V4(v4),
                    IpAddr::V6(address) => Host::V6 { address, zone: zone(local) },
                };
                Some(Endpoint::Inet { protocol: self.inet_protocol()?, host, port: local.port() })
            }
            SockAddr::UnixPath(path) => unix(UnixName::Path(path.clone())),
            SockAddr::UnixAbstract(name) => unix(UnixName::Abstract(name.clone())),
            SockAddr::UnixUnnamed | SockAddr::Other(_) => None,
        }
    }
}

fn zone(local: &SocketAddr) -> Option<Vec<u8>> {
    match local {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Some(v6.scope_id().to_string().into_bytes()),
        _ => None,
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(endpoint) = self.endpoint() else {
            return match self.local {
                SockAddr::UnixUnnamed => f.write_str("a unix socket without a name"),
                _ => write!(f, "a socket of family {}, type {}", self.family, self.kind),
            };
        };
        let options = Options {
            reuseport: self.reuseport.then_some(true),
            v6only: self.v6only.then_some(true),
            device: Some(self.device.clone()).filter(|device| !device.is_empty()),
            ..Options::default()
        };
        Address { endpoint, options }.fmt(f)
    }
}
