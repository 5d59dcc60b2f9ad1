//! `flip_event_t`, and the state that goes from one generation to the next.

use super::boundary::{call, call_for, call_on, deadline, enter, flip_t, null};
use crate::error::{Error, Result};
use crate::events::HostEvent;
use std::ffi::{CStr, CString, c_char, c_int};
use std::os::fd::{AsRawFd, IntoRawFd};

/// Something that happened, and perhaps a question. From `flip_next_event`, owned by the caller, to be given back
/// with `flip_event_free`; may outlive `flip_free`.
pub struct flip_event_t {
    event: HostEvent,
    text: CString,
}

/// The predecessor's state: read-only, mappable, sealed, with an offset of its own at 0; the caller's. Every call
/// opens it anew.
///
/// The descriptor, or -ENOENT: none was promised (generation 0, or the predecessor writes none); -ECONNRESET:
/// promised, and lost with the predecessor; -ETIMEDOUT; -EINTR: a signal handler ran, call again; -ECANCELED: this
/// process will not serve, as `flip_ready` says, or `flip_free`; -EMFILE, -ENFILE, -ENOMEM; -EIO: it is there, and cannot
/// be opened (`flip_init` found no /proc); -ECHILD in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_take_state(flip: *mut flip_t, timeout_ms: c_int) -> c_int {
    call_on("flip_take_state", flip, |flip| {
        flip.take_state(deadline(timeout_ms)?).map(IntoRawFd::into_raw_fd)
    })
}

/// A descriptor for poll, epoll or an event loop: readable while an event waits. Borrowed: never close it, never read
/// from it; it lives until `flip_free`. -EINVAL, -EBADF; -ECHILD in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_event_fd(flip: *mut flip_t) -> c_int {
    call_on("flip_event_fd", flip, |flip| Ok(flip.event_fd()?.as_raw_fd()))
}

/// Waits for the next event of the kinds given to `flip_config_set_events`: 0, and `*out_event` is the caller's.
///
/// Or -ETIMEDOUT; -EINTR: a signal handler ran, call again; -ECANCELED: `flip_free`; -EINVAL; -ECHILD in a forked
/// child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `out_event` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_next_event(
    flip: *mut flip_t,
    timeout_ms: c_int,
    out_event: *mut *mut flip_event_t,
) -> c_int {
    call("flip_next_event", || {
        if out_event.is_null() {
            return Err(null("out_event"));
        }
        let flip = enter(flip)?;
        let event = flip.next_event(deadline(timeout_ms)?)?;
        let mut text = event.text.clone().into_bytes();
        text.retain(|byte| *byte != 0);
        let text = CString::new(text).unwrap_or_default();
        // SAFETY: not NULL, and as promised by the caller.
        unsafe { *out_event = Box::into_raw(Box::new(flip_event_t { event, text })) };
        Ok(0)
    })
}

/// Which one: a FLIP_EVENT_*. -EINVAL for NULL.
///
/// # Safety
///
/// - `event` is NULL or from `flip_next_event` and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_event_kind(event: *const flip_event_t) -> c_int {
    // SAFETY: as promised by the caller.
    call("flip_event_kind", || Ok(unsafe { borrow(event) }?.event.kind as c_int))
}

/// FLIP_EVENT_STATE: where to write the state. Borrowed: it lives until `flip_event_free`, writes go to an empty
/// memfd from its start, and must be over, mappings included, before the answer. -EINVAL for other events.
///
/// # Safety
///
/// - `event` is NULL or from `flip_next_event` and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_event_state_fd(event: *const flip_event_t) -> c_int {
    call("flip_event_state_fd", || {
        // SAFETY: as promised by the caller.
        let state = unsafe { borrow(event) }?.event.state.as_ref();
        state.map(AsRawFd::as_raw_fd).ok_or_else(|| Error::Invalid("this event takes no state".into()))
    })
}

/// FLIP_EVENT_FAILED: how the upgrade failed, a FLIP_FAILURE_*; FLIP_FAILURE_NONE for other events, -EINVAL for NULL.
///
/// # Safety
///
/// - `event` is NULL or from `flip_next_event` and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_event_failure(event: *const flip_event_t) -> c_int {
    // SAFETY: as promised by the caller.
    call("flip_event_failure", || Ok(unsafe { borrow(event) }?.event.failure as c_int))
}

/// Who asked, what failed, the line for the log: one line, valid until the event is freed. NULL for NULL.
///
/// # Safety
///
/// - `event` is NULL or from `flip_next_event` and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_event_text(event: *const flip_event_t) -> *const c_char {
    // SAFETY: as promised by the caller.
    call_for("flip_event_text", std::ptr::null(), || Ok(unsafe { borrow(event) }?.text.as_ptr()))
}

/// Answers FLIP_EVENT_STARTING and FLIP_EVENT_STATE: `status` 0 lets the upgrade go on, -errno refuses it, with a
/// `reason` that reaches whoever asked for the upgrade (NULL: the errno's text).
///
/// 0, or -EINVAL: NULL, a positive status, an event that asks nothing; -EALREADY: answered before; -ESTALE: nobody
/// waits for it any more (the upgrade has ended, or `flip_free`).
///
/// # Safety
///
/// - `event` is NULL or from `flip_next_event` and not freed.
/// - `reason` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_event_answer(
    event: *mut flip_event_t,
    status: c_int,
    reason: *const c_char,
) -> c_int {
    call("flip_event_answer", || {
        // SAFETY: as promised by the caller.
        let event = unsafe { borrow(event) }?;
        let answer = match status {
            0 => Ok(()),
            1.. => return Err(Error::Invalid(format!("status is {status}; it is 0 or -errno"))),
            _ if reason.is_null() => {
                Err(crate::error::explain(nix::errno::Errno::from_raw(status.saturating_neg())))
            }
            // SAFETY: not NULL, and as promised by the caller.
            _ => Err(unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned()),
        };
        event.event.answer(answer).map(|()| 0)
    })
}

/// Gives the event back; NULL is allowed. A question that was not answered counts as refused.
///
/// # Safety
///
/// - `event` is NULL or from `flip_next_event`, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_event_free(event: *mut flip_event_t) {
    call("flip_event_free", || {
        if !event.is_null() {
            // SAFETY: from Box::into_raw in flip_next_event, as promised by the caller.
            drop(unsafe { Box::from_raw(event) });
        }
        Ok(0)
    });
}

/// # Safety
///
/// `event` is NULL or from `flip_next_event` and not freed.
unsafe fn borrow<'a>(event: *const flip_event_t) -> Result<&'a flip_event_t> {
    // SAFETY: as promised by the caller.
    unsafe { event.as_ref() }.ok_or_else(|| null("event"))
}
