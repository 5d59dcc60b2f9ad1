//! A running server replaces itself with a new program without refusing or breaking one connection: the safe Rust
//! interface of libshellflip, for Linux 5.10 or newer.
//!
//! ```no_run
//! use graceflip::Flip;
//! use std::io::Write;
//! use std::net::TcpListener;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), graceflip::Error> {
//! let flip = Flip::builder().build()?;
//! // Inherited from the predecessor, or bound now.
//! let listener: TcpListener = flip.listen_tcp("127.0.0.1:8080")?;
//! flip.ready()?;
//! for connection in flip.incoming(&listener) {
//!     let (mut stream, guard) = connection?;
//!     std::thread::spawn(move || {
//!         let _ = stream.write_all(b"hello\n");
//!         drop(stream);
//!         drop(guard); // the connection has ended
//!     });
//! }
//! drop(listener); // what is still queued on it belongs to the successor
//! flip.drain(Duration::from_secs(30))
//! # }
//! ```
//!
//! `kill -USR1` starts the program anew, as it was started, found by the same path: a file replaced or a link moved
//! gives the new program. The old one serves until the new one has called [`Flip::ready`]; if that never comes, because
//! the new program crashes, hangs or refuses, nothing else happens. SIGTERM and SIGINT stop the server.
//!
//! # What to know
//!
//! - Call [`Builder::build`] first of all, before the program starts threads, and make the [`Flip`] live until the end of
//!   `main`: when the last clone is dropped, that is a stop.
//! - Accept nothing before [`Flip::ready`] has returned, and nothing once shutdown has begun: [`Flip::incoming`] and
//!   [`Flip::accept`] keep to that.
//! - Never shut a listener down (shutdown(2)): the successor holds the same socket. Dropping it is right.
//! - Listeners are non-blocking; connections from [`Flip::accept`] are blocking. Both are ordinary std types.
//! - Durations to wait: any; one that is too long for the clock means no limit. Those of the [`Builder`] and of [`Flip::extend`]
//!   are from 1 ms to a year, and others are `Invalid`: there is no drain without an end. Zero is one where its doc says so.
//! - The library has two threads of its own, which block all signals and run nothing of yours. Hooks and the `log`
//!   facade get a thread of this crate.
//!
//! # Features
//!
//! - `log`: what the library says goes to the [`log`](https://docs.rs/log) facade, target `graceflip`.
//! - `tokio`: the module `tokio`.
//! - `tokio-util`: `CancellationToken` and `TaskTracker` that end with shutdown.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
mod builder;
mod connections;
mod control;
mod error;
mod events;
mod flip;
mod hooks;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use address::Address;
pub use builder::Builder;
pub use connections::{ConnectionGuard, Incoming, Listener};
pub use control::Control;
pub use error::{Error, ErrorKind, Failure, Result};
pub use events::{Event, EventMask, Level, Starting, StateWriter};
pub use flip::{Flip, Request, Shutdown};

/// Its programs compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
