//! There is one handle per process, and calls may race its end: a call that has entered keeps it alive, one that
//! comes later is told that it was freed. The storage is static, so that even a stale pointer is only stale.

use crate::error::{Error, Result};
use crate::flip::Flip;
use crate::sys::sync::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst, sleep};
use std::ops::Deref;
use std::sync::OnceLock;

static TAKEN: AtomicBool = AtomicBool::new(false);
static CURRENT: AtomicPtr<Flip> = AtomicPtr::new(std::ptr::null_mut());
/// Calls between [`enter`] and their end.
static USERS: AtomicUsize = AtomicUsize::new(0);

/// The first defect that was caught; no call works after it.
static POISON: OnceLock<String> = OnceLock::new();

/// The handle is unusable from now on.
pub fn poison(what: &str) {
    let _ = POISON.set(what.to_string());
}

/// What [`poison`] said.
pub fn poisoned() -> Option<&'static str> {
    POISON.get().map(String::as_str)
}

/// The right to be the one handle; given back when dropped.
#[derive(Debug)]
pub struct Only(());

impl Only {
    /// `EBUSY` while there is another.
    pub fn take() -> Result<Only> {
        match TAKEN.swap(true, SeqCst) {
            false => Ok(Only(())),
            true => Err(Error::Busy("this process has a handle already; there is one at a time".into())),
        }
    }
}

impl Drop for Only {
    fn drop(&mut self) {
        TAKEN.store(false, SeqCst);
    }
}

/// A call in progress.
pub struct Entered(*const Flip);

impl Deref for Entered {
    type Target = Flip;

    fn deref(&self) -> &Flip {
        // SAFETY: take() waits for USERS to be 0 before it drops the handle, and this call is one of them.
        unsafe { &*self.0 }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        USERS.fetch_sub(1, SeqCst);
    }
}

/// Begins a call.
pub fn enter() -> Result<Entered> {
    USERS.fetch_add(1, SeqCst);
    let entered = Entered(CURRENT.load(SeqCst));
    if entered.0.is_null() { Err(Error::Freed) } else { Ok(entered) }
}

/// Whether there is a handle, or one is being made or given back.
pub fn is_taken() -> bool {
    TAKEN.load(SeqCst)
}

/// Whether there is a handle to enter.
#[inline(always)]
pub fn is_initialised() -> bool {
    !CURRENT.load(SeqCst).is_null()
}

/// Whether a call would find nothing in its way: all that counting a connection has to know.
#[inline(always)]
pub fn is_usable() -> bool {
    POISON.get().is_none() && is_initialised()
}

/// The handle is there for calls from now on.
pub fn put(flip: Flip) {
    CURRENT.store(Box::into_raw(Box::new(flip)), SeqCst);
}

/// No call enters any more. Whoever gets the handle wakes the calls that are inside, then calls [`Taken::settle`].
pub fn take() -> Result<Taken> {
    let flip = CURRENT.swap(std::ptr::null_mut(), SeqCst);
    if flip.is_null() { Err(Error::Freed) } else { Ok(Taken(flip)) }
}

/// A handle that nobody can enter any more.
pub struct Taken(*mut Flip);

impl Deref for Taken {
    type Target = Flip;

    fn deref(&self) -> &Flip {
        // SAFETY: only settle() gives it back, and consumes self.
        unsafe { &*self.0 }
    }
}

impl Taken {
    /// Waits for the calls that are inside, then gives the handle back.
    pub fn settle(self) {
        while USERS.load(SeqCst) != 0 {
            sleep(std::time::Duration::from_micros(50));
        }
        // SAFETY: from Box::into_raw in put(); nobody is inside and nobody can enter.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// In a forked child only the forking thread goes on, and it is not inside a call.
pub fn restart_in_child() {
    USERS.store(0, SeqCst);
}
