//! The promises of what threads share without a lock, in many thousands of orders of their steps.

use interleavings::drain::Connections;
use interleavings::duty::Duty;
use interleavings::flip::Flip;
use interleavings::handle::{self, Only};
use interleavings::sys::{fd, sync::AtomicBool, sync::AtomicU32, sync::Ordering::SeqCst};
use interleavings::trigger::Trigger;
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner, thread};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Static variables of the files under test are shared by the threads of this test program, too.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn orders() -> usize {
    let deep = std::env::var("SHELLFLIP_DEEP").as_deref() == Ok("1");
    if deep { 200_000 } else { 4_000 }
}

/// Orders one after the other as long as there are not too many, then orders at random, and orders with few but ill-timed
/// switches between threads. An order in which one thread spins for ever is given up: the next one is tried.
fn in_every_order(test: impl Fn() + Send + Sync + Clone + 'static) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut config = Config::new();
    config.max_steps = MaxSteps::ContinueAfter(2_000);
    Runner::new(DfsScheduler::new(Some(orders()), false), config.clone()).run(test.clone());
    Runner::new(RandomScheduler::new(orders()), config.clone()).run(test.clone());
    Runner::new(PctScheduler::new(3, orders()), config).run(test);
}

/// The same without those one after the other, for what leaves static variables as they are when an order is given up.
fn in_fair_orders(test: impl Fn() + Send + Sync + Clone + 'static) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(20_000);
    Runner::new(RandomScheduler::new(orders()), config.clone()).run(test.clone());
    Runner::new(PctScheduler::new(3, orders()), config).run(test);
}

/// What is passed on, and how many hold it.
struct Held(Arc<AtomicU32>);

impl Held {
    fn alone(&self) {
        assert_eq!(self.0.fetch_add(1, SeqCst), 0, "two hold it");
        thread::yield_now();
        assert_eq!(self.0.fetch_sub(1, SeqCst), 1, "two hold it");
    }
}

#[test]
fn one_thread_at_a_time_has_the_duty_and_all_go_when_it_ends() {
    in_every_order(|| {
        let duty = Arc::new(Duty::new());
        duty.place(Held(Arc::new(AtomicU32::new(0))), true);
        let turns = Arc::new(AtomicU32::new(0));
        let threads = [1, 2].map(|_| {
            let (duty, turns) = (Arc::clone(&duty), Arc::clone(&turns));
            thread::spawn(move || {
                while let Some(held) = duty.take() {
                    held.alone();
                    match turns.fetch_add(1, SeqCst) {
                        2.. => duty.end(),
                        _ => duty.give_back(held),
                    }
                }
            })
        });
        // The host's: it may come too late, and what it asks of others meanwhile must not be missed.
        if let Some(held) = duty.take_fresh() {
            held.alone();
            duty.give_back(held);
        }
        duty.begin();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(duty.take().is_none() && duty.take_fresh().is_none());
    });
}

#[test]
fn whoever_waits_for_the_last_connection_is_woken_and_none_is_open_then() {
    in_every_order(|| {
        let connections = Arc::new(Connections::<2>::new());
        let open = Arc::new(AtomicU32::new(2));
        connections.begin();
        connections.begin();
        let ends = [1, 2].map(|_| {
            let (connections, open) = (Arc::clone(&connections), Arc::clone(&open));
            thread::spawn(move || {
                open.fetch_sub(1, SeqCst);
                connections.end();
            })
        });
        connections.start_draining();
        loop {
            let ticket = connections.ticket();
            if connections.count() == 0 {
                break;
            }
            connections.wait(ticket, None);
        }
        assert_eq!(open.load(SeqCst), 0);
        ends.into_iter().for_each(|end| end.join().unwrap());
    });
}

#[test]
fn the_count_is_never_none_while_a_connection_moves_from_thread_to_thread() {
    in_every_order(|| {
        let connections = Arc::new(Connections::<2>::new());
        connections.begin();
        let other = Arc::clone(&connections);
        // One is open all the time: the next one begins before the last one ends, each on another thread.
        let mover = thread::spawn(move || {
            other.begin();
            let third = Arc::clone(&other);
            thread::spawn(move || third.end()).join().unwrap();
        });
        assert_ne!(connections.count(), 0);
        assert_ne!(connections.count(), 0);
        mover.join().unwrap();
        assert_eq!(connections.count(), 1);
    });
}

#[test]
fn no_begin_is_lost_when_a_thread_takes_over_the_shard_of_one_that_ends() {
    in_every_order(|| {
        let connections = Arc::new(Connections::<2>::new());
        let begin = |connections: &Arc<Connections<2>>| {
            let connections = Arc::clone(connections);
            thread::spawn(move || connections.begin())
        };
        // More threads than shards, some of which end before others begin.
        let threads = [begin(&connections), begin(&connections), begin(&connections)];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        begin(&connections).join().unwrap();
        connections.begin_before_a_look();
        assert_eq!(connections.count(), 5);
        connections.restart();
        assert_eq!(connections.count(), 0);
    });
}

#[test]
fn no_request_is_missed_and_none_is_written_to_a_closed_descriptor() {
    in_every_order(|| {
        let trigger = Arc::new(Trigger::new());
        let stdin = std::io::stdin();
        trigger.connect(stdin.as_fd());
        let asking = [1, 2].map(|bit| {
            let trigger = Arc::clone(&trigger);
            thread::spawn(move || trigger.ask(bit))
        });
        let mut taken = 0;
        while taken == 0 {
            fd::wait_for_bell();
            taken |= trigger.take();
        }
        trigger.disconnect();
        fd::close();
        taken |= trigger.take();
        let [one, two] = asking.map(|asking| asking.join().unwrap());
        taken |= trigger.take();
        assert!(one || two);
        assert_eq!(taken, 3, "what was asked for");
    });
}

#[test]
fn a_supervisor_that_waits_sees_every_request_that_found_it() {
    in_every_order(|| {
        let trigger = Arc::new(Trigger::new());
        trigger.connect(std::io::stdin().as_fd());
        let asking = [1, 2].map(|bit| {
            let trigger = Arc::clone(&trigger);
            thread::spawn(move || assert!(trigger.ask(bit)))
        });
        // A request whose bell was missed would make this wait for ever.
        let mut taken = 0;
        while taken != 3 {
            fd::wait_for_bell();
            taken |= trigger.take();
        }
        asking.into_iter().for_each(|asking| asking.join().unwrap());
    });
}

#[test]
fn no_call_is_inside_a_handle_that_was_given_back() {
    in_fair_orders(|| {
        let only = Only::take().unwrap();
        assert!(Only::take().is_err());
        let gone = Arc::new(AtomicBool::new(false));
        let number = handle::put(Flip(Arc::clone(&gone)));
        let calls = [1, 2].map(|_| {
            let gone = Arc::clone(&gone);
            thread::spawn(move || {
                if let Ok(entered) = handle::enter(number) {
                    thread::yield_now();
                    assert!(!entered.0.load(SeqCst) && !gone.load(SeqCst), "a call was inside");
                }
            })
        });
        let other = thread::spawn(move || handle::take(number).map(handle::Taken::settle).is_ok());
        let mine = handle::take(number).map(handle::Taken::settle).is_ok();
        let theirs = other.join().unwrap();
        assert!(mine ^ theirs, "one of the two gives it back");
        assert!(gone.load(SeqCst));
        assert!(handle::enter(number).is_err());
        calls.into_iter().for_each(|call| call.join().unwrap());
        drop(only);
    });
}

#[test]
fn no_call_on_a_handle_reaches_the_next_one() {
    in_fair_orders(|| {
        let [first, second] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let only = Only::take().unwrap();
        let number = handle::put(Flip(Arc::clone(&first)));
        let calls = {
            let (first, second) = (Arc::clone(&first), Arc::clone(&second));
            thread::spawn(move || {
                if let Ok(entered) = handle::enter(number) {
                    assert!(Arc::ptr_eq(&entered.0, &first) && !Arc::ptr_eq(&entered.0, &second));
                }
            })
        };
        let frees = thread::spawn(move || handle::take(number).map(handle::Taken::settle).is_ok());
        if let Ok(taken) = handle::take(number) {
            taken.settle();
            drop(only);
            let only = Only::take().unwrap();
            let next = handle::put(Flip(Arc::clone(&second)));
            assert!(!frees.join().unwrap(), "the first one, which is gone");
            assert!(!second.load(SeqCst) && handle::enter(next).is_ok());
            handle::take(next).unwrap().settle();
            drop(only);
        } else {
            assert!(frees.join().unwrap());
        }
        calls.join().unwrap();
    });
}

#[test]
fn thread_sanitizer_and_miri() {
    println!(
        "SKIPPED: thread_sanitizer_and_miri: they need a standard library that is built with them; what threads share \
         without a lock is run in thousands of orders instead, by the tests beside this one"
    );
}
