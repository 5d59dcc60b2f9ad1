//! The border to C. Every function goes through [`call`]: no panic leaves it, an error becomes a negative errno with
//! a line for `flip_last_error`, and after a caught panic every further call says that the handle is unusable.

use crate::error::{Error, Failure};
use crate::flip::Flip;
use crate::handle::{self, Entered};
use crate::sys::fault;
use crate::sys::thread::NotCancelled;
use nix::errno::Errno;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int};
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// One generation of a server, as its own process sees it. There is one per process at a time.
pub struct flip_t {
    _address_only: u8,
}

/// An address for each number that a handle can have: a call with a freed one is answered and not undefined, and does
/// not reach the next one.
static HANDLES: [flip_t; handle::NUMBERS] = [const { flip_t { _address_only: 0 } }; handle::NUMBERS];

thread_local! {
    static LAST_ERROR: RefCell<Option<CString>> = const { RefCell::new(None) };
    static LAST_FAILURE: Cell<Failure> = const { Cell::new(Failure::None) };
}

/// What one C function does. A trait of its own, since the table of `dyn FnMut` has three ways to call where one is
/// enough, for each of sixty functions.
trait Body {
    fn run(&mut self) -> Result<c_int, Error>;
}

impl<F: FnMut() -> Result<c_int, Error>> Body for F {
    fn run(&mut self) -> Result<c_int, Error> {
        self()
    }
}

/// The same for one of the handle.
trait BodyOn {
    fn run_on(&self, flip: &Flip) -> Result<c_int, Error>;
}

impl<F: Fn(&Flip) -> Result<c_int, Error>> BodyOn for F {
    fn run_on(&self, flip: &Flip) -> Result<c_int, Error> {
        self(flip)
    }
}

/// Runs one C function. `name` is its fault point.
pub fn call(name: &str, mut body: impl FnMut() -> Result<c_int, Error>) -> c_int {
    // All that is the same for every function is there once.
    guarded(name, &mut body)
}

#[inline(never)]
fn guarded(name: &str, body: &mut dyn Body) -> c_int {
    let _not_cancelled = NotCancelled::begin();
    unguarded(name, body)
}

/// Runs one on the handle that sees itself to it that nothing cancels it.
pub fn call_uncancelled(
    name: &str,
    flip: *const flip_t,
    body: impl Fn(&Flip) -> Result<c_int, Error>,
) -> c_int {
    unguarded(name, &mut || body(&*enter(flip)?))
}

/// Runs one C function of the handle.
pub fn call_on(name: &str, flip: *const flip_t, body: impl Fn(&Flip) -> Result<c_int, Error>) -> c_int {
    entered(name, flip, &body)
}

/// To enter and to leave is there once, too.
#[inline(never)]
fn entered(name: &str, flip: *const flip_t, body: &dyn BodyOn) -> c_int {
    guarded(name, &mut || body.run_on(&*enter(flip)?))
}

/// Whether nothing is in the way of what is called for every connection, which cannot panic, and cannot be cancelled
/// since it makes no system call. It enters nothing: that would make all threads write to one place.
#[inline(always)]
pub fn is_as_usual(flip: *const flip_t) -> bool {
    !cfg!(feature = "faults") && handle::is_usable(number(flip))
}

/// The same call where something may be.
#[cold]
#[inline(never)]
pub fn call_unusual(name: &str, flip: *const flip_t, body: fn()) -> c_int {
    unguarded(name, &mut || {
        if !handle::is_open(check(flip)?) {
            return Err(Error::Freed);
        }
        body();
        Ok(0)
    })
}

fn unguarded(name: &str, body: &mut dyn Body) -> c_int {
    if let Some(what) = handle::poisoned() {
        return fail(&Error::Poisoned(what.into()));
    }
    let result = catch_unwind(AssertUnwindSafe(|| {
        fault::at(name).map_err(|errno| Error::system(name, errno))?;
        body.run()
    }));
    match result {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => fail(&error),
        Err(_) => panicked(name),
    }
}

#[cold]
fn panicked(name: &str) -> c_int {
    handle::poison(&format!("{name} panicked"));
    fail(&Error::Poisoned(format!("{name} panicked")))
}

/// Runs one that a signal handler may call: no text, which would allocate.
pub fn call_in_handler(name: &str, body: impl FnOnce() -> Result<(), Errno>) -> c_int {
    if handle::poisoned().is_some() {
        return -libc::ENOTRECOVERABLE;
    }
    let result = catch_unwind(AssertUnwindSafe(|| {
        fault::at(name)?;
        body()
    }));
    match result {
        Ok(Ok(())) => 0,
        Ok(Err(errno)) => -(errno as c_int),
        Err(_) => {
            handle::poison(&format!("{name} panicked"));
            -libc::ENOTRECOVERABLE
        }
    }
}

/// The same for functions that return something else than a number, `otherwise` when they fail.
pub fn call_for<T>(name: &str, otherwise: T, mut body: impl FnMut() -> Result<T, Error>) -> T {
    let mut value = None;
    call(name, || {
        value = Some(body()?);
        Ok(0)
    });
    value.unwrap_or(otherwise)
}

/// For those that work whatever happened before, since they tell about it: a panic costs the text, once.
pub fn call_always<T>(name: &str, otherwise: T, body: impl FnOnce() -> T) -> T {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _ = fault::at(name);
        body()
    }));
    result.unwrap_or_else(|_| {
        handle::poison(&format!("{name} panicked"));
        otherwise
    })
}

#[cold]
fn fail(error: &Error) -> c_int {
    let mut line = error.to_string().into_bytes();
    line.retain(|byte| *byte != 0);
    let line = CString::new(line).unwrap_or_default();
    let _ = LAST_ERROR.try_with(|last| last.replace(Some(line)));
    let errno = error.errno() as c_int;
    -if errno > 0 { errno } else { libc::EIO }
}

/// Runs a function whose failure `flip_last_failure` tells.
pub fn call_for_upgrade(name: &str, mut body: impl FnMut() -> Result<c_int, Error>) -> c_int {
    let note = |failure| _ = LAST_FAILURE.try_with(|last| last.set(failure));
    note(Failure::None);
    call(name, || body().inspect_err(|error| note(error.failure())))
}

/// See `flip_last_failure`.
pub fn last_failure() -> Failure {
    LAST_FAILURE.try_with(Cell::get).unwrap_or(Failure::None)
}

/// See `flip_last_error`.
pub fn last_error() -> *const c_char {
    let line = LAST_ERROR.try_with(|last| last.borrow().as_ref().map(|line| line.as_ptr()));
    line.ok().flatten().unwrap_or(c"".as_ptr())
}

/// What `flip_init` gives out.
pub fn handle_of(number: handle::Number) -> *mut flip_t {
    std::ptr::from_ref(&HANDLES[number]).cast_mut()
}

/// Of something that is no handle: a number that no handle has.
#[inline(always)]
fn number(flip: *const flip_t) -> handle::Number {
    flip.addr().wrapping_sub(HANDLES.as_ptr().addr())
}

/// Whether it is a handle, alive or freed: its number. Async-signal-safe.
pub fn number_of(flip: *const flip_t) -> Option<handle::Number> {
    Some(number(flip)).filter(|number| *number < handle::NUMBERS)
}

/// The same, with an error.
pub fn check(flip: *const flip_t) -> Result<handle::Number, Error> {
    if flip.is_null() {
        return Err(null("flip"));
    }
    number_of(flip).ok_or_else(|| Error::Invalid("flip is not a handle from flip_init".into()))
}

/// Begins a call on the handle.
pub fn enter(flip: *const flip_t) -> Result<Entered, Error> {
    handle::enter(check(flip)?)
}

/// An argument that must not be NULL.
pub fn null(what: &str) -> Error {
    Error::Invalid(format!("{what} is NULL"))
}

/// # Safety
///
/// `text` is NULL or points to a NUL-terminated string that stays as it is for `'a`.
pub unsafe fn string<'a>(what: &str, text: *const c_char) -> Result<&'a CStr, Error> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: as promised by the caller.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// When a call that may take `timeout_ms` has to return; none: no limit.
pub fn deadline(timeout_ms: c_int) -> Result<Option<Instant>, Error> {
    match timeout_ms {
        -1 => Ok(None),
        0.. => Ok(Some(Instant::now() + Duration::from_millis(timeout_ms as u64))),
        _ => Err(Error::Invalid(format!("timeout_ms is {timeout_ms}; it is -1 for no limit, or 0 or more"))),
    }
}

/// # Safety
///
/// If it is open, `fd` stays open during the call.
pub unsafe fn descriptor<'a>(fd: c_int) -> Result<BorrowedFd<'a>, Error> {
    if fd < 0 {
        return Err(Error::system(format!("descriptor {fd}"), nix::errno::Errno::EBADF));
    }
    // SAFETY: not negative; as promised by the caller otherwise.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}
