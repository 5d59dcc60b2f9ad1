//! The handle: what every interface calls. It knows nothing of C, and does little itself: it asks the supervisor and
//! waits, or reads what the supervisor has published.

use crate::channel::Keep;
use crate::config::Config;
use crate::control::socket::Sockets;
use crate::drain::CONNECTIONS;
use crate::duty::Duty;
use crate::error::{Error, Failure, Result};
use crate::events::{HostEvent, Kind, QUESTIONS, Queue};
use crate::fork::{self, NoFork, Private};
use crate::handle::Only;
use crate::inherit::{self, Inheritance};
use crate::latch::{Gate, Latch, LateLatch};
use crate::pid_file::PidFile;
use crate::program::Overrides;
use crate::registry::{self, Asked, Registry};
use crate::reply::{self, Pending, reply};
use crate::signals;
use crate::startup::{self, Startup};
use crate::state::State;
use crate::supervisor::{self, Command, Supervisor};
use crate::sys::thread::{self, Thread};
use crate::sys::{fault, fd};
use crate::trigger::TRIGGER;
use crate::upgrade::{Request, Shutdown};
use crossbeam_channel::Sender;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::cell::RefCell;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

/// One generation of a server, as its own process sees it. Clones are the same handle.
#[derive(Clone)]
pub struct Flip(Arc<Inner>);

impl std::fmt::Debug for Flip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flip").field("generation", &self.0.generation).finish_non_exhaustive()
    }
}

/// What the host's threads and the supervisor share.
pub(crate) struct Inner {
    pub generation: u32,
    pub config: Config,
    pub startup: Startup,
    pub overrides: Mutex<Overrides>,
    pub registry: Mutex<Registry>,
    /// Readable from shutdown on; the byte is a [`Shutdown`].
    pub shutdown: Latch,
    /// Opens when the process is detached.
    pub detached: Gate,
    /// Opens when `flip_ready` returns 0.
    pub ready: Gate,
    /// Fires when the predecessor has exited; at once in generation 0.
    pub predecessor: LateLatch,
    /// Fires when `flip_drain` would return.
    pub drained: LateLatch,
    /// Opens in `flip_free`.
    pub freed: Gate,
    pub events: Arc<Queue>,
    /// The thread that has last looked for an event: it must not wait for what waits for its answer.
    reader: AtomicI32,
    pub state: State,
    pub pid_file: Option<PidFile>,
    pub published: Published,
    pub commands: Sender<Command>,
    pub wake: Private,
    /// In a successor: what the thread of `flip_init` was capable of, and so the library's threads are.
    capabilities: Option<[u32; 6]>,
    /// Who drives the supervisor.
    pub duty: Duty<Box<Supervisor>>,
    /// Of the library, to be waited for.
    pub threads: Mutex<Vec<Thread>>,
    only: Mutex<Option<Only>>,
}

/// What of [`Inner`] has a descriptor from the start.
struct Polled {
    shutdown: Latch,
    detached: Gate,
    ready: Gate,
    freed: Gate,
    events: Queue,
    state: State,
}

/// In one place: each that fails gives back those before it.
#[inline(never)]
fn polled(state_promised: bool) -> Result<Polled> {
    Ok(Polled {
        shutdown: Latch::new()?,
        detached: Gate::new()?,
        ready: Gate::new()?,
        freed: Gate::new()?,
        events: Queue::new()?,
        state: State::new(state_promised)?,
    })
}

/// Facts that any thread may read without asking.
#[derive(Default)]
pub(crate) struct Published {
    /// A [`Shutdown`], 0 before it.
    pub shutdown: AtomicU8,
    /// The drain deadline on CLOCK_MONOTONIC in nanoseconds, 0 before shutdown.
    pub drain_deadline: AtomicU64,
    /// A second stop moved the drain deadline.
    pub drain_cut: AtomicBool,
    /// The pid of the last successor that was started, 0 before.
    pub successor: AtomicI32,
    /// `flip_ready` has returned 0.
    pub ready: AtomicBool,
    detach_told: AtomicBool,
}

/// This process has looked at what a predecessor left it.
static INHERITED: AtomicBool = AtomicBool::new(false);

/// How long `flip_free` waits for a thread of the library once it has been told to end.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Of which handle, and where the answer will be.
type Unfinished = (Weak<Inner>, Pending<Result<i32>>);

thread_local! {
    /// An upgrade that this thread asked for and has not been told the result of: the next call goes on waiting.
    static UNFINISHED: RefCell<Option<Unfinished>> = const { RefCell::new(None) };
}

/// A panic of another thread while it held the lock left data that is still whole: every update is one assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same for who must not wait for long.
pub(crate) fn lock_within<T>(mutex: &Mutex<T>, patience: Duration) -> Option<MutexGuard<'_, T>> {
    let until = Instant::now() + patience;
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

impl Flip {
    /// Finds out what this process was started with, and starts the library's first thread; the second follows when
    /// `flip_ready` has returned. Call it before the host starts threads of its own: it removes the variables it has
    /// consumed from the environment.
    ///
    /// `EBUSY`: there is a handle already. `EPROTO`: the environment says that we are a successor, and something about it is
    /// wrong. Else the errno of what failed.
    pub fn init(config: Config) -> Result<Flip> {
        if fork::in_child() {
            return Err(Error::ForkedChild("flip_init"));
        }
        let only = Only::take()?;
        fork::install();
        crate::log::init();
        let variables = startup::environment();
        let environment = inherit::Environment::of(&variables);
        if environment.is_successor(std::process::id()) && INHERITED.swap(true, SeqCst) {
            // Its descriptors were closed with the first try; the numbers may be the host's by now.
            return Err(Error::Protocol(
                "this successor's first flip_init failed, and there is no second".into(),
            ));
        }
        // SAFETY: the contract of flip_init: the descriptors that the environment names belong to nobody yet; and they
        // are not looked at twice, as just seen.
        // Before anything is opened here, which could get the number of a descriptor that is named and missing.
        let inherited = unsafe { inherit::find(&environment, std::process::id(), fd::secure_execution()) }?;
        let startup = Startup::capture(variables)?;
        let mut control = None;
        let (predecessor, generation, state_promised, registry) = match inherited.inheritance {
            Inheritance::Fresh { listen_fds } => (None, 0, false, Registry::fresh(listen_fds)),
            Inheritance::Upgrade(upgrade) => {
                let (generation, promised) = (upgrade.hello.generation, upgrade.hello.state_promised);
                // A test makes this process one of a release that knows no such mark.
                let knows = fault::at("control-mark").is_ok();
                let mut table = upgrade.descriptors;
                let marked: Vec<_> = table.extract_if(.., |(entry, _)| entry.control && knows).collect();
                control = marked.into_iter().next();
                let registry = Registry::inherited(table);
                (Some((upgrade.channel, upgrade.hello)), generation, promised, registry)
            }
        };
        CONNECTIONS.restart();
        let (commands, inbox) = crossbeam_channel::unbounded();
        let no_fork = NoFork::hold();
        let wake =
            no_fork.private(fd::eventfd().map_err(|errno| Error::system("cannot make an eventfd", errno))?);
        drop(no_fork);
        let pid_file = config.pid_file.clone().map(PidFile::new);
        let Polled { shutdown, detached, ready, freed, events, state } = polled(state_promised)?;
        let inner = Arc::new(Inner {
            generation,
            config,
            startup,
            overrides: Mutex::default(),
            registry: Mutex::new(registry),
            shutdown,
            detached,
            ready,
            predecessor: LateLatch::default(),
            drained: LateLatch::default(),
            freed,
            events: Arc::new(events),
            reader: AtomicI32::new(0),
            state,
            pid_file,
            published: Published::default(),
            commands,
            wake,
            capabilities: if generation > 0 { thread::capabilities() } else { None },
            duty: Duty::new(),
            threads: Mutex::default(),
            only: Mutex::new(Some(only)),
        });
        if inner.asks(Kind::Log) {
            crate::log::subscribe(Arc::downgrade(&inner.events));
        }
        let wanted = inner.config.control.as_ref();
        let control = Sockets::open(wanted, control, &mut lock(&inner.registry))?;
        supervisor::start(&inner, inbox, predecessor, control)?;
        signals::connect(inner.wake.as_fd());
        let flip = Flip(inner);
        if let Err(error) = signals::install(&flip.0.config.signals, flip.0.startup.signals.ignored) {
            let _ = flip.free();
            return Err(error);
        }
        // Last of all: a call that fails changes nothing.
        lock(&flip.0.registry).own_what_is_ours();
        for name in inherited.remove.iter().filter(|_| !flip.0.config.leave_environment) {
            // SAFETY: the contract of flip_init: before the host has threads that could read the environment; the
            // library's read it through std alone.
            unsafe { std::env::remove_var(name) };
        }
        Ok(flip)
    }

    /// Gives everything back: stops as [`crate::upgrade`] says for this state, ends the library's threads, wakes every
    /// call that waits (`ECANCELED`). A stop without successor also unlinks unix paths.
    pub fn free(&self) -> Result<()> {
        self.release().map(drop)
    }

    /// The same; the right to be the one handle is given back when the result is dropped.
    pub(crate) fn release(&self) -> Result<Option<Only>> {
        let inner = &self.0;
        if fork::in_child() {
            self.close_copies_in_child();
            return Ok(None);
        }
        let Some(only) = lock(&inner.only).take() else { return Err(Error::Freed) };
        if let Ok((done, pending)) = reply() {
            inner.send(Command::Free(done));
            while pending.wait(inner.freed.reader(), None) == Err(Error::Interrupted) {}
        } else {
            // No descriptor to wait with: the end of the duty says the same. It may come after a hand-over.
            inner.send(Command::FreeUnanswered);
            while !inner.duty.is_over() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // Not before: a second SIGTERM meanwhile must not end the process in the middle of a hand-over.
        signals::restore();
        TRIGGER.disconnect();
        inner.freed.open();
        CONNECTIONS.notify();
        let threads: Vec<Thread> = lock(&inner.threads).drain(..).collect();
        for thread in threads {
            // One may be held by a child that hangs before its program executes, which was killed.
            let until = Instant::now() + LAST_WAIT;
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_micros(100));
            }
            if thread.is_finished() {
                thread.join();
            }
        }
        Ok(Some(only))
    }

    /// A worker that has seen shutdown must not keep listeners open which nobody accepts from any more.
    fn close_copies_in_child(&self) {
        // Held by another thread of the parent at the fork, it stays held for ever: then the copies stay too.
        if let Ok(mut registry) = self.0.registry.try_lock() {
            let kind = self.0.shutdown.reason().and_then(shutdown_from).unwrap_or(Shutdown::Stop);
            registry.close_listeners(|keep| supervisor::outlives(keep, kind));
        }
    }

    /// 0: not started by an upgrade.
    pub fn generation(&self) -> u32 {
        self.0.generation
    }

    /// What the next upgrade runs.
    pub fn set_command(&self, executable: &CStr, arguments: &[&CStr]) -> Result<()> {
        self.alone("flip_set_command")?;
        lock(&self.0.overrides).set_command(executable, arguments)
    }

    /// A variable in the environment of the next upgrade; none removes it.
    pub fn set_env(&self, name: &CStr, value: Option<&CStr>) -> Result<()> {
        self.alone("flip_set_env")?;
        lock(&self.0.overrides).set_env(name, value)
    }

    /// The directory in which the next upgrade starts; resolved when it is used.
    pub fn set_directory(&self, path: &CStr) -> Result<()> {
        self.alone("flip_set_directory")?;
        lock(&self.0.overrides).set_directory(path)
    }

    /// A listener: inherited where it matches, else bound now. The result is the caller's copy.
    pub fn listen(&self, address: &[u8]) -> Result<OwnedFd> {
        self.alone("flip_listen")?;
        let asked = Asked::parse(address)?;
        let done = registry::listen(&self.0.registry, asked);
        self.0.listeners_changed();
        done
    }

    /// The inheriting half of [`Flip::listen`]: `ENOENT` where nothing matches, never binds.
    pub fn inherit(&self, address: &[u8]) -> Result<OwnedFd> {
        self.alone("flip_inherit")?;
        let asked = Asked::parse(address)?;
        let done = lock(&self.0.registry).inherit(asked);
        self.0.listeners_changed();
        done
    }

    /// Passes any descriptor on, as a copy; what had the name before is forgotten.
    pub fn add(&self, name: &[u8], fd: BorrowedFd) -> Result<()> {
        self.alone("flip_add")?;
        let done = lock(&self.0.registry).add(name, fd);
        self.0.listeners_changed();
        done
    }

    /// What was inherited under that name, once: `ENOENT` after that. It goes on being passed on.
    pub fn take(&self, name: &[u8]) -> Result<OwnedFd> {
        self.alone("flip_take")?;
        let done = lock(&self.0.registry).take(name);
        self.0.listeners_changed();
        done
    }

    /// Stops passing it on. Never unlinks. `ENOENT` where there is nothing of that name.
    pub fn forget(&self, name: &[u8]) -> Result<()> {
        self.alone("flip_forget")?;
        let done = lock(&self.0.registry).forget(name);
        self.0.listeners_changed();
        done
    }

    /// The inherited names that nobody has claimed.
    pub fn unclaimed(&self) -> Result<Vec<Vec<u8>>> {
        self.alone("flip_inherited")?;
        Ok(lock(&self.0.registry).unclaimed().map(<[u8]>::to_vec).collect())
    }

    /// Says that this process could serve, and waits until it may. After `Ok` it must.
    ///
    /// `ETIMEDOUT`: the caller's deadline; call again. `ECANCELED` (the predecessor gave up, or somebody asked us to
    /// stop), `ETIME` (COMMIT did not come in its time), `EPROTO` are final: exit.
    pub fn ready(&self, deadline: Option<Instant>) -> Result<()> {
        self.alone("flip_ready")?;
        let missing = lock(&self.0.registry).missing_members();
        if !missing.is_empty() && !self.0.published.ready.load(SeqCst) {
            return Err(Error::NotFound(format!(
                "members of a reuseport group were not claimed, and clients queued on them would be reset: {}; \
                 flip_listen for each, or flip_forget accepts the loss",
                missing.join(", ")
            )));
        }
        let first = self.0.generation == 0 && !self.is_shut_down();
        if let Some(pid_file) = self.0.pid_file.as_ref().filter(|_| first) {
            // Whoever waits for the file finds a server that serves: it cannot fail any more.
            pid_file.write()?;
        }
        let fresh = if self.may_stand_in() { self.0.duty.take_fresh() } else { None };
        match fresh {
            Some(supervisor) => self.ready_by_itself(supervisor, deadline),
            None => self.ready_by_asking(deadline),
        }
    }

    /// Whether this thread may do what the library's would. A host may have put a filter on its own thread, or taken
    /// capabilities from it, since `flip_init`; and whether it did must not matter now and then.
    fn may_stand_in(&self) -> bool {
        self.0.capabilities.is_some()
            && thread::is_unfiltered()
            && thread::capabilities() == self.0.capabilities
    }

    /// Nobody drives the supervisor yet: this thread, which would only wait for another one, does.
    fn ready_by_itself(&self, mut supervisor: Box<Supervisor>, deadline: Option<Instant>) -> Result<()> {
        let (answer, pending) = reply::without_bell();
        let id = call_number();
        let _ = self.0.commands.send(Command::Ready(id, answer));
        supervisor.assist(deadline, || pending.is_answered());
        if !pending.is_answered() {
            let _ = self.0.commands.send(Command::LeaveReady(id));
            supervisor.assist(None, || pending.is_answered());
        }
        supervisor::give_back(&self.0, supervisor);
        pending.take()
    }

    fn ready_by_asking(&self, mut deadline: Option<Instant>) -> Result<()> {
        let (answer, pending) = reply()?;
        let id = call_number();
        self.0.send(Command::Ready(id, answer));
        loop {
            match pending.wait(self.0.freed.reader(), deadline) {
                Ok(result) => return result,
                Err(Error::Interrupted) => {}
                Err(Error::TimedOut) => {
                    // The supervisor may be saying LIVE at this very moment: only its word counts.
                    self.0.send(Command::LeaveReady(id));
                    deadline = None;
                }
                Err(error @ Error::Canceled(_)) => return Err(error),
                Err(error) => {
                    // No way to wait, in a filter of the host's for one. Only the supervisor's word counts here, too.
                    self.0.send(Command::LeaveReady(id));
                    return match pending.wait_by_looking(|| self.0.freed.is_open()) {
                        Err(Error::TimedOut) => Err(error),
                        result => result,
                    };
                }
            }
        }
    }

    /// Replaces this process and waits for the result: the pid of the successor. After `ETIMEDOUT` and `EINTR` the
    /// upgrade goes on, and the next call of the same thread goes on waiting for it.
    pub fn upgrade(&self, deadline: Option<Instant>) -> Result<i32> {
        self.alone("flip_upgrade")?;
        if self.0.reader.load(SeqCst) == thread::id() && self.0.config.events & QUESTIONS != 0 {
            return Err(Error::system(
                "cannot upgrade on the thread that answers events: it would wait for itself; ask on another one, or \
                 without waiting (flip_request, a signal)",
                Errno::EDEADLK,
            ));
        }
        // Weak: it keeps the address from being given to a later handle.
        let handle = Arc::downgrade(&self.0);
        let unfinished = UNFINISHED.take().filter(|(of, _)| of.ptr_eq(&handle));
        let pending = match unfinished {
            Some((_, pending)) => pending,
            None => {
                let failed = |error: Error| Error::Upgrade {
                    failure: Failure::Spawn,
                    errno: error.errno(),
                    text: supervisor::sentence(&error),
                };
                let (answer, pending) = reply().map_err(failed)?;
                self.0.send(Command::Upgrade(answer));
                pending
            }
        };
        match pending.wait(self.0.freed.reader(), deadline) {
            Ok(result) => result,
            Err(error) => {
                if matches!(error, Error::TimedOut | Error::Interrupted) {
                    UNFINISHED.set(Some((handle, pending)));
                }
                Err(error)
            }
        }
    }

    /// What this thread has asked for before and not waited for to its end is not taken up by its next [`Flip::upgrade`]: for
    /// threads that serve one caller after the other.
    pub fn forget_unfinished_upgrade() {
        UNFINISHED.take();
    }

    /// What this process is and does, as one line of JSON; the keys are in `docs/control.md`. In every state.
    pub fn status(&self) -> Result<String> {
        self.alone("flip_status")?;
        let (answer, pending) = reply()?;
        self.0.send(Command::Status(answer));
        loop {
            match pending.wait(self.0.freed.reader(), None) {
                Err(Error::Interrupted) => {}
                result => return result,
            }
        }
    }

    /// Asks and returns. Async-signal-safe, hence a bare errno: `ECHILD` in a forked child, `EBADF` without a handle.
    pub fn request(request: Request) -> std::result::Result<(), Errno> {
        if fork::in_child() {
            return Err(Errno::ECHILD);
        }
        if signals::request(request) { Ok(()) } else { Err(Errno::EBADF) }
    }

    /// Waits for shutdown and says why it came; a detach is reported once.
    pub fn wait_shutdown(&self, deadline: Option<Instant>) -> Result<Shutdown> {
        // As in `is_shut_down`, for who does not wait.
        fence(SeqCst);
        loop {
            if self.0.shutdown.fired() {
                if fork::in_child() {
                    self.close_copies_in_child();
                }
                let reason = self.0.shutdown.reason().unwrap_or(0);
                return Ok(shutdown_from(reason).unwrap_or(Shutdown::Stop));
            }
            if self.0.detached.is_open() && !self.0.published.detach_told.swap(true, SeqCst) {
                return Ok(Shutdown::Detach);
            }
            let mut fds = vec![
                PollFd::new(self.0.freed.reader(), PollFlags::POLLIN),
                PollFd::new(self.0.shutdown.reader(), PollFlags::POLLIN),
            ];
            if !self.0.published.detach_told.load(SeqCst) && !fork::in_child() {
                fds.push(PollFd::new(self.0.detached.reader(), PollFlags::POLLIN));
            }
            match fd::poll(&mut fds, deadline.map(|at| at.saturating_duration_since(Instant::now()))) {
                Ok(0) => return Err(Error::TimedOut),
                Ok(_) if fds[0].any().unwrap_or(false) && !fork::in_child() => {
                    return Err(Error::Canceled("the handle was freed meanwhile".into()));
                }
                Ok(_) => {}
                Err(Errno::EINTR) => return Err(Error::Interrupted),
                Err(errno) => return Err(Error::system("cannot wait for shutdown", errno)),
            }
        }
    }

    /// Readable from shutdown on, for ever. Borrowed: it lives as long as the handle.
    pub fn shutdown_fd(&self) -> BorrowedFd<'_> {
        self.0.shutdown.reader()
    }

    /// Readable once the process is detached, for ever. Borrowed.
    pub fn detached_fd(&self) -> BorrowedFd<'_> {
        self.0.detached.reader()
    }

    /// Readable once [`Flip::ready`] has returned, for ever. Borrowed.
    pub fn ready_fd(&self) -> BorrowedFd<'_> {
        self.0.ready.reader()
    }

    /// Whether [`Flip::ready`] has returned.
    pub fn is_ready(&self) -> bool {
        self.0.published.ready.load(SeqCst)
    }

    /// Readable once the handle is freed.
    pub fn freed_fd(&self) -> BorrowedFd<'_> {
        self.0.freed.reader()
    }

    /// Whether shutdown has fired. A forked child is told by the latch alone.
    ///
    /// A connection that this thread has begun before is counted by whoever counts after shutdown, if this says no.
    pub fn is_shut_down(&self) -> bool {
        fence(SeqCst);
        self.is_shut_down_already()
    }

    /// The same without the fence, after [`CONNECTIONS`] has begun one before a look.
    pub(crate) fn is_shut_down_already(&self) -> bool {
        if self.0.published.shutdown.load(SeqCst) != 0 {
            return true;
        }
        let fired = fork::in_child() && self.0.shutdown.fired();
        if fired {
            self.close_copies_in_child();
        }
        fired
    }

    /// Why shutdown has fired, if it has.
    pub fn shutdown_kind(&self) -> Option<Shutdown> {
        shutdown_from(self.0.published.shutdown.load(SeqCst))
    }

    /// Whether this listener goes on although shutdown has fired.
    pub(crate) fn outlives_shutdown(&self, listener: BorrowedFd) -> bool {
        // The latch fires last: until then only what was published tells the kind.
        let published = shutdown_from(self.0.published.shutdown.load(SeqCst));
        let told = || self.0.shutdown.reason().and_then(shutdown_from);
        let kind = published.or_else(told).unwrap_or(Shutdown::Stop);
        supervisor::outlives(self.keep_of(listener), kind)
    }

    /// Whether connections of this listener are counted: all but those of a `keep=` listener are.
    pub fn counts(&self, listener: BorrowedFd) -> bool {
        self.keep_of(listener) == Keep::None
    }

    /// What the host said of this listener at `flip_listen`.
    pub(crate) fn keep_of(&self, listener: BorrowedFd) -> Keep {
        match registry::any_kept() {
            false => Keep::None,
            // Held at a fork by another thread of the parent, it stays held for ever in the child.
            true if fork::in_child() => {
                self.0.registry.try_lock().map_or(Keep::None, |registry| registry.keep_of(listener))
            }
            true => lock(&self.0.registry).keep_of(listener),
        }
    }

    /// Waits until `flip_ready` has returned 0.
    pub(crate) fn wait_until_ready(&self, deadline: Option<Instant>) -> Result<()> {
        while !self.0.published.ready.load(SeqCst) {
            let mut fds = [
                PollFd::new(self.0.ready.reader(), PollFlags::POLLIN),
                PollFd::new(self.0.shutdown.reader(), PollFlags::POLLIN),
                PollFd::new(self.0.freed.reader(), PollFlags::POLLIN),
            ];
            match fd::poll(&mut fds, deadline.map(|at| at.saturating_duration_since(Instant::now()))) {
                Ok(0) => return Err(Error::TimedOut),
                Ok(_) if fds[0].any().unwrap_or(false) => return Ok(()),
                Ok(_) => return Err(Error::Canceled("this process will not serve".into())),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::system("cannot wait for flip_ready", errno)),
            }
        }
        Ok(())
    }

    /// The predecessor's state, read-only, with an offset of its own at 0. `ENOENT`: none was promised; `ECONNRESET`:
    /// promised and lost with the predecessor.
    pub fn take_state(&self, deadline: Option<Instant>) -> Result<OwnedFd> {
        self.alone("flip_take_state")?;
        let state = self.0.state.take(self.0.freed.reader(), deadline);
        if matches!(state, Err(Error::StateLost(_))) {
            self.0.send(Command::ToldOfLoss);
        }
        state
    }

    /// Readable while an event waits. Borrowed.
    pub fn event_fd(&self) -> Result<BorrowedFd<'_>> {
        self.alone("flip_event_fd")?;
        Ok(self.0.events.bell())
    }

    /// Waits for the next event of the kinds that were subscribed.
    pub fn next_event(&self, deadline: Option<Instant>) -> Result<HostEvent> {
        self.alone("flip_next_event")?;
        self.0.reader.store(thread::id(), SeqCst);
        self.0.events.next(self.0.freed.reader(), deadline)
    }

    /// Waits until the predecessor has exited; at once in generation 0.
    pub fn wait_predecessor(&self, deadline: Option<Instant>) -> Result<()> {
        self.alone("flip_wait_predecessor")?;
        if self.0.predecessor.fired() {
            return Ok(());
        }
        let mut fds = [
            PollFd::new(self.0.predecessor.reader()?, PollFlags::POLLIN),
            PollFd::new(self.0.freed.reader(), PollFlags::POLLIN),
        ];
        match fd::poll(&mut fds, deadline.map(|at| at.saturating_duration_since(Instant::now()))) {
            Ok(0) => Err(Error::TimedOut),
            Ok(_) if fds[0].any().unwrap_or(false) => Ok(()),
            Ok(_) => Err(Error::Canceled("the handle was freed meanwhile".into())),
            Err(Errno::EINTR) => Err(Error::Interrupted),
            Err(errno) => Err(Error::system("cannot wait for the predecessor", errno)),
        }
    }

    /// Readable for ever once the predecessor has exited. Borrowed.
    pub fn predecessor_fd(&self) -> Result<BorrowedFd<'_>> {
        self.alone("flip_predecessor_fd")?;
        self.0.predecessor.reader()
    }

    /// Readable for ever once [`Flip::drain`] would return. Borrowed.
    pub fn drained_fd(&self) -> Result<BorrowedFd<'_>> {
        self.alone("flip_drained_fd")?;
        self.0.drained.reader()
    }

    /// Moves the deadline that is running to this long from now: of a slow start, or of a long drain. `EINVAL` where none
    /// is running.
    pub fn extend(&self, ms: u64) -> Result<()> {
        self.alone("flip_extend")?;
        let by = crate::config::duration("extension", ms)?;
        let (answer, pending) = reply()?;
        self.0.send(Command::Extend(by, answer));
        loop {
            match pending.wait(self.0.freed.reader(), None) {
                Err(Error::Interrupted) => {}
                result => return result?,
            }
        }
    }

    /// The pid of the last successor that was started.
    pub fn successor_pid(&self) -> Result<i32> {
        self.alone("flip_successor_pid")?;
        match self.0.published.successor.load(SeqCst) {
            0 => Err(Error::NotFound("no successor was started yet".into())),
            pid => Ok(pid),
        }
    }

    /// Counts a connection that was accepted elsewhere.
    #[inline(always)]
    pub fn conn_begin() {
        CONNECTIONS.begin();
    }

    /// The end of a connection.
    #[inline(always)]
    pub fn conn_end() {
        CONNECTIONS.end();
    }

    /// In which process's count a connection that begins now is: forked children have their own.
    pub fn conn_depth() -> u32 {
        fork::depth()
    }

    /// Open connections.
    pub fn conn_count(&self) -> u64 {
        CONNECTIONS.count()
    }

    /// Waits until no connection is left. `ETIME`: the drain deadline; `ECANCELED`: a second stop cut it short, or the
    /// handle was freed; `EINVAL` before shutdown. Goes on after a signal handler.
    pub fn drain(&self, deadline: Option<Instant>) -> Result<()> {
        if !self.is_shut_down() {
            return Err(Error::Invalid("cannot drain: shutdown has not begun".into()));
        }
        if fork::in_child() {
            self.0.start_drain();
        }
        loop {
            let ticket = CONNECTIONS.ticket();
            if CONNECTIONS.count() == 0 {
                return Ok(());
            }
            if self.0.freed.is_open() && !fork::in_child() {
                return Err(Error::Canceled("the handle was freed meanwhile".into()));
            }
            let left = self.0.drain_left();
            if left.is_zero() {
                let open = CONNECTIONS.count();
                return Err(match self.0.published.drain_cut.load(SeqCst) {
                    true => {
                        Error::Canceled(format!("a second stop cut the drain short; {open} connections open"))
                    }
                    false => {
                        Error::Deadline(format!("the drain deadline passed with {open} connections open"))
                    }
                });
            }
            let caller = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if caller.is_some_and(|left| left.is_zero()) {
                return Err(Error::TimedOut);
            }
            CONNECTIONS.wait(ticket, Some(caller.map_or(left, |caller| caller.min(left))));
        }
    }

    /// All but what is named in DESIGN for forked children.
    fn alone(&self, call: &'static str) -> Result<()> {
        if fork::in_child() { Err(Error::ForkedChild(call)) } else { Ok(()) }
    }
}

impl Inner {
    /// Whether the host has subscribed to events of this kind.
    pub fn asks(&self, kind: Kind) -> bool {
        self.config.events & kind as u32 != 0
    }

    /// Nothing is lost when the supervisor is gone: the caller then sees the freed latch.
    pub fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        let _ = fd::eventfd_write(self.wake.as_fd());
        self.duty.begin();
    }

    /// The service manager's store may have to follow.
    fn listeners_changed(&self) {
        if self.config.fd_store {
            self.send(Command::Listeners);
        }
    }

    /// The drain deadline begins, unless it has begun. Before anybody is told of shutdown, who would find it passed.
    pub fn start_drain_time(&self) {
        let deadline = fd::monotonic_ns().saturating_add(self.config.drain_timeout.as_nanos() as u64);
        let _ = self.published.drain_deadline.compare_exchange(0, deadline, SeqCst, SeqCst);
    }

    /// Whoever waits for the last connection is woken from now on.
    pub fn start_drain(&self) {
        self.start_drain_time();
        CONNECTIONS.start_draining();
    }

    pub fn drain_left(&self) -> Duration {
        Duration::from_nanos(self.published.drain_deadline.load(SeqCst).saturating_sub(fd::monotonic_ns()))
    }
}

/// What tells one call of `flip_ready` from all others.
fn call_number() -> usize {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    CALLS.fetch_add(1, SeqCst)
}

/// The byte of the shutdown latch.
pub(crate) fn shutdown_byte(kind: Shutdown) -> u8 {
    match kind {
        Shutdown::Upgrade => 1,
        Shutdown::Stop => 2,
        Shutdown::Detach => 3,
    }
}

fn shutdown_from(byte: u8) -> Option<Shutdown> {
    [Shutdown::Upgrade, Shutdown::Stop, Shutdown::Detach]
        .into_iter()
        .find(|kind| shutdown_byte(*kind) == byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_held_for_a_moment_is_waited_for_and_one_that_is_held_for_long_is_not() {
        let mutex = Mutex::new(1);
        let held = lock(&mutex);
        assert!(lock_within(&mutex, Duration::from_millis(1)).is_none());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| lock_within(&mutex, Duration::from_secs(60)).map(|value| *value));
            std::thread::sleep(Duration::from_millis(5));
            drop(held);
            assert_eq!(waits.join().unwrap(), Some(1));
        });
    }
}
