//! The connection count and the end of it.
//!
//! Counting costs a few nanoseconds and scales over threads: each thread adds to its own cache line. Connections
//! begun and connections ended are counted apart and only ever grow; a reader that sums the ended ones *first* and finds
//! the same sum of begun ones knows that at the moment between the two none was open, wherever each one began and ended.
//!
//! A locked instruction would be most of the cost, so that there is none: a thread has its numbers to itself and stores
//! them plainly.
//!
//! - Its begin: who begins first and then looks whether shutdown has fired takes [`Connections::begin_before_a_look`], or
//!   has a fence between the two, as `Flip::is_shut_down` has it.
//! - Its end has to be seen by who drains, or has to see that somebody does. The fence that this needs is paid by who
//!   begins the drain, for all threads, with membarrier(2): [`sys::membarrier`](crate::sys::membarrier). Once somebody
//!   drains, ends have fences of their own, so that of two last ones at least one sees both.
//! - A reader cannot see an end without its begin: the begin happened before, and both stores release.
//!
//! Where the kernel has no such barrier for us, no thread gets numbers to itself, and all add with locked instructions.
//!
//! There is one count per process, in static memory, so that it can be used without the handle and survives a fork
//! (the child starts again at nothing).

use crate::sys::futex::{futex_wait, futex_wake};
use crate::sys::membarrier;
use crate::sys::sync::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst,
    fence, sleep,
};
use crate::sys::thread::{self, NotCancelled};
use crate::trigger::TRIGGER;
use std::cell::Cell;
use std::sync::atomic::compiler_fence;
use std::time::Duration;

/// The count of this process.
pub static CONNECTIONS: Connections = Connections::new();

#[repr(align(128))]
struct Shard {
    /// By the thread that owns this shard; no other writes to these two.
    begun_by_owner: AtomicU64,
    ended_by_owner: AtomicU64,
    /// By threads that found none to own.
    begun_by_others: AtomicU64,
    ended_by_others: AtomicU64,
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
/// Which thread owns which shard, in every count there is; 0: nobody. A thread looks for itself in one place only.
static OWNERS: [AtomicUsize; MOST] = [const { AtomicUsize::new(0) }; MOST];

/// Whether any thread has ever counted: until then no shard has to be looked at, whose pages are not there yet.
static COUNTED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static ROLE: Role = const { Role(Cell::new(UNKNOWN)) };
}

/// The number of the shard that this thread owns, or [`SHARED`] and that of the one which it shares, or [`UNKNOWN`].
struct Role(Cell<usize>);

const UNKNOWN: usize = usize::MAX;
const SHARED: usize = MOST;

impl Drop for Role {
    /// Gives the shard back when the thread ends. What other destructors of it count from now on is counted as by anybody.
    fn drop(&mut self) {
        if let Some(owner) = OWNERS.get(self.0.get()) {
            owner.store(0, SeqCst);
        }
    }
}

/// Where a thread looks for itself: threads whose stacks lie side by side get places side by side.
#[inline(always)]
fn place(me: usize) -> usize {
    let page = me >> 12;
    page.wrapping_add(page >> 10) % MOST
}

/// The shard of this thread: its own one, or [`SHARED`] and more. Thread-local storage would be two more calls, which
/// cost as much as all the rest.
#[inline(always)]
fn shard() -> usize {
    let me = thread::number();
    let place = place(me);
    if OWNERS[place].load(Relaxed) == me { place } else { other_shard(me, place) }
}

#[cold]
fn other_shard(me: usize, place: usize) -> usize {
    ROLE.try_with(|role| {
        if role.0.get() == UNKNOWN {
            role.0.set(choose_shard(me, place));
        }
        role.0.get()
    })
    .unwrap_or(SHARED + place)
}

fn choose_shard(me: usize, place: usize) -> usize {
    COUNTED.store(true, SeqCst);
    if membarrier::is_registered() && OWNERS[place].compare_exchange(0, me, SeqCst, SeqCst).is_ok() {
        return place;
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARED + NEXT.fetch_add(1, Relaxed) % MOST
}

/// In a forked child only this thread goes on: what the others owned is free.
pub fn restart_in_child() {
    let me = thread::number();
    for owner in OWNERS.iter().filter(|owner| owner.load(SeqCst) != me) {
        owner.store(0, SeqCst);
    }
    // No manual says whether the child has it from the parent.
    if membarrier::is_registered() {
        membarrier::register();
    }
}

impl Shard {
    const fn new() -> Self {
        Self {
            begun_by_owner: AtomicU64::new(0),
            ended_by_owner: AtomicU64::new(0),
            begun_by_others: AtomicU64::new(0),
            ended_by_others: AtomicU64::new(0),
        }
    }

    fn begun(&self) -> u64 {
        self.begun_by_owner.load(SeqCst).wrapping_add(self.begun_by_others.load(SeqCst))
    }

    fn ended(&self) -> u64 {
        self.ended_by_owner.load(SeqCst).wrapping_add(self.ended_by_others.load(SeqCst))
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
        let number = shard();
        let shard = &self.shards[number % SHARDS];
        if number < SHARDS {
            let ended = &shard.ended_by_owner;
            ended.store(ended.load(Relaxed).wrapping_add(1), Release);
            // The processor may look before others see the store: then start_draining() waits for them to see it.
            compiler_fence(SeqCst);
        } else {
            shard.ended_by_others.fetch_add(1, SeqCst);
        }
        if self.draining.load(SeqCst) {
            self.look_for_the_end();
        }
    }

    #[cold]
    fn look_for_the_end(&self) {
        fence(SeqCst);
        if self.count() == 0 {
            let _not_cancelled = NotCancelled::begin();
            self.notify();
            TRIGGER.wake();
        }
    }

    /// How many are open; exact when it says none.
    pub fn count(&self) -> u64 {
        match self.begun_without_end().wrapping_sub(self.forgotten.load(SeqCst)) {
            open if open > u64::MAX / 2 => 0,
            open => open,
        }
    }

    fn begun_without_end(&self) -> u64 {
        let ended = self.shards.iter().map(Shard::ended).fold(0, u64::wrapping_add);
        let begun = self.shards.iter().map(Shard::begun).fold(0, u64::wrapping_add);
        begun.wrapping_sub(ended)
    }

    /// From now on the last end wakes those who wait.
    ///
    /// Who waits already looks again.
    pub fn start_draining(&self) {
        self.announce_the_drain();
        self.notify();
    }

    /// Afterwards each end either sees that somebody drains, or has been seen.
    fn announce_the_drain(&self) {
        self.draining.store(true, SeqCst);
        if COUNTED.load(SeqCst) && !membarrier::all_threads() {
            // Taken from us since: by a seccomp filter. A store that has been made is seen by all within microseconds.
            sleep(Duration::from_millis(1));
        }
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
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    use std::sync::Arc;
    use std::time::Instant;

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

    /// If there are that many.
    fn stay_on_processor(allowed: &CpuSet, number: usize) {
        let mut allowed = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap());
        if let Some(cpu) = allowed.nth(number) {
            let mut one = CpuSet::new();
            one.set(cpu).unwrap();
            sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        }
    }

    /// Processors let a load pass an earlier store. The load here is the look whether somebody drains, and the end is a
    /// store that waits behind others, to memory that the other processor has just written.
    #[test]
    fn an_end_is_seen_by_who_starts_a_drain_or_sees_it() {
        const ROUNDS: usize = 20_000;
        let in_the_way: [Shard; 96] = [const { Shard::new() }; 96];
        let write = |value: usize| {
            in_the_way.iter().for_each(|line| line.ended_by_others.store(value as u64, Relaxed));
        };
        let connections = &Connections::<MOST>::new();
        let ending = &AtomicUsize::new(0);
        let arrived = AtomicUsize::new(0);
        let mut missed = 0;
        // Spins, so that both go on within nanoseconds; yields for the case that they share a processor.
        let meet = |number: usize| {
            arrived.fetch_add(1, SeqCst);
            let mut spins = 0;
            while arrived.load(SeqCst) < 2 * number {
                spins += 1;
                if spins % 1000 == 0 {
                    std::thread::yield_now();
                }
            }
        };
        std::thread::scope(|scope| {
            let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
            stay_on_processor(&allowed, 0);
            scope.spawn(move || {
                stay_on_processor(&allowed, 1);
                ending.store(shard(), Relaxed);
                for round in 0..ROUNDS {
                    connections.begin();
                    meet(3 * round + 1);
                    if !connections.draining.load(SeqCst) {
                        write(round);
                    }
                    connections.end();
                    meet(3 * round + 2);
                    meet(3 * round + 3);
                }
            });
            for round in 0..ROUNDS {
                connections.draining.store(false, SeqCst);
                let ticket = connections.ticket();
                write(round);
                meet(3 * round + 1);
                let (began, later) = (Instant::now(), Duration::from_nanos(10 * (round as u64 % 500)));
                while began.elapsed() < later {}
                connections.announce_the_drain();
                let seen = connections.shards[ending.load(Relaxed) % MOST].ended() > round as u64;
                meet(3 * round + 2);
                let told = connections.ticket() != ticket;
                missed += usize::from(!seen && !told);
                meet(3 * round + 3);
            }
        });
        assert_eq!(missed, 0, "times nobody knew that the last connection had ended");
    }
}
