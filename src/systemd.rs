//! What the service manager is told, in the words of sd_notify(3), and what the unit's environment says about it.
//!
//! One process of the chain speaks: generation 0 from its start, a successor from RELEASED (or its predecessor's death)
//! on, and each until it has announced the next one; whoever drains is mute for ever. systemd believes the main process
//! alone (`NotifyAccess=main`), so the old one announces the new one. The supervisor owns the one [`Systemd`] and calls
//! it; nothing here waits: what the socket does not take is kept, in order, and tried again every second.

mod announce;
mod socket;
pub(crate) mod store;
mod unit;

use crate::error::Result;
use crate::log::{self, Level, Seconds};
use crate::spawn::Spawned;
use crate::sys::fd;
use announce::Announcement;
use sd_notify::NotifyState;
use socket::{NotifySocket, Sent};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;
pub(crate) use unit::Unit;

/// From a datagram that the socket did not take to the next try: soon, since a queue that is full of our own messages
/// empties quickly, and then ever later, up to the second.
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(1);
/// While a successor starts, the manager is asked for more time this often …
const EXTEND_EVERY: Duration = Duration::from_secs(5);
/// … and for this much, so that one late message does no harm.
const EXTEND_BY: Duration = Duration::from_secs(15);
/// A STATUS is one line for a person.
const STATUS_MAX: usize = 800;

/// Whether this process is the one that the manager listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voice {
    /// The predecessor is.
    NotYet,
    Speaks,
    /// The successor is.
    Mute,
}

/// One datagram that waits for its turn.
struct Datagram {
    text: String,
    attached: Option<Arc<OwnedFd>>,
    announces: bool,
}

/// The connection to the service manager, if there is one.
pub(crate) struct Systemd {
    socket: Option<NotifySocket>,
    voice: Voice,
    waiting: VecDeque<Datagram>,
    retry_at: Instant,
    retry_in: Duration,
    announcement: Option<Announcement>,
    /// MAINPID of a successor is out.
    announced: bool,
    /// RELOADING was said and READY has to follow; when the next EXTEND_TIMEOUT_USEC is due.
    reloading: Option<Instant>,
    watchdog: Option<Watchdog>,
    store: Option<Store>,
    /// STOPPING was said, which is final.
    stopping: bool,
    generation: u32,
}

struct Watchdog {
    every: Duration,
    /// None before this process serves.
    next: Option<Instant>,
}

impl Systemd {
    /// Connects to the manager that the environment names. `watchdog`, `fd_store`: what the host asked for.
    pub fn new(unit: &Unit, generation: u32, watchdog: bool, fd_store: bool) -> Result<Systemd> {
        let socket = match &unit.socket {
            Some(address) => NotifySocket::connect(address)?,
            None => None,
        };
        let now = Instant::now();
        let every = unit.watchdog.filter(|_| watchdog && socket.is_some());
        Ok(Systemd {
            voice: if generation == 0 { Voice::Speaks } else { Voice::NotYet },
            waiting: VecDeque::new(),
            retry_at: now,
            retry_in: FIRST_RETRY,
            announcement: None,
            announced: false,
            reloading: None,
            watchdog: every.map(|every| Watchdog { every, next: None }),
            store: (fd_store && socket.is_some()).then(Store::default),
            socket,
            stopping: false,
            generation,
        })
    }

    /// Whether anybody would hear.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// What to poll, for reading.
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.announcement.as_ref()?.watched()
    }

    /// When to call [`Systemd::look`] at the latest. `upgrading`: a successor is on its way.
    pub fn timer(&self, upgrading: bool) -> Option<Instant> {
        let retry = (!self.waiting.is_empty()).then_some(self.retry_at);
        let barrier = self.announcement.as_ref().and_then(Announcement::due);
        let may_speak = self.speaks() && self.waiting.is_empty();
        let ping = self.watchdog.as_ref().filter(|_| may_speak).and_then(|watchdog| watchdog.next);
        let extend = self.reloading.filter(|_| upgrading && may_speak);
        [retry, barrier, ping, extend].into_iter().flatten().min()
    }

    /// Does what is due. True once: what was announced has reached the manager, or nothing can be done about it.
    pub fn look(&mut self, upgrading: bool) -> bool {
        let now = Instant::now();
        if now >= self.retry_at {
            self.flush();
        }
        if self.speaks() && self.waiting.is_empty() {
            if self.watchdog.as_ref().is_some_and(|watchdog| watchdog.next.is_some_and(|at| at <= now)) {
                self.ping();
            }
            if upgrading && self.reloading.is_some_and(|at| at <= now) {
                self.say(&[extension()]);
                self.reloading = Some(now + extend_every());
            }
        }
        let Some(socket) = &self.socket else { return self.announcement.take().is_some() };
        let Some(announcement) = &mut self.announcement else { return false };
        let over = announcement.look(socket, now);
        if over {
            self.announcement = None;
        }
        over
    }

    /// `flip_ready` has returned 0 in generation 0.
    pub fn ready(&mut self) {
        let status = format!("Serving (generation {}).", self.generation);
        self.say(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.ping();
    }

    /// The predecessor has announced this process and is mute from now on.
    pub fn released(&mut self) {
        if self.voice == Voice::NotYet {
            self.voice = Voice::Speaks;
            self.ping();
        }
    }

    /// It died before it could: all that can be done is to say so oneself.
    pub fn took_over(&mut self) {
        if self.voice == Voice::NotYet {
            self.voice = Voice::Speaks;
            let status = format!("Serving (generation {}), since its predecessor died.", self.generation);
            self.say(&[
                NotifyState::MainPid(std::process::id()),
                NotifyState::Ready,
                NotifyState::Status(&status),
            ]);
            self.ping();
        }
    }

    /// An upgrade was asked for. Before any check, so that the manager knows the request that it made.
    pub fn reload_begins(&mut self) {
        if self.speaks() && self.socket.is_some() && self.reloading.is_none() {
            let now = NotifyState::MonotonicUsec(i128::from(fd::monotonic_ns() / 1000));
            let status = NotifyState::Status("An upgrade was asked for.");
            self.say(&[NotifyState::Reloading, now, extension(), status]);
            self.reloading = Some(Instant::now() + extend_every());
        }
    }

    /// Whether the manager waits for the end of a reload.
    pub fn is_reloading(&self) -> bool {
        self.reloading.is_some()
    }

    /// It came to nothing; the manager has no word for that but the status.
    pub fn reload_failed(&mut self, why: &str) {
        if self.reloading.take().is_some() {
            let status = clean(&format!("Serving (generation {}). No upgrade: {why}", self.generation));
            self.say(&[NotifyState::Ready, NotifyState::Status(&status)]);
        }
    }

    /// How far an upgrade is.
    pub fn progress(&mut self, status: &str) {
        if self.reloading.is_some() && self.waiting.is_empty() {
            self.say(&[NotifyState::Status(&clean(status))]);
        }
    }

    /// More time for whatever the manager waits for.
    pub fn extend(&mut self, by: Duration) {
        // Not ExtendTimeoutUsec: its 32 bits end at 71 minutes.
        self.say(&[NotifyState::Custom(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()))]);
    }

    /// This one is the main process now. [`Systemd::look`] tells when the manager knows. False: there is no manager.
    pub fn announce(&mut self, successor: &Spawned, after: Duration) -> bool {
        if self.socket.is_none() {
            return false;
        }
        let pid = successor.pid.as_raw();
        let generation = self.generation.saturating_add(1);
        let seconds = Seconds(after);
        let status =
            format!("Serving (generation {generation}, process {pid}), upgraded after {seconds:.1} s.");
        let mut text = lines(&[NotifyState::MainPid(pid.unsigned_abs())]);
        if let Some(id) = fd::pidfd_id(successor.pidfd.as_fd()) {
            // systemd 257: proof against a pid that was given to another process meanwhile.
            text += &lines(&[NotifyState::Custom(&format!("MAINPIDFDID={id}"))]);
        }
        text += &lines(&[NotifyState::Ready, NotifyState::Status(&status)]);
        if self.watchdog.is_some() {
            text += &lines(&[NotifyState::Watchdog]);
        }
        self.announcement = Some(Announcement::default());
        self.queue(Datagram { text, attached: None, announces: true });
        true
    }

    /// `flip_free` waits: an announcement that the manager has no room for must not take for ever.
    pub fn hurry(&mut self) {
        if let Some(announcement) = &mut self.announcement {
            announcement.limit();
        }
    }

    /// Whether an announcement could not even be queued, since the manager does not read.
    pub fn announcement_is_stuck(&self) -> bool {
        self.waiting.iter().any(|datagram| datagram.announces)
    }

    /// The process that was announced, or was about to be, is no good: this one is the main process, as before. Only
    /// tried: where the announced one has died already, the manager does not listen to anybody else.
    pub fn take_back(&mut self) {
        self.voice = Voice::Speaks;
        self.announcement = None;
        self.drop_announcement();
        if std::mem::take(&mut self.announced) {
            self.say(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
        }
    }

    fn drop_announcement(&mut self) {
        while let Some(index) = self.waiting.iter().position(|datagram| datagram.announces) {
            self.waiting.remove(index);
        }
    }

    /// Everything is the successor's. Nothing is said from here on.
    pub fn hand_over(&mut self) {
        self.voice = Voice::Mute;
        self.waiting.clear();
        self.store = self.store.take().map(|_| Store::default());
    }

    /// The service ends.
    pub fn stops(&mut self, connections: u64) {
        if !self.speaks() || std::mem::replace(&mut self.stopping, true) {
            return;
        }
        self.announcement = None;
        self.drop_announcement();
        let status = match connections {
            0 => "Stopping.".to_string(),
            1 => "Stopping: 1 connection is open.".to_string(),
            many => format!("Stopping: {many} connections are open."),
        };
        self.say(&[NotifyState::Stopping, NotifyState::Status(&status)]);
        self.reloading = None;
        self.watchdog = None;
        self.store = None;
    }

    /// The listeners that are to be in the manager's store, and none else; `gone`: names that an earlier generation may
    /// have stored. Nothing happens where the host has not asked for it.
    pub fn keep(&mut self, gone: Vec<String>, listeners: Vec<store::Stored>) {
        if !self.speaks() || self.socket.is_none() {
            return;
        }
        let removed = gone.into_iter().map(|name| (name, None));
        let changes = match &mut self.store {
            Some(store) => removed.chain(store.changes(listeners)).collect::<Vec<_>>(),
            None => removed.collect(),
        };
        for (name, listener) in changes {
            let text = store::text(&name, listener.is_some());
            self.queue(Datagram { text, attached: listener, announces: false });
        }
    }

    /// Whether this host's listeners are stored.
    pub fn stores(&self) -> bool {
        self.store.is_some() && self.speaks()
    }

    fn speaks(&self) -> bool {
        self.voice == Voice::Speaks
    }

    fn ping(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.next = Some(Instant::now() + watchdog.every);
            self.say(&[NotifyState::Watchdog]);
        }
    }

    fn say(&mut self, states: &[NotifyState<'_>]) {
        if self.speaks() {
            self.queue(Datagram { text: lines(states), attached: None, announces: false });
        }
    }

    fn queue(&mut self, datagram: Datagram) {
        if self.socket.is_some() {
            let first = self.waiting.is_empty();
            self.waiting.push_back(datagram);
            if first {
                self.flush();
            }
        }
    }

    /// In order; the first that the socket does not take waits, and all behind it.
    fn flush(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        while let Some(datagram) = self.waiting.front() {
            let attached = datagram.attached.as_ref().map(|fd| fd.as_fd());
            match socket.send(datagram.text.as_bytes(), attached) {
                Sent::Taken => self.retry_in = FIRST_RETRY,
                Sent::Full(errno) => {
                    let before = self.retry_in;
                    self.retry_at = Instant::now() + before;
                    self.retry_in = (before * 2).min(LAST_RETRY);
                    if self.retry_in == LAST_RETRY && before < LAST_RETRY {
                        let why = crate::error::explain(errno);
                        let what = "systemd does not read what it is told; tried again every second";
                        log::write(Level::Error, format_args!("{what}: {why}"));
                    }
                    return;
                }
                Sent::Never(errno) => {
                    let what = datagram.text.split(['=', '\n']).next().unwrap_or_default();
                    let why = crate::error::explain(errno);
                    log::write(Level::Error, format_args!("systemd could not be told {what}: {why}"));
                }
            }
            let announced = self.waiting.pop_front().is_some_and(|datagram| datagram.announces);
            if let Some(announcement) = self.announcement.as_mut().filter(|_| announced) {
                self.announced = true;
                announcement.queued(socket);
            }
        }
    }
}

/// What one datagram says, a line each.
fn lines(states: &[NotifyState<'_>]) -> String {
    states.iter().map(|state| format!("{state}\n")).collect()
}

fn extend_every() -> Duration {
    crate::supervisor::extension_interval(EXTEND_EVERY)
}

fn extension() -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(EXTEND_BY.as_micros() as u32)
}

/// One line, and not too long for one.
fn clean(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(STATUS_MAX).collect()
}
