//! Where a load goes: the addresses of the library as far as a client of streams needs them.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;

/// `tcp://127.0.0.1:8080`, `unix:///run/a.sock` or `unix:@abstract`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A path in the file system.
    Unix(String),
    /// A name in the abstract namespace, without the `@`.
    Abstract(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(name) = text.strip_prefix("unix:@") {
            return Ok(Address::Abstract(name.into()));
        }
        if let Some(path) = text.strip_prefix("unix://") {
            return Ok(Address::Unix(path.into()));
        }
        let bare = text.strip_prefix("tcp://").unwrap_or(text).trim_end_matches('/');
        let bare = bare.replace("localhost:", "127.0.0.1:");
        bare.parse()
            .map(Address::Tcp)
            .map_err(|_| format!("{text} is no address such as tcp://127.0.0.1:8080 or unix:///run/a.sock"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Unix(path) => write!(f, "unix://{path}"),
            Address::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

/// A connected or connecting stream without blocking, known to epoll.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

impl Address {
    /// TCP: the connection is under way and its outcome comes later. Unix: it is there.
    pub(super) fn connect(&self, timeout: Duration) -> io::Result<Stream> {
        match self {
            Address::Tcp(address) => {
                let stream = mio::net::TcpStream::connect(*address)?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            _ => {
                let stream = UnixStream::from(self.connect_unix(timeout)?);
                stream.set_nonblocking(true)?;
                Ok(Stream::Unix(mio::net::UnixStream::from_std(stream)))
            }
        }
    }

    /// Blocking, with `timeout` for every read and write.
    pub(super) fn connect_blocking(&self, timeout: Duration) -> io::Result<Box<dyn ReadWrite>> {
        match self {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, timeout)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Ok(Box::new(stream))
            }
            _ => {
                let stream = UnixStream::from(self.connect_unix(timeout)?);
                stream.set_read_timeout(Some(timeout))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// A non-blocking connect to a full backlog is EAGAIN on a unix socket, where every ordinary client waits:
    /// so this one blocks, for as long as SO_SNDTIMEO says (unix(7)).
    fn connect_unix(&self, timeout: Duration) -> io::Result<OwnedFd> {
        let address = match self {
            Address::Abstract(name) => UnixAddr::new_abstract(name.as_bytes())?,
            Address::Unix(path) => UnixAddr::new(path.as_str())?,
            Address::Tcp(_) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let limit = TimeVal::new(timeout.as_secs() as i64, timeout.subsec_micros() as i64);
        socket::setsockopt(&fd, sockopt::SendTimeout, &limit)?;
        socket::connect(fd.as_raw_fd(), &address)?;
        Ok(fd)
    }
}

/// What the one-shot client needs of a stream.
pub(super) trait ReadWrite: io::Read + io::Write {}
impl ReadWrite for TcpStream {}
impl ReadWrite for UnixStream {}

impl Stream {
    pub(super) fn source(&mut self) -> &mut dyn mio::event::Source {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => stream,
        }
    }

    /// Whether the connection is there: `Ok(false)` while it is still under way.
    pub(super) fn established(&self) -> io::Result<bool> {
        let Stream::Tcp(stream) = self else { return Ok(true) };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl io::Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl io::Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buffer),
            Stream::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
