//! Threads of the library. Made with pthread_create(3) itself: std's way looks up a symbol by name first, which takes
//! as long as the thread does, in a process whose start is waited for.

use super::fault;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// A thread that is there until it is joined; one that is dropped goes on by itself.
#[derive(Debug)]
pub struct Thread {
    id: libc::pthread_t,
    over: Arc<AtomicBool>,
    joined: bool,
}

impl Thread {
    /// Whether it has done its work, so that [`Thread::join`] does not wait.
    pub fn is_finished(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Waits for its end.
    pub fn join(mut self) {
        self.joined = true;
        // SAFETY: neither joined nor detached before.
        unsafe { libc::pthread_join(self.id, std::ptr::null_mut()) };
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if !self.joined {
            // SAFETY: neither joined nor detached before.
            unsafe { libc::pthread_detach(self.id) };
        }
    }
}

/// What tells this thread from all others that run now; not 0. A later thread may have it again.
#[inline(always)]
pub fn number() -> usize {
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
    {
        let number: usize;
        // SAFETY: the thread pointer is at its own address by the ABI of thread-local storage; it is only read.
        unsafe {
            std::arch::asm!("mov {}, fs:[0]", out(reg) number, options(nostack, preserves_flags, readonly))
        };
        number
    }
    #[cfg(target_arch = "aarch64")]
    {
        let number: usize;
        // SAFETY: reads the register of the thread pointer.
        unsafe {
            std::arch::asm!("mrs {}, tpidr_el0", out(reg) number, options(nostack, preserves_flags, nomem))
        };
        number
    }
    #[cfg(not(any(all(target_arch = "x86_64", target_pointer_width = "64"), target_arch = "aarch64")))]
    {
        // SAFETY: it cannot fail.
        unsafe { libc::pthread_self() as usize }
    }
}

/// This thread's capabilities, as capget(2) has them; `None`: it may not ask.
pub fn capabilities() -> Option<[u32; 6]> {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = [VERSION_3, 0];
    let mut sets = [0u32; 6];
    // SAFETY: as large as the kernel's structures of this version, which are these numbers and nothing else.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    (result == 0).then_some(sets)
}

/// Whether no seccomp filter stands between this thread and the kernel. False where it may not ask.
pub fn is_unfiltered() -> bool {
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) == 0 }
}

/// As much as std gives, and nothing of it is used before it is needed.
const STACK_SIZE: usize = 2 * 1024 * 1024;

struct Start {
    name: &'static CStr,
    run: Box<dyn FnOnce() + Send>,
    over: Arc<AtomicBool>,
}

/// Starts a thread with every signal blocked that may be: it handles none of the host's. (The C library spares the two
/// that it needs itself, for setuid(2) in all threads and for cancellation.) On failure `run` is dropped.
pub fn start(name: &'static CStr, run: impl FnOnce() + Send + 'static) -> Result<Thread, Errno> {
    fault::at("thread")?;
    let over = Arc::new(AtomicBool::new(false));
    let start = Box::new(Start { name, run: Box::new(run), over: Arc::clone(&over) });
    let mut before = SigSet::empty();
    // The calls fail for a wrong `how` only.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before));
    let id = create(start);
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    id.map(|id| Thread { id, over, joined: false })
}

fn create(start: Box<Start>) -> Result<libc::pthread_t, Errno> {
    let start = Box::into_raw(start).cast::<c_void>();
    let (mut attributes, mut id) = (MaybeUninit::<libc::pthread_attr_t>::uninit(), MaybeUninit::uninit());
    // SAFETY: initialised before it is used, and destroyed after; `entry` takes what `start` points to.
    let failed = unsafe {
        libc::pthread_attr_init(attributes.as_mut_ptr());
        libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK_SIZE);
        let mut failed = libc::pthread_create(id.as_mut_ptr(), attributes.as_ptr(), entry, start);
        if failed == libc::EINVAL {
            // The thread-local storage of this program has no room in it: then what the program has for its own.
            failed = libc::pthread_create(id.as_mut_ptr(), std::ptr::null(), entry, start);
        }
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        failed
    };
    if failed != 0 {
        // SAFETY: no thread has it.
        drop(unsafe { Box::from_raw(start.cast::<Start>()) });
        return Err(Errno::from_raw(failed));
    }
    // SAFETY: pthread_create has succeeded.
    Ok(unsafe { id.assume_init() })
}

extern "C" fn entry(start: *mut c_void) -> *mut c_void {
    // SAFETY: from Box::into_raw in `create`, for this thread alone. It is given back at the end and not here: with the
    // first use of the allocator a thread gets an arena, and whoever started this one is in a hurry.
    let mut start = unsafe { Box::from_raw(start.cast::<Start>()) };
    // SAFETY: reads a string of at most 15 bytes, or the first 15.
    unsafe { libc::prctl(libc::PR_SET_NAME, start.name.as_ptr()) };
    let run = std::mem::replace(&mut start.run, Box::new(|| ()));
    // No unwinding into the C library; who runs something here has caught its panics already.
    let _ = catch_unwind(AssertUnwindSafe(run));
    start.over.store(true, SeqCst);
    std::ptr::null_mut()
}

/// The number of this thread.
pub fn id() -> i32 {
    // SAFETY: gettid has no conditions.
    unsafe { libc::gettid() }
}

/// One write(2) that raises no signal, whatever is at the other end.
pub fn write_without_signals(fd: BorrowedFd, bytes: &[u8]) {
    let write = || nix::unistd::write(fd, bytes);
    let write = || without_signal(Signal::SIGPIPE, Errno::EPIPE, write);
    let _ = without_signal(Signal::SIGXFSZ, Errno::EFBIG, write);
}

/// Runs what fails with this errno without the signal that the kernel sends this thread besides, whoever's thread it is.
pub fn without_signal<T>(
    signal: Signal,
    errno: Errno,
    run: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let only = SigSet::from(signal);
    let mut before = SigSet::empty();
    // The calls fail for a wrong `how` only.
    let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&only), Some(&mut before));
    let waits = is_pending(signal);
    let done = run();
    if done.as_ref().err() == Some(&errno) && !waits {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: takes back the signal that was just raised, for this thread; the pointers outlive the call.
        unsafe { libc::sigtimedwait(only.as_ref(), std::ptr::null_mut(), &now) };
    }
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    done
}

fn is_pending(signal: Signal) -> bool {
    let mut pending = SigSet::empty();
    let set: *mut libc::sigset_t = std::ptr::from_mut(&mut pending).cast();
    // SAFETY: SigSet is a sigset_t and nothing else.
    unsafe { libc::sigpending(set) };
    pending.contains(signal)
}

/// While it lives, pthread_cancel(3) waits: it unwinds the thread, which must not happen to code that holds locks and
/// half of a hand-over.
pub struct NotCancelled {
    before: libc::c_int,
}

impl NotCancelled {
    /// For the calling thread.
    pub fn begin() -> NotCancelled {
        /// glibc's; the libc crate has neither this nor the function.
        const PTHREAD_CANCEL_DISABLE: libc::c_int = 1;
        NotCancelled { before: set_cancel_state(PTHREAD_CANCEL_DISABLE) }
    }
}

impl Drop for NotCancelled {
    fn drop(&mut self) {
        set_cancel_state(self.before);
    }
}

/// Returns the state before.
fn set_cancel_state(state: libc::c_int) -> libc::c_int {
    unsafe extern "C" {
        fn pthread_setcancelstate(state: libc::c_int, before: *mut libc::c_int) -> libc::c_int;
    }
    let mut before = 0;
    // SAFETY: writes one int. It fails for a state that there is not, and changes nothing then.
    unsafe { pthread_setcancelstate(state, &mut before) };
    before
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::sync::mpsc::channel;

    #[test]
    fn a_thread_has_its_name_handles_no_signal_and_can_be_waited_for() {
        let (tell, told) = channel();
        let thread = start(c"a name", move || {
            let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            tell.send((name, SigSet::thread_get_mask().unwrap())).unwrap();
        });
        let (name, mask) = told.recv().unwrap();
        assert_eq!(name, "a name\n");
        assert!(mask.contains(nix::sys::signal::SIGTERM) && mask.contains(nix::sys::signal::SIGUSR1));
        assert!(!SigSet::thread_get_mask().unwrap().contains(nix::sys::signal::SIGTERM));
        thread.unwrap().join();
    }

    #[test]
    fn a_write_that_nobody_reads_raises_no_signal_and_eats_none_that_was_there() {
        use nix::sys::signal::{SaFlags, SigAction, SigHandler, raise, sigaction};
        use std::sync::atomic::AtomicU32;
        static RAISED: AtomicU32 = AtomicU32::new(0);
        extern "C" fn count(_: libc::c_int) {
            RAISED.fetch_add(1, SeqCst);
        }
        let action = SigAction::new(SigHandler::Handler(count), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler adds to an atomic; what was there comes back below.
        let before = unsafe { sigaction(Signal::SIGPIPE, &action) }.unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        write_without_signals(writer.as_fd(), b"x");
        assert_eq!(RAISED.load(SeqCst), 0);
        let pipe = SigSet::from(Signal::SIGPIPE);
        pipe.thread_block().unwrap();
        raise(Signal::SIGPIPE).unwrap();
        write_without_signals(writer.as_fd(), b"x");
        pipe.thread_unblock().unwrap();
        assert_eq!(RAISED.load(SeqCst), 1);
        // SAFETY: as it was.
        unsafe { sigaction(Signal::SIGPIPE, &before) }.unwrap();
    }

    #[test]
    fn a_panic_ends_the_thread_and_nothing_else() {
        let thread = start(c"panics", || std::panic::resume_unwind(Box::new("as expected"))).unwrap();
        thread.join();
    }
}
