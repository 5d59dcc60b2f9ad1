//! There is one handle per process, and calls may race its end: a call that has entered keeps it alive, one that
//! comes later is told that it was freed, by its number also when there is another by now.

use crate::error::{Error, Result};
use crate::flip::Flip;
use crate::sys::sync::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst, sleep};
use std::ops::Deref;
use std::sync::OnceLock;

static TAKEN: AtomicBool = AtomicBool::new(false);
static CURRENT: AtomicPtr<Flip> = AtomicPtr::new(std::ptr::null_mut());
/// Which handle calls may enter.
static OPEN: AtomicUsize = AtomicUsize::new(NONE);
/// How many handles there were.
static MADE: AtomicUsize = AtomicUsize::new(0);
/// Calls between [`enter`] and their end.
static USERS: AtomicUsize = AtomicUsize::new(0);

/// Tells the handles that a process has one after the other apart: below [`NUMBERS`]; then they come again.
pub type Number = usize;

/// So many handles a process has before a number comes again.
pub const NUMBERS: usize = 256;

/// No handle has it. `ffi` makes numbers of addresses; none is this far away.
const NONE: Number = usize::MAX / 2;

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

/// Begins a call on this handle.
pub fn enter(number: Number) -> Result<Entered> {
    USERS.fetch_add(1, SeqCst);
    let entered = Entered(CURRENT.load(SeqCst));
    // Where there is one it is not given back from here on, so that no other can take its place and its number.
    if entered.0.is_null() || !is_open(number) { Err(Error::Freed) } else { Ok(entered) }
}

/// Whether there is a handle, or one is being made or given back.
pub fn is_taken() -> bool {
    TAKEN.load(SeqCst)
}

/// Whether it is a handle to enter. Async-signal-safe.
#[inline(always)]
pub fn is_open(number: Number) -> bool {
    OPEN.load(SeqCst) == number
}

/// Whether a call would find nothing in its way: all that counting a connection has to know.
#[inline(always)]
pub fn is_usable(number: Number) -> bool {
    POISON.get().is_none() && is_open(number)
}

/// The handle is there for calls from now on, by the number that is returned.
pub fn put(flip: Flip) -> Number {
    let number = MADE.fetch_add(1, SeqCst) % NUMBERS;
    CURRENT.store(Box::into_raw(Box::new(flip)), SeqCst);
    OPEN.store(number, SeqCst);
    number
}

/// No call enters any more. Whoever gets the handle wakes the calls that are inside, then calls [`Taken::settle`].
pub fn take(number: Number) -> Result<Taken> {
    match OPEN.compare_exchange(number, NONE, SeqCst, SeqCst) {
        Ok(_) => Ok(Taken(CURRENT.swap(std::ptr::null_mut(), SeqCst))),
        Err(_) => Err(Error::Freed),
    }
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
