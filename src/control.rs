//! The control socket: a unix socket on which an operator asks for an upgrade, a stop, a detach or the status, and is
//! told how it went. One line in, one line out, so that `nc -U` will do; the format is in `docs/control.md`.
//!
//! [`wire`] is the lines, `socket` the listening socket and how it goes from one generation to the next, `server` the
//! clients, which the supervisor looks after in its own turns, and [`request`] and [`status`] are the other end: for
//! the C interface, the bindings and flipctl.

mod client;
mod connection;
pub(crate) mod server;
pub(crate) mod socket;
pub mod wire;

pub use crate::upgrade::Request;
pub use client::{parse_address, request, status};
