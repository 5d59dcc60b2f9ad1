//! The connection count and the end of it.
//!
//! Counting costs a few nanoseconds and scales over threads: each thread adds to its own cache line. Connections
//! begun and connections ended are counted apart and only ever grow; a reader that sums the ended ones *first* and finds
//! the same sum of begun ones knows that at the moment between the two none was open, wherever each one began and ended.
//!
//! A locked instruction is most of the cost, so that there is one for each connection and not two: at its end, which has
//! to see whether a drain has begun. Its begin is a plain store, since the thread has its begun ones to itself; who
//! begins first and then looks whether shutdown has fired takes [`Connections::begin_before_a_look`], or has a fence
//! between the two, as `Flip::is_shut_down` has it. A reader cannot see an end without its begin all the same: the begin
//! happened before, and both stores release.
//!
//! There is one count per process, in static memory, so that it can be used without the handle and survives a fork
//! (the child starts again at nothing).

use crate::sys::futex::{futex_wait, futex_wake};
use crate::sys::sync::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst,
};
use crate::sys::thread::NotCancelled;
use crate::trigger::TRIGGER;
use std::cell::Cell;
use std::time::Duration;

/// The count of this process.
pub static CONNECTIONS: Connections = Connections::new();

#[repr(align(128))]
struct Shard {
    /// By the thread that owns this shard; no other writes to it.
    begun_by_owner: AtomicU64,
    /// By threads that found none to own.
    begun_by_others: AtomicU64,
    ended: AtomicU64,
}

/// Open connections, and whether somebody waits for their end.
pub struct Connections<const SHARDS: usize = MOST> {
    shards: [Shard; SHARDS],
    /// What was open at the last restart.
    forgotten: AtomicU64,
    /// Whether an end has to look if it was the last one.
    draining: AtomicBool,
    /// Moves whenever a waiter has to look again.
    word: AtomicU32,
}

/// How many threads can own a shard at once.
const MOST: usize = 32;
/// Bit by bit, which shards belong to a thread, in every count there is.
static OWNED: AtomicU32 = AtomicU32::new(0);

/// Whether any thread has ever counted: until then no shard has to be looked at, whose pages are not there yet.
static COUNTED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The number of the shard that this thread owns, or [`SHARED`] and more.
    static SHARD: Cell<usize> = const { Cell::new(UNKNOWN) };
    static OWNER: Owner = const { Owner(Cell::new(None)) };
}

const UNKNOWN: usize = usize::MAX;
const SHARED: usize = MOST;

/// Gives the shard of a thread back when the thread ends.
struct Owner(Cell<Option<usize>>);

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(shard) = self.0.take() {
            // What other destructors of this thread count from now on is counted as by anybody.
            let _ = SHARD.try_with(|mine| mine.set(SHARED + shard));
            OWNED.fetch_and(!(1 << shard), SeqCst);
        }
    }
}

/// The shard of this thread: its own one, or [`SHARED`] and more.
#[inline(always)]
fn shard() -> usize {
    match SHARD.try_with(Cell::get) {
        Ok(UNKNOWN) => choose_shard(),
        Ok(shard) => shard,
        Err(_) => SHARED,
    }
}

#[cold]
fn choose_shard() -> usize {
    COUNTED.store(true, SeqCst);
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let own = OWNER.try_with(|owner| {
        owner.0.set(free_shard());
        owner.0.get()
    });
    let shard = own.ok().flatten().unwrap_or_else(|| SHARED + NEXT.fetch_add(1, Relaxed) % MOST);
    let _ = SHARD.try_with(|mine| mine.set(shard));
    shard
}

fn free_shard() -> Option<usize> {
    let mut owned = OWNED.load(SeqCst);
    loop {
        let free = owned.trailing_ones();
        let bit = 1u32.checked_shl(free)?;
        match OWNED.compare_exchange(owned, owned | bit, SeqCst, SeqCst) {
            Ok(_) => return Some(free as usize),
            Err(now) => owned = now,
        }
    }
}

/// In a forked child only this thread goes on: what the others owned is free.
pub fn restart_in_child() {
    let mine = SHARD.try_with(Cell::get).unwrap_or(UNKNOWN);
    OWNED.store(if mine < MOST { 1 << mine } else { 0 }, SeqCst);
}

impl Shard {
    const fn new() -> Self {
        Self {
            begun_by_owner: AtomicU64::new(0),
            begun_by_others: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    fn begun(&self) -> u64 {
        self.begun_by_owner.load(SeqCst).wrapping_add(self.begun_by_others.load(SeqCst))
    }
}

impl<const SHARDS: usize> Connections<SHARDS> {
    /// None.
    pub const fn new() -> Self {
        Self {
            shards: [const { Shard::new() }; SHARDS],
            forgotten: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            word: AtomicU32::new(0),
        }
    }

    /// One more. Built for size like everything, these would be a call in a call: they are all that counting costs.
    #[inline(always)]
    pub fn begin(&self) {
        self.begin_by(|begun, more| begun.store(more, Release));
    }

    /// One more, and only then what this thread looks at next: whoever does not count it has done before what that
    /// shows.
    #[inline(always)]
    pub fn begin_before_a_look(&self) {
        self.begin_by(|begun, more| _ = begun.swap(more, SeqCst));
    }

    #[inline(always)]
    fn begin_by(&self, store: impl FnOnce(&AtomicU64, u64)) {
        let number = shard();
        let shard = &self.shards[number % SHARDS];
        if number < SHARDS {
            let begun = &shard.begun_by_owner;
            store(begun, begun.load(Relaxed).wrapping_add(1));
        } else {
            shard.begun_by_others.fetch_add(1, SeqCst);
        }
    }

    /// One less.
    #[inline(always)]
    pub fn end(&self) {
        self.shards[shard() % SHARDS].ended.fetch_add(1, SeqCst);
        if self.draining.load(SeqCst) && self.count() == 0 {
            self.tell_the_end();
        }
    }

    #[cold]
    fn tell_the_end(&self) {
        let _not_cancelled = NotCancelled::begin();
        self.notify();
        TRIGGER.wake();
    }

    /// How many are open; exact when it says none.
    pub fn count(&self) -> u64 {
        match self.begun_without_end().wrapping_sub(self.forgotten.load(SeqCst)) {
            open if open > u64::MAX / 2 => 0,
            open => open,
        }
    }

    fn begun_without_end(&self) -> u64 {
        let ended = self.shards.iter().map(|shard| shard.ended.load(SeqCst)).fold(0, u64::wrapping_add);
        let begun = self.shards.iter().map(Shard::begun).fold(0, u64::wrapping_add);
        begun.wrapping_sub(ended)
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

    /// Back to nothing: a new handle, or a forked child. The shards stay as they are: their owners may be counting.
    pub fn restart(&self) {
        self.draining.store(false, SeqCst);
        if COUNTED.load(SeqCst) {
            self.forgotten.store(self.begun_without_end(), SeqCst);
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
    fn more_threads_than_can_own_a_shard_are_counted_all_the_same() {
        let connections = Connections::<MOST>::new();
        let together = std::sync::Barrier::new(2 * MOST);
        std::thread::scope(|scope| {
            for _ in 0..2 * MOST {
                scope.spawn(|| {
                    together.wait();
                    for _ in 0..1000 {
                        connections.begin();
                        connections.begin();
                        connections.end();
                    }
                    // Nobody gives a shard back before all have one, or know that they have none.
                    together.wait();
                });
            }
        });
        assert_eq!(connections.count(), 2 * MOST as u64 * 1000);
    }

    #[test]
    fn a_thread_that_ends_leaves_its_shard_to_the_next_with_what_it_has_counted() {
        let connections = Connections::<MOST>::new();
        for _ in 0..3 * MOST {
            std::thread::scope(|scope| {
                scope.spawn(|| connections.begin());
            });
        }
        assert_eq!(connections.count(), 3 * MOST as u64);
        connections.restart();
        assert_eq!(connections.count(), 0);
        connections.begin();
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
