//! The life of a handle, and what the next generation is started with.

use super::boundary::{call, call_on, check, flip_t, handle_of, null, string};
use super::config::{self, flip_config_t};
use crate::error::Error;
use crate::flip::Flip;
use crate::handle;
use std::ffi::{CStr, c_char, c_int};

/// Finds out what this process was started with, and starts the library's two threads, which block all signals and
/// run nothing of the host; the second one once `flip_ready` has returned. `config` is copied; NULL means all
/// defaults. On success `*out_flip` is the handle.
///
/// Call it early, before other threads exist: it removes the variables that were meant for this process from the
/// environment (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, SHELLFLIP_CHANNEL after an upgrade).
///
/// The next generation starts with the environment and descriptors 0 to 2 as they are now, of which the library
/// keeps copies (a server that opens its log anew on descriptor 2 later does so again in each generation, and the
/// copy keeps the space of a log that was removed meanwhile until the process ends), and with the signal mask, the
/// ignored signals, the directory and the soft limit of descriptors (RLIMIT_NOFILE) as they were when the library
/// was loaded.
///
/// What the host changes later reaches the library's threads, and so the next generation, where the kernel or the C
/// library makes it the whole process's: setuid(2), setgid(2), setgroups(2) (the C library does so in every thread;
/// the program must be readable for the new user). What belongs to one thread does not: seccomp filters (without
/// SECCOMP_FILTER_FLAG_TSYNC), no_new_privs, capabilities, namespaces, CPU affinity and scheduling. Set these before
/// `flip_init` where the next generation shall start with them; it starts without them otherwise. A filter that
/// kills has to allow membarrier(2), which is called as the library is loaded, and capget(2) and
/// prctl(PR_GET_SECCOMP), with which `flip_ready` finds out what this thread has given up.
///
/// A program is started by its predecessor as it was by whoever started the first one, so what it does before this
/// call happens in every generation. A successor (there SHELLFLIP_CHANNEL is set) must not daemonize, since its
/// child is not the process that the upgrade has started; close all descriptors that it does not know only after
/// this call; and ask for no signal at its parent's end (PR_SET_PDEATHSIG), since that is the predecessor's.
///
/// A call that fails changes nothing and may be repeated, but not in a successor: it exits then.
///
/// 0, or -EINVAL: `out_flip` is NULL; -EBUSY: there is a handle already; -EPROTO: the environment says that this
/// process is a successor and something about that is wrong; -ECHILD: in a forked child of a process that has a
/// handle; else the errno of what failed.
///
/// # Safety
///
/// - `config` is NULL or from `flip_config_new`.
/// - `out_flip` is NULL or may be written.
/// - No other thread reads or writes the environment during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_init(config: *const flip_config_t, out_flip: *mut *mut flip_t) -> c_int {
    call("flip_init", || {
        if out_flip.is_null() {
            return Err(null("out_flip"));
        }
        // SAFETY: as promised by the caller.
        let config = unsafe { config::copy(config) };
        let flip = handle_of(handle::put(Flip::init(config)?));
        // SAFETY: not NULL, and as promised by the caller.
        unsafe { *out_flip = flip };
        Ok(0)
    })
}

/// Ends the handle: NULL is allowed, and a second time does nothing. Every call that waits returns -ECANCELED, later
/// ones -EBADF. `flip_init` may follow, and gives out another handle: the freed one stays freed, until 256 have come
/// after it.
///
/// Before `flip_ready` returned 0 it gives up: an upgrade fails and the predecessor serves on. In a process that
/// serves it is a stop whose drain is over. While a successor is on its way it ends that first; once the successor
/// was told to serve, it waits until it does (at most 10 s) and hands everything over. A stop without a successor
/// unlinks unix paths and removes the pid file. It closes the library's descriptors, not the caller's copies from
/// `flip_listen`.
///
/// In a forked child it closes the child's copies and touches nothing else.
///
/// # Safety
///
/// - `flip` is NULL or from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_free(flip: *mut flip_t) {
    call("flip_free", || {
        if flip.is_null() {
            return Ok(0);
        }
        match handle::take(check(flip)?) {
            Ok(taken) => {
                let only = taken.release();
                taken.settle();
                only.map(|_| 0)
            }
            Err(Error::Freed) => Ok(0),
            Err(error) => Err(error),
        }
    });
}

/// Which generation this process is; 0: it was not started by an upgrade. Works in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_generation(flip: *const flip_t) -> c_int {
    call_on("flip_generation", flip, |flip| Ok(c_int::try_from(flip.generation()).unwrap_or(c_int::MAX)))
}

/// What the next upgrade runs. Without it: the program as it was started, found by the same path (a file replaced or
/// a link moved gives the new program) with the same arguments.
///
/// `executable` with a slash is a path, relative to the directory the new process starts in; without one it is looked
/// for in PATH when the upgrade runs. `argv` ends with NULL and begins with the program's name for itself, which is
/// `executable` where there is nothing in it. Both are copied.
///
/// 0, or -EINVAL: NULL, an empty `executable`; -ECHILD in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `executable` is NULL or a NUL-terminated string, `argv` NULL or an array of such that ends with NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_set_command(
    flip: *mut flip_t,
    executable: *const c_char,
    argv: *const *const c_char,
) -> c_int {
    call_on("flip_set_command", flip, |flip| {
        // SAFETY: as promised by the caller.
        let executable = unsafe { string("executable", executable) }?;
        if argv.is_null() {
            return Err(null("argv"));
        }
        let mut arguments: Vec<&CStr> = Vec::new();
        for index in 0.. {
            // SAFETY: the array ends with NULL, and the loop there.
            let argument = unsafe { *argv.add(index) };
            if argument.is_null() {
                break;
            }
            // SAFETY: as promised by the caller.
            arguments.push(unsafe { CStr::from_ptr(argument) });
        }
        flip.set_command(executable, &arguments).map(|()| 0)
    })
}

/// Sets a variable in the environment of the next generation, which is the one of this process at `flip_init`; a NULL
/// `value` removes it. This process's own environment is not changed.
///
/// 0, or -EINVAL: NULL, an empty name, one with '=', one that the upgrade itself sets (LISTEN_*, SHELLFLIP_CHANNEL);
/// -ECHILD in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `name` and `value` are NULL or NUL-terminated strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_set_env(flip: *mut flip_t, name: *const c_char, value: *const c_char) -> c_int {
    call_on("flip_set_env", flip, |flip| {
        // SAFETY: as promised by the caller.
        let name = unsafe { string("name", name) }?;
        // SAFETY: not NULL, and as promised by the caller.
        let value = (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) });
        flip.set_env(name, value).map(|()| 0)
    })
}

/// The directory in which the next generation starts, resolved at the upgrade, links included. Without it: the one in
/// which this process was started, by the path of $PWD where that is the same directory.
///
/// 0, or -EINVAL: NULL or empty; -ECHILD in a forked child.
///
/// # Safety
///
/// - `flip` is from `flip_init`.
/// - `path` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flip_set_directory(flip: *mut flip_t, path: *const c_char) -> c_int {
    call_on("flip_set_directory", flip, |flip| {
        // SAFETY: as promised by the caller.
        flip.set_directory(unsafe { string("path", path) }?).map(|()| 0)
    })
}
