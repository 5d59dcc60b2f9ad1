//! The manager's socket: paths and abstract names, one datagram at a time, never blocking.

use crate::error::{Error, Result, explain};
use crate::fork::{NoFork, Private};
use crate::log::{self, Level};
use crate::sys::net::{self, SockAddr};
use crate::sys::{fault, fd, scm};
use nix::errno::Errno;
use nix::sys::socket::SockType;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Connected, so that it goes on working in a host that leaves for another root.
pub(super) struct NotifySocket {
    socket: Private,
    address: SockAddr,
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Taken,
    /// Not now: the manager's queue, or the kernel's memory, is full.
    Full(Errno),
    /// Not now and not later: nobody listens.
    Never(Errno),
}

impl NotifySocket {
    /// `None` where nobody listens: the variable was inherited from somebody who is gone.
    pub fn connect(value: &[u8]) -> Result<Option<NotifySocket>> {
        let shown = value.escape_ascii();
        let address = match value {
            [b'/', ..] => SockAddr::UnixPath(value.to_vec()),
            [b'@', name @ ..] => SockAddr::UnixAbstract(name.to_vec()),
            _ => {
                log::write(Level::Error, format_args!("NOTIFY_SOCKET={shown} is no unix address: not used"));
                return Ok(None);
            }
        };
        match connected(&address) {
            Ok(socket) => Ok(Some(NotifySocket { socket, address })),
            Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS)) => {
                Err(Error::system(format!("cannot reach the service manager at {shown}"), errno))
            }
            Err(errno) => {
                let why = explain(errno);
                log::write(Level::Error, format_args!("nobody at NOTIFY_SOCKET={shown}: {why}"));
                Ok(None)
            }
        }
    }

    /// One datagram, with a descriptor or without.
    pub fn send(&mut self, bytes: &[u8], attached: Option<BorrowedFd<'_>>) -> Sent {
        match self.try_send(bytes, attached) {
            // The manager may have bound its socket anew.
            Sent::Never(_) => match connected(&self.address) {
                Ok(socket) => {
                    self.socket = socket;
                    self.try_send(bytes, attached)
                }
                Err(errno) => outcome(errno),
            },
            sent => sent,
        }
    }

    /// BARRIER=1, and the descriptor that ends when the manager has read that, and so all that came before.
    pub fn barrier(&self) -> (Sent, Option<OwnedFd>) {
        // A forked child that kept the other end would hold the barrier for as long as it lives.
        let _no_fork = NoFork::hold();
        match fd::socketpair(SockType::Stream) {
            Ok((ours, theirs)) => (self.try_send(b"BARRIER=1", Some(theirs.as_fd())), Some(ours)),
            Err(errno) => (Sent::Full(errno), None),
        }
    }

    fn try_send(&self, bytes: &[u8], attached: Option<BorrowedFd<'_>>) -> Sent {
        let sent = fault::at("notify")
            .and_then(|()| scm::send(self.socket.as_fd(), bytes, attached.as_slice()).map(drop));
        sent.map_or_else(outcome, |()| Sent::Taken)
    }
}

fn outcome(errno: Errno) -> Sent {
    match errno {
        Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR | Errno::ETOOMANYREFS => {
            Sent::Full(errno)
        }
        _ => Sent::Never(errno),
    }
}

fn connected(address: &SockAddr) -> std::result::Result<Private, Errno> {
    let no_fork = NoFork::hold();
    let socket = net::socket(libc::AF_UNIX, libc::SOCK_DGRAM)?;
    net::connect(socket.as_fd(), address)?;
    Ok(no_fork.private(socket))
}
