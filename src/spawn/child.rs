//! What the new process does between clone and exec. It runs on this process's memory while the spawning thread is
//! held, so: async-signal-safe system calls, no allocation, no lock, no indexing or arithmetic that can panic, and
//! everything it needs prepared by `spawn` in [`Orders`].

use super::plan::Op;
use crate::sys::process::SIGNAL_SET_SIZE;
use libc::{c_char, c_int, c_long, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// What the child tells the spawning thread, in a shared page.
#[derive(Debug, Default)]
pub struct Report {
    /// Written by the kernel; valid once `pid` is set.
    pub pidfd: AtomicI32,
    /// The child runs, and has this pid in its own namespace.
    pub pid: AtomicI32,
    /// The [`Step`] it is at.
    pub step: AtomicU32,
    /// Why that step failed; 0: it has not.
    pub errno: AtomicI32,
    /// Not 0: nobody wants the new program any more. Looked at after `pid` was set and before execve.
    pub abandoned: AtomicI32,
}

/// Where the child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// Not running yet, or resetting signals, which cannot fail.
    Signals = 0,
    /// Making room for the numbers.
    Limit = 1,
    /// 0 to 2, what is passed on, the channel.
    Place = 2,
    /// Everything else is marked to be closed.
    Close = 3,
    /// chdir.
    Directory = 4,
    /// The soft limit of the start.
    RestoreLimit = 5,
    /// execve.
    Exec = 6,
}

impl Step {
    /// The step that `number` stands for.
    pub fn of(number: u32) -> Step {
        match number {
            1 => Step::Limit,
            2 => Step::Place,
            3 => Step::Close,
            4 => Step::Directory,
            5 => Step::RestoreLimit,
            6 => Step::Exec,
            _ => Step::Signals,
        }
    }
}

/// Room for the pid's digits in an environment string.
pub const PID_DIGITS: usize = 10;

/// An environment string with the child's pid in it: the child writes the digits to `digits` and `after` behind them.
#[derive(Debug)]
pub struct PidSlot {
    /// There is room for [`PID_DIGITS`], `after` and a NUL.
    pub digits: *mut u8,
    /// What follows the pid, and the NUL.
    pub after: Vec<u8>,
}

/// Everything prepared.
#[derive(Debug)]
pub struct Orders<'a> {
    /// Shared.
    pub report: &'a Report,
    /// How to place the descriptors.
    pub ops: &'a [Op],
    /// The first number that the new program must not get.
    pub end: c_int,
    /// No descriptor has this number or a higher one.
    pub highest: c_int,
    /// Soft and hard limit while descriptors are placed; `None`: fine as it is.
    pub room: Option<[u64; 2]>,
    /// Soft and hard limit for the new program; `None`: fine as it is.
    pub limits: Option<[u64; 2]>,
    /// Signals to ignore; all others get their default.
    pub ignored: u64,
    /// Signals to block.
    pub mask: u64,
    /// Null: stay.
    pub directory: *const c_char,
    /// What to exec.
    pub executable: *const c_char,
    /// Null-terminated.
    pub arguments: *const *const c_char,
    /// Null-terminated; the strings of `slots` are among them.
    pub environment: *const *const c_char,
    /// Where the pid goes.
    pub slots: &'a [PidSlot],
    /// For reading /proc/self/fd.
    pub entries: *mut u8,
    /// Its size.
    pub entries_size: usize,
}

/// The child's whole life before exec. `orders` is an [`Orders`].
pub extern "C" fn run(orders: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes Orders that outlive the child's stay in this memory.
    unsafe {
        let orders = &*orders.cast::<Orders<'_>>();
        let report = orders.report;
        let pid = libc::syscall(libc::SYS_getpid) as c_int;
        report.pid.store(pid, Ordering::SeqCst);

        reset_signals(orders.ignored);

        if let Some(room) = &orders.room {
            at(report, Step::Limit);
            check(report, set_descriptor_limits(room));
        }
        at(report, Step::Place);
        for op in orders.ops {
            check(report, place(*op));
        }
        at(report, Step::Close);
        close_from(orders);
        if !orders.directory.is_null() {
            at(report, Step::Directory);
            check(report, libc::syscall(libc::SYS_chdir, orders.directory));
        }
        for slot in orders.slots {
            write_pid(pid, slot);
        }
        if let Some(limits) = &orders.limits {
            at(report, Step::RestoreLimit);
            check(report, set_descriptor_limits(limits));
        }
        at(report, Step::Exec);
        let none = ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &orders.mask, none, SIGNAL_SET_SIZE);
        let (arguments, environment) = (orders.arguments, orders.environment);
        // Whoever abandons it after this look sees the pid, and kills it.
        if report.abandoned.load(Ordering::SeqCst) != 0 {
            report.errno.store(libc::ECANCELED, Ordering::Release);
            libc::_exit(127)
        }
        let done = libc::syscall(libc::SYS_execve, orders.executable, arguments, environment);
        check(report, done);
        libc::_exit(127)
    }
}

/// Before the step, since it may hang.
fn at(report: &Report, step: Step) {
    report.step.store(step as u32, Ordering::Release);
}

/// Ends the child if `result` is a failure.
fn check(report: &Report, result: c_long) {
    if result < 0 {
        report.errno.store(errno(), Ordering::Release);
        // SAFETY: ends the process, touches nothing.
        unsafe { libc::_exit(127) }
    }
}

fn errno() -> c_int {
    // SAFETY: the spawning thread's errno; it is held and does not look.
    unsafe { *libc::__errno_location() }
}

/// Before anything is unblocked: a handler of the host's would run here.
unsafe fn reset_signals(ignored: u64) {
    let mut signal: c_int = 1;
    while signal <= 64 {
        let ignore = ignored >> (signal.wrapping_sub(1) as u32) & 1 == 1;
        // The kernel's struct, zeroed: default action, no flags, empty mask; its first word is the handler.
        let mut action = [0usize; 4];
        action[0] = if ignore { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: the buffer has the kernel's size. KILL and STOP are EINVAL, and so is what valgrind keeps.
        unsafe {
            let none = ptr::null_mut::<usize>();
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), none, SIGNAL_SET_SIZE);
        }
        signal = signal.wrapping_add(1);
    }
}

/// The child's own: limits belong to a process, not to memory.
unsafe fn set_descriptor_limits(limits: &[u64; 2]) -> c_long {
    // SAFETY: two words are the kernel's rlimit64.
    unsafe {
        let none = ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, limits.as_ptr(), none)
    }
}

/// The child's own as well: without CLONE_FILES the table is a copy.
unsafe fn place(op: Op) -> c_long {
    // SAFETY: numbers and a constant path.
    unsafe {
        match op {
            Op::Copy { from, to } => libc::syscall(libc::SYS_dup3, from, to, 0),
            Op::Keep(fd) => libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, 0),
            Op::Null(fd) => {
                libc::syscall(libc::SYS_close, fd);
                libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/dev/null".as_ptr(), libc::O_RDWR)
            }
        }
    }
}

/// Marks everything from `end` on as CLOEXEC (a path like /dev/fd/9 still works for exec then), or closes it.
unsafe fn close_from(orders: &Orders<'_>) {
    let first = orders.end;
    // SAFETY: numbers, a constant path, and a buffer of the given size.
    unsafe {
        // CLOSE_RANGE_CLOEXEC is Linux 5.11; seccomp profiles may know neither.
        for flags in [libc::CLOSE_RANGE_CLOEXEC, 0] {
            if libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) == 0 {
                return;
            }
        }
        let path = c"/proc/self/fd".as_ptr();
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let directory = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags) as c_int;
        if directory >= 0 {
            loop {
                let size = orders.entries_size;
                let read = libc::syscall(libc::SYS_getdents64, directory, orders.entries, size);
                match read {
                    0 => return,
                    1.. => mark_listed(orders.entries, read as usize, first),
                    _ => break,
                }
            }
        }
        let mut fd = first;
        while fd < orders.highest {
            set_cloexec(fd);
            fd = fd.wrapping_add(1);
        }
    }
}

/// One buffer of struct linux_dirent64: 8 bytes inode, 8 offset, 2 length, 1 type, the name with its NUL.
unsafe fn mark_listed(entries: *mut u8, size: usize, first: c_int) {
    let mut offset = 0usize;
    while offset < size {
        // SAFETY: the kernel filled `size` bytes with whole records.
        unsafe {
            let entry = entries.wrapping_add(offset);
            let length = entry.wrapping_add(16).cast::<u16>().read_unaligned();
            let mut name = entry.wrapping_add(19);
            let mut fd: c_int = 0;
            let mut is_number = *name != 0;
            while *name != 0 {
                is_number &= (*name).is_ascii_digit();
                fd = fd.wrapping_mul(10).wrapping_add((*name).wrapping_sub(b'0') as c_int);
                name = name.wrapping_add(1);
            }
            if is_number && fd >= first {
                set_cloexec(fd);
            }
            offset = offset.wrapping_add(length.max(1) as usize);
        }
    }
}

unsafe fn set_cloexec(fd: c_int) {
    // SAFETY: numbers; a closed one is EBADF.
    unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, libc::FD_CLOEXEC) };
}

unsafe fn write_pid(pid: c_int, slot: &PidSlot) {
    let mut digits = 1usize;
    let mut rest = pid.unsigned_abs() / 10;
    while rest > 0 {
        digits = digits.wrapping_add(1);
        rest /= 10;
    }
    let mut number = pid.unsigned_abs();
    let mut i = digits;
    while i > 0 {
        i = i.wrapping_sub(1);
        // SAFETY: a pid has at most PID_DIGITS digits, and there is room for them and for `after`.
        unsafe { *slot.digits.wrapping_add(i) = b'0'.wrapping_add((number % 10) as u8) };
        number /= 10;
    }
    // SAFETY: as above.
    unsafe {
        ptr::copy_nonoverlapping(slot.after.as_ptr(), slot.digits.wrapping_add(digits), slot.after.len())
    };
}
