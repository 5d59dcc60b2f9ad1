//! What the tests and the demo share.

pub mod deadline;
pub mod host;
pub mod load;
pub mod process;
pub mod scripted;

pub use deadline::{limit, wait_for, wait_until};
pub mod peer;
