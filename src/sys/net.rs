//! The system calls of sockets and of the paths they are bound to. Called by `socket` alone, which makes the
//! sentences; here an error is a bare errno.

use super::fault;
use super::file::c_path;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat, lstat};
use nix::unistd::{Gid, Group, Uid, User};
use std::fs::File;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What these calls return.
pub type Result<T> = std::result::Result<T, Errno>;

/// A socket address as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SockAddr {
    /// IPv4 or IPv6.
    Inet(SocketAddr),
    /// A unix socket that is bound to nothing.
    UnixUnnamed,
    /// A unix path.
    UnixPath(Vec<u8>),
    /// A name in the abstract namespace, without its first NUL.
    UnixAbstract(Vec<u8>),
    /// Another family.
    Other(i32),
}

/// A new socket, close-on-exec, non-blocking, numbered 3 or more.
pub fn socket(domain: i32, kind: i32) -> Result<OwnedFd> {
    fault::at("socket")?;
    // SAFETY: no memory is passed.
    let raw =
        Errno::result(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    above_stdio(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The same descriptor, or a copy where it would stand in for a closed stdin, stdout or stderr.
pub fn above_stdio(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() >= 3 {
        return Ok(fd);
    }
    fault::at("fcntl")?;
    let raw = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: as above, a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// bind(2)
pub fn bind(fd: BorrowedFd<'_>, address: &SockAddr) -> Result<()> {
    fault::at("bind")?;
    let (raw, length) = address.to_raw()?;
    // SAFETY: `raw` is as long as `length` says at least, and lives through the call.
    Errno::result(unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), length) }).map(drop)
}

/// connect(2), on a socket that does not block.
pub fn connect(fd: BorrowedFd<'_>, address: &SockAddr) -> Result<()> {
    fault::at("connect")?;
    let (raw, length) = address.to_raw()?;
    // SAFETY: as in `bind`.
    Errno::result(unsafe { libc::connect(fd.as_raw_fd(), (&raw const raw).cast(), length) }).map(drop)
}

/// listen(2)
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> Result<()> {
    fault::at("listen")?;
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// getsockname(2)
pub fn local_address(fd: BorrowedFd<'_>) -> Result<SockAddr> {
    fault::at("getsockname")?;
    // SAFETY: all zeroes is a valid sockaddr_storage.
    let mut raw: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `raw` has room for `length` bytes; the kernel writes no more than that.
    match Errno::result(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut raw).cast(), &mut length) }) {
        Ok(_) => Ok(SockAddr::from_raw(&raw, length as usize)),
        // Families without addresses, such as AF_ALG.
        Err(Errno::EOPNOTSUPP) => Ok(SockAddr::Other(libc::AF_UNSPEC)),
        Err(errno) => Err(errno),
    }
}

/// Whether getpeername(2) knows a peer.
pub fn has_peer(fd: BorrowedFd<'_>) -> Result<bool> {
    fault::at("getpeername")?;
    let mut raw = MaybeUninit::<libc::sockaddr_storage>::uninit();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: as in `local_address`; the result is not read.
    match Errno::result(unsafe { libc::getpeername(fd.as_raw_fd(), raw.as_mut_ptr().cast(), &mut length) }) {
        Ok(_) => Ok(true),
        // EINVAL: an IPv6 socket after shutdown(2).
        Err(Errno::ENOTCONN | Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Who connected a unix socket, as this process's namespaces see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The process; 0 for one of another pid namespace.
    pub pid: i32,
    /// The user; the overflow uid (65534) for one that the user namespace does not know.
    pub uid: u32,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} of user {}", self.pid, self.uid)
    }
}

/// SO_PEERCRED
pub fn peer(fd: BorrowedFd<'_>) -> Result<Peer> {
    fault::at("getsockopt")?;
    let peer = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok(Peer { pid: peer.pid(), uid: peer.uid() })
}

/// An option that is one int.
pub fn option(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32> {
    fault::at("getsockopt")?;
    let mut value: i32 = 0;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` has room for `length` bytes.
    let done = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &mut length) };
    Errno::result(done).map(|_| value)
}

/// Whether it is a TCP socket that listens. One question instead of two: TCP_INFO begins with the state, and other
/// protocols do not know it.
pub fn is_tcp_listener(fd: BorrowedFd<'_>) -> Result<bool> {
    /// include/net/tcp_states.h
    const TCP_LISTEN: u8 = 10;
    fault::at("getsockopt")?;
    let (mut state, mut length) = (0u8, 1 as libc::socklen_t);
    let (level, option) = (libc::SOL_TCP, libc::TCP_INFO);
    // SAFETY: `state` has room for the one byte that is asked for.
    let done =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut state).cast(), &mut length) };
    Ok(done == 0 && length == 1 && state == TCP_LISTEN)
}

/// Sets an option that is one int.
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<()> {
    set_option_bytes(fd, level, name, &value.to_ne_bytes())
}

/// The device that a socket is bound to, empty for none.
pub fn device(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    fault::at("getsockopt")?;
    let mut name = [0u8; libc::IFNAMSIZ];
    let mut length = name.len() as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
    // SAFETY: `name` has room for `length` bytes.
    let done =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, name.as_mut_ptr().cast(), &mut length) };
    Errno::result(done)?;
    Ok(name.iter().copied().take(length as usize).take_while(|&byte| byte != 0).collect())
}

/// `SO_BINDTODEVICE`
pub fn set_device(fd: BorrowedFd<'_>, device: &[u8]) -> Result<()> {
    set_option_bytes(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device)
}

fn set_option_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<()> {
    fault::at("setsockopt")?;
    // SAFETY: the pointer and the length are those of one slice.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    Errno::result(done).map(drop)
}

/// The file status flags, `O_NONBLOCK` among them.
pub fn flags(fd: BorrowedFd<'_>) -> Result<OFlag> {
    fault::at("fcntl")?;
    fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain)
}

/// Sets the file status flags.
pub fn set_flags(fd: BorrowedFd<'_>, flags: OFlag) -> Result<()> {
    fault::at("fcntl")?;
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop)
}

/// fchmod(2) on the socket itself: the mode, less the umask, that bind(2) gives its path.
pub fn set_socket_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    fault::at("fchmod")?;
    fchmod(fd, Mode::from_bits_truncate(mode))
}

/// Holds on to what is at `path` without opening it or following a last link.
pub fn hold(path: &[u8]) -> Result<OwnedFd> {
    fault::at("open")?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::open(&*c_path(path)?, flags, Mode::empty()).and_then(super::fd::at_least_3)
}

/// fstat(2)
pub fn status(fd: BorrowedFd<'_>) -> Result<FileStat> {
    fault::at("fstat")?;
    fstat(fd)
}

/// lstat(2)
pub fn path_status(path: &[u8]) -> Result<FileStat> {
    fault::at("lstat")?;
    lstat(&*c_path(path)?)
}

/// The owner of what [`hold`] holds; `None` leaves it.
pub fn set_owner(held: BorrowedFd<'_>, user: Option<Uid>, group: Option<Gid>) -> Result<()> {
    fault::at("fchownat")?;
    nix::unistd::fchownat(held, c"", user, group, nix::fcntl::AtFlags::AT_EMPTY_PATH)
}

/// The mode of what [`hold`] holds. Goes through /proc, or by fchmodat2(2) where there is none: that is of 6.6.
pub fn set_mode(held: BorrowedFd<'_>, mode: u32) -> Result<()> {
    fault::at("fchmodat")?;
    let path = c_path(format!("/proc/thread-self/fd/{}", held.as_raw_fd()).as_bytes())?;
    match fchmodat(AT_FDCWD, &*path, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink) {
        Err(Errno::ENOENT) => set_mode_without_proc(held, mode),
        other => other,
    }
}

fn set_mode_without_proc(held: BorrowedFd<'_>, mode: u32) -> Result<()> {
    /// The same on all architectures, and not known to libc everywhere.
    const FCHMODAT2: libc::c_long = 452;
    let (fd, empty) = (held.as_raw_fd(), c"".as_ptr());
    // SAFETY: the kernel reads an empty string.
    let done = unsafe { libc::syscall(FCHMODAT2, fd, empty, mode, libc::AT_EMPTY_PATH) };
    Errno::result(done).map(drop).map_err(|errno| if errno == Errno::ENOSYS { Errno::ENOENT } else { errno })
}

/// unlink(2)
pub fn unlink(path: &[u8]) -> Result<()> {
    fault::at("unlink")?;
    nix::unistd::unlink(&*c_path(path)?)
}

/// Opens a lock file, makes it if it is not there.
pub fn open_lock(path: &[u8]) -> Result<File> {
    fault::at("open")?;
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = nix::fcntl::open(&*c_path(path)?, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    super::fd::at_least_3(file).map(File::from)
}

/// A file with the lock of flock(2). Not nix's, which panics where the lock cannot be given back.
pub struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // Said, although closing says so too: a forked child may have the file open.
        // SAFETY: the descriptor is open.
        unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) };
    }
}

impl AsFd for Locked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes the lock if it is free, else EWOULDBLOCK.
pub fn try_lock(file: File) -> Result<Locked> {
    fault::at("flock")?;
    // SAFETY: the descriptor is open.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })?;
    Ok(Locked(file))
}

/// The id of a user, `None` if there is no such one.
pub fn user_id(name: &str) -> Result<Option<Uid>> {
    fault::at("getpwnam")?;
    Ok(User::from_name(name)?.map(|user| user.uid))
}

/// The id of a group, `None` if there is no such one.
pub fn group_id(name: &str) -> Result<Option<Gid>> {
    fault::at("getgrnam")?;
    Ok(Group::from_name(name)?.map(|group| group.gid))
}

/// The index of an interface.
pub fn interface_index(name: &[u8]) -> Result<u32> {
    fault::at("if_nametoindex")?;
    nix::net::if_::if_nametoindex(&*c_path(name)?)
}

impl SockAddr {
    /// `AF_INET` …
    pub fn domain(&self) -> i32 {
        match self {
            SockAddr::Inet(SocketAddr::V4(_)) => libc::AF_INET,
            SockAddr::Inet(SocketAddr::V6(_)) => libc::AF_INET6,
            SockAddr::UnixUnnamed | SockAddr::UnixPath(_) | SockAddr::UnixAbstract(_) => libc::AF_UNIX,
            SockAddr::Other(family) => *family,
        }
    }

    fn to_raw(&self) -> Result<(libc::sockaddr_storage, libc::socklen_t)> {
        // SAFETY: all zeroes is a valid sockaddr_storage.
        let mut raw: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
        let length = match self {
            SockAddr::Inet(SocketAddr::V4(v4)) => {
                let to = (&raw mut raw).cast::<libc::sockaddr_in>();
                let address = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is made to hold and align every sockaddr.
                unsafe { to.write(address) };
                size_of::<libc::sockaddr_in>()
            }
            SockAddr::Inet(SocketAddr::V6(v6)) => {
                let to = (&raw mut raw).cast::<libc::sockaddr_in6>();
                let address = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { to.write(address) };
                size_of::<libc::sockaddr_in6>()
            }
            SockAddr::UnixPath(path) => unix_to_raw(&mut raw, &[path, b"\0"])?,
            SockAddr::UnixAbstract(name) => unix_to_raw(&mut raw, &[b"\0", name])?,
            // Binding to either would make the kernel choose.
            SockAddr::UnixUnnamed | SockAddr::Other(_) => return Err(Errno::EAFNOSUPPORT),
        };
        Ok((raw, length as libc::socklen_t))
    }

    fn from_raw(raw: &libc::sockaddr_storage, length: usize) -> SockAddr {
        let family = i32::from(raw.ss_family);
        match family {
            libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: the family says which sockaddr this is, the storage holds and aligns every one.
                let v4 = unsafe { (&raw const *raw).cast::<libc::sockaddr_in>().read() };
                let address = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                SockAddr::Inet(SocketAddrV4::new(address, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let v6 = unsafe { (&raw const *raw).cast::<libc::sockaddr_in6>().read() };
                let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                SockAddr::Inet(SocketAddrV6::new(address, port, 0, v6.sin6_scope_id).into())
            }
            libc::AF_UNIX => {
                // SAFETY: every byte of the storage is initialised, and it is longer than a sockaddr_un.
                let un =
                    unsafe { (&raw const *raw).cast::<[u8; size_of::<libc::sockaddr_storage>()]>().read() };
                let name = un.get(offset_of!(libc::sockaddr_un, sun_path)..length.min(un.len()));
                match name.and_then(<[u8]>::split_first) {
                    None => SockAddr::UnixUnnamed,
                    Some((0, name)) => SockAddr::UnixAbstract(name.to_vec()),
                    Some(_) => {
                        let path = name.unwrap_or_default().iter().copied();
                        SockAddr::UnixPath(path.take_while(|&byte| byte != 0).collect())
                    }
                }
            }
            _ => SockAddr::Other(family),
        }
    }
}

fn unix_to_raw(raw: &mut libc::sockaddr_storage, parts: &[&[u8]]) -> Result<usize> {
    let name = parts.concat();
    if name.len() > size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) {
        return Err(Errno::ENAMETOOLONG);
    }
    raw.ss_family = libc::AF_UNIX as libc::sa_family_t;
    let start = offset_of!(libc::sockaddr_un, sun_path);
    // SAFETY: the name fits a sockaddr_un, which fits the storage; the two do not overlap.
    unsafe {
        let to = (&raw mut *raw).cast::<u8>().add(start);
        std::ptr::copy_nonoverlapping(name.as_ptr(), to, name.len());
    }
    Ok(start + name.len())
}
