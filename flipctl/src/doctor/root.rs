//! Files as the server sees them: it may live in a container, or below another root. Called by `program`.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What the kernel adds to the path of a file that has none any more: proc_pid_exe(5).
const DELETED: &str = " (deleted)";

/// The root directory of a process.
#[derive(Debug)]
pub struct Root {
    directory: File,
    /// Where it is below our own.
    path: PathBuf,
}

/// What is at a path, whoever may read it.
#[derive(Debug)]
pub struct Found {
    fd: OwnedFd,
    stat: FileStat,
}

impl Root {
    /// That of this process.
    pub fn of(pid: i32) -> std::io::Result<Root> {
        let link = format!("/proc/{pid}/root");
        Ok(Root { directory: File::open(&link)?, path: std::fs::read_link(&link)? })
    }

    /// A path from a link in /proc, as the server would have it: there it begins at the root of whoever reads the link.
    pub fn inside(&self, path: PathBuf) -> PathBuf {
        let path = path.strip_prefix(&self.path).map_or(path.clone(), |below| Path::new("/").join(below));
        let was = path.to_str().and_then(|path| path.strip_suffix(DELETED));
        match was {
            // There may be another file by now; or one that really has such a name.
            Some(was) if self.find(&path).is_err() => PathBuf::from(was),
            _ => path,
        }
    }

    /// What the server finds at that path.
    pub fn find(&self, path: &Path) -> Result<Found, Errno> {
        let how =
            OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let fd = openat2(&self.directory, path, how)?;
        let stat = fstat(&fd)?;
        Ok(Found { fd, stat })
    }
}

impl Found {
    /// What it is.
    pub fn kind(&self) -> SFlag {
        SFlag::from_bits_truncate(self.stat.st_mode) & SFlag::S_IFMT
    }

    /// Somebody may execute it.
    pub fn is_executable(&self) -> bool {
        self.stat.st_mode & 0o111 != 0
    }

    /// Nothing is executed on its file system.
    pub fn is_on_noexec(&self) -> bool {
        fstatvfs(&self.fd).is_ok_and(|of| of.flags().contains(FsFlags::ST_NOEXEC))
    }

    /// To be read. Only for regular files: others wait for somebody, or do something, when they are opened.
    pub fn open(&self) -> std::io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }
}
