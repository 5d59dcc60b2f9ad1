//! What went wrong, and which library this is.

use super::boundary::{self, call_always, call_for};
use std::ffi::{c_char, c_int};

/// How this thread's last call of `flip_upgrade` or `flip_control` failed: FLIP_FAILURE_*; FLIP_FAILURE_NONE if it did
/// not, or not because of an upgrade.
#[unsafe(no_mangle)]
pub extern "C" fn flip_last_failure() -> c_int {
    call_for("flip_last_failure", 0, || Ok(boundary::last_failure() as c_int))
}

/// One line about the last call of this thread that failed, in English, without a line end; empty if none has. Never
/// NULL; valid until the thread's next call that fails. Not async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn flip_last_error() -> *const c_char {
    call_always("flip_last_error", c"".as_ptr(), boundary::last_error)
}

/// The version of the library that is loaded, as "0.1.0". Static.
#[unsafe(no_mangle)]
pub extern "C" fn flip_version() -> *const c_char {
    const VERSION: *const c_char = concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast();
    call_always("flip_version", VERSION, || VERSION)
}
