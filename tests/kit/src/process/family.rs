//! Every process that goes back to one test: found by its mark, ended and reaped when the test is over.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::proc_fs::{Proc, all};
use super::program::Program;
use crate::deadline::try_for;

/// The variable that carries the mark.
pub const MARK_VARIABLE: &str = "SHELLFLIP_TEST_MARK";

/// All families that live, for the watchdog.
static LIVING: Mutex<Vec<Arc<Members>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The programs of one test and all that they start.
#[derive(Debug)]
pub struct Family {
    members: Arc<Members>,
}

#[derive(Debug)]
pub(super) struct Members {
    pub(super) mark: String,
    /// Process groups of the programs we started: a zombie has no environment any more, but still its group.
    groups: Mutex<BTreeSet<i32>>,
    /// Those whose exit status a [`super::Process`] is going to ask for.
    kept: Mutex<BTreeSet<i32>>,
}

impl Default for Family {
    fn default() -> Family {
        Family::new()
    }
}

impl Family {
    /// A family without members. This process becomes a child subreaper, and stays one.
    ///
    /// # Panics
    /// When the kernel refuses that.
    pub fn new() -> Family {
        static SUBREAPER: Once = Once::new();
        SUBREAPER.call_once(|| {
            // SAFETY: prctl with these arguments touches no memory of ours.
            let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
            assert_eq!(result, 0, "the kernel does not let this process be a child subreaper");
        });
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        let mark = format!("{}-{random:016x}", std::process::id());
        let members = Arc::new(Members { mark, groups: Mutex::default(), kept: Mutex::default() });
        lock(&LIVING).push(members.clone());
        Family { members }
    }

    /// A program of this family, to be started.
    pub fn program(&self, path: impl Into<std::ffi::OsString>) -> Program {
        Program::new(path.into(), self.members.clone())
    }

    /// The value of [`MARK_VARIABLE`] that makes a process one of this family.
    pub fn mark(&self) -> &str {
        &self.members.mark
    }

    /// Every member that still runs, or is stopped.
    pub fn leftovers(&self) -> Vec<Proc> {
        self.members.alive()
    }

    /// Members that are dead and unreaped though their parent lives: what a library that forgets to reap leaves.
    pub fn zombies(&self) -> Vec<Proc> {
        self.members.reap();
        let me = Proc::me().0;
        let zombie = |process: &Proc| process.state() == Some('Z') && process.parent() != Some(me);
        all().into_iter().filter(|process| self.members.in_group(*process) && zombie(process)).collect()
    }

    /// No member is left.
    ///
    /// # Panics
    /// When one still is at the (scaled) deadline, naming all that are.
    #[track_caller]
    pub fn assert_none_left(&self, deadline: Duration) {
        if try_for(deadline, || self.leftovers().is_empty().then_some(())).is_none() {
            let left: Vec<_> = self.leftovers().into_iter().map(Proc::describe).collect();
            assert!(left.is_empty(), "processes are left: {left:#?}");
        }
    }

    /// Waits until `pid`, of whatever generation, is dead, and reaps it where it has become our child: then its
    /// status is known. Not for the process that a [`super::Process`] stands for.
    ///
    /// # Panics
    /// When it still lives at the (scaled) deadline.
    #[track_caller]
    pub fn wait_gone(&self, pid: i32, deadline: Duration) -> Option<WaitStatus> {
        let gone = try_for(deadline, || match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => None,
            Ok(status) => Some(Some(status)),
            Err(_) if Proc(pid).alive() => None,
            // Dead, and its parent's to reap.
            Err(_) => Some(None),
        });
        gone.unwrap_or_else(|| panic!("still there after {deadline:.1?}: {}", Proc(pid).describe()))
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        let ended = self.members.kill();
        lock(&LIVING).retain(|members| !Arc::ptr_eq(members, &self.members));
        if !ended && !std::thread::panicking() {
            let left: Vec<_> = self.leftovers().into_iter().map(Proc::describe).collect();
            panic!("these processes survive SIGKILL: {left:#?}");
        }
    }
}

impl Members {
    pub(super) fn started(&self, pid: i32) {
        lock(&self.groups).insert(pid);
        lock(&self.kept).insert(pid);
    }

    pub(super) fn reaped(&self, pid: i32) {
        lock(&self.kept).remove(&pid);
    }

    fn in_group(&self, process: Proc) -> bool {
        process.stat().is_some_and(|stat| lock(&self.groups).contains(&stat.pgrp))
    }

    fn alive(&self) -> Vec<Proc> {
        let me = Proc::me();
        let marked = |process: &Proc| {
            *process != me && process.variable(MARK_VARIABLE).is_some_and(|mark| mark == self.mark.as_bytes())
        };
        all().into_iter().filter(|process| marked(process) && process.alive()).collect()
    }

    /// Only our own children can be reaped, and only those of our groups are: other tests in this process have
    /// children whose status they want.
    fn reap(&self) {
        for process in Proc::me().children() {
            if process.state() == Some('Z')
                && self.in_group(process)
                && !lock(&self.kept).contains(&process.0)
            {
                let _ = waitpid(Pid::from_raw(process.0), Some(WaitPidFlag::WNOHANG));
            }
        }
    }

    /// Again and again, since one that is about to be killed may just be starting another.
    fn kill(&self) -> bool {
        let ended = try_for(Duration::from_secs(10), || {
            let alive = self.alive();
            for process in &alive {
                let _ = kill(Pid::from_raw(process.0), Signal::SIGKILL);
            }
            alive.is_empty().then_some(())
        });
        self.reap();
        ended.is_some()
    }
}

/// The state of this process's threads and of every process of every living family, for a person.
pub fn describe_all() -> String {
    let mut text = String::new();
    let _ = writeln!(text, "  {}", Proc::me().describe());
    if let Ok(tasks) = std::fs::read_dir("/proc/self/task") {
        for task in tasks.flatten() {
            let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let (name, wait) = (read("comm"), read("wchan"));
            let _ = writeln!(text, "    thread {}: {} in {wait}", task.file_name().display(), name.trim());
        }
    }
    for members in lock(&LIVING).iter() {
        for process in members.alive() {
            let _ = writeln!(text, "  {}", process.describe());
        }
    }
    text
}

/// Ends every process of every living family; for the watchdog, which aborts and so drops nothing.
pub fn kill_all() {
    let families: Vec<_> = lock(&LIVING).clone();
    for members in families {
        members.kill();
    }
}
