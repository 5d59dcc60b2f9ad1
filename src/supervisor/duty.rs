//! Who supervises. The [`Supervisor`] is a value that one thread at a time holds and drives; the library has two threads
//! for that.
//!
//! A vfork-style spawn holds the thread that makes it until the new program executes, and deadlines must go on meanwhile:
//! whoever has to spawn first gives the supervisor to the other thread. So a spawn does not wait until a thread has woken
//! up for it, and the two change roles with each upgrade.
//!
//! A successor's supervisor is fresh for a moment: a host that calls `flip_ready` soon drives it itself, as far as that
//! call needs, instead of waking a thread and waiting to be woken.

use super::{Supervisor, thread_error};
use crate::error::Result;
use crate::flip::{Inner, lock};
use crate::sys::thread;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a thread leaves a successor's supervisor to the host: what comes in meanwhile waits for as long.
const FRESH: Duration = Duration::from_millis(5);

/// Where the supervisor is.
#[derive(Default)]
pub(crate) struct Duty {
    post: Mutex<Post>,
    changed: Condvar,
    /// For a look without the lock: there may be a fresh one.
    fresh: AtomicBool,
}

#[derive(Default)]
enum Post {
    /// Until then for the host; for the first thread that comes if it is over.
    Free(Box<Supervisor>, Option<Instant>),
    #[default]
    Held,
    /// There is none any more.
    Over,
}

impl Duty {
    /// The first supervisor. `fresh`: the host may soon drive it.
    pub fn place(&self, supervisor: Box<Supervisor>, fresh: bool) {
        self.fresh.store(fresh, SeqCst);
        *lock(&self.post) = Post::Free(supervisor, fresh.then(|| Instant::now() + FRESH));
        self.changed.notify_one();
    }

    /// For a host's thread: the supervisor, if no thread of the library has had it yet.
    pub fn take_fresh(&self) -> Option<Box<Supervisor>> {
        if !self.fresh.swap(false, SeqCst) {
            return None;
        }
        let mut post = lock(&self.post);
        match std::mem::take(&mut *post) {
            Post::Free(supervisor, _) => Some(supervisor),
            other => {
                *post = other;
                None
            }
        }
    }

    /// There is something to do for it: a thread of the library takes it now.
    pub fn begin(&self) {
        if self.fresh.swap(false, SeqCst) {
            if let Post::Free(_, fresh) = &mut *lock(&self.post) {
                *fresh = None;
            }
            self.changed.notify_one();
        }
    }

    /// From whoever held it.
    pub fn give_back(&self, supervisor: Box<Supervisor>) {
        if supervisor.finished {
            return self.end();
        }
        *lock(&self.post) = Post::Free(supervisor, None);
        self.changed.notify_one();
    }

    /// No thread waits for it any more.
    pub fn end(&self) {
        let before = std::mem::replace(&mut *lock(&self.post), Post::Over);
        self.changed.notify_all();
        // Not under the lock: it gives back everything it owns, this handle's last reference perhaps.
        drop(before);
    }

    /// For a thread of the library: waits for it. `None`: it is over.
    fn take(&self) -> Option<Box<Supervisor>> {
        let mut post = lock(&self.post);
        loop {
            let left = match &*post {
                Post::Over => return None,
                Post::Held => None,
                Post::Free(_, fresh) => {
                    let left = fresh.and_then(|until| until.checked_duration_since(Instant::now()));
                    match left {
                        None => break,
                        left => left,
                    }
                }
            };
            post = match left {
                None => self.changed.wait(post).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.changed.wait_timeout(post, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        self.fresh.store(false, SeqCst);
        match std::mem::take(&mut *post) {
            Post::Free(supervisor, _) => Some(supervisor),
            _ => None,
        }
    }
}

/// Sees to it that the library has this many threads.
pub(super) fn start_threads(inner: &Arc<Inner>, count: usize) -> Result<()> {
    let mut threads = lock(&inner.threads);
    while threads.len() < count {
        let own = Arc::clone(inner);
        threads.push(thread::start(c"shellflip", move || serve(&own)).map_err(thread_error)?);
    }
    Ok(())
}

/// A thread's whole life.
fn serve(inner: &Inner) {
    while let Some(mut supervisor) = inner.duty.take() {
        let errand = supervisor.drive();
        inner.duty.give_back(supervisor);
        if let Some(errand) = errand {
            errand.run(inner);
        }
    }
}
