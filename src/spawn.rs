//! The only place that clones and execs. A [`Job`] says what the successor is to find, [`Prepared`] has made
//! everything that needs memory, [`spawn`] starts it: `clone(CLONE_VM | CLONE_VFORK)` on a stack of its own, at a
//! cost that does not depend on how big this process is. `supervisor` calls it on a thread made for that, since the
//! thread is held until the child has exec'd; a [`Watch`] lets another thread end a child that hangs before.
//!
//! The successor has exactly 0 to 2, the given descriptors from 3 on, and the channel right behind them, whatever
//! else the host has open; the signals, limits, directory and environment that the job names; and its own pid in
//! `LISTEN_PID` and `SHELLFLIP_CHANNEL`. A spawn that fails leaves neither a process nor a descriptor.

mod child;
pub mod environment;
pub mod plan;
mod watch;

pub use child::Step;
pub use watch::Watch;

use crate::error::{Error, Result};
use crate::program::Program;
use crate::startup::StartSignals;
use crate::sys::process::{self, AllSignalsBlocked};
use child::{Orders, PID_DIGITS, PidSlot};
use environment::{Entry, Handover};
use libc::{c_char, c_int};
use nix::errno::Errno;
use nix::unistd::Pid;
use plan::{Move, Op};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::Ordering;

/// How many descriptors a program may need before it can do anything about its limit.
const OWN_NEEDS: u64 = 256;

/// What the successor is to find. `F` is however the caller holds descriptors: owned, borrowed, in an Arc.
#[derive(Debug)]
pub struct Job<F> {
    /// What to exec, where.
    pub program: Program,
    /// The environment, without the hand-over.
    pub environment: Vec<CString>,
    /// What becomes 0, 1, 2; `None`: /dev/null.
    pub stdio: [Option<F>; 3],
    /// What becomes 3, 4, ….
    pub descriptors: Vec<F>,
    /// The successor's end of the channel; it gets the next number.
    pub channel: F,
    /// LISTEN_FDNAMES, already encoded.
    pub listen_fdnames: Option<CString>,
    /// What proves that the successor is the one; no colon, no NUL.
    pub nonce: String,
    /// The mask to start with, and what to ignore.
    pub signals: StartSignals,
    /// The soft limit of descriptor numbers to start with, as far as the hard limit allows; raised by what is handed
    /// over where that would leave the program next to none of its own.
    pub soft_limit: u64,
    /// Make it our parent's child instead of ours (CLONE_PARENT): where systemd itself started this process, so that
    /// it sees its end. We can then not wait for it.
    pub sibling: bool,
}

/// The successor runs.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid.
    pub pid: Pid,
    /// Readable once it has ended; CLOEXEC, 3 or above.
    pub pidfd: OwnedFd,
}

/// A job with all its memory: nothing is allocated from here to exec.
pub struct Prepared<F> {
    job: Job<F>,
    ops: Vec<Op>,
    end: c_int,
    highest: c_int,
    room: Option<[u64; 2]>,
    limits: Option<[u64; 2]>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    slots: Vec<PidSlot>,
    /// What `environment` and `slots` point into.
    _texts: Vec<CString>,
    _buffers: Vec<Box<[u8]>>,
    /// Copies of descriptors that are passed twice or are 0 to 2 here.
    _copies: Vec<OwnedFd>,
}

// SAFETY: the pointers lead into memory that the same value owns.
unsafe impl<F: Send> Send for Prepared<F> {}

impl<F: AsFd> Prepared<F> {
    /// Everything that may fail in a way that is known before the clone.
    pub fn new(mut job: Job<F>) -> Result<Prepared<F>> {
        let (ops, copies, highest_to) = placement(&job)?;
        let end = highest_to + 1;

        let failed = |errno| Error::system(format!("cannot prepare the start of {}", job.program), errno);
        let (soft, hard) = process::descriptor_limits().map_err(failed)?;
        let needed = end as u64;
        if needed > hard {
            let what =
                format!("cannot pass {needed} descriptors to {}, the hard limit is {hard}", job.program);
            return Err(Error::system(what, Errno::EMFILE));
        }
        let during = soft.max(if needed > soft { hard } else { 0 });
        let after = limit_of_the_new_program(job.soft_limit, needed).min(hard);

        let handover = Handover {
            descriptors: job.descriptors.len(),
            names: job.listen_fdnames.as_deref(),
            channel: highest_to,
            nonce: &job.nonce,
        };
        let (mut texts, mut buffers, mut slots, mut environment) = (vec![], vec![], vec![], vec![]);
        for entry in
            environment::environment(std::mem::take(&mut job.environment), std::process::id(), &handover)
        {
            match entry {
                Entry::Text(text) => {
                    environment.push(text.as_ptr());
                    texts.push(text);
                }
                Entry::Pid { before, mut after } => {
                    after.push(0);
                    let mut buffer = before.clone();
                    buffer.resize(before.len() + PID_DIGITS + after.len(), 0);
                    let mut buffer = buffer.into_boxed_slice();
                    environment.push(buffer.as_ptr().cast());
                    slots.push(PidSlot { digits: buffer.as_mut_ptr().wrapping_add(before.len()), after });
                    buffers.push(buffer);
                }
            }
        }
        environment.push(ptr::null());
        let mut arguments: Vec<_> = job.program.arguments.iter().map(|argument| argument.as_ptr()).collect();
        arguments.push(ptr::null());
        Ok(Prepared {
            ops,
            end,
            highest: c_int::try_from(hard.max(soft)).unwrap_or(c_int::MAX),
            room: (during != soft).then_some([during, hard]),
            limits: (after != during).then_some([after, hard]),
            arguments,
            environment,
            slots,
            _texts: texts,
            _buffers: buffers,
            _copies: copies,
            job,
        })
    }
}

/// Not fewer than the program needs besides what is handed over: its loader fails where no number is left.
fn limit_of_the_new_program(soft_limit: u64, handed_over: u64) -> u64 {
    if handed_over.saturating_add(OWN_NEEDS) > soft_limit {
        handed_over.saturating_add(soft_limit)
    } else {
        soft_limit
    }
}

/// Numbers of descriptors, a bit for each.
#[derive(Default)]
struct Seen(Vec<u64>);

impl Seen {
    /// Whether it is new.
    fn insert(&mut self, number: c_int) -> bool {
        let (word, bit) = (number as usize / 64, 1 << (number as usize % 64));
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
}

/// The plan, the copies it needs, and the channel's number.
fn placement<F: AsFd>(job: &Job<F>) -> Result<(Vec<Op>, Vec<OwnedFd>, c_int)> {
    let mut copies: Vec<OwnedFd> = Vec::new();
    let mut seen = Seen::default();
    let mut source = |fd: BorrowedFd<'_>| -> Result<c_int> {
        let number = fd.as_raw_fd();
        if number > 2 && seen.insert(number) {
            return Ok(number);
        }
        let what = || format!("cannot copy descriptor {number} for {}", job.program);
        let copy = process::duplicate(fd).map_err(|errno| Error::system(what(), errno))?;
        let number = copy.as_raw_fd();
        copies.push(copy);
        seen.insert(number);
        Ok(number)
    };
    let mut moves = Vec::with_capacity(job.descriptors.len() + 4);
    let mut to = 0;
    for fd in &job.stdio {
        let from = fd.as_ref().map(|fd| source(fd.as_fd())).transpose()?;
        moves.push(Move { from, to });
        to += 1;
    }
    for fd in job.descriptors.iter().chain([&job.channel]) {
        moves.push(Move { from: Some(source(fd.as_fd())?), to });
        to += 1;
    }
    Ok((plan::plan(&moves), copies, to - 1))
}

/// Starts the successor. Returns once it has exec'd, or failed to.
pub fn spawn<F: AsFd>(prepared: Prepared<F>, watch: &Watch) -> Result<Spawned> {
    let program = &prepared.job.program;
    if !watch.is_fresh() {
        return Err(Error::Invalid(format!("the start of {program} needs a watch of its own")));
    }
    let report = watch.report();
    let orders = Orders {
        report,
        ops: &prepared.ops,
        end: prepared.end,
        highest: prepared.highest,
        room: prepared.room,
        limits: prepared.limits,
        ignored: prepared.job.signals.ignored,
        mask: prepared.job.signals.mask,
        directory: program.directory.as_deref().map_or(ptr::null(), CStr::as_ptr),
        executable: program.executable.as_ptr(),
        arguments: prepared.arguments.as_ptr(),
        environment: prepared.environment.as_ptr(),
        slots: &prepared.slots,
        entries: watch.stack().bottom(),
        entries_size: watch::ENTRIES_SIZE,
    };
    let started = |errno| Error::system(format!("cannot start {program}"), errno);
    // Until the child is done with, so that the host's handlers do not delay that.
    let _blocked = AllSignalsBlocked::new().map_err(started)?;
    let argument = ptr::from_ref(&orders).cast_mut().cast();
    let (stack, sibling) = (watch.stack(), prepared.job.sibling);
    // SAFETY: all signals are blocked; `run` keeps to async-signal-safe calls, and `orders` with all it points to is
    // alive until clone returns, which is after the child has left this memory.
    let cloned = unsafe { process::clone(child::run, stack, argument, report.pidfd.as_ptr(), sibling) };
    let killed = watch.over();
    let pid = cloned.map_err(started)?;
    // SAFETY: the kernel gave this process the descriptor, and `over` took it from the watcher.
    let pidfd = unsafe { OwnedFd::from_raw_fd(report.pidfd.load(Ordering::Acquire)) };

    let step = Step::of(report.step.load(Ordering::Acquire));
    let errno = report.errno.load(Ordering::Acquire);
    if killed || errno != 0 {
        // ECHILD: a host that ignores SIGCHLD, waits for everything, or has a sibling; there is nothing to reap.
        let _ = process::reap_ending(pidfd.as_fd());
        if errno != 0 {
            return Err(explain(program, step, Errno::from_raw(errno)));
        }
        let hung = match step {
            Step::Directory => "entering its directory",
            Step::Exec => "in exec",
            _ => "in its preparation",
        };
        return Err(Error::Deadline(format!("the start of {program} hung {hung} and was ended")));
    }
    let pidfd = match pidfd.as_raw_fd() {
        // The host runs without one of 0 to 2 and may open its own there at any time, or write to it.
        0..3 => process::duplicate(pidfd.as_fd()).unwrap_or(pidfd),
        _ => pidfd,
    };
    Ok(Spawned { pid, pidfd })
}

/// The sentence for a step that failed in the child.
fn explain(program: &Program, step: Step, errno: Errno) -> Error {
    let what = match step {
        Step::Signals | Step::Close => format!("cannot prepare the start of {program}"),
        Step::Limit | Step::RestoreLimit => format!("cannot set the descriptor limit of {program}"),
        Step::Place => format!("cannot pass descriptors to {program}"),
        Step::Directory => {
            let directory = program.directory.as_deref().unwrap_or_default().to_string_lossy();
            format!("cannot start in directory {directory}")
        }
        Step::Exec => {
            if let Err(error) = program.check() {
                return error;
            }
            let missing =
                if errno == Errno::ENOENT { ", whose interpreter or loader is missing" } else { "" };
            format!("cannot start {program}{missing}")
        }
    };
    Error::system(what, errno)
}
