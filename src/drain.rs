//! The connection count and the end of it.
//!
//! Counting costs a few nanoseconds and scales over threads: each thread adds to its own cache line. Connections
//! begun and connections ended are counted apart and only ever grow; a reader that sums the ended ones *first* and finds
//! the same sum of begun ones knows that at the moment between the two none was open, wherever each one began and ended.
//!
//! There is one count per process, in static memory, so that it can be used without the handle and survives a fork
//! (the child starts again at nothing).

use crate::sys::futex::{futex_wait, futex_wake};
use crate::sys::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use crate::trigger::TRIGGER;
use std::cell::Cell;
use std::time::Duration;

/// The count of this process.
pub static CONNECTIONS: Connections = Connections::new();

#[repr(align(128))]
struct Shard {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// Open connections, and whether somebody waits for their end.
pub struct Connections<const SHARDS: usize = 32> {
    shards: [Shard; SHARDS],
    /// Whether an end has to look if it was the last one.
    draining: AtomicBool,
    /// Moves whenever a waiter has to look again.
    word: AtomicU32,
}

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The shard of this thread, one of `shards`.
fn shard(shards: usize) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD
        .try_with(|shard| {
            if shard.get() == usize::MAX {
                shard.set(NEXT.fetch_add(1, Relaxed) % shards);
            }
            shard.get()
        })
        .unwrap_or(0)
}

impl<const SHARDS: usize> Connections<SHARDS> {
    /// None.
    pub const fn new() -> Self {
        Self {
            shards: [const { Shard { begun: AtomicU64::new(0), ended: AtomicU64::new(0) } }; SHARDS],
            draining: AtomicBool::new(false),
            word: AtomicU32::new(0),
        }
    }

    /// One more.
    #[inline]
    pub fn begin(&self) {
        self.shards[shard(SHARDS)].begun.fetch_add(1, SeqCst);
    }

    /// One less.
    #[inline]
    pub fn end(&self) {
        self.shards[shard(SHARDS)].ended.fetch_add(1, SeqCst);
        if self.draining.load(SeqCst) && self.count() == 0 {
            self.notify();
            TRIGGER.wake();
        }
    }

    /// How many are open; exact when it says none.
    pub fn count(&self) -> u64 {
        let ended: u64 = self.shards.iter().map(|shard| shard.ended.load(SeqCst)).fold(0, u64::wrapping_add);
        let begun: u64 = self.shards.iter().map(|shard| shard.begun.load(SeqCst)).fold(0, u64::wrapping_add);
        match begun.wrapping_sub(ended) {
            open if open > u64::MAX / 2 => 0,
            open => open,
        }
    }

    /// From now on the last end wakes those who wait.
    pub fn start_draining(&self) {
        self.draining.store(true, SeqCst);
        self.notify();
    }

    /// Whoever waits looks again.
    pub fn notify(&self) {
        self.word.fetch_add(1, SeqCst);
        futex_wake(&self.word);
    }

    /// A value for [`Connections::wait`], to be read before looking at what is waited for.
    pub fn ticket(&self) -> u32 {
        self.word.load(SeqCst)
    }

    /// Waits until something may have changed since the ticket was read, at most `timeout`.
    pub fn wait(&self, ticket: u32, timeout: Option<Duration>) {
        futex_wait(&self.word, ticket, timeout);
    }

    /// Back to nothing: a new handle, or a forked child.
    pub fn restart(&self) {
        self.draining.store(false, SeqCst);
        for shard in &self.shards {
            shard.begun.store(0, SeqCst);
            shard.ended.store(0, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn connections_that_end_on_other_threads_than_they_began_on_are_counted_once() {
        let connections = Arc::new(Connections::<32>::new());
        for _ in 0..4 {
            connections.begin();
        }
        let other = Arc::clone(&connections);
        std::thread::spawn(move || (0..3).for_each(|_| other.end())).join().unwrap();
        assert_eq!(connections.count(), 1);
    }

    #[test]
    fn the_count_is_never_seen_as_none_while_one_is_open() {
        let connections = Arc::new(Connections::<32>::new());
        connections.begin();
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (connections, stop) = (Arc::clone(&connections), Arc::clone(&stop));
                std::thread::spawn(move || {
                    while !stop.load(SeqCst) {
                        connections.begin();
                        let other = Arc::clone(&connections);
                        std::thread::spawn(move || other.end()).join().unwrap();
                    }
                })
            })
            .collect();
        for _ in 0..20_000 {
            assert_ne!(connections.count(), 0);
        }
        stop.store(true, SeqCst);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        connections.end();
        assert_eq!(connections.count(), 0);
    }
}
