//! The second thread: a vfork-style spawn holds the thread that makes it until the new program executes, and the
//! supervisor's deadlines must go on meanwhile. The supervisor starts it, once nobody waits for this process to serve:
//! it gets its affinity, namespaces and filters from that thread, and so from flip_init's.

use super::{PrivateChannel, thread_error};
use crate::channel::{Nonce, ToSuccessor};
use crate::error::{Error, Result};
use crate::flip::{Inner, lock};
use crate::log::{self, Level};
use crate::program::Overrides;
use crate::spawn::{self, Job, Prepared, Spawned, Watch};
use crate::startup::Startup;
use crate::sys::{fd, process, thread};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// One of the descriptors that cross, whoever owns it.
pub(super) type Passed = Arc<dyn AsFd + Send + Sync>;

/// What a successor gets. What is run is found out on the spawner's thread: a path may lead to a server that hangs.
pub(super) struct Order {
    pub overrides: Overrides,
    pub stdio: [Option<Arc<OwnedFd>>; 3],
    pub descriptors: Vec<Passed>,
    pub channel: OwnedFd,
    pub names: Option<CString>,
    pub nonce: Nonce,
}

impl Order {
    fn carry_out(self, startup: &Startup, sibling: bool, watch: &Watch) -> Result<Spawned> {
        let program = self.overrides.resolve(startup)?;
        log::write(Level::Info, format_args!("upgrade: starting {}", program.path().to_string_lossy()));
        let job = Job {
            program,
            environment: self.overrides.environment(startup),
            stdio: self.stdio.map(|fd| fd.map(|fd| fd as Passed)),
            descriptors: self.descriptors,
            channel: Arc::new(self.channel) as Passed,
            listen_fdnames: self.names,
            nonce: self.nonce.to_string(),
            signals: startup.signals,
            soft_limit: startup.soft_limit,
            sibling,
        };
        spawn::spawn(Prepared::new(job)?, watch)
    }
}

/// A new process whose report the supervisor has not read. Dropped unread it is ended: nobody else would, and it would take over
/// when this process dies.
struct Newborn(Option<Spawned>);

impl From<Spawned> for Newborn {
    fn from(spawned: Spawned) -> Newborn {
        Newborn(Some(spawned))
    }
}

impl Newborn {
    fn claim(mut self) -> Option<Spawned> {
        self.0.take()
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if let Some(spawned) = &self.0 {
            let _ = process::pidfd_send_signal(spawned.pidfd.as_fd(), libc::SIGKILL);
            let _ = process::reap_ending(spawned.pidfd.as_fd());
        }
    }
}

/// The supervisor's side of it.
pub(super) struct Spawner {
    /// systemd itself started this process, and is to see the end of its successors too.
    sibling: bool,
    thread: Option<Thread>,
    under_way: Option<UnderWay>,
}

struct Thread {
    orders: Sender<(Order, Watch)>,
    reports: Receiver<Result<Newborn>>,
}

struct UnderWay {
    channel: PrivateChannel<ToSuccessor>,
    watch: Watch,
    /// Nobody waits for it any more: whatever comes of it is ended.
    abandoned: bool,
}

/// What came of a spawn.
pub(super) enum Report {
    Started {
        channel: PrivateChannel<ToSuccessor>,
        spawned: Spawned,
    },
    Failed(Error),
    /// It came after it had been given up; to be ended.
    TooLate(Spawned),
}

impl Thread {
    fn start(own: &Arc<Inner>, sibling: bool) -> Result<Thread> {
        let (orders, inbox) = bounded::<(Order, Watch)>(1);
        let (outbox, reports) = bounded(1);
        let inner = Arc::clone(own);
        let run = move || {
            for (order, watch) in inbox {
                let spawned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    order.carry_out(&inner.startup, sibling, &watch)
                }));
                let spawned = spawned.unwrap_or_else(|_| Err(Error::Poisoned("the spawner panicked".into())));
                if outbox.send(spawned.map(Newborn::from)).is_err() {
                    return;
                }
                let _ = fd::eventfd_write(inner.wake.as_fd());
            }
        };
        let handle = thread::start("flip-spawner", run).map_err(thread_error)?;
        lock(&own.threads).push(handle);
        Ok(Thread { orders, reports })
    }
}

impl Spawner {
    /// One without a thread yet.
    pub fn new(sibling: bool) -> Spawner {
        Spawner { sibling, thread: None, under_way: None }
    }

    /// Starts the thread, once.
    pub fn start(&mut self, inner: &Arc<Inner>) -> Result<()> {
        self.thread(inner).map(drop)
    }

    fn thread(&mut self, inner: &Arc<Inner>) -> Result<&Thread> {
        match &mut self.thread {
            Some(thread) => Ok(thread),
            none => Ok(none.insert(Thread::start(inner, self.sibling)?)),
        }
    }

    /// Starts it; [`Spawner::report`] tells.
    pub fn spawn(
        &mut self,
        inner: &Arc<Inner>,
        channel: PrivateChannel<ToSuccessor>,
        order: Order,
    ) -> Result<()> {
        if self.under_way.is_some() {
            return Err(Error::Busy(
                "the new process of an earlier upgrade still hangs before its start".into(),
            ));
        }
        let watch = Watch::new()?;
        let gone = |_| Error::Poisoned("the spawner has ended".into());
        self.thread(inner)?.orders.try_send((order, watch.clone())).map_err(gone)?;
        self.under_way = Some(UnderWay { channel, watch, abandoned: false });
        Ok(())
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Ends a child that hangs before its program executes.
    pub fn kill(&self) {
        if let Some(under_way) = &self.under_way {
            let _ = under_way.watch.kill();
        }
    }

    /// Whatever still comes of it is not wanted.
    pub fn abandon(&mut self) {
        if let Some(under_way) = &mut self.under_way {
            under_way.abandoned = true;
            under_way.watch.abandon();
        }
    }

    pub fn report(&mut self) -> Option<Report> {
        let report = self.thread.as_ref()?.reports.try_recv().ok()?.map(Newborn::claim);
        let under_way = self.under_way.take()?;
        match (report, under_way.abandoned) {
            (Ok(Some(spawned)), false) => Some(Report::Started { channel: under_way.channel, spawned }),
            (Ok(Some(spawned)), true) => Some(Report::TooLate(spawned)),
            (Err(error), false) => Some(Report::Failed(error)),
            (Ok(None), _) | (Err(_), true) => None,
        }
    }
}
