//! libshellflip: a running server replaces itself with a new program without refusing or breaking one connection.
//!
//! The map of the house. Arrows run downwards: `ffi` and the bindings → `flip` → `supervisor` → `upgrade`, `spawn`,
//! `channel`, … → `error`. Nothing outside `ffi` knows that C exists.

pub mod accept;
pub mod address;
pub mod channel;
pub mod config;
pub mod control;
mod drain;
mod duty;
pub mod error;
pub mod events;
pub mod ffi;
pub mod flip;
mod fork;
pub mod handle;
pub mod inherit;
pub mod latch;
mod log;
mod name_set;
mod pid_file;
pub mod program;
mod registry;
mod reply;
mod signals;
pub mod socket;
pub mod spawn;
pub mod startup;
mod state;
mod supervisor;
pub mod sys;
mod systemd;
mod trigger;
pub mod upgrade;
