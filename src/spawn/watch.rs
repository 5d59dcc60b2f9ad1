//! The way to end a child that hangs before exec: the thread that spawns it is held by the kernel until then, so
//! another one has to. `supervisor` keeps a [`Watch`] while a spawn runs, and makes it before anybody waits for one: it
//! has all the memory that has to be mapped.

use super::child::{Report, Step};
use crate::error::{Error, Result};
use crate::sys::process::{self, Mapping};
use nix::errno::Errno;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

const STACK_SIZE: usize = 64 * 1024;
/// Of the stack's memory: it is hardly ever used, and costs nothing then.
pub(super) const ENTRIES_SIZE: usize = 8 * 1024;

/// Shared between the thread that spawns and the one that watches the clock; one per spawn.
#[derive(Clone)]
pub struct Watch(Arc<Inner>);

struct Inner {
    report: Mapping<Report>,
    stack: Mapping<[u8]>,
    phase: Mutex<Phase>,
}

/// Where the spawn is, as far as the watcher may act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not finished: the descriptor in the report is the spawn's, and open once the child has reported.
    Running,
    /// The child was killed by the watcher.
    Killed,
    /// The spawn has returned, the descriptor is the caller's.
    Over,
}

impl Watch {
    /// For one spawn.
    pub fn new() -> Result<Watch> {
        let failed = |errno| Error::system("cannot prepare a spawn", errno);
        let (report, stack) =
            (Mapping::shared().map_err(failed)?, Mapping::stack(STACK_SIZE).map_err(failed)?);
        Ok(Watch(Arc::new(Inner { report, stack, phase: Mutex::new(Phase::Running) })))
    }

    /// Ends the child with SIGKILL if it has not exec'd yet, as far as can be told: the spawn then fails with
    /// [`Error::Deadline`]. `false`: there is no child yet, or the spawn is over and its pidfd the way to go.
    pub fn kill(&self) -> Result<bool> {
        let mut phase = self.phase();
        let report = self.report();
        // The kernel writes the number before the descriptor is installed; a child that runs proves that it is.
        if *phase != Phase::Running || report.pid.load(Ordering::SeqCst) == 0 {
            return Ok(*phase == Phase::Killed);
        }
        // SAFETY: open until `over` has taken the lock that is held here.
        let pidfd = unsafe { BorrowedFd::borrow_raw(report.pidfd.load(Ordering::Acquire)) };
        match process::pidfd_send_signal(pidfd, libc::SIGKILL) {
            Ok(()) => {
                *phase = Phase::Killed;
                Ok(true)
            }
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(Error::system("cannot end a new process that does not start", errno)),
        }
    }

    /// Nobody wants the new program any more: a child there is is killed, one that comes into being later ends before execve.
    pub fn abandon(&self) {
        self.report().abandoned.store(1, Ordering::SeqCst);
        // What cannot be killed now was either not there, and sees the mark, or the spawn is over.
        let _ = self.kill();
    }

    /// What the child is at, for a line about a spawn that hangs.
    pub fn step(&self) -> Step {
        Step::of(self.report().step.load(Ordering::Acquire))
    }

    /// Whether a spawn may begin: a report serves one.
    pub(super) fn is_fresh(&self) -> bool {
        *self.phase() == Phase::Running && self.report().pid.load(Ordering::Acquire) == 0
    }

    pub(super) fn report(&self) -> &Report {
        &self.0.report
    }

    /// The child's, above [`ENTRIES_SIZE`] bytes for its list of /proc/self/fd.
    pub(super) fn stack(&self) -> &Mapping<[u8]> {
        &self.0.stack
    }

    /// The spawn is over: from now on `kill` touches nothing. Whether it was killed before.
    pub(super) fn over(&self) -> bool {
        std::mem::replace(&mut *self.phase(), Phase::Over) == Phase::Killed
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.phase.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
