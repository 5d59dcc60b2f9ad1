//! `flip_config_t`.

use super::boundary::{call, call_for, null};
use super::{FLIP_REQUEST_DETACH, FLIP_REQUEST_NONE, FLIP_REQUEST_STOP, FLIP_REQUEST_UPGRADE};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::upgrade::Request;
use std::ffi::{CStr, c_char, c_int, c_uint};

/// What can be chosen before `flip_init`. Made by `flip_config_new`, owned by the caller. Not thread-safe: one thread
/// at a time.
pub struct flip_config_t {
    config: Config,
}

/// A configuration with all defaults; NULL when memory is exhausted. To be given back with `flip_config_free`.
#[unsafe(no_mangle)]
pub extern "C" fn flip_config_new() -> *mut flip_config_t {
    call_for("flip_config_new", std::ptr::null_mut(), || {
        Ok(Box::into_raw(Box::new(flip_config_t { config: Config::default() })))
    })
}

/// Gives it back; NULL is allowed. `flip_init` has copied it: it may be freed right after.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_free(config: *mut flip_config_t) {
    call("flip_config_free", || {
        if !config.is_null() {
            // SAFETY: from Box::into_raw in flip_config_new, as promised by the caller.
            drop(unsafe { Box::from_raw(config) });
        }
        Ok(0)
    });
}

/// What a signal asks for: a FLIP_REQUEST_*; FLIP_REQUEST_NONE leaves the signal alone. By default SIGUSR1 upgrades,
/// SIGTERM and SIGINT stop (a default is not applied to a signal that was ignored when the process started, as under
/// nohup). Signal 0 with FLIP_REQUEST_NONE clears all, for hosts whose runtime owns signals: they call `flip_request`
/// from handlers of their own.
///
/// `flip_init` installs the handlers (SA_RESTART, SA_ONSTACK), which call a handler that was there before;
/// `flip_free` puts back what was there.
///
/// 0, or -EINVAL: NULL, a signal that cannot be handled, an unknown request.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_set_signal(
    config: *mut flip_config_t,
    signum: c_int,
    request: c_int,
) -> c_int {
    call("flip_config_set_signal", || {
        let request = match request {
            FLIP_REQUEST_NONE => None,
            request => Some(
                known_request(request)
                    .ok_or_else(|| Error::Invalid(format!("{request} is not a FLIP_REQUEST_")))?,
            ),
        };
        // SAFETY: as promised by the caller.
        unsafe { borrow(config) }?.set_signal(signum, request).map(|()| 0)
    })
}

/// How long an upgrade may take, in milliseconds, from the request until the new process is told to serve; default 60
/// 000. A new process that is not ready by then is ended (SIGTERM, 2 s later SIGKILL) and the old one serves on.
///
/// 0, or -EINVAL: NULL, 0, more than a year.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_set_upgrade_timeout(config: *mut flip_config_t, ms: u64) -> c_int {
    call("flip_config_set_upgrade_timeout", || {
        // SAFETY: as promised by the caller.
        unsafe { borrow(config) }?.set_upgrade_timeout(ms).map(|()| 0)
    })
}

/// How long open connections may take to finish, in milliseconds, from shutdown on; default 30 000. After that
/// `flip_drain` returns -ETIME.
///
/// 0, or -EINVAL: NULL, 0, more than a year.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_set_drain_timeout(config: *mut flip_config_t, ms: u64) -> c_int {
    call("flip_config_set_drain_timeout", || {
        // SAFETY: as promised by the caller.
        unsafe { borrow(config) }?.set_drain_timeout(ms).map(|()| 0)
    })
}

/// How long after the drain deadline a process that is still there is ended (SIGKILL, after its unix paths were
/// unlinked where they are its own), in milliseconds; default 0: never.
///
/// 0, or -EINVAL: NULL, more than a year.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_set_hard_stop(config: *mut flip_config_t, ms: u64) -> c_int {
    call("flip_config_set_hard_stop", || {
        // SAFETY: as promised by the caller.
        unsafe { borrow(config) }?.set_hard_stop(ms).map(|()| 0)
    })
}

/// How many older generations may still drain while a further upgrade starts; default 1, 0: none. Beyond that an
/// upgrade is refused with -EBUSY, or remembered if a signal asked for it.
///
/// 0, or -EINVAL: NULL, 200 or more.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_set_max_draining(config: *mut flip_config_t, n: c_uint) -> c_int {
    call("flip_config_set_max_draining", || {
        // SAFETY: as promised by the caller.
        unsafe { borrow(config) }?.set_max_draining(n).map(|()| 0)
    })
}

/// How long both generations serve after the new one is live, in milliseconds; default 0. If the new one dies
/// meanwhile, the upgrade has failed and the old one never stopped.
///
/// 0, or -EINVAL: NULL, more than a year.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_set_probation(config: *mut flip_config_t, ms: u64) -> c_int {
    call("flip_config_set_probation", || {
        // SAFETY: as promised by the caller.
        unsafe { borrow(config) }?.set_probation(ms).map(|()| 0)
    })
}

/// The events that the host will read with `flip_next_event`: FLIP_EVENT_* ored together; default 0. Who subscribes
/// to FLIP_EVENT_STARTING or FLIP_EVENT_STATE has to answer each within the upgrade deadline, or the upgrade fails.
/// Who subscribes to FLIP_EVENT_STATE promises a state to every successor.
///
/// 0, or -EINVAL: NULL, a bit that is no event.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_set_events(config: *mut flip_config_t, mask: c_uint) -> c_int {
    call("flip_config_set_events", || {
        // SAFETY: as promised by the caller.
        unsafe { borrow(config) }?.set_events(mask).map(|()| 0)
    })
}

/// A file that holds the pid of the generation that serves, one line; NULL (the default): none. A relative path is
/// relative to the working directory at this call. `flip_ready` of generation 0 writes it; a later generation does
/// when its predecessor has handed over, and removes nothing when it fails to (it says so in the log and the status).
/// It is replaced as a whole by a rename in its directory, which this process must be able to write to; a symbolic
/// link in its place is replaced, not followed. `flip_free` removes it after a stop, if it holds this process's pid.
///
/// 0, or -EINVAL: NULL as `config`, an empty path, one that ends in "/", "." or ".."; -ENOENT: a relative path, and
/// the working directory was removed.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
/// - `path` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_set_pid_file(config: *mut flip_config_t, path: *const c_char) -> c_int {
    call("flip_config_set_pid_file", || {
        // SAFETY: as promised by the caller.
        let config = unsafe { borrow(config) }?;
        // SAFETY: not NULL, and as promised by the caller.
        let path = (!path.is_null()).then(|| unsafe { CStr::from_ptr(path) });
        config.set_pid_file(path.map(CStr::to_bytes)).map(|()| 0)
    })
}

/// Where operators ask for upgrades, stops, detaches and the status: "unix:///run/a.ctl?mode=0660&owner=:ops" or
/// "unix:@name"; NULL (the default): nowhere. The path's mode and owner are the authority, mode 0600 without `mode=`,
/// from the first instant on; an abstract name answers root and this process's own user. `flip_init` binds it, in
/// place of one that nobody listens on any more; a successor inherits it where the address is the same, so that it is
/// never missing. It is read by one generation at a time: the old one until it has handed over. On a stop or detach
/// it is closed and unlinked. The lines that it takes, as from nc -U, are in docs/control.md.
///
/// 0, or -EINVAL: NULL, an address that makes no sense here.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
/// - `address` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_set_control_socket(
    config: *mut flip_config_t,
    address: *const c_char,
) -> c_int {
    call("flip_config_set_control_socket", || {
        // SAFETY: as promised by the caller.
        let config = unsafe { borrow(config) }?;
        // SAFETY: not NULL, and as promised by the caller.
        let address = (!address.is_null()).then(|| unsafe { CStr::from_ptr(address) });
        config.set_control_socket(address.map(CStr::to_bytes)).map(|()| 0)
    })
}

/// Whether the library pings the watchdog of the service manager (`WatchdogSec=` of the unit, WATCHDOG_USEC), at
/// half of its interval, from a thread of the library and for as long as this process is the one that serves; 0, the
/// default: the host pings it itself, or there is none. Any other value: yes. An upgrade leaves no gap, if both
/// generations ask for it. A ping says that the process runs and the library works, not that the host does: a host
/// whose event loop may hang does better to ping from there.
///
/// 0, or -EINVAL: NULL.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_set_watchdog(config: *mut flip_config_t, on: c_int) -> c_int {
    call("flip_config_set_watchdog", || {
        // SAFETY: as promised by the caller.
        unsafe { borrow(config) }?.set_watchdog(on != 0);
        Ok(0)
    })
}

/// Whether listeners are kept in the service manager's descriptor store as well (`FileDescriptorStoreMax=` of the
/// unit, at least as many as there are listeners), so that they outlive a crash: `flip_listen` in the next start
/// finds them, with all connections that were queued. 0, the default: no. Any other value: yes.
///
/// A listener is stored when `flip_ready` returns or when it is added later, and removed when it is forgotten, is
/// not claimed by a later start, or when its unix path is unlinked by a stop. A program with file capabilities or
/// set-user-id stores none: it does not know who has set NOTIFY_SOCKET.
///
/// 0, or -EINVAL: NULL.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_config_set_fd_store(config: *mut flip_config_t, on: c_int) -> c_int {
    call("flip_config_set_fd_store", || {
        // SAFETY: as promised by the caller.
        unsafe { borrow(config) }?.set_fd_store(on != 0);
        Ok(0)
    })
}

/// Async-signal-safe.
pub(super) fn known_request(request: c_int) -> Option<Request> {
    match request {
        FLIP_REQUEST_UPGRADE => Some(Request::Upgrade),
        FLIP_REQUEST_STOP => Some(Request::Stop),
        FLIP_REQUEST_DETACH => Some(Request::Detach),
        _ => None,
    }
}

/// NULL: all defaults.
///
/// # Safety
///
/// `config` is NULL or from `flip_config_new`.
pub(super) unsafe fn copy(config: *const flip_config_t) -> Config {
    // SAFETY: as promised by the caller.
    unsafe { config.as_ref() }.map_or_else(Config::default, |config| config.config.clone())
}

unsafe fn borrow<'a>(config: *mut flip_config_t) -> Result<&'a mut Config> {
    // SAFETY: NULL or from flip_config_new, used by one thread at a time.
    unsafe { config.as_mut() }.map(|config| &mut config.config).ok_or_else(|| null("config"))
}
