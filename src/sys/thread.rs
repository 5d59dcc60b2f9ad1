//! Threads of the library.

use super::fault;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use std::thread::{Builder, JoinHandle};

/// Starts a thread with every signal blocked that may be: it handles none of the host's. (The C library spares the two
/// that it needs itself, for setuid(2) in all threads and for cancellation.) On failure `run` is dropped.
pub fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Errno> {
    fault::at("thread")?;
    let mut before = SigSet::empty();
    // The calls fail for a wrong `how` only.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before));
    let thread = Builder::new().name(name.into()).spawn(run);
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    thread.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))
}
