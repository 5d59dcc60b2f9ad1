//! Where to listen: `tcp://127.0.0.1:8080?backlog=512`, or made from std's types.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where to listen, and how: an address of the library's grammar (`tcp://`, `udp://`, `unix:`, `unixgram:`,
/// `unixpacket:`, options after `?`). [`crate::Flip::listen_tcp`] and its like add the scheme that their name says.
///
/// ```
/// use graceflip::Address;
/// use std::net::SocketAddr;
///
/// assert_eq!(Address::from("127.0.0.1:80").backlog(512).to_string(), "127.0.0.1:80?backlog=512");
/// let all: SocketAddr = "[::]:443".parse().unwrap();
/// assert_eq!(Address::from(all).option("v6only", 0).name("https").to_string(), "[::]:443?v6only=0&name=https");
/// assert_eq!(Address::from(std::path::Path::new("/run/a b")).to_string(), "/run/a%20b");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// The name under which the successor finds the socket; by default the address without its options.
    pub fn name(self, name: impl AsRef<[u8]>) -> Address {
        let name = encode(name.as_ref());
        self.option("name", name)
    }

    /// How many connections may wait; by default the kernel's own limit.
    pub fn backlog(self, connections: u32) -> Address {
        self.option("backlog", connections)
    }

    /// One of a group of sockets that share the address, `SO_REUSEPORT`.
    pub fn reuseport(self) -> Address {
        self.option("reuseport", 1)
    }

    /// Of a unix path.
    pub fn mode(self, mode: u32) -> Address {
        self.option("mode", format_args!("{mode:04o}"))
    }

    /// Any option of the grammar, its value as the grammar has it, which is percent-encoded where it needs to be: `keep`, `nodelay`, `owner`, `v6only`,
    /// `defer`, `fastopen`, `device`, `freebind`, `transparent` … One that does not exist is an error when it is used.
    pub fn option(mut self, key: &str, value: impl std::fmt::Display) -> Address {
        let mark = if self.0.contains('?') { '&' } else { '?' };
        let _ = write!(self.0, "{mark}{key}={value}");
        self
    }

    /// Whether it was given.
    #[cfg(feature = "tokio")]
    pub(crate) fn has_option(&self, key: &str) -> bool {
        let query = self.0.split_once('?').map_or("", |(_, query)| query);
        query.split('&').any(|option| option.split('=').next() == Some(key))
    }

    /// The text that the library reads, with this scheme where the address has none.
    pub(crate) fn with_scheme(&self, scheme: &str) -> crate::Result<String> {
        let slashes = if scheme.starts_with("unix") { "" } else { "//" };
        match SCHEMES
            .iter()
            .find(|known| self.0.strip_prefix(**known).is_some_and(|rest| rest.starts_with(':')))
        {
            None => Ok(format!("{scheme}:{slashes}{}", self.0)),
            Some(found) if *found == scheme => Ok(self.0.clone()),
            Some(found) => Err(crate::Error::invalid(format!(
                "cannot use the address {self}: {scheme}: is wanted, not {found}:"
            ))),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

const SCHEMES: [&str; 5] = ["tcp", "udp", "unix", "unixgram", "unixpacket"];

/// Percent-encodes what the grammar needs.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'/'
            | b':'
            | b'['
            | b']' => {
                text.push(char::from(*byte));
            }
            _ => _ = write!(text, "%{byte:02X}"),
        }
    }
    text
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// As it stands, options included.
impl From<&str> for Address {
    fn from(text: &str) -> Address {
        Address(text.into())
    }
}

/// As it stands, options included.
impl From<String> for Address {
    fn from(text: String) -> Address {
        Address(text)
    }
}

/// As it stands, options included.
impl From<&String> for Address {
    fn from(text: &String) -> Address {
        Address(text.clone())
    }
}

/// Host and port.
impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address(address.to_string())
    }
}

/// An absolute path, any bytes; for [`crate::Flip::listen_unix`] and its like.
impl From<&Path> for Address {
    fn from(path: &Path) -> Address {
        Address(encode(path.as_os_str().as_bytes()))
    }
}

/// An absolute path, any bytes; for [`crate::Flip::listen_unix`] and its like.
impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Address {
        Address::from(path.as_path())
    }
}

/// An absolute path, any bytes; for [`crate::Flip::listen_unix`] and its like.
impl From<&PathBuf> for Address {
    fn from(path: &PathBuf) -> Address {
        Address::from(path.as_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_added_where_there_is_none_and_a_wrong_one_is_refused() {
        let text = |address: &str, scheme: &str| Address::from(address).with_scheme(scheme);
        assert_eq!(text("127.0.0.1:80", "tcp").unwrap(), "tcp://127.0.0.1:80");
        assert_eq!(text("udp://:53", "udp").unwrap(), "udp://:53");
        assert_eq!(text("/run/a.sock?mode=0600", "unixgram").unwrap(), "unixgram:/run/a.sock?mode=0600");
        assert_eq!(text("@a", "unix").unwrap(), "unix:@a");
        let error = text("unixgram:/run/a", "unix").unwrap_err();
        assert!(error.to_string().contains("unix: is wanted, not unixgram:"), "{error}");
    }
}
