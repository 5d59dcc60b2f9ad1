//! Atomics and the pauses of those who wait for one. `tests/interleavings` compiles the files that use these against
//! [shuttle](https://docs.rs/shuttle)'s, to run them in every order of their steps.

pub use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub use std::thread::{sleep, yield_now};
