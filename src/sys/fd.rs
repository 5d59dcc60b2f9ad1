//! Descriptors, and the clock and process facts that the hand-over needs beside them. Every descriptor made here is
//! CLOEXEC and at least 3: a host that runs with 0, 1 or 2 closed must not find a channel where it expects its
//! standard output. Called by `channel`, `inherit`, the supervisor and the latches; sockets with messages: [`super::scm`].

use super::{fault, file};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair as nix_socketpair};
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::time::TimeSpec;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The first number above standard input, output and error.
pub const FIRST: RawFd = 3;

/// A connected pair of unix sockets of this type.
pub fn socketpair(kind: SockType) -> Result<(OwnedFd, OwnedFd), Errno> {
    fault::at("socketpair")?;
    let (one, other) = nix_socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((at_least_3(one)?, at_least_3(other)?))
}

/// The same descriptor, under a higher number if it got one of the standard three.
pub fn at_least_3(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() >= FIRST { Ok(fd) } else { dup_cloexec(fd.as_fd(), FIRST) }
}

/// A CLOEXEC duplicate with a number of at least `min`.
pub fn dup_cloexec(fd: BorrowedFd, min: RawFd) -> Result<OwnedFd, Errno> {
    fault::at("dup")?;
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(min))?;
    // SAFETY: the kernel has just made this number for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Keeps a descriptor from programs that this process starts.
pub fn set_cloexec(fd: BorrowedFd) -> Result<(), Errno> {
    set_cloexec_raw(fd.as_raw_fd())
}

/// [`set_cloexec`] for a number that an environment variable names; `EBADF` if it is not open.
pub fn set_cloexec_raw(number: RawFd) -> Result<(), Errno> {
    fault::at("fcntl")?;
    let flags = descriptor_flags(number)?;
    // SAFETY: F_SETFD takes an int and touches no memory.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, (flags | FdFlag::FD_CLOEXEC).bits()) })
        .map(drop)
}

/// [`set_cloexec_raw`] for many, all of them open.
pub fn set_cloexec_range(mut numbers: Range<RawFd>) -> Result<(), Errno> {
    fault::at("fcntl")?;
    if numbers.is_empty() {
        return Ok(());
    }
    // SAFETY: takes numbers and touches no memory.
    let marked = unsafe {
        libc::syscall(libc::SYS_close_range, numbers.start, numbers.end - 1, libc::CLOSE_RANGE_CLOEXEC)
    };
    match marked {
        0 => Ok(()),
        // It is Linux 5.11; seccomp profiles may not know it.
        _ => numbers.try_for_each(set_cloexec_raw),
    }
}

/// Whether a number that an environment variable names is an open descriptor.
pub fn is_open(number: RawFd) -> bool {
    descriptor_flags(number).is_ok()
}

fn descriptor_flags(number: RawFd) -> Result<FdFlag, Errno> {
    // SAFETY: F_GETFD touches no memory and takes any number.
    Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) }).map(FdFlag::from_bits_retain)
}

/// The domain and the type of a socket (`AF_UNIX`, `SOCK_SEQPACKET`); `ENOTSOCK` for anything else.
pub fn socket_kind(fd: BorrowedFd) -> Result<(libc::c_int, libc::c_int), Errno> {
    fault::at("getsockopt")?;
    Ok((int_option(fd, libc::SO_DOMAIN)?, int_option(fd, libc::SO_TYPE)?))
}

fn int_option(fd: BorrowedFd, option: libc::c_int) -> Result<libc::c_int, Errno> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, an int, to `value`.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &mut length)
    };
    Errno::result(result).map(|_| value)
}

/// Whether the other end of a unix socket pair has something of ours still to read (SIOCOUTQ counts what no reader has
/// taken).
pub fn unread_by_peer(socket: BorrowedFd) -> Result<bool, Errno> {
    fault::at("ioctl")?;
    let mut left: libc::c_int = 0;
    // SAFETY: the kernel writes an int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
    Errno::result(result).map(|_| left > 0)
}

/// Waits until one of them has something to say; 0 when the time is over (`None`: no limit). `EINTR` is the
/// caller's, who knows whether to go on.
pub fn poll(fds: &mut [PollFd], timeout: Option<Duration>) -> Result<usize, Errno> {
    fault::at("poll")?;
    let time_spec = |time: Duration| {
        TimeSpec::new(time.as_secs().min(i32::MAX as u64) as libc::time_t, time.subsec_nanos().into())
    };
    let timeout = timeout.map(time_spec);
    ppoll(fds, timeout, None).map(|ready| usize::try_from(ready).unwrap_or(0))
}

/// Whether a write would be taken now, in part at least, or refused.
pub fn can_be_written(fd: BorrowedFd) -> bool {
    let now = TimeSpec::new(0, 0);
    matches!(ppoll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], Some(now), None), Ok(1..))
}

/// A counter for waking a poll: non-blocking, at 0.
pub fn eventfd() -> Result<OwnedFd, Errno> {
    fault::at("eventfd")?;
    // SAFETY: takes two numbers, makes a descriptor.
    let number = Errno::result(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the kernel has just made this number for us.
    at_least_3(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes an eventfd readable. Async-signal-safe, and no cancellation point, as write(3) would be: a signal handler may run in
/// a thread that was cancelled. A counter that is full is readable already.
pub fn eventfd_write(fd: BorrowedFd) -> Result<(), Errno> {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes of our own stack.
    match Errno::result(unsafe { libc::syscall(libc::SYS_write, fd.as_raw_fd(), one.as_ptr(), one.len()) }) {
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Makes an eventfd unreadable again; how often it was written since, 0 if it was not.
pub fn eventfd_drain(fd: BorrowedFd) -> Result<u64, Errno> {
    fault::at("eventfd-drain")?;
    let mut count = [0; 8];
    match nix::unistd::read(fd, &mut count) {
        Ok(_) => Ok(u64::from_ne_bytes(count)),
        Err(Errno::EAGAIN) => Ok(0),
        Err(errno) => Err(errno),
    }
}

/// The folder of this process's descriptors.
pub fn own_descriptors() -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    at_least_3(nix::fcntl::open("/proc/self/fd", flags, nix::sys::stat::Mode::empty())?)
}

/// A read-only descriptor for the same memfd with a file offset of its own, 0.
pub fn reopen_read_only(own_descriptors: BorrowedFd, fd: BorrowedFd) -> Result<OwnedFd, Errno> {
    fault::at("reopen")?;
    let (name, flags) = (fd.as_raw_fd().to_string(), OFlag::O_RDONLY | OFlag::O_CLOEXEC);
    at_least_3(nix::fcntl::openat(own_descriptors, name.as_str(), flags, nix::sys::stat::Mode::empty())?)
}

/// The same by way of the calling thread's own directory in /proc.
pub fn reopen_by_this_thread(fd: BorrowedFd) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    at_least_3(nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty())?)
}

/// What names the process behind a pidfd for as long as the machine runs: its inode, where pidfds have inodes of their
/// own (pidfs, Linux 6.9; of 64 bits).
pub fn pidfd_id(pidfd: BorrowedFd) -> Option<u64> {
    const PID_FS_MAGIC: FsType = FsType(0x5049_4446);
    let of_its_own = fstatfs(pidfd).is_ok_and(|fs| fs.filesystem_type() == PID_FS_MAGIC);
    nix::sys::stat::fstat(pidfd).ok().map(|stat| stat.st_ino).filter(|_| of_its_own)
}

/// Whether both are the same socket or file.
pub fn same_file(one: BorrowedFd, other: BorrowedFd) -> bool {
    let id = |fd| nix::sys::stat::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

/// The number of its inode.
pub fn inode(fd: BorrowedFd) -> Option<u64> {
    nix::sys::stat::fstat(fd).ok().map(|stat| stat.st_ino)
}

/// The size of a file in bytes.
pub fn size(fd: BorrowedFd) -> Result<u64, Errno> {
    fault::at("fstat")?;
    nix::sys::stat::fstat(fd).map(|stat| u64::try_from(stat.st_size).unwrap_or(0))
}

/// Writes all of it at the descriptor's offset.
pub fn write_all(fd: BorrowedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    fault::at("write")?;
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(0) => return Err(Errno::EIO),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The first `length` bytes of a file, from its start, whatever its offset; fewer if it is shorter.
pub fn read_from_start(fd: BorrowedFd, length: usize) -> Result<Vec<u8>, Errno> {
    fault::at("pread")?;
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        match nix::sys::uio::pread(fd, &mut bytes[done..], done as libc::off_t) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// The soft limit on descriptor numbers, for the error that names it.
pub fn descriptor_limit() -> Option<u64> {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

/// Random bytes that nobody can guess. Never waits, not even for the entropy of a machine that has just booted.
pub fn random_16() -> Result<[u8; 16], Errno> {
    fault::at("getrandom")?;
    let mut bytes = [0u8; 16];
    let mut fill = |flags| {
        // SAFETY: the kernel writes at most the 16 bytes it is given.
        Errno::result(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), flags) })
    };
    // Up to 256 bytes come whole or not at all: getrandom(2).
    match fill(libc::GRND_NONBLOCK) {
        Err(Errno::EAGAIN) => fill(libc::GRND_INSECURE)?,
        result => result?,
    };
    Ok(bytes)
}

/// Now, by CLOCK_MONOTONIC, which both sides of a hand-over share.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec. It cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// When this process started, in clock ticks since boot: with the pid it names one process, for ever. Not by its
/// number, which another process has where /proc is that of another pid namespace.
pub fn start_time() -> Result<u64, Errno> {
    fault::at("start-time")?;
    start_time_field(&file::read_proc(c"/proc/self/stat")?).ok_or(Errno::EIO)
}

/// How long ago that was; 0 is not known.
pub fn age(start_time: u64) -> Option<Duration> {
    if start_time == 0 {
        return None;
    }
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec; sysconf asks for a number.
    let (done, ticks) =
        unsafe { (libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now), libc::sysconf(libc::_SC_CLK_TCK)) };
    let ticks = u64::try_from(ticks).ok().filter(|ticks| done == 0 && *ticks > 0)?;
    let now = Duration::new(u64::try_from(now.tv_sec).ok()?, u32::try_from(now.tv_nsec).ok()?);
    let start = Duration::from_secs(start_time / ticks)
        + Duration::from_nanos(start_time % ticks * 1_000_000_000 / ticks);
    Some(now.saturating_sub(start))
}

/// Field 22 of proc_pid_stat(5), counted from behind the command: that may hold spaces and parentheses itself.
fn start_time_field(stat: &[u8]) -> Option<u64> {
    let behind_command = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
    let field =
        behind_command.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).nth(22 - 3)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Whether this program runs with more rights than who started it (set-user-id …): its environment is not to be trusted.
pub fn secure_execution() -> bool {
    // SAFETY: reads a value that the kernel left at exec.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_command_with_parentheses() {
        let stat = b"7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 111 222\n";
        assert_eq!(start_time_field(stat), Some(98765));
        assert_eq!(start_time_field(b"7 (a"), None);
        assert_eq!(start_time_field(b"7 (a) S 1"), None);
        assert!(age(start_time().unwrap()).is_some() && age(0).is_none());
    }

    #[test]
    fn an_eventfd_is_readable_from_write_to_drain() {
        let fd = eventfd().unwrap();
        let readable =
            || poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], Some(Duration::ZERO)).unwrap();
        assert_eq!(readable(), 0);
        eventfd_write(fd.as_fd()).unwrap();
        eventfd_write(fd.as_fd()).unwrap();
        assert_eq!(readable(), 1);
        assert_eq!(eventfd_drain(fd.as_fd()), Ok(2));
        assert_eq!(readable(), 0);
        assert_eq!(eventfd_drain(fd.as_fd()), Ok(0));
    }

    #[test]
    fn poll_returns_at_its_time_and_takes_the_longest_there_is() {
        let before = monotonic_ns();
        assert_eq!(poll(&mut [], Some(Duration::from_millis(20))), Ok(0));
        assert!(monotonic_ns() - before >= 20_000_000);
        let fd = eventfd().unwrap();
        eventfd_write(fd.as_fd()).unwrap();
        assert_eq!(poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], Some(Duration::MAX)), Ok(1));
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random_16().unwrap(), random_16().unwrap());
    }

    #[test]
    fn a_number_that_is_not_open_is_said_to_be_so() {
        assert!(!is_open(999_999));
        assert_eq!(set_cloexec_raw(999_999), Err(Errno::EBADF));
    }
}
