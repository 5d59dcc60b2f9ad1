//! What it costs to count a connection as tokio-util and hyper-util have it: begun and ended, over and over, in so many
//! threads for so many milliseconds: `counting task_tracker|graceful_shutdown THREADS MS`. Prints the nanoseconds of
//! processor time that one pair takes the thread that makes it. Beside it runs `benches/c/connections.c`.

use hyper_util::server::graceful::GracefulShutdown;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio_util::task::TaskTracker;

const BATCH: u32 = 1000;

/// What this thread has used of its processor.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("this clock is always there").into()
}

/// Two threads that take turns on one processor would not be in each other's way.
fn stay_on_a_processor(allowed: CpuSet, number: usize) {
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(is_allowed).collect();
    let mut one = CpuSet::new();
    one.set(cpus[number % cpus.len()]).expect("it was in the set");
    sched_setaffinity(Pid::from_raw(0), &one).expect("it is allowed");
}

/// In all threads at once; nanoseconds of one pair.
fn in_threads(threads: usize, time: Duration, pair: impl Fn() + Sync) -> f64 {
    let (start, stop) = (Barrier::new(threads + 1), AtomicBool::new(false));
    let (pair, start, stop) = (&pair, &start, &stop);
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("a process knows its processors");
    let run = move |number| {
        stay_on_a_processor(allowed, number);
        (0..BATCH).for_each(|_| pair());
        start.wait();
        let (began, mut pairs) = (cpu_time(), 0.0);
        while !stop.load(Relaxed) {
            (0..BATCH).for_each(|_| pair());
            pairs += f64::from(BATCH);
        }
        ((cpu_time() - began).as_nanos() as f64, pairs)
    };
    let results: Vec<(f64, f64)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|number| scope.spawn(move || run(number))).collect();
        start.wait();
        std::thread::sleep(time);
        stop.store(true, Relaxed);
        running.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    results.iter().map(|one| one.0).sum::<f64>() / results.iter().map(|one| one.1).sum::<f64>()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, who, threads, ms] = &arguments[..] else { panic!("counting WHO THREADS MS") };
    let (threads, ms) = (threads.parse().expect("THREADS"), ms.parse().expect("MS"));
    let time = Duration::from_millis(ms);
    let ns = match who.as_str() {
        "task_tracker" => {
            let tracker = TaskTracker::new();
            in_threads(threads, time, || drop(black_box(tracker.token())))
        }
        "graceful_shutdown" => {
            let graceful = GracefulShutdown::new();
            in_threads(threads, time, || drop(black_box(graceful.watcher())))
        }
        _ => panic!("task_tracker or graceful_shutdown"),
    };
    println!("{ns:.3}");
}
