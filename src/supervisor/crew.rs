//! The library's threads. There are two, and the [`Supervisor`] is a value that one of them holds and drives.
//!
//! A vfork-style spawn holds the thread that makes it until the new program executes, and deadlines must go on meanwhile:
//! whoever has to spawn first gives the supervisor to the other thread. So a spawn does not wait until a thread has woken
//! up for it, and the two change roles with each upgrade.

use super::Supervisor;
use crate::error::{Error, Result};
use crate::flip::{Inner, lock};
use crate::sys::thread;
use nix::errno::Errno;
use std::sync::Arc;

/// Sees to it that there are this many. A further one gets its affinity, namespaces and filters from the thread that
/// starts it.
pub(super) fn start_threads(inner: &Arc<Inner>, count: usize) -> Result<()> {
    let mut threads = lock(&inner.threads);
    while threads.len() < count {
        let own = Arc::clone(inner);
        let thread = thread::start(c"shellflip", move || serve(&own));
        threads.push(thread.map_err(refused)?);
    }
    Ok(())
}

fn refused(errno: Errno) -> Error {
    let limit = match errno {
        Errno::EAGAIN => "; this user's limit (RLIMIT_NPROC) or the cgroup's (pids.max) may be met",
        _ => "",
    };
    Error::system(format!("cannot start a thread of the library{limit}"), errno)
}

/// A thread's whole life.
fn serve(inner: &Inner) {
    while let Some(mut supervisor) = inner.duty.take() {
        let errand = supervisor.drive();
        give_back(inner, supervisor);
        if let Some(errand) = errand {
            errand.run(inner);
        }
    }
}

/// From whoever has driven it.
pub(crate) fn give_back(inner: &Inner, supervisor: Box<Supervisor>) {
    match supervisor.finished {
        true => inner.duty.end(),
        false => inner.duty.give_back(supervisor),
    }
}
