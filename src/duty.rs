//! Who has the duty: one value that one thread at a time holds, and gives back or ends. The supervisor's threads and the
//! host's pass it on here (`supervisor/crew.rs`).
//!
//! It is fresh for a moment after it was placed: then a host's thread may take it, which would otherwise wake a thread of
//! the library and wait to be woken by it. When the moment is over, or there is something else to do, a thread of the
//! library takes it.

use crate::sys::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering::SeqCst, wait, wait_for};
use std::sync::PoisonError;
use std::time::Duration;

/// How long it is left to the host. What comes in meanwhile waits as long.
const FRESH: Duration = Duration::from_millis(5);

/// Where the one value is.
pub struct Duty<T> {
    post: Mutex<Post<T>>,
    changed: Condvar,
    /// For a look without the lock: there may be a fresh one.
    fresh: AtomicBool,
}

enum Post<T> {
    /// To be taken; with `true` by the host first.
    Free(T, bool),
    Held,
    /// There is none any more.
    Over,
}

impl<T> Duty<T> {
    /// Held, by whoever will place it.
    pub fn new() -> Duty<T> {
        Duty { post: Mutex::new(Post::Held), changed: Condvar::new(), fresh: AtomicBool::new(false) }
    }

    /// The first time. `fresh`: the host may soon take it.
    pub fn place(&self, it: T, fresh: bool) {
        self.fresh.store(fresh, SeqCst);
        *self.post() = Post::Free(it, fresh);
        self.changed.notify_one();
    }

    /// For a host's thread, which does not wait: if no thread of the library has had it yet.
    pub fn take_fresh(&self) -> Option<T> {
        self.fresh.swap(false, SeqCst).then(|| hold(&mut self.post())).flatten()
    }

    /// There is something to do: a thread of the library takes it now.
    pub fn begin(&self) {
        if self.fresh.swap(false, SeqCst) {
            if let Post::Free(_, fresh) = &mut *self.post() {
                *fresh = false;
            }
            self.changed.notify_one();
        }
    }

    /// From whoever held it.
    pub fn give_back(&self, it: T) {
        *self.post() = Post::Free(it, false);
        self.changed.notify_one();
    }

    /// By whoever held it, or before anybody could: nobody waits for it any more.
    pub fn end(&self) {
        let before = std::mem::replace(&mut *self.post(), Post::Over);
        self.changed.notify_all();
        // Not under the lock: it may own the last reference to this.
        drop(before);
    }

    /// Whether there will be none any more.
    pub fn is_over(&self) -> bool {
        matches!(*self.post(), Post::Over)
    }

    /// For a thread of the library: waits for it. `None`: it is over.
    pub fn take(&self) -> Option<T> {
        let (mut post, mut moment_is_over) = (self.post(), false);
        loop {
            match &*post {
                Post::Over => return None,
                Post::Free(_, fresh) if moment_is_over || !fresh => {
                    self.fresh.store(false, SeqCst);
                    return hold(&mut post);
                }
                Post::Free(..) => {
                    (post, moment_is_over) = wait_for(&self.post, &self.changed, post, FRESH);
                }
                Post::Held => post = wait(&self.changed, post),
            }
        }
    }

    /// No user of it panics with the lock held.
    fn post(&self) -> MutexGuard<'_, Post<T>> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hold<T>(post: &mut Post<T>) -> Option<T> {
    match std::mem::replace(post, Post::Held) {
        Post::Free(it, _) => Some(it),
        other => {
            *post = other;
            None
        }
    }
}
