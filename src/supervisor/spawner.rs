//! Starting the new process: the supervisor's part, and the part of the thread that is held by the kernel until the new
//! program executes ([`super::crew`] says which one that is).

use super::PrivateChannel;
use crate::channel::{Nonce, ToSuccessor};
use crate::error::{Error, Result};
use crate::flip::{Inner, lock};
use crate::log::{self, Level};
use crate::program::Overrides;
use crate::reply::{Looked, Pending, Reply, without_bell};
use crate::spawn::{self, Job, Prepared, Spawned, Watch};
use crate::startup::Startup;
use crate::sys::{fd, process};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// One of the descriptors that cross, whoever owns it.
pub(super) type Passed = Arc<dyn AsFd + Send + Sync>;

/// What a successor gets. What is run is found out on the thread that spawns: a path may lead to a server that hangs.
pub(super) struct Order {
    pub overrides: Overrides,
    /// If it was made before.
    pub environment: Option<Vec<CString>>,
    pub descriptors: Vec<Passed>,
    pub channel: OwnedFd,
    pub names: Option<CString>,
    pub nonce: Nonce,
}

impl Order {
    fn carry_out(self, startup: &Startup, sibling: bool, watch: &Watch) -> Result<Spawned> {
        let program = self.overrides.resolve(startup)?;
        log::write(Level::Info, format_args!("upgrade: starting {program}"));
        let job = Job {
            program,
            environment: self.environment.unwrap_or_else(|| self.overrides.environment(startup)),
            stdio: startup.stdio.each_ref().map(|fd| fd.clone().map(|fd| fd as Passed)),
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

/// What a thread is asked for: it is held until the new program executes.
pub(super) struct Errand {
    order: Order,
    sibling: bool,
    watch: Watch,
    report: Reply<Result<Newborn>>,
}

impl Errand {
    /// The supervisor is told what came of it.
    pub fn run(self, inner: &Inner) {
        let Errand { order, sibling, watch, report } = self;
        let spawned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            order.carry_out(&inner.startup, sibling, &watch)
        }));
        let spawned = spawned.unwrap_or_else(|_| Err(Error::Poisoned("a spawn panicked".into())));
        tell(report, inner, spawned);
    }

    /// It cannot be done.
    pub fn fail(self, inner: &Inner, error: Error) {
        tell(self.report, inner, Err(error));
    }
}

fn tell(report: Reply<Result<Newborn>>, inner: &Inner, spawned: Result<Spawned>) {
    report.send(spawned.map(Newborn::from));
    let _ = fd::eventfd_write(inner.wake.as_fd());
}

/// The supervisor's side of it.
pub(super) struct Spawner {
    /// systemd itself started this process, and is to see the end of its successors too.
    sibling: bool,
    under_way: Option<UnderWay>,
    errand: Option<Errand>,
    /// For the next spawn, if there was time to make it.
    spare: Option<Watch>,
    /// The same, and what the host had set then.
    environment: Option<(Overrides, Vec<CString>)>,
}

struct UnderWay {
    channel: PrivateChannel<ToSuccessor>,
    watch: Watch,
    report: Pending<Result<Newborn>>,
    /// Nobody waits for it any more: whatever comes of it is ended.
    abandoned: bool,
}

/// As much memory as an environment and a table of some dozens of entries take.
const STRINGS: usize = 32 * 1024;

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

impl Spawner {
    /// One that has nothing to do.
    pub fn new(sibling: bool) -> Spawner {
        Spawner { sibling, under_way: None, errand: None, spare: None, environment: None }
    }

    /// Makes what the next spawn needs, as far as it can be made before.
    pub fn prepare(&mut self, inner: &Inner) -> Result<()> {
        if self.environment.is_none() {
            let overrides = lock(&inner.overrides).clone();
            let environment = overrides.environment(&inner.startup);
            self.environment = Some((overrides, environment));
        }
        if self.spare.is_none() {
            self.spare = Some(Watch::new()?);
            // Where the strings of the next spawn will be: a page that was used once is there.
            drop(std::hint::black_box(vec![1u8; STRINGS]));
        }
        Ok(())
    }

    /// The environment that was made before, if the host has set nothing since.
    pub fn environment(&mut self, overrides: &Overrides) -> Option<Vec<CString>> {
        self.environment.take_if(|(then, _)| then == overrides).map(|(_, environment)| environment)
    }

    /// There will be an [`Errand`] for a thread; [`Spawner::report`] tells what came of it.
    pub fn spawn(&mut self, channel: PrivateChannel<ToSuccessor>, order: Order) -> Result<()> {
        if self.under_way.is_some() {
            return Err(Error::Busy(
                "the new process of an earlier upgrade still hangs before its start".into(),
            ));
        }
        let watch = self.spare.take().map_or_else(Watch::new, Ok)?;
        let (outbox, report) = without_bell();
        self.errand = Some(Errand { order, sibling: self.sibling, watch: watch.clone(), report: outbox });
        self.under_way = Some(UnderWay { channel, watch, report, abandoned: false });
        Ok(())
    }

    /// What a thread has to do now, once.
    pub fn errand(&mut self) -> Option<Errand> {
        self.errand.take()
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
        let report = match self.under_way.as_ref()?.report.look() {
            Looked::Nothing => return None,
            Looked::Lost => Err(Error::Poisoned("a spawn was lost".into())),
            Looked::Answer(report) => report.map(Newborn::claim),
        };
        let under_way = self.under_way.take()?;
        match (report, under_way.abandoned) {
            (Ok(Some(spawned)), false) => Some(Report::Started { channel: under_way.channel, spawned }),
            (Ok(Some(spawned)), true) => Some(Report::TooLate(spawned)),
            (Err(error), false) => Some(Report::Failed(error)),
            (Ok(None), _) | (Err(_), true) => None,
        }
    }
}
