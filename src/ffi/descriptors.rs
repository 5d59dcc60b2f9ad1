//! The descriptors that are passed on.

use super::boundary::{call_on, descriptor, flip_t, null, string};
use std::ffi::{c_char, c_int};
use std::os::fd::IntoRawFd;

/// A listening socket: the one inherited from the predecessor or from systemd where it matches, else one bound now.
/// "tcp://127.0.0.1:8080", "tcp://[::1]:443", "tcp://:8080" (all addresses), "unix:///run/a.sock", "unix:@name"; also
/// udp:, unixgram: and unixpacket:. Options follow as a query, "?name=http&backlog=512": name, backlog, reuseport,
/// v6only, mode, owner (user:group), nodelay, defer (seconds), fastopen, device, freebind, transparent, and keep=stop
/// or keep=always (the listener goes on after a stop, or after an upgrade too; its connections are not counted, and
/// `flip_conn_end` is not called for them). It is passed on to every further generation.
///
/// What is inherited is found by name (without name= the address), then by what the socket is. What can be changed on
/// a live socket is changed when `flip_ready` returns; what cannot and differs is no match, and a new socket is
/// bound. With reuseport=1 each call gives a further member of the group.
///
/// The descriptor is the caller's (its own copy): non-blocking (one that the predecessor had blocking: from
/// `flip_ready` on), CLOEXEC, 3 or more. Accept nothing from it before `flip_ready` has returned 0, and close it
/// when shutdown starts (after EPOLL_CTL_DEL: a copy lives on in the successor). Never call shutdown(2) on it and
/// never clear O_NONBLOCK: both would reach every process that shares it. With EPOLLEXCLUSIVE a process that shuts
/// down may have been the only one to be woken: watch the listener once more (EPOLL_CTL_DEL, EPOLL_CTL_ADD) when
/// `flip_predecessor_fd` is readable, or do without it.
///
/// The descriptor, or -EINVAL: NULL, or an address that makes no sense; -EADDRINUSE; -EEXIST: this process listens
/// there already; -EALREADY: an upgrade is under way and the socket would have to be bound, or taken from systemd;
/// -ESHUTDOWN after it; -ECHILD in a forked child; else the errno of what failed. Names in owner= are looked up by
/// this call, which takes as long as the name service does; only `flip_free` waits for it.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `address` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_listen(flip: *mut flip_t, address: *const c_char) -> c_int {
    call_on("flip_listen", flip, |flip| {
        // SAFETY: as promised by the caller.
        let address = unsafe { string("address", address) }?;
        flip.listen(address.to_bytes()).map(IntoRawFd::into_raw_fd)
    })
}

/// The inheriting half of `flip_listen`: the descriptor, or -ENOENT where nothing that was inherited matches; never
/// binds. -EINVAL, -EEXIST, -EALREADY, -ESHUTDOWN and -ECHILD as there.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `address` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_inherit(flip: *mut flip_t, address: *const c_char) -> c_int {
    call_on("flip_inherit", flip, |flip| {
        // SAFETY: as promised by the caller.
        let address = unsafe { string("address", address) }?;
        flip.inherit(address.to_bytes()).map(IntoRawFd::into_raw_fd)
    })
}

/// Passes any descriptor on under a name of 1 to 255 bytes: a socket, a file, a pipe, a memfd, a listener that the
/// host made itself. It is duplicated and stays the caller's; flags are left alone. What had the name before is no
/// longer passed on. Do not add an epoll descriptor: it would edit this process's registrations from another one.
///
/// 0, or -EINVAL: NULL or the length of the name; -EBADF; -EMFILE; -EALREADY: an upgrade is under way; -ESHUTDOWN
/// after it; -ECHILD in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `name` is NULL or a NUL-terminated string; `fd` is not closed during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_add(flip: *mut flip_t, name: *const c_char, fd: c_int) -> c_int {
    call_on("flip_add", flip, |flip| {
        // SAFETY: as promised by the caller.
        let name = unsafe { string("name", name) }?;
        // SAFETY: as promised by the caller.
        flip.add(name.to_bytes(), unsafe { descriptor(fd) }?).map(|()| 0)
    })
}

/// The descriptor that was inherited under this name, once: the caller's, CLOEXEC, 3 or more, its flags as they are.
/// It goes on being passed on; `flip_forget` ends that. In generation 0 this takes what systemd passed.
///
/// The descriptor, or -ENOENT: nothing of that name was inherited, or it was claimed already; -EINVAL; -EMFILE; of
/// what systemd passed -EALREADY: an upgrade is under way, without it; -ESHUTDOWN after it; -ECHILD in a forked
/// child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `name` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_take(flip: *mut flip_t, name: *const c_char) -> c_int {
    call_on("flip_take", flip, |flip| {
        // SAFETY: as promised by the caller.
        let name = unsafe { string("name", name) }?;
        flip.take(name.to_bytes()).map(IntoRawFd::into_raw_fd)
    })
}

/// Stops passing a descriptor on, claimed or not, and closes the library's copy; the caller's stays open, and a unix
/// path stays. For a member of a reuseport group that was not claimed this accepts the loss of what is queued on it.
///
/// 0, or -ENOENT; -EINVAL; -EALREADY: an upgrade is under way; -ESHUTDOWN after it; -ECHILD in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `name` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_forget(flip: *mut flip_t, name: *const c_char) -> c_int {
    call_on("flip_forget", flip, |flip| {
        // SAFETY: as promised by the caller.
        let name = unsafe { string("name", name) }?;
        flip.forget(name.to_bytes()).map(|()| 0)
    })
}

/// The names that were inherited and nobody has claimed, each NUL-terminated, one after the other. They are closed
/// once the predecessor has handed over. Returns the size that all of them need; where `size` is smaller, as many
/// whole names as fit are written. `buffer` may be NULL where `size` is 0.
///
/// The size, or -EINVAL: NULL; -ECHILD in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `buffer` is NULL or has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_inherited(flip: *mut flip_t, buffer: *mut c_char, size: usize) -> c_int {
    call_on("flip_inherited", flip, |flip| {
        if buffer.is_null() && size > 0 {
            return Err(null("buffer"));
        }
        let names = flip.unclaimed()?;
        let mut used = 0;
        let mut fits = true;
        for name in &names {
            let needed = name.len() + 1;
            fits = fits && used + needed <= size;
            if fits {
                // SAFETY: `needed` more bytes fit, as was just computed; the name has `needed - 1`.
                unsafe {
                    buffer.add(used).copy_from_nonoverlapping(name.as_ptr().cast(), name.len());
                    *buffer.add(used + name.len()) = 0;
                }
            }
            used += needed;
        }
        Ok(c_int::try_from(used).unwrap_or(c_int::MAX))
    })
}
