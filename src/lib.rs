//! libshellflip: a running server replaces itself with a new program without refusing or breaking one connection.
//!
//! The map of the house. Arrows run downwards: `ffi` and the bindings → `flip` → `supervisor` → `upgrade`, `spawn`,
//! `channel`, … → `error`. Nothing outside `ffi` knows that C exists.

pub mod channel;
pub mod error;
pub mod inherit;
pub mod sys;
