//! A load client that never retries and never pauses for an upgrade, so that what it counts as failed is what a
//! client of the server would have seen fail.
//!
//! One thread and one epoll descriptor drive every connection: on two cores the server keeps the other one. Two kinds
//! of load run at once: keep-alive connections, each sending its next GET the moment the previous answer is complete,
//! and streams of new connections (connect, one request with `Connection: close`, read to the end, again). The one
//! close that is no failure is the one that the server's answer announced with `Connection: close`.

mod address;
mod answer;
mod connection;
mod record;

pub use address::Address;
pub use answer::{Answer, Identity, get, hear};
pub use record::{Failure, Interval, Kind, Latency, Mark, Report, Seen, Slowest, Snapshot};

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use record::Log;

type Check = Arc<dyn Fn(&Answer) -> Result<(), String> + Send + Sync>;

/// What the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    Http,
    /// The server sends one line as soon as the connection is open, and closes.
    Hello,
}

/// What to send where, and what to expect back.
#[derive(Clone)]
pub struct Config {
    address: Address,
    protocol: Protocol,
    connections: usize,
    streams: usize,
    timeout: Duration,
    path: String,
    prefix: Vec<u8>,
    check: Option<Check>,
}

impl Config {
    /// 32 keep-alive connections and one stream of new ones, to an HTTP/1.1 server.
    pub fn http(address: Address) -> Config {
        Config {
            address,
            protocol: Protocol::Http,
            connections: 32,
            streams: 1,
            timeout: crate::deadline::scaled(Duration::from_secs(10)),
            path: "/".into(),
            prefix: Vec::new(),
            check: None,
        }
    }

    /// Four streams of new connections to a server that says one line and closes.
    pub fn hello(address: Address) -> Config {
        Config { protocol: Protocol::Hello, connections: 0, streams: 4, ..Config::http(address) }
    }

    /// How many keep-alive connections; in hello mode there are none, and these count as further streams.
    pub fn connections(self, connections: usize) -> Config {
        Config { connections, ..self }
    }

    /// How many streams of new connections.
    pub fn streams(self, streams: usize) -> Config {
        Config { streams, ..self }
    }

    /// From connect or send to the complete answer; beyond it the request has failed. Taken as it is, not scaled.
    pub fn timeout(self, timeout: Duration) -> Config {
        Config { timeout, ..self }
    }

    /// What to GET.
    pub fn path(self, path: impl Into<String>) -> Config {
        Config { path: path.into(), ..self }
    }

    /// What every body has to begin with.
    pub fn prefix(self, prefix: impl Into<Vec<u8>>) -> Config {
        Config { prefix: prefix.into(), ..self }
    }

    /// A further check of every complete answer with status 200; its text becomes the detail of the failure. It runs
    /// on the one thread that drives the load.
    pub fn check(self, check: impl Fn(&Answer) -> Result<(), String> + Send + Sync + 'static) -> Config {
        Config { check: Some(Arc::new(check)), ..self }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections and {} streams to {}", self.connections, self.streams, self.address)
    }
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    epoch: Instant,
    stop: AtomicBool,
    log: Mutex<Log>,
}

impl Shared {
    fn now(&self) -> Mark {
        Mark::since(self.epoch)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Load {
    /// Starts sending. A server that is not there is counted, not an error: errors are those of the client's own
    /// resources.
    pub fn start(config: Config) -> io::Result<Load> {
        let slots = config.connections + config.streams;
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            stop: AtomicBool::new(false),
            log: Mutex::new(Log::new(slots)),
        });
        let worker = connection::Worker::new(config, shared.clone())?;
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || worker.run())?;
        Ok(Load { shared, thread: Some(thread) })
    }

    /// Now, on the clock of the records.
    pub fn mark(&self) -> Mark {
        self.shared.now()
    }

    /// The totals so far.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.log().snapshot()
    }

    /// What was sent, failed and slowest between two marks, so far.
    pub fn between(&self, from: Mark, to: Mark) -> Interval {
        self.shared.log().between(from, to, self.shared.now())
    }

    /// How many requests had been sent and not answered at `at`.
    pub fn in_flight_at(&self, at: Mark) -> u64 {
        self.shared.log().in_flight_at(at)
    }

    /// Every server process that has answered, in the order of its first answer.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.log().seen()
    }

    /// Sends nothing more, waits for the answers that are still out (each has its time-out), and sums up.
    ///
    /// # Panics
    /// When the load thread could not go on, with its reason.
    pub fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => panic!("the load client ended early: {error}"),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let now = self.shared.now();
        let log = std::mem::replace(&mut *self.shared.log(), Log::new(0));
        Report::new(log, now)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
