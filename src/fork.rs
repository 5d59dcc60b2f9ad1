//! What a forked child of the host must not keep: descriptors of ours whose copies would lie to others.
//!
//! A worker that holds a copy of the channel hides its master's end from the other side; one that holds the firing
//! end of a latch never sees the latch fire. A `pthread_atfork` child handler closes every [`Private`] descriptor,
//! restores the signal dispositions and starts the child's own connection count. It takes no lock that another
//! thread could have held, but one: the list itself, which the prepare handler holds across the fork.

use crate::drain::CONNECTIONS;
use crate::signals;
use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::SeqCst};

const NONE: i32 = -1;
static SLOTS: [AtomicI32; 128] = [const { AtomicI32::new(NONE) }; 128];
static CHILD: AtomicBool = AtomicBool::new(false);
static DEPTH: AtomicU32 = AtomicU32::new(0);
static LIST: ListLock = ListLock(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));

/// A pthread mutex, because it may be locked in prepare and unlocked in the child.
struct ListLock(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a pthread mutex is made to be shared; all access goes through pthread_mutex_lock and _unlock.
unsafe impl Sync for ListLock {}

impl ListLock {
    fn lock(&self) {
        // SAFETY: statically initialised, never destroyed.
        unsafe { libc::pthread_mutex_lock(self.0.get()) };
    }

    fn unlock(&self) {
        // SAFETY: locked by this thread, or in prepare by the thread that became this one.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
    }
}

/// No fork happens while this lives: make a descriptor and list it as one step.
pub struct NoFork(());

impl NoFork {
    /// Waits for a fork under way.
    pub fn hold() -> NoFork {
        LIST.lock();
        NoFork(())
    }

    /// Lists a descriptor that was just made.
    pub fn private<T: AsFd>(&self, it: T) -> Private<T> {
        let raw = it.as_fd().as_raw_fd();
        let slot = SLOTS.iter().find(|slot| slot.compare_exchange(NONE, raw, SeqCst, SeqCst).is_ok());
        Private { it: ManuallyDrop::new(it), slot }
    }
}

impl Drop for NoFork {
    fn drop(&mut self) {
        LIST.unlock();
    }
}

/// Something with a descriptor that forked children do not keep.
#[derive(Debug)]
pub struct Private<T: AsFd = OwnedFd> {
    it: ManuallyDrop<T>,
    /// Its place in the list; none when the list was full (then children keep it, which costs them latency only).
    slot: Option<&'static AtomicI32>,
}

impl<T: AsFd> Deref for Private<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.it
    }
}

impl<T: AsFd> AsFd for Private<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.it.as_fd()
    }
}

impl<T: AsFd> Drop for Private<T> {
    fn drop(&mut self) {
        let _no_fork = NoFork::hold();
        let listed = self.slot.map(|slot| slot.swap(NONE, SeqCst));
        // Closed by the child handler when it is gone from the list; the number may be the host's by now.
        if listed != Some(NONE) {
            // SAFETY: dropped here and nowhere else.
            unsafe { ManuallyDrop::drop(&mut self.it) };
        }
    }
}

/// Whether this process is a fork of the one that called `flip_init`.
pub fn in_child() -> bool {
    CHILD.load(SeqCst)
}

/// How many forks lie between this process and the one that called `flip_init`: each begins its own connection count.
pub fn depth() -> u32 {
    DEPTH.load(SeqCst)
}

/// Installs the fork handlers, once per process.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the three functions are async-signal-safe and stay loaded (nodelete).
        unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    });
}

extern "C" fn prepare() {
    LIST.lock();
}

extern "C" fn parent() {
    LIST.unlock();
}

extern "C" fn child() {
    if crate::handle::is_taken() {
        CHILD.store(true, SeqCst);
    }
    DEPTH.fetch_add(1, SeqCst);
    for slot in &SLOTS {
        let raw = slot.swap(NONE, SeqCst);
        if raw != NONE {
            // SAFETY: listed descriptors are ours and open; the owner sees the empty slot and does not close again. Not
            // by close(3): a thread that was cancelled may fork, and would be unwound from here.
            unsafe { libc::syscall(libc::SYS_close, raw) };
        }
    }
    signals::restore_in_child();
    crate::drain::restart_in_child();
    CONNECTIONS.restart();
    crate::handle::restart_in_child();
    LIST.unlock();
}
