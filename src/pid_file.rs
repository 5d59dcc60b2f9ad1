//! The pid file: one line with the pid of the generation that was released, for whoever has nothing better to find it
//! by.
//!
//! It is replaced as a whole, by a rename within its directory: nobody reads half of it, no moment is without it, and
//! a link planted in its place is replaced, not followed. It is removed on a real stop, and only while it holds our
//! own pid. Generation
//! 0 writes it in `flip_ready`, on the host's thread; later ones at RELEASED, on the supervisor's. Before RELEASED the
//! predecessor writes the successor's pid into it: whoever sees it exit and looks at once (systemd does, with PIDFile=)
//! finds who serves.

use crate::address::quote;
use crate::error::{Error, Result};
use crate::flip::lock;
use crate::sys::{fd, file, thread};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// More names than this are not tried: each one is random.
const TRIES: usize = 8;
/// As long as a pid and a line end may be.
const LONGEST: usize = 32;

/// Where it is, and whether this process has written it.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Not ours so far.
    Unwritten,
    Written,
    /// The last try failed: the sentence.
    Failed(String),
    /// This process has stopped, or was succeeded.
    Over,
}

/// A path for it, absolute: the working directory may change.
pub fn parse_path(path: &[u8]) -> Result<PathBuf> {
    let wrong = |why: &str| Error::Invalid(format!("cannot use {} for a pid file: {why}", quote(path)));
    if path.is_empty() || path.contains(&0) {
        return Err(wrong("it is no path"));
    }
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if matches!(last, b"" | b"." | b"..") {
        return Err(wrong("it names a directory"));
    }
    std::path::absolute(OsStr::from_bytes(path)).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        Error::system(format!("cannot use the relative path {} for a pid file", quote(path)), errno)
    })
}

impl PidFile {
    /// Nothing is written yet.
    pub fn new(path: PathBuf) -> PidFile {
        PidFile { path, state: Mutex::new(State::Unwritten) }
    }

    /// Holds our pid from now on, unless it does so already or that time is over.
    pub fn write(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if matches!(*state, State::Written | State::Over) {
            return Ok(());
        }
        let pid = std::process::id();
        let written = match self.replace(pid) {
            // The predecessor has written it.
            Err(_) if self.directory().is_ok_and(|folder| self.holder(folder.as_fd()) == Some(pid)) => Ok(()),
            replaced => replaced.map_err(|errno| self.failed("write", errno)),
        };
        *state = match &written {
            Ok(()) => State::Written,
            Err(error) => State::Failed(error.to_string()),
        };
        written
    }

    /// Why it does not hold our pid, if it should.
    pub fn problem(&self) -> Option<String> {
        match &*lock(&self.state) {
            State::Failed(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// Gone, if this process has written it and it still holds our pid; true if it was removed.
    pub fn remove(&self) -> Result<bool> {
        let mut state = lock(&self.state);
        let written = std::mem::replace(&mut *state, State::Over) == State::Written;
        if !written {
            return Ok(false);
        }
        let failed = |errno| self.failed("remove", errno);
        let directory = self.directory().map_err(failed)?;
        if self.holder(directory.as_fd()) != Some(std::process::id()) {
            return Ok(false);
        }
        match file::unlink_at(directory.as_fd(), self.name()) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Holds the successor's pid, if this process has written it. The successor writes it too, and tells of a failure.
    pub fn hand_over(&self, successor: u32) {
        if std::mem::replace(&mut *lock(&self.state), State::Over) == State::Written {
            let _ = self.replace(successor);
        }
    }

    fn replace(&self, pid: u32) -> std::result::Result<(), Errno> {
        let directory = self.directory()?;
        let (temporary, name) = self.temporary(directory.as_fd())?;
        let line = format!("{pid}\n");
        // Beyond the limit of file sizes the kernel would end the host besides.
        let written = thread::without_signal(Signal::SIGXFSZ, Errno::EFBIG, || {
            fd::write_all(temporary.as_fd(), line.as_bytes())
        });
        let replaced = written.and_then(|()| file::rename_at(directory.as_fd(), &name, self.name()));
        if replaced.is_err() {
            let _ = file::unlink_at(directory.as_fd(), &name);
        }
        replaced
    }

    /// A new file beside it, under a name that nobody can have guessed and prepared.
    fn temporary(
        &self,
        directory: std::os::fd::BorrowedFd,
    ) -> std::result::Result<(OwnedFd, PathBuf), Errno> {
        let mut last = Errno::EEXIST;
        for _ in 0..TRIES {
            let mut name = String::from(".pid-");
            for byte in fd::random_16()? {
                let _ = write!(name, "{byte:02x}");
            }
            let name = PathBuf::from(name);
            match file::create_at(directory, &name, 0o644) {
                Ok(temporary) => return Ok((temporary, name)),
                Err(Errno::EEXIST) => last = Errno::EEXIST,
                Err(errno) => return Err(errno),
            }
        }
        Err(last)
    }

    /// Whose pid is in it.
    fn holder(&self, directory: std::os::fd::BorrowedFd) -> Option<u32> {
        let opened = file::open_at(directory, self.name()).ok()?;
        let text = fd::read_from_start(opened.as_fd(), LONGEST).ok()?;
        std::str::from_utf8(&text).ok()?.trim().parse().ok()
    }

    fn directory(&self) -> std::result::Result<OwnedFd, Errno> {
        file::directory(self.path.parent().unwrap_or(Path::new("/")))
    }

    fn name(&self) -> &Path {
        Path::new(self.path.file_name().unwrap_or_default())
    }

    fn failed(&self, what: &str, errno: Errno) -> Error {
        Error::system(
            format!("cannot {what} the pid file {}", quote(self.path.as_os_str().as_bytes())),
            errno,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let folder = std::env::temp_dir().join(format!("pid-file-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir(&folder).unwrap();
            Folder(folder)
        }

        fn names(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<String> =
                names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn own() -> String {
        format!("{}\n", std::process::id())
    }

    #[test]
    fn it_is_written_whole_over_what_was_there_and_removed_once() {
        let folder = Folder::new("whole");
        let path = folder.0.join("a.pid");
        fs::write(&path, "1\nand a long rest").unwrap();
        let file = PidFile::new(path.clone());
        file.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own());
        assert_eq!(folder.names(), ["a.pid"]);
        assert_eq!(file.remove(), Ok(true));
        assert!(folder.names().is_empty());
        file.write().unwrap();
        assert!(folder.names().is_empty(), "written after the end");
    }

    #[test]
    fn it_is_handed_over_once_and_only_by_who_has_written_it() {
        let folder = Folder::new("over");
        let path = folder.0.join("a.pid");
        let file = PidFile::new(path.clone());
        file.hand_over(1);
        file.write().unwrap();
        assert!(folder.names().is_empty(), "it was over before");
        let file = PidFile::new(path.clone());
        file.write().unwrap();
        file.hand_over(4711);
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711\n");
        file.hand_over(1);
        file.write().unwrap();
        assert_eq!(file.remove(), Ok(false));
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711\n");
    }

    #[test]
    fn a_planted_link_is_replaced_and_not_followed() {
        let folder = Folder::new("link");
        let (path, victim) = (folder.0.join("a.pid"), folder.0.join("victim"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let file = PidFile::new(path.clone());
        file.write().unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        // Planted later, with our own pid behind it.
        fs::rename(&path, folder.0.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(folder.0.join("elsewhere"), &path).unwrap();
        assert_eq!(file.remove(), Ok(false));
        assert_eq!(folder.names(), ["a.pid", "elsewhere", "victim"]);
    }

    #[test]
    fn one_that_holds_another_pid_or_that_we_did_not_write_is_left() {
        let folder = Folder::new("other");
        let path = folder.0.join("a.pid");
        let file = PidFile::new(path.clone());
        file.write().unwrap();
        fs::write(&path, "1\n").unwrap();
        assert_eq!(file.remove(), Ok(false));
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        fs::write(&path, own()).unwrap();
        assert_eq!(PidFile::new(path.clone()).remove(), Ok(false));
        assert!(path.exists());
    }

    #[test]
    fn a_fifo_in_its_place_does_not_hold_us_up() {
        let folder = Folder::new("fifo");
        let path = folder.0.join("a.pid");
        let file = PidFile::new(path.clone());
        file.write().unwrap();
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(file.remove(), Ok(false));
    }

    #[test]
    fn what_cannot_be_written_is_said_and_leaves_nothing() {
        let folder = Folder::new("failed");
        let missing = PidFile::new(folder.0.join("missing/a.pid"));
        let error = missing.write().unwrap_err();
        assert_eq!(error.errno(), Errno::ENOENT);
        assert_eq!(missing.problem().as_deref(), Some(&*error.to_string()));
        let taken = folder.0.join("directory");
        fs::create_dir(&taken).unwrap();
        assert_eq!(PidFile::new(taken).write().unwrap_err().errno(), Errno::EISDIR);
        assert_eq!(folder.names(), ["directory"]);
        assert_eq!(missing.remove(), Ok(false));
    }

    #[test]
    fn a_path_is_made_absolute_and_is_not_a_directory() {
        for wrong in [&b""[..], b"/", b"/run/", b"..", b"/run/.", b"a\0b"] {
            assert!(parse_path(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(parse_path(b"/run/a.pid").unwrap(), Path::new("/run/a.pid"));
        assert_eq!(parse_path(b"a.pid").unwrap(), std::env::current_dir().unwrap().join("a.pid"));
    }
}
