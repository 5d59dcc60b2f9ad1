//! Connections, and the end of them. All of it works in a forked child, on the child's own count.

use super::boundary::{call_on, call_uncancelled, call_unusual, deadline, descriptor, flip_t, is_as_usual};
use crate::flip::Flip;
use std::ffi::c_int;
use std::os::fd::{AsRawFd, IntoRawFd};

/// Waits for a connection on a listener and returns it: the caller's, blocking, CLOEXEC, 3 or more, and counted: call
/// `flip_conn_end` when you have closed it. Retries what accept(2) may be retried on, waits while descriptors are
/// exhausted, goes on after a signal handler. Called before `flip_ready` has returned 0 it waits for that first. Any
/// number of threads may call it at once.
///
/// The connection, or -ECANCELED from shutdown on, also in a thread that waits already, and there in `flip_free` too;
/// -ETIMEDOUT: `timeout_ms` passed; -EMFILE, -ENFILE, -ENOBUFS, -ENOMEM, with `timeout_ms` 0 only: a connection waits, and
/// nothing is left to take it with: look again in a while, not at once; -EINVAL: the listener blocks (O_NONBLOCK is not
/// set; looked at every few calls), or does not listen; -EBADF.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `listener` is not closed during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_accept(flip: *mut flip_t, listener: c_int, timeout_ms: c_int) -> c_int {
    call_uncancelled("flip_accept", flip, |flip| {
        // SAFETY: as promised by the caller.
        let listener = unsafe { descriptor(listener) }?;
        flip.accept(listener, deadline(timeout_ms)?).map(IntoRawFd::into_raw_fd)
    })
}

/// Counts a connection that was accepted in another way. A few nanoseconds. 0, -EINVAL or -EBADF.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_conn_begin(flip: *mut flip_t) -> c_int {
    if is_as_usual(flip) {
        Flip::conn_begin();
        return 0;
    }
    call_unusual("flip_conn_begin", flip, Flip::conn_begin)
}

/// The end of a connection from `flip_accept` or `flip_conn_begin`, on any thread, once for each, and with the handle that
/// it began with. 0, -EINVAL or -EBADF: the handle was freed, and its connections are not counted any more.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_conn_end(flip: *mut flip_t) -> c_int {
    if is_as_usual(flip) {
        Flip::conn_end();
        return 0;
    }
    call_unusual("flip_conn_end", flip, Flip::conn_end)
}

/// How many connections are open, or -EINVAL, -EBADF.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_conn_count(flip: *const flip_t) -> c_int {
    call_on("flip_conn_count", flip, |flip| Ok(c_int::try_from(flip.conn_count()).unwrap_or(c_int::MAX)))
}

/// Waits until no connection is open: 0. Never -EINTR.
///
/// Or -ETIME: the drain deadline passed; -ECANCELED: a second stop cut the drain short, which leaves it 1.5 s, or
/// `flip_free`; -ETIMEDOUT: `timeout_ms` passed; -EINVAL: shutdown has not begun.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_drain(flip: *mut flip_t, timeout_ms: c_int) -> c_int {
    call_on("flip_drain", flip, |flip| flip.drain(deadline(timeout_ms)?).map(|()| 0))
}

/// A descriptor for poll, epoll or an event loop: readable from when `flip_drain` would return, for ever: a connection
/// that is counted only after that does not take it back. Borrowed: never close it, never read from it; it lives until
/// `flip_free`. -EINVAL, -EBADF; -ECHILD in a forked child, which uses `flip_drain`; the first call makes it: -EMFILE,
/// -ENFILE, -ENOMEM.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_drained_fd(flip: *mut flip_t) -> c_int {
    call_on("flip_drained_fd", flip, |flip| Ok(flip.drained_fd()?.as_raw_fd()))
}
