//! Files in memory that nobody can change any more once they are sealed: a table of descriptors, a state. Called by
//! `channel` and the supervisor.

use super::fd::at_least_3;
use super::{fault, file};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

/// An empty one. Not executable where the kernel can say so (6.3), since a sysctl there (`vm.memfd_noexec`) may forbid
/// any other.
pub fn create(name: &CStr) -> Result<OwnedFd, Errno> {
    fault::at("memfd_create")?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let fd = match memfd_create(name, flags | no_exec) {
        Err(Errno::EINVAL) => memfd_create(name, flags)?,
        result => result?,
    };
    at_least_3(fd)
}

const SIZE: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);
/// No write and no new mapping to write through; mappings that there are stay.
const FUTURE_WRITE: SealFlag = SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE);

/// From this size on F_SEAL_WRITE, which looks at every page, takes longer than a look at this process's mappings.
const LARGE: i64 = 16 * 1024 * 1024;

/// Nothing changes it any more, by whatever descriptor. `EBUSY` while it is mapped to be written: a large one in this
/// process, any other one in whichever.
pub fn seal(fd: BorrowedFd) -> Result<(), Errno> {
    fault::at("seal")?;
    let add = |seals| fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).map(drop);
    let is = fstat(fd)?;
    if is.st_size < LARGE {
        return add(SIZE | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL);
    }
    // First: what is mapped from now on cannot be written through.
    add(SIZE | FUTURE_WRITE)?;
    match is_mapped(is.st_dev, is.st_ino) {
        Ok(false) => add(SealFlag::F_SEAL_SEAL),
        Ok(true) => Err(Errno::EBUSY),
        // No /proc: then the kernel has to look.
        Err(_) => add(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL),
    }
}

/// Whether [`seal`] was done to it; false for what is no memfd.
pub fn is_sealed(fd: BorrowedFd) -> bool {
    let has =
        |seals: SealFlag| seals.contains(SIZE) && seals.intersects(SealFlag::F_SEAL_WRITE | FUTURE_WRITE);
    fcntl(fd, FcntlArg::F_GET_SEALS).is_ok_and(|seals| has(SealFlag::from_bits_retain(seals)))
}

/// Whether this process shares the file in a mapping. One that only reads counts, as it does for F_SEAL_WRITE:
/// mprotect(2) may change that.
fn is_mapped(device: u64, inode: u64) -> Result<bool, Errno> {
    let maps = file::read_proc(c"/proc/thread-self/maps")?;
    Ok(maps.split(|byte| *byte == b'\n').any(|line| shares(line, device, inode).unwrap_or(false)))
}

/// A line of /proc/self/maps: addresses, permissions, offset, device as two numbers in hex, inode, path.
fn shares(line: &[u8], device: u64, inode: u64) -> Option<bool> {
    // All but the path is text.
    let mut words =
        line.split(|byte| *byte == b' ').filter_map(|word| std::str::from_utf8(word).ok()).skip(1);
    let shared = words.next()?.ends_with('s');
    let (major, minor) = words.nth(1)?.split_once(':')?;
    let hex = |text| u32::from_str_radix(text, 16).ok();
    let there = libc::makedev(hex(major)?, hex(minor)?);
    Some(shared && there == device && words.next()?.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::super::fd::{own_descriptors, read_from_start, reopen_read_only, size, write_all};
    use super::*;
    use std::os::fd::{AsFd, AsRawFd};

    #[test]
    fn a_sealed_one_takes_no_more_bytes_and_reads_from_its_start() {
        let fd = create(c"test").unwrap();
        write_all(fd.as_fd(), b"hello").unwrap();
        assert!(!is_sealed(fd.as_fd()));
        seal(fd.as_fd()).unwrap();
        assert!(is_sealed(fd.as_fd()));
        assert_eq!(write_all(fd.as_fd(), b"x"), Err(Errno::EPERM));
        assert_eq!(read_from_start(fd.as_fd(), 99).unwrap(), b"hello");
        assert_eq!(size(fd.as_fd()), Ok(5));
        let reader = reopen_read_only(own_descriptors().unwrap().as_fd(), fd.as_fd()).unwrap();
        let mut bytes = [0; 9];
        assert_eq!(nix::unistd::read(&reader, &mut bytes), Ok(5));
    }

    /// A page of it, shared.
    fn map(fd: &OwnedFd, protection: libc::c_int) -> Result<*mut libc::c_void, Errno> {
        let (anywhere, shared) = (std::ptr::null_mut(), libc::MAP_SHARED);
        // SAFETY: a new mapping, wherever the kernel likes.
        let at = unsafe { libc::mmap(anywhere, 4096, protection, shared, fd.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(at) }
    }

    fn large() -> OwnedFd {
        let fd = create(c"test").unwrap();
        nix::unistd::ftruncate(&fd, LARGE).unwrap();
        fd
    }

    #[test]
    fn a_large_sealed_one_takes_no_more_bytes_either() {
        let fd = large();
        seal(fd.as_fd()).unwrap();
        assert!(is_sealed(fd.as_fd()));
        assert_eq!(write_all(fd.as_fd(), b"x"), Err(Errno::EPERM));
        assert_eq!(nix::unistd::ftruncate(&fd, 0), Err(Errno::EPERM));
        assert_eq!(map(&fd, libc::PROT_READ | libc::PROT_WRITE), Err(Errno::EPERM));
        assert_eq!(
            fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)),
            Err(Errno::EPERM),
            "F_SEAL_SEAL"
        );
        let read = map(&fd, libc::PROT_READ).unwrap();
        // SAFETY: mapped above; the protection of a mapping that nobody uses.
        assert_eq!(unsafe { libc::mprotect(read, 4096, libc::PROT_WRITE) }, -1);
        // SAFETY: mapped above, and not used any more.
        unsafe { libc::munmap(read, 4096) };
    }

    #[test]
    fn a_large_one_is_not_sealed_while_it_is_mapped() {
        for protection in [libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ] {
            let fd = large();
            let mapped = map(&fd, protection).unwrap();
            assert_eq!(seal(fd.as_fd()), Err(Errno::EBUSY));
            // SAFETY: mapped above, and not used any more.
            unsafe { libc::munmap(mapped, 4096) };
            assert_eq!(seal(fd.as_fd()), Ok(()));
        }
    }

    #[test]
    fn a_line_of_the_mappings_is_understood_and_any_other_is_not() {
        let line = b"7f0000000000-7f0000001000 rw-s 00000000 fd:1a 4711    /memfd:\xff state (deleted)";
        let device = libc::makedev(0xfd, 0x1a);
        assert_eq!(shares(line, device, 4711), Some(true));
        assert_eq!(shares(line, device, 4712), Some(false));
        assert_eq!(shares(line, device + 1, 4711), Some(false));
        let private = b"7f0000000000-7f0000001000 rw-p 00000000 fd:1a 4711    /memfd:state";
        assert_eq!(shares(private, device, 4711), Some(false));
        assert_eq!(
            shares(b"7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0    [stack]", device, 4711),
            Some(false)
        );
        assert_eq!(shares(b"", device, 4711), None);
    }
}
