//! Telling about oneself, and asking others: status and control sockets.

use super::boundary::{call, call_for_upgrade, call_on, deadline, flip_t, null, string};
use super::config::known_request;
use crate::address::Address;
use crate::control;
use crate::error::{Error, Result};
use crate::upgrade::Request;
use std::ffi::{c_char, c_int};
use std::time::{Duration, Instant};

/// What this process is and does, as one line of JSON: generation, pid, state, uptime, connections, listeners, older
/// generations that drain, the upgrade under way, how the last one went. docs/control.md describes the keys; further
/// ones may be added. Any thread may ask in every state; it does not wait for an upgrade.
///
/// Like snprintf: at most `size` bytes are written, the NUL at the end among them, and the length of the whole line
/// without it is returned; a result of `size` or more means that it was cut. `buffer` may be NULL where `size` is 0.
///
/// The length, or -EINVAL: NULL; -ECANCELED: `flip_free`; -ECHILD in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `buffer` is NULL or has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_status(flip: *mut flip_t, buffer: *mut c_char, size: usize) -> c_int {
    call_on("flip_status", flip, |flip| {
        check(buffer, size)?;
        // SAFETY: as promised by the caller.
        Ok(unsafe { write(&flip.status()?, buffer, size) })
    })
}

/// Asks another process over its control socket ("unix:///run/a.ctl", "unix:@name"), without a handle, and waits for
/// the result: FLIP_REQUEST_UPGRADE gives the pid of the successor, FLIP_REQUEST_STOP 0 once the process is gone,
/// FLIP_REQUEST_DETACH 0 once it is detached. Never -EINTR. A process that has just been replaced is no obstacle: its
/// successor serves the same socket and is asked.
///
/// An upgrade or a request for one that failed: the errno as for `flip_upgrade`, `flip_last_failure` has the kind,
/// and `flip_last_error` the sentence, all from there. Else -EINVAL: NULL, an address or a request that makes no
/// sense; -ENOENT, -ECONNREFUSED: nobody listens there; -EACCES: this user may not; -ECONNRESET: the process ended
/// without an answer; -EPROTO: what answers is no control socket; -ETIMEDOUT: `timeout_ms` passed (-1: no limit),
/// what was asked for goes on; -ESRCH: it stops, and its end cannot be seen from here, since it is in another pid
/// namespace.
///
/// # Safety
///
/// - `address` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_control(address: *const c_char, request: c_int, timeout_ms: c_int) -> c_int {
    call_for_upgrade("flip_control", || {
        // SAFETY: as promised by the caller.
        let address = unsafe { control_address(address) }?;
        let request = known_request(request).ok_or_else(|| {
            Error::Invalid(format!("{request} is not a FLIP_REQUEST_ that can be asked for"))
        })?;
        let answer = control::request(&address, request, left(timeout_ms)?)?;
        Ok(match request {
            Request::Upgrade => answer.unwrap_or(0),
            Request::Stop | Request::Detach => 0,
        })
    })
}

/// What another process tells about itself over its control socket, without a handle: the line of `flip_status`,
/// written and counted as there. While two generations live, it is the old one's until it has handed over.
///
/// The length, or an error as from `flip_control`.
///
/// # Safety
///
/// - `address` is NULL or a NUL-terminated string.
/// - `buffer` is NULL or has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_control_status(
    address: *const c_char,
    timeout_ms: c_int,
    buffer: *mut c_char,
    size: usize,
) -> c_int {
    call("flip_control_status", || {
        check(buffer, size)?;
        // SAFETY: as promised by the caller.
        let address = unsafe { control_address(address) }?;
        let status = control::status(&address, left(timeout_ms)?)?;
        // SAFETY: as promised by the caller.
        Ok(unsafe { write(&status, buffer, size) })
    })
}

/// # Safety
///
/// `address` is NULL or a NUL-terminated string.
unsafe fn control_address(address: *const c_char) -> Result<Address> {
    // SAFETY: as promised by the caller.
    control::parse_address(unsafe { string("address", address) }?.to_bytes())
}

fn left(timeout_ms: c_int) -> Result<Option<Duration>> {
    Ok(deadline(timeout_ms)?.map(|at| at.saturating_duration_since(Instant::now())))
}

fn check(buffer: *mut c_char, size: usize) -> Result<()> {
    if buffer.is_null() && size > 0 { Err(null("buffer")) } else { Ok(()) }
}

/// # Safety
///
/// `buffer` has room for `size` bytes.
unsafe fn write(text: &str, buffer: *mut c_char, size: usize) -> c_int {
    if let Some(most) = size.checked_sub(1) {
        let length = text.len().min(most);
        // SAFETY: `length` bytes and a NUL fit.
        unsafe {
            buffer.copy_from_nonoverlapping(text.as_ptr().cast(), length);
            *buffer.add(length) = 0;
        }
    }
    c_int::try_from(text.len()).unwrap_or(c_int::MAX)
}
