//! Processes: clone, pidfds, waiting for one child, and what a spawn needs besides (a stack, a shared page, the
//! calling thread's whole signal mask, the identity of a file). Called by `spawn`, `program`, `startup` and whoever
//! watches a process.
//!
//! Signal masks are the kernel's 64 bits, signal n at bit n-1: glibc's wrappers hide 32 and 33.

use super::fault;
use libc::{c_int, c_void};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::Pid;
use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

/// The size of the kernel's signal set in bytes.
pub const SIGNAL_SET_SIZE: usize = 8;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Status(i32),
    /// This signal ended it.
    Signal(i32),
}

/// Whether the kernel loaded an interpreter (ld.so) for this program: not for a static one, nor for ld.so itself.
pub fn has_interpreter() -> bool {
    // SAFETY: reads a value that the kernel left at exec.
    unsafe { libc::getauxval(libc::AT_BASE) != 0 }
}

/// How long another process may take to reap a child of its own that has ended.
const OTHERS_MOMENT: Duration = Duration::from_millis(100);

/// Which file this is, whatever the path that leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The device.
    pub device: u64,
    /// The inode on it.
    pub inode: u64,
}

/// Starts `entry(argument)` as a new process that shares this one's memory and holds the calling thread until it has
/// exec'd or ended. The kernel writes the pidfd (CLOEXEC) to `pidfd` before the child runs. With `sibling` the child
/// is our parent's, not ours (CLONE_PARENT).
///
/// # Safety
/// * All signals are blocked in the calling thread: a handler in the child would run on this process's memory.
/// * `entry` makes async-signal-safe calls only and ends in exec or `_exit`; `argument` is what it expects.
/// * `pidfd` may be written to.
pub unsafe fn clone(
    entry: extern "C" fn(*mut c_void) -> c_int,
    stack: &Mapping<[u8]>,
    argument: *mut c_void,
    pidfd: *mut c_int,
    sibling: bool,
) -> Result<Pid, Errno> {
    fault::at("clone")?;
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    if sibling {
        flags |= libc::CLONE_PARENT;
    }
    let top = stack.bottom().wrapping_add(stack.size);
    // SAFETY: the stack is ours and outlives the child's use of it, since CLONE_VFORK returns after exec or exit;
    // the rest is the caller's promise.
    Errno::result(unsafe { libc::clone(entry, top.cast(), flags, argument, pidfd) }).map(Pid::from_raw)
}

/// A descriptor for a process: readable once it has ended, CLOEXEC.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    fault::at("pidfd_open")?;
    // SAFETY: takes two numbers and gives a new descriptor, which nobody else owns.
    let fd = unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0))?;
        OwnedFd::from_raw_fd(fd as c_int)
    };
    super::fd::at_least_3(fd)
}

/// Sends `signal` to the process behind `pidfd`; never to another one that got its number since. `ESRCH`: it ended.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: c_int) -> Result<(), Errno> {
    fault::at("pidfd_send_signal")?;
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is what kill(2) would send.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    Errno::result(sent).map(drop)
}

/// Reaps the child behind `pidfd` if it has ended; `None`: it has not. `ECHILD`: it is not ours to wait for (the
/// host reaped it, or ignores SIGCHLD, or it is a sibling), so nobody here knows how it ended.
pub fn reap(pidfd: BorrowedFd<'_>) -> Result<Option<Exit>, Errno> {
    fault::at("reap")?;
    wait_pidfd(pidfd, libc::WNOHANG)
}

/// Waits until the child behind `pidfd` has ended and reaps it; only for one that is known to be ending.
pub fn reap_ending(pidfd: BorrowedFd<'_>) -> Result<Option<Exit>, Errno> {
    fault::at("reap_ending")?;
    loop {
        match wait_pidfd(pidfd, 0) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// How a process ended that somebody else reaps, where the kernel tells (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux
/// 6.15). It does so once the other has reaped it, which may take a moment, and takes [`OTHERS_MOMENT`] at most.
pub fn exit_of_other(pidfd: BorrowedFd<'_>) -> Option<Exit> {
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit: i32,
    }
    const EXIT: u64 = 1 << 3;
    // _IOWR(0xFF, 11, struct pidfd_info) of 64 bytes, its first published size.
    const GET_INFO: libc::c_ulong = 0xc040_ff0b;
    fault::at("pidfd_info").ok()?;
    let until = Instant::now() + OTHERS_MOMENT;
    loop {
        let mut info = Info { mask: EXIT, ..Info::default() };
        // SAFETY: the kernel writes at most the 64 bytes that the number of the request names.
        Errno::result(unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) }).ok()?;
        if info.mask & EXIT != 0 {
            return Some(match libc::WIFSIGNALED(info.exit) {
                true => Exit::Signal(libc::WTERMSIG(info.exit)),
                false => Exit::Status(libc::WEXITSTATUS(info.exit)),
            });
        }
        if Instant::now() >= until {
            return None;
        }
        // Without events only POLLHUP is reported, which is that it was reaped.
        let _ =
            super::fd::poll(&mut [PollFd::new(pidfd, PollFlags::empty())], Some(Duration::from_millis(10)));
    }
}

/// Whether the process behind `pidfd` has crashed and writes its core: it runs no more, and its pidfd will tell once that
/// is done, in seconds or minutes. No, where /proc does not tell (proc_pid_status(5), Linux 4.15).
pub fn dumps_core(pidfd: BorrowedFd<'_>) -> bool {
    // Its number as that /proc counts.
    let info = format!("/proc/thread-self/fdinfo/{}", pidfd.as_raw_fd());
    let pid = proc_field(&info, "Pid:").and_then(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0);
    pid.is_some_and(|pid| proc_field(&format!("/proc/{pid}/status"), "CoreDumping:").as_deref() == Some("1"))
}

/// The value behind a name at the begin of a line.
fn proc_field(path: &str, name: &str) -> Option<String> {
    let text = super::file::read_proc(&CString::new(path).ok()?).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_string()))
}

fn wait_pidfd(pidfd: BorrowedFd<'_>, flags: c_int) -> Result<Option<Exit>, Errno> {
    // Not nix's waitid: it fails on a child that a real-time signal ended, after having reaped it.
    // SAFETY: zeroes are a siginfo_t, the kernel fills in the rest; si_pid and si_status belong to waitid's variant.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let id = pidfd.as_raw_fd() as libc::id_t;
        Errno::result(libc::waitid(libc::P_PIDFD, id, &mut info, libc::WEXITED | flags))?;
        Ok(match (info.si_pid(), info.si_code) {
            (0, _) => None,
            (_, libc::CLD_EXITED) => Some(Exit::Status(info.si_status())),
            _ => Some(Exit::Signal(info.si_status())),
        })
    }
}

/// All signals blocked in this thread, 32 and 33 too, until this is dropped.
pub struct AllSignalsBlocked {
    before: u64,
    this_thread_only: PhantomData<*const ()>,
}

impl AllSignalsBlocked {
    /// Blocks them.
    pub fn new() -> Result<AllSignalsBlocked, Errno> {
        fault::at("rt_sigprocmask")?;
        let before = swap_signal_mask(Some(u64::MAX))?;
        Ok(AllSignalsBlocked { before, this_thread_only: PhantomData })
    }
}

impl Drop for AllSignalsBlocked {
    fn drop(&mut self) {
        // It cannot fail with a valid address and `how`.
        let _ = swap_signal_mask(Some(self.before));
    }
}

/// The calling thread's mask before; `new` replaces it. Async-signal-safe, and no fault point: the load-time
/// constructor calls this.
pub fn swap_signal_mask(new: Option<u64>) -> Result<u64, Errno> {
    let mut before = 0u64;
    let new = new.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: both point to the kernel's eight bytes, or are null.
    let done = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, new, &mut before, SIGNAL_SET_SIZE)
    };
    Errno::result(done).map(|_| before)
}

/// The signals that are ignored now, as a mask. Async-signal-safe.
pub fn ignored_signals() -> u64 {
    let mut ignored = 0u64;
    for signal in 1..=64 {
        // The handler is the first word of the kernel's struct on every architecture; four words hold all of it.
        let mut action = [0usize; 4];
        let none = ptr::null::<usize>();
        // SAFETY: only reads, into a buffer of the kernel's size.
        let read = unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, none, action.as_mut_ptr(), SIGNAL_SET_SIZE)
        };
        if read == 0 && action[0] == libc::SIG_IGN {
            ignored |= 1 << (signal - 1);
        }
    }
    ignored
}

/// Which file `path` leads to, through links, and whether it is a directory.
pub fn file_id(path: &CStr) -> Result<(FileId, bool), Errno> {
    fault::at("stat")?;
    let stat = nix::sys::stat::stat(path)?;
    let directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
    Ok((FileId { device: stat.st_dev, inode: stat.st_ino }, directory))
}

/// Whether this process may execute the file (or search the directory) at `path`, with its effective ids.
pub fn may_execute(path: &CStr) -> Result<(), Errno> {
    fault::at("faccessat")?;
    // SAFETY: path ends in NUL.
    let allowed = unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) };
    Errno::result(allowed).map(drop)
}

/// A duplicate of `fd` at 3 or above, CLOEXEC.
pub fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    fault::at("dup")?;
    // SAFETY: the new descriptor belongs to nobody else.
    unsafe {
        let new = Errno::result(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3))?;
        Ok(OwnedFd::from_raw_fd(new))
    }
}

/// The soft and hard limit of descriptor numbers.
pub fn descriptor_limits() -> Result<(u64, u64), Errno> {
    fault::at("getrlimit")?;
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
}

/// Memory from mmap that holds a `T`, or bytes to be used as a stack; unmapped when dropped.
pub struct Mapping<T: ?Sized> {
    start: NonNull<c_void>,
    size: usize,
    guard: usize,
    holds: PhantomData<T>,
}

// SAFETY: a mapping is plain memory that belongs to its owner.
unsafe impl<T: ?Sized + Send> Send for Mapping<T> {}
// SAFETY: a shared reference to it gives nothing but `&T`.
unsafe impl<T: ?Sized + Sync> Sync for Mapping<T> {}

impl Mapping<[u8]> {
    /// A stack of `size` bytes above a page that nobody can touch: overrunning it faults and corrupts nothing.
    pub fn stack(size: usize) -> Result<Mapping<[u8]>, Errno> {
        fault::at("mmap_stack")?;
        let guard = page_size();
        let base = map(size + guard, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_STACK)?;
        let start = base.as_ptr().wrapping_byte_add(guard);
        let stack =
            Mapping { start: NonNull::new(start).ok_or(Errno::ENOMEM)?, size, guard, holds: PhantomData };
        // SAFETY: the range was just mapped and nobody else knows it.
        Errno::result(unsafe { libc::mprotect(start, size, libc::PROT_READ | libc::PROT_WRITE) })?;
        // SAFETY: the last byte of the range. Its page is made now, and not when somebody waits.
        unsafe { start.cast::<u8>().wrapping_add(size - 1).write_volatile(0) };
        Ok(stack)
    }

    /// Its lowest byte, which is the last one to be used as a stack.
    pub fn bottom(&self) -> *mut u8 {
        self.start.as_ptr().cast()
    }
}

impl<T: Default> Mapping<T> {
    /// A value that a child writes to in place, even where clone gave it a copy of all other memory (valgrind).
    pub fn shared() -> Result<Mapping<T>, Errno> {
        fault::at("mmap_shared")?;
        let size = size_of::<T>();
        let start = map(size, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)?;
        // SAFETY: a fresh mapping of at least that size, aligned to a page.
        unsafe { start.cast::<T>().write(T::default()) };
        Ok(Mapping { start, size, guard: 0, holds: PhantomData })
    }
}

impl<T> std::ops::Deref for Mapping<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: `shared` wrote a T there, and it stays mapped as long as self.
        unsafe { self.start.cast::<T>().as_ref() }
    }
}

impl<T: ?Sized> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped; references into it borrow self.
        unsafe { libc::munmap(self.start.as_ptr().wrapping_byte_sub(self.guard), self.size + self.guard) };
    }
}

fn map(size: usize, protection: c_int, flags: c_int) -> Result<NonNull<c_void>, Errno> {
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags | libc::MAP_ANONYMOUS, -1, 0) };
    match NonNull::new(start) {
        Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(start),
        _ => Err(Errno::last()),
    }
}

fn page_size() -> usize {
    // SAFETY: asks libc for a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
