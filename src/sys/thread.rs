//! Threads of the library.

use super::fault;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use std::thread::{Builder, JoinHandle};

/// Starts a thread with every signal blocked that may be: it handles none of the host's. (The C library spares the two
/// that it needs itself, for setuid(2) in all threads and for cancellation.) On failure `run` is dropped.
pub fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Errno> {
    // Boxed, so that all that std does for a thread is there once.
    start_boxed(name, Box::new(run))
}

fn start_boxed(name: &str, run: Box<dyn FnOnce() + Send>) -> Result<JoinHandle<()>, Errno> {
    fault::at("thread")?;
    let mut before = SigSet::empty();
    // The calls fail for a wrong `how` only.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before));
    let thread = Builder::new().name(name.into()).spawn(run);
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    thread.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))
}

/// While it lives, pthread_cancel(3) waits: it unwinds the thread, which must not happen to code that holds locks and
/// half of a hand-over.
pub struct NotCancelled {
    before: libc::c_int,
}

impl NotCancelled {
    /// For the calling thread.
    pub fn begin() -> NotCancelled {
        /// glibc's; the libc crate has neither this nor the function.
        const PTHREAD_CANCEL_DISABLE: libc::c_int = 1;
        NotCancelled { before: set_cancel_state(PTHREAD_CANCEL_DISABLE) }
    }
}

impl Drop for NotCancelled {
    fn drop(&mut self) {
        set_cancel_state(self.before);
    }
}

/// Returns the state before.
fn set_cancel_state(state: libc::c_int) -> libc::c_int {
    unsafe extern "C" {
        fn pthread_setcancelstate(state: libc::c_int, before: *mut libc::c_int) -> libc::c_int;
    }
    let mut before = 0;
    // SAFETY: writes one int. It fails for a state that there is not, and changes nothing then.
    unsafe { pthread_setcancelstate(state, &mut before) };
    before
}
