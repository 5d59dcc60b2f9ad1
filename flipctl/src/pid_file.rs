//! A server of which only the pid file is known. The number in it may be anybody's by now, so that a process is held by
//! its pidfd first, then looked at, and only then signalled through that pidfd. Called by `by_signal` and `doctor`.

use crate::exit::{Exit, Failed};
use crate::process::ended;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use procfs::process::{Process, Status};
use shellflip::error::explain;
use shellflip::sys::process::{pidfd_open, pidfd_send_signal};
use std::fs::{Metadata, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// A pid file is written after its process was started. Boot time is known in clock ticks, and clocks are adjusted.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);

/// A link is not followed, and a FIFO or a terminal is not waited for. The standard library adds O_CLOEXEC.
const OPENED: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// Write access for the group and for all others.
const OTHERS: u32 = 0o022;

/// More than any number has digits.
const LONGEST: u64 = 64;

/// The process that a pid file names, held: its number cannot become another one's while this exists.
#[derive(Debug)]
pub struct Running {
    /// Its number.
    pub pid: i32,
    /// When it was started, on the clock of [`ticks_now`].
    pub started: u64,
    pidfd: OwnedFd,
}

/// The number in a pid file, and the file that it is from. By a link in its place, the server's user could put the pid
/// file of another service there, which is beyond doubt; the library replaces links, and makes a file with one name.
fn read(path: &Path) -> Result<(i32, Metadata), Failed> {
    let shown = path.display();
    let refused = |what: &str| Err(Failed::new(Exit::Error, format!("the pid file {shown} {what}")));
    let failed = |error: std::io::Error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        let exit = match errno {
            Errno::ENOENT | Errno::ENOTDIR => Exit::Unreachable,
            Errno::EACCES | Errno::EPERM => Exit::Denied,
            _ => Exit::Error,
        };
        Failed::new(exit, format!("cannot read the pid file {shown}: {}", explain(errno)))
    };
    let file = match OpenOptions::new().read(true).custom_flags(OPENED.bits()).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) && path.is_symlink() => {
            return refused(
                "is a symbolic link, which is not followed: whoever made it may have chosen another service's, and with \
                 it the process",
            );
        }
        opened => opened.map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return refused("is no regular file");
    }
    // None at all if it has been replaced since: then it was right a moment ago.
    if metadata.nlink() > 1 {
        return refused(&format!(
            "has {} names (hard links): whoever made them may have chosen another service's, and with it the process",
            metadata.nlink()
        ));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    match text.trim().parse::<i32>() {
        Ok(pid) if pid > 0 => Ok((pid, metadata)),
        _ => Err(Failed::new(Exit::Error, format!("there is no pid in the pid file {shown}"))),
    }
}

impl Running {
    /// The process that the pid file names. It may have been written for another one that had its number.
    pub fn find(path: &Path) -> Result<Running, Failed> {
        let (pid, metadata) = read(path)?;
        let shown = path.display();
        let gone =
            || Failed::new(Exit::Unreachable, format!("no process {pid}, which the pid file {shown} names"));
        let pidfd = pidfd_open(Pid::from_raw(pid)).map_err(|errno| match errno {
            Errno::ESRCH => gone(),
            errno => {
                Failed::new(Exit::Error, format!("cannot watch process {pid} ({shown}): {}", explain(errno)))
            }
        })?;
        let process = Process::new(pid).map_err(|_| gone())?;
        let stat = process.stat().map_err(|_| gone())?;
        let running = Running { pid, started: stat.starttime, pidfd };
        let user = process.uid().map_err(|_| gone())?;
        if running.ended(Duration::ZERO) {
            return Err(gone());
        }
        let started = since_epoch(stat.starttime);
        let written = Duration::new(metadata.mtime().max(0) as u64, metadata.mtime_nsec() as u32);
        if started > written + CLOCKS_DIFFER {
            return Err(Failed::new(
                Exit::Unreachable,
                format!(
                    "the pid file {shown} is older than process {pid}, which therefore did not write it: its server \
                     is gone, and its number now belongs to {}",
                    stat.comm
                ),
            ));
        }
        // Else whoever may write that file could have any process signalled by root.
        if ![0, user, nix::unistd::geteuid().as_raw()].contains(&metadata.uid()) {
            return Err(Failed::new(
                Exit::Denied,
                format!(
                    "the pid file {shown} belongs to user {}, process {pid} to user {user}: a stranger may have \
                     written it",
                    metadata.uid()
                ),
            ));
        }
        if metadata.mode() & OTHERS != 0 {
            return Err(Failed::new(
                Exit::Denied,
                format!(
                    "the pid file {shown} may be written by others than its owner (mode {:04o}): one of them may have \
                     chosen the process (chmod go-w)",
                    metadata.mode() & 0o7777
                ),
            ));
        }
        Ok(running)
    }

    /// Whether it has ended by the end of `timeout`.
    pub fn ended(&self, timeout: Duration) -> bool {
        ended(self.pidfd.as_fd(), timeout)
    }

    /// Sends the signal, if the process does something about it. `may_end`: what it does may be to end at once.
    pub fn signal(&self, signal: Signal, may_end: bool) -> Result<(), Failed> {
        let pid = self.pid;
        let status = Process::new(pid).and_then(|process| process.status());
        if let Ok(status) = status
            && !takes(&status, signal)
            && (bit(status.sigign, signal) || !may_end)
        {
            let does = if bit(status.sigign, signal) {
                "it ignores it".into()
            } else {
                format!("{signal} would end it")
            };
            return Err(Failed::new(
                Exit::Error,
                format!("process {pid} has no handler for {signal}: {does}"),
            ));
        }
        pidfd_send_signal(self.pidfd.as_fd(), signal as i32).map_err(|errno| {
            let exit = match errno {
                Errno::EPERM => Exit::Denied,
                Errno::ESRCH => Exit::Unreachable,
                _ => Exit::Error,
            };
            Failed::new(exit, format!("cannot send {signal} to process {pid}: {}", explain(errno)))
        })
    }
}

/// It has a handler, or waits for the signal by other means (sigwait, signalfd), for which it has to be blocked.
fn takes(status: &Status, signal: Signal) -> bool {
    let caught = bit(status.sigcgt, signal) && !bit(status.sigign, signal);
    caught || (bit(status.sigblk, signal) && !bit(status.sigign, signal))
}

/// Whether `signal` is in a mask of /proc/PID/status.
pub fn bit(mask: u64, signal: Signal) -> bool {
    mask & (1 << (signal as u64 - 1)) != 0
}

/// Clock ticks since boot, as starts of processes are counted.
pub fn ticks_now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    (now.as_nanos() * u128::from(procfs::ticks_per_second()) / 1_000_000_000) as u64
}

/// When a process was started that started so many clock ticks after boot.
fn since_epoch(ticks: u64) -> Duration {
    let now = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
    let start = Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64);
    (now(ClockId::CLOCK_REALTIME) + start).saturating_sub(now(ClockId::CLOCK_BOOTTIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_started_before_now_and_not_long_ago() {
        let me = Process::myself().unwrap();
        let started = since_epoch(me.stat().unwrap().starttime);
        let now = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME).unwrap());
        assert!(
            started <= now + CLOCKS_DIFFER && now < started + Duration::from_secs(3_600),
            "{started:?} {now:?}"
        );
    }

    #[test]
    fn a_process_has_started_by_now_in_ticks() {
        let started = Process::myself().unwrap().stat().unwrap().starttime;
        let age = ticks_now().checked_sub(started);
        assert!(age.is_some_and(|age| age < 3_600 * procfs::ticks_per_second()), "{age:?}");
    }

    #[test]
    fn what_is_no_pid_is_not_taken_for_one() {
        let folder = testkit::process::temp_dir();
        let path = folder.path().join("pid");
        for text in ["", "0", "-1", "pid", "99999999999999", "1 2"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path).err().map(|failed| failed.exit), Some(Exit::Error), "{text:?}");
        }
        std::fs::write(&path, "4711\n").unwrap();
        assert_eq!(read(&path).map(|(pid, _)| pid), Ok(4711));
    }
}
