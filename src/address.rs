//! An address is one string that says what a socket is and how it is made: `tcp://127.0.0.1:8080?backlog=128`.
//!
//! This file owns the parsed form, the way back to text, and the default name. The text is ASCII and parses to the
//! same value again. Called by the registry and by `socket.rs`; it makes no system call and resolves nothing.

mod parse;
mod percent;
#[cfg(test)]
mod tests;

pub(crate) use percent::quote;
pub use percent::{decode_name, encode_name};

use percent::{IN_PATH, IN_VALUE, encode};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest name of a descriptor, in bytes.
pub const NAME_MAX: usize = 255;

/// The longest unix path or abstract name, in bytes: `sun_path` less the byte that ends or begins it.
pub const UNIX_NAME_MAX: usize = 107;

/// What a socket is, and the options that its owner asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// What makes one socket another one.
    pub endpoint: Endpoint,
    /// The query.
    pub options: Options,
}

/// Where a socket is bound, and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `tcp://` and `udp://`.
    Inet {
        /// TCP or UDP.
        protocol: Protocol,
        /// The local address.
        host: Host,
        /// 0 lets the kernel choose.
        port: u16,
    },
    /// `unix:`, `unixgram:` and `unixpacket:`.
    Unix {
        /// Stream, datagram or seqpacket.
        kind: UnixKind,
        /// Path or abstract name.
        name: UnixName,
    },
}

/// The protocol of an [`Endpoint::Inet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `tcp://`
    Tcp,
    /// `udp://`
    Udp,
}

/// The type of an [`Endpoint::Unix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixKind {
    /// `unix:`
    Stream,
    /// `unixgram:`
    Datagram,
    /// `unixpacket:`
    SeqPacket,
}

/// The local address of an [`Endpoint::Inet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Nothing before the port: every address of this machine, v4 and v6.
    Any,
    /// An IPv4 address; `localhost` is 127.0.0.1.
    V4(Ipv4Addr),
    /// An IPv6 address in brackets.
    V6 {
        /// The address.
        address: Ipv6Addr,
        /// The interface of a link-local address, by name or index: `[fe80::1%25eth0]`. Looked up when it is used.
        zone: Option<Vec<u8>>,
    },
}

/// The name of an [`Endpoint::Unix`], without NUL bytes, at most [`UNIX_NAME_MAX`] long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnixName {
    /// An absolute path.
    Path(Vec<u8>),
    /// A name in the abstract namespace, without the NUL that begins it there.
    Abstract(Vec<u8>),
}

/// The query of an address. `None` means that the key is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The name under which the socket is passed on.
    pub name: Option<Vec<u8>>,
    /// Connections that the kernel queues; it never grants more than `net.core.somaxconn`.
    pub backlog: Option<i32>,
    /// `SO_REUSEPORT`; without the key it is off.
    pub reuseport: Option<bool>,
    /// `IPV6_V6ONLY`; without the key it is what the kernel gives a new socket.
    pub v6only: Option<bool>,
    /// Permissions of a unix path; without the key the umask decides.
    pub mode: Option<u32>,
    /// Owner of a unix path.
    pub owner: Option<Owner>,
    /// `TCP_NODELAY`, which accepted connections inherit.
    pub nodelay: Option<bool>,
    /// `TCP_DEFER_ACCEPT` in seconds.
    pub defer: Option<i32>,
    /// `TCP_FASTOPEN`: the length of its queue.
    pub fastopen: Option<i32>,
    /// `SO_BINDTODEVICE`; without the key no device.
    pub device: Option<Vec<u8>>,
    /// `IP_FREEBIND`.
    pub freebind: Option<bool>,
    /// `IP_TRANSPARENT`.
    pub transparent: Option<bool>,
    /// How long the socket is served.
    pub keep: Option<Keep>,
}

/// `owner=user:group`, each a name or a number; looked up when a socket is asked for, because accounts come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The user, or leave it as it is.
    pub user: Option<Vec<u8>>,
    /// The group, or leave it as it is.
    pub group: Option<Vec<u8>>,
}

/// `keep=`: a socket that shutdown does not stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Served on while the process drains after a stop.
    Stop,
    /// After an upgrade too, shared with the successor.
    Always,
}

impl Address {
    /// Whether a socket that was made or found for it is right for the same text for ever: where it is bound cannot
    /// change, and nothing else of it does. A path can go, a device can, a zone may lead to another one, and members of
    /// a `reuseport` group and datagram sockets are told apart by what they are now.
    pub fn tells_all(&self) -> bool {
        let settled = match &self.endpoint {
            Endpoint::Inet { protocol: Protocol::Tcp, host: Host::V6 { zone, .. }, .. } => zone.is_none(),
            Endpoint::Inet { protocol, .. } => *protocol == Protocol::Tcp,
            Endpoint::Unix { .. } => false,
        };
        settled && self.options.device.is_none() && self.options.reuseport != Some(true)
    }

    /// Reads an address; the error quotes the part that is wrong.
    pub fn parse(text: &[u8]) -> crate::error::Result<Address> {
        parse::address(text)
    }

    /// The name under which this socket is passed on: `name=`, else [`Address::default_name`].
    pub fn name(&self) -> Vec<u8> {
        self.options.name.clone().unwrap_or_else(|| self.default_name())
    }

    /// The address without its query, normalised (`localhost` is 127.0.0.1, `unix:/a` is `unix:///a`, IPv6 in its
    /// shortest form) and with nothing percent-encoded, so that it never exceeds [`NAME_MAX`].
    pub fn default_name(&self) -> Vec<u8> {
        self.endpoint.write(&|bytes| bytes.to_vec(), b"%")
    }

    /// True if connections are accepted here, false if datagrams are received.
    pub fn accepts(&self) -> bool {
        !matches!(
            self.endpoint,
            Endpoint::Inet { protocol: Protocol::Udp, .. } | Endpoint::Unix { kind: UnixKind::Datagram, .. }
        )
    }

    /// The path of a unix socket that has one.
    pub fn path(&self) -> Option<&[u8]> {
        match &self.endpoint {
            Endpoint::Unix { name: UnixName::Path(path), .. } => Some(path),
            _ => None,
        }
    }
}

impl Endpoint {
    /// `tcp`, `unixgram` …
    pub fn scheme(&self) -> &'static str {
        match self {
            Endpoint::Inet { protocol: Protocol::Tcp, .. } => "tcp",
            Endpoint::Inet { protocol: Protocol::Udp, .. } => "udp",
            Endpoint::Unix { kind: UnixKind::Stream, .. } => "unix",
            Endpoint::Unix { kind: UnixKind::Datagram, .. } => "unixgram",
            Endpoint::Unix { kind: UnixKind::SeqPacket, .. } => "unixpacket",
        }
    }

    fn write(&self, escape: &dyn Fn(&[u8]) -> Vec<u8>, zone_mark: &[u8]) -> Vec<u8> {
        let mut text = self.scheme().as_bytes().to_vec();
        match self {
            Endpoint::Inet { host, port, .. } => {
                text.extend(b"://");
                match host {
                    Host::Any => {}
                    Host::V4(address) => text.extend(address.to_string().bytes()),
                    Host::V6 { address, zone } => {
                        text.push(b'[');
                        text.extend(address.to_string().bytes());
                        if let Some(zone) = zone {
                            text.extend(zone_mark);
                            text.extend(escape(zone));
                        }
                        text.push(b']');
                    }
                }
                text.extend(format!(":{port}").bytes());
            }
            Endpoint::Unix { name: UnixName::Path(path), .. } => {
                text.extend(b"://");
                text.extend(escape(path));
            }
            Endpoint::Unix { name: UnixName::Abstract(name), .. } => {
                text.extend(b":@");
                text.extend(escape(name));
            }
        }
        text
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.write(&|bytes| encode(bytes, IN_PATH).into_bytes(), b"%25");
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)?;
        self.options.fmt(f)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |value: &Option<Vec<u8>>| value.as_ref().map(|value| encode(value, IN_VALUE));
        let bit = |value: Option<bool>| value.map(|on| u8::from(on).to_string());
        let number = |value: Option<i32>| value.map(|value| value.to_string());
        let owner = self.owner.as_ref().map(|owner| {
            let part = |part: &Option<Vec<u8>>| bytes(part).unwrap_or_default();
            format!("{}:{}", part(&owner.user), part(&owner.group))
        });
        let keep = self.keep.map(|keep| match keep {
            Keep::Stop => "stop".to_string(),
            Keep::Always => "always".to_string(),
        });
        let all = [
            ("name", bytes(&self.name)),
            ("backlog", number(self.backlog)),
            ("reuseport", bit(self.reuseport)),
            ("v6only", bit(self.v6only)),
            ("mode", self.mode.map(|mode| format!("{mode:04o}"))),
            ("owner", owner),
            ("nodelay", bit(self.nodelay)),
            ("defer", number(self.defer)),
            ("fastopen", number(self.fastopen)),
            ("device", bytes(&self.device)),
            ("freebind", bit(self.freebind)),
            ("transparent", bit(self.transparent)),
            ("keep", keep),
        ];
        let mut mark = '?';
        for (key, value) in all {
            if let Some(value) = value {
                write!(f, "{mark}{key}={value}")?;
                mark = '&';
            }
        }
        Ok(())
    }
}
