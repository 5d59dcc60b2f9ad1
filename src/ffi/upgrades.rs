//! Becoming ready, being replaced, and the end.

use super::boundary::{call_for_upgrade, call_in_handler, call_on, deadline, enter, flip_t, number_of};
use super::config::known_request;
use super::{FLIP_SHUTDOWN_DETACH, FLIP_SHUTDOWN_STOP, FLIP_SHUTDOWN_UPGRADE};
use crate::flip::Flip;
use crate::handle::is_open;
use crate::upgrade::Shutdown;
use nix::errno::Errno;
use std::ffi::c_int;
use std::os::fd::AsRawFd;

/// Says that this process could serve, and waits until it may: after 0 it must. In generation 0 that is at once; a
/// successor waits until its predecessor lets it, or is dead. Idempotent, and never -EINTR.
///
/// 0, or -ETIMEDOUT: `timeout_ms` passed, call again (-1: no limit, 0: do not wait). Final, exit then: -ECANCELED
/// (the predecessor gave up, or somebody asked this process to stop), -ETIME (it was not let by the upgrade
/// deadline), -EPROTO. Not final: -ENOENT, members of an inherited reuseport group are unclaimed (`flip_last_error`
/// names them): claim or forget them and call again; -ECONNRESET: promised state was lost and `flip_take_state` has
/// not said so yet: call that first; in generation 0 the errno with which the pid file could not be written. -ECHILD
/// in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_ready(flip: *mut flip_t, timeout_ms: c_int) -> c_int {
    call_on("flip_ready", flip, |flip| flip.ready(deadline(timeout_ms)?).map(|()| 0))
}

/// Waits until the predecessor has exited: 0; at once in generation 0. Or -ETIMEDOUT; -EINTR: a signal handler ran,
/// call again; -ECANCELED: `flip_free`; -ECHILD in a forked child; -EMFILE, -ENFILE, -ENOMEM: no descriptor to wait
/// with.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_wait_predecessor(flip: *mut flip_t, timeout_ms: c_int) -> c_int {
    call_on("flip_wait_predecessor", flip, |flip| flip.wait_predecessor(deadline(timeout_ms)?).map(|()| 0))
}

/// A descriptor for poll, epoll or an event loop: readable, for ever, once the predecessor has exited; at once in
/// generation 0. Borrowed: never close it, never read from it; it lives until `flip_free`. -EINVAL, -EBADF; -ECHILD
/// in a forked child; the first call makes it: -EMFILE, -ENFILE, -ENOMEM.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_predecessor_fd(flip: *mut flip_t) -> c_int {
    call_on("flip_predecessor_fd", flip, |flip| Ok(flip.predecessor_fd()?.as_raw_fd()))
}

/// Moves the deadline that is running to `ms` milliseconds from now: before `flip_ready` the predecessor's upgrade
/// deadline (which only grows; in generation 0 the start time-out of the service manager, where there is one), after
/// shutdown the drain deadline.
///
/// 0, or -EINVAL: no deadline is running, `ms` is 0 or more than a year; -ECANCELED; -ECHILD in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_extend(flip: *mut flip_t, ms: u64) -> c_int {
    call_on("flip_extend", flip, |flip| flip.extend(ms).map(|()| 0))
}

/// Replaces this process by a new one and waits for the result: the pid of the successor once everything has been
/// handed over (shutdown has fired, or is about to), or why not; then this process serves on as before and
/// `flip_last_failure` has the kind.
///
/// -ETIMEDOUT: `timeout_ms` passed; -EINTR: a signal handler ran. The upgrade goes on in both cases, and the next
/// call of the same thread goes on waiting for it. -ECONNABORTED: the new process ended too early; -ETIME: a
/// deadline; -ECONNREFUSED: this host refused, or the new process gave up; -EIO: the state could not be handed over;
/// -EPROTO; -EALREADY: one is running; -EBUSY: too many older generations drain; -EAGAIN: not ready yet, or
/// `flip_ready` has returned a moment ago and the predecessor has not let go (`flip_request` remembers it);
/// -ESHUTDOWN: stopping; -EOPNOTSUPP: cannot work here; the errno of what failed, as -ENOENT: it could not be
/// started (-ENOEXEC instead of one that has another meaning in this list); -EDEADLK on a thread that reads events
/// with questions; -ECANCELED: `flip_free`; -EBADF after it; -ECHILD in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_upgrade(flip: *mut flip_t, timeout_ms: c_int) -> c_int {
    call_for_upgrade("flip_upgrade", || {
        let flip = enter(flip)?;
        flip.upgrade(deadline(timeout_ms)?)
    })
}

/// Asks for an upgrade, a stop or a detach (FLIP_REQUEST_*) and returns. Async-signal-safe: a handler of the host's
/// own may call it. What the signals do, `flip_config_set_signal`, is this. An upgrade that cannot start yet is
/// remembered and leads to one later.
///
/// 0, or -EINVAL: NULL, an unknown request; -EBADF: freed; -ECHILD in a forked child. Since a handler may be what
/// calls it, `flip_last_error` says nothing about it.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_request(flip: *mut flip_t, request: c_int) -> c_int {
    call_in_handler("flip_request", || {
        if !is_open(number_of(flip).ok_or(Errno::EINVAL)?) {
            return Err(Errno::EBADF);
        }
        Flip::request(known_request(request).ok_or(Errno::EINVAL)?)
    })
}

/// Waits for shutdown: FLIP_SHUTDOWN_UPGRADE (a successor serves), FLIP_SHUTDOWN_STOP, or once FLIP_SHUTDOWN_DETACH.
/// Then close the listeners, finish the open connections (`flip_drain`) and exit.
///
/// Or -ETIMEDOUT: `timeout_ms` passed; -EINTR: a signal handler ran, call again; -ECANCELED: `flip_free`. In a forked
/// child it also returns, as a stop, when the process that called `flip_init` has died.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_wait_shutdown(flip: *mut flip_t, timeout_ms: c_int) -> c_int {
    call_on("flip_wait_shutdown", flip, |flip| {
        Ok(match flip.wait_shutdown(deadline(timeout_ms)?)? {
            Shutdown::Upgrade => FLIP_SHUTDOWN_UPGRADE,
            Shutdown::Stop => FLIP_SHUTDOWN_STOP,
            Shutdown::Detach => FLIP_SHUTDOWN_DETACH,
        })
    })
}

/// A descriptor for poll, epoll or an event loop: readable (POLLIN) from shutdown on, for ever, for every reader.
/// Borrowed: never close it, never read from it; it lives until `flip_free`. A detach does not make it readable.
///
/// The descriptor, or -EINVAL, -EBADF.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_shutdown_fd(flip: *mut flip_t) -> c_int {
    call_on("flip_shutdown_fd", flip, |flip| Ok(flip.shutdown_fd().as_raw_fd()))
}

/// The pid of the last successor that was started, also of one that failed; -ENOENT before there was one. -ECHILD in
/// a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_successor_pid(flip: *const flip_t) -> c_int {
    call_on("flip_successor_pid", flip, |flip| flip.successor_pid())
}
