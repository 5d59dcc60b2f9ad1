//! Small files beside others, by the descriptor of their directory, which cannot be exchanged meanwhile. Called by
//! `pid_file`. And what the kernel tells in /proc.

use super::{fault, fd};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path for the kernel. nix takes any kind of string, and puts what turns it into this into each of its functions.
pub fn c_path(path: &[u8]) -> Result<CString, Errno> {
    CString::new(path).map_err(|_| Errno::EINVAL)
}

fn c_name(name: &Path) -> Result<CString, Errno> {
    c_path(name.as_os_str().as_bytes())
}

/// A directory, to name files in.
pub fn directory(path: &Path) -> Result<OwnedFd, Errno> {
    fault::at("open")?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    fd::at_least_3(nix::fcntl::open(&*c_name(path)?, flags, Mode::empty())?)
}

/// A new file to write; `EEXIST` for whatever is there already, a link too.
pub fn create_at(directory: BorrowedFd, name: &Path, mode: u32) -> Result<OwnedFd, Errno> {
    fault::at("create")?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    fd::at_least_3(openat(directory, &*c_name(name)?, flags, Mode::from_bits_truncate(mode))?)
}

/// A regular file to read; a link, a FIFO or a device is `EINVAL` or `ELOOP`.
pub fn open_at(directory: BorrowedFd, name: &Path) -> Result<OwnedFd, Errno> {
    fault::at("open")?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = fd::at_least_3(openat(directory, &*c_name(name)?, flags, Mode::empty())?)?;
    let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFREG { Ok(file) } else { Err(Errno::EINVAL) }
}

/// renameat(2) within one directory.
pub fn rename_at(directory: BorrowedFd, from: &Path, to: &Path) -> Result<(), Errno> {
    fault::at("rename")?;
    renameat(directory, &*c_name(from)?, directory, &*c_name(to)?)
}

/// unlinkat(2)
pub fn unlink_at(directory: BorrowedFd, name: &Path) -> Result<(), Errno> {
    fault::at("unlink")?;
    unlinkat(directory, &*c_name(name)?, UnlinkatFlags::NoRemoveDir)
}

/// All of a file in /proc. Its size is not known before, and most are short: one page is asked for, then twice as much.
pub fn read_proc(path: &CStr) -> Result<Vec<u8>, Errno> {
    let file = fd::at_least_3(nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)?;
    let (mut bytes, mut length) = (vec![0; 4096], 0);
    loop {
        match nix::unistd::read(file.as_fd(), &mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        if length == bytes.len() {
            bytes.resize(length * 2, 0);
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}
