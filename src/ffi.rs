//! The C interface: casts, panics and texts in one place ([`boundary`]), one file per object, and no logic.
//!
//! `include/shellflip.h` is generated from these files; what is documented here is what C programmers read.

#![expect(non_camel_case_types, reason = "the names of the C interface")]

mod boundary;
pub mod config;
pub mod connections;
pub mod control;
pub mod descriptors;
pub mod errors;
pub mod events;
pub mod life;
pub mod upgrades;

use std::ffi::c_int;

/// `flip_request`, `flip_config_set_signal`: nothing; a signal that is left alone.
pub const FLIP_REQUEST_NONE: c_int = 0;
/// Replace this process by a new one.
pub const FLIP_REQUEST_UPGRADE: c_int = 1;
/// Finish and exit.
pub const FLIP_REQUEST_STOP: c_int = 2;
/// Leave the service but go on: no more upgrades, no listener's path is unlinked, nobody is told.
pub const FLIP_REQUEST_DETACH: c_int = 3;

/// `flip_wait_shutdown`: the successor serves; finish the open connections and exit.
pub const FLIP_SHUTDOWN_UPGRADE: c_int = 1;
/// The service ends; finish the open connections and exit.
pub const FLIP_SHUTDOWN_STOP: c_int = 2;
/// This process is on its own from now on and goes on serving; returned once.
pub const FLIP_SHUTDOWN_DETACH: c_int = 3;

/// An upgrade is about to start, and waits for `flip_event_answer`: the host may refuse.
pub const FLIP_EVENT_STARTING: c_int = 1;
/// The state for the new process is to be written to `flip_event_state_fd`; the upgrade waits for
/// `flip_event_answer`.
pub const FLIP_EVENT_STATE: c_int = 2;
/// An upgrade has failed: `flip_event_failure`, `flip_event_text`. This process serves on.
pub const FLIP_EVENT_FAILED: c_int = 4;
/// Shutdown has fired.
pub const FLIP_EVENT_SHUTDOWN: c_int = 8;
/// A line for the log. The newest are kept; a line says how many events were dropped before it.
pub const FLIP_EVENT_LOG: c_int = 16;

/// `flip_last_failure`: no upgrade asked for by this thread has failed.
pub const FLIP_FAILURE_NONE: c_int = 0;
/// The new program could not be started (the errno of what failed, or -ENOEXEC).
pub const FLIP_FAILURE_SPAWN: c_int = 1;
/// It exited too early (-ECONNABORTED).
pub const FLIP_FAILURE_EXITED: c_int = 2;
/// It was ended by a signal too early (-ECONNABORTED).
pub const FLIP_FAILURE_SIGNALLED: c_int = 3;
/// It was not ready by the upgrade deadline (-ETIME).
pub const FLIP_FAILURE_DEADLINE: c_int = 4;
/// A host refused, or the new one gave up (-ECONNREFUSED).
pub const FLIP_FAILURE_REFUSED: c_int = 5;
/// The state could not be handed over (-EIO).
pub const FLIP_FAILURE_STATE: c_int = 6;
/// The other side broke the protocol (-EPROTO).
pub const FLIP_FAILURE_PROTOCOL: c_int = 7;
/// This process is not ready itself yet (-EAGAIN).
pub const FLIP_FAILURE_NOT_READY: c_int = 8;
/// Another upgrade is under way (-EALREADY).
pub const FLIP_FAILURE_IN_PROGRESS: c_int = 9;
/// Too many older generations still drain (-EBUSY).
pub const FLIP_FAILURE_DRAINING: c_int = 10;
/// This process is stopping, or detached (-ESHUTDOWN).
pub const FLIP_FAILURE_STOPPING: c_int = 11;
/// The new process was told to serve and has not confirmed it; both are left alone (-ETIME).
pub const FLIP_FAILURE_UNCONFIRMED: c_int = 12;
/// Upgrades cannot work here, as in process 1 (-EOPNOTSUPP).
pub const FLIP_FAILURE_UNSUPPORTED: c_int = 13;

/// The version of this header.
pub const FLIP_VERSION_MAJOR: c_int = 0;
/// The version of this header.
pub const FLIP_VERSION_MINOR: c_int = 1;
/// The version of this header.
pub const FLIP_VERSION_PATCH: c_int = 0;
