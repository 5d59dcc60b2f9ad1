//! The descriptors that are passed on.

use super::boundary::{call, enter, flip_t, string};
use std::ffi::{c_char, c_int};
use std::os::fd::IntoRawFd;

/// A listening socket: the one inherited from the predecessor or from systemd where it matches, else one bound now.
/// "tcp://127.0.0.1:8080", "tcp://[::1]:443", "tcp://:8080" (all addresses), "unix:///run/a.sock", "unix:@name";
/// options follow as a query: "?name=http&backlog=512&mode=0660". It is passed on to every further generation.
///
/// The descriptor is the caller's (its own copy): non-blocking, CLOEXEC, 3 or more. Accept nothing from it before
/// `flip_ready` has returned 0, and close it when shutdown starts (after EPOLL_CTL_DEL: a copy lives on in the
/// successor). Never call shutdown(2) on it and never clear O_NONBLOCK: both would reach every process that shares it.
///
/// The descriptor, or -EINVAL: NULL, or an address that makes no sense; -EADDRINUSE; -EEXIST: this process listens there
/// already; -EALREADY: an upgrade is under way and the socket would have to be bound; -ESHUTDOWN after it; -ECHILD in a
/// forked child; else the errno of what failed.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `address` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_listen(flip: *mut flip_t, address: *const c_char) -> c_int {
    call("flip_listen", || {
        let flip = enter(flip)?;
        // SAFETY: as promised by the caller.
        let address = unsafe { string("address", address) }?;
        flip.listen(address.to_bytes()).map(IntoRawFd::into_raw_fd)
    })
}
