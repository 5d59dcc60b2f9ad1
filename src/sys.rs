//! Every system call of the core goes through here, so that a test can fail, hold or kill at any one of them
//! ([`fault`]). Wrappers return [`nix::errno::Errno`]; the caller knows what was tried and makes the sentence.

pub mod accept;
pub mod fault;
pub mod fd;
pub mod file;
pub mod futex;
pub mod membarrier;
pub mod memfd;
pub mod net;
pub mod process;
pub mod scm;
pub mod sync;
pub mod thread;
