//! Every system call of the core goes through here, so that a test can fail, hold or kill at any one of them
//! ([`fault`]). Wrappers return [`nix::errno::Errno`]; the caller knows what was tried and makes the sentence.

pub mod fault;
pub mod process;
