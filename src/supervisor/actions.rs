//! What the supervisor does for each action of the state machine.

use super::history::Current;
use super::spawner::{Order, Passed, Report};
use super::{Supervisor, deadlines};
use crate::channel::{FromPredecessor, Hello, Keep, Nonce, Process, pair};
use crate::error::{Error, Failure, Result};
use crate::events::Kind;
use crate::flip::{lock, shutdown_byte};
use crate::fork::NoFork;
use crate::log::{self, Level, Seconds};
use crate::pid_file::PidFile;
use crate::registry::{self, Frozen};
use crate::sys::{fd, process};
use crate::upgrade::{
    Action, Event, Final, PredecessorSays, Shutdown, Stage, State, SuccessorSays, Timer, Why,
};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// A second stop leaves this much to a drain.
const CUT_DRAIN: Duration = Duration::from_millis(1500);
/// A program that fails before; one that closes what it does not know at its start; or a wrapper whose child runs the
/// server, or a server that daemonizes, and a child is not the process that was started.
const NEVER_INITIALISED: &str = "; flip_init was not called in that process, or found its descriptors closed: the program failed \
                                 before (127: its loader), closes all descriptors at its start, or a wrapper (or the server, as a \
                                 daemon) has forked, where it must exec";
/// The same of one that lives.
const NOT_YET_INITIALISED: &str = "; flip_init has not been called in that process: the program hangs before, or a wrapper (or the \
                                   server, as a daemon) has forked, where it must exec";
/// Of a call that asks for an upgrade these say something else than that the new program could not be started, and what the
/// caller does about it would be wrong.
const OF_A_CALL: [Errno; 7] = [
    Errno::ETIMEDOUT,
    Errno::EINTR,
    Errno::ECANCELED,
    Errno::EAGAIN,
    Errno::EALREADY,
    Errno::EBUSY,
    Errno::EDEADLK,
];
/// As many drainers go into one HELLO.
const MAX_DRAINERS: usize = crate::channel::hello::MAX_DRAINERS;

impl Supervisor {
    /// Carries one out. What becomes of it is an event, for those that say so.
    pub(super) fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Accept => {
                self.accepted();
                None
            }
            Action::Refuse(why) => {
                let error = refusal(&why);
                self.refused = Some(error.to_string());
                log::write(Level::Info, format_args!("request refused: {error}"));
                if let Some(asker) = self.asking.take() {
                    self.tell_asker(asker, Err(error));
                }
                None
            }
            // Nothing is subscribed: the machine asks for nothing.
            Action::Spawn => {
                self.systemd.reload_begins();
                match self.start_successor() {
                    Ok(()) => None,
                    Err(error) => Some(self.spawn_failed(&error)),
                }
            }
            Action::ToSuccessor(says) => self.tell_successor(&says),
            Action::ToPredecessor(says) => {
                if let SuccessorSays::Withdrawn(_) = says {
                    lock(&self.inner.registry).withdraw();
                    self.control.sockets.withdraw();
                }
                let outcome = match &self.predecessor {
                    Some(predecessor) => predecessor.send(&says),
                    None => crate::upgrade::Outcome::Gone,
                };
                matches!(says, SuccessorSays::Ready | SuccessorSays::Live).then_some(Event::Sent(outcome))
            }
            Action::Terminate => {
                self.given_up = Some(Instant::now());
                self.signal_successor(libc::SIGTERM);
                None
            }
            Action::Kill => {
                self.signal_successor(libc::SIGKILL);
                None
            }
            Action::CheckSuccessor => match self.successor.take() {
                Some(successor) if !successor.dead() => {
                    // Then its death is the answer. Only where there was time for a crash: it costs a look into /proc.
                    let had_time = self.inner.config.probation.is_some() || self.systemd.is_there();
                    let crashed = had_time && successor.dumps_core();
                    self.successor = Some(successor);
                    (!crashed).then_some(Event::SuccessorAlive)
                }
                Some(successor) => Some(Event::SuccessorDied(successor.exit())),
                None => Some(Event::SuccessorDied(crate::upgrade::Exit::Unknown)),
            },
            Action::Ask(question) => self.ask(question),
            Action::StopAsking => {
                self.stop_asking();
                None
            }
            Action::SendState => Some(Event::StateSent(self.send_state())),
            Action::Announce => self.announce(),
            Action::TakeBack => {
                self.systemd.take_back();
                self.listeners_changed();
                None
            }
            Action::ListenFurther => {
                let listened = lock(&self.inner.registry).listen_further();
                Some(Event::ListenedFurther(listened.map_err(|error| error.to_string())))
            }
            Action::UpgradeDone(result) => {
                self.upgrade_done(result);
                None
            }
            Action::LetGo => {
                self.spawner.abandon();
                let successor = self.successor.take().map(super::Successor::into_pidfd);
                // From RELEASED on its exit belongs to whoever inherits it: a service manager must see it.
                let released = matches!(self.machine.state(), State::Draining { .. } | State::Freed)
                    && !self.machine.owns();
                self.lingering.extend(successor.filter(|_| !released));
                None
            }
            Action::ReadyDone(result) => {
                self.ready_done(&result);
                None
            }
            Action::Own => {
                self.own();
                for line in self.control.sockets.own() {
                    log::write(Level::Error, format_args!("{line}"));
                }
                self.write_pid_file();
                None
            }
            Action::Disown => {
                self.systemd.hand_over();
                if let (Some(pid_file), Some(successor)) = (&self.inner.pid_file, &self.successor) {
                    pid_file.hand_over(successor.spawned.pid.as_raw() as u32);
                }
                lock(&self.inner.registry).disown();
                self.control.sockets.disown();
                None
            }
            Action::Shutdown(kind) => {
                self.shut_down(kind);
                None
            }
            Action::CutDrain => {
                let published = &self.inner.published;
                let soon = fd::monotonic_ns().saturating_add(CUT_DRAIN.as_nanos() as u64);
                if published.drain_deadline.fetch_min(soon, SeqCst) > soon {
                    published.drain_cut.store(true, SeqCst);
                }
                crate::drain::CONNECTIONS.notify();
                None
            }
            Action::Log(line) => {
                self.refused = Some(line.clone());
                log::write(Level::Info, format_args!("{line}"));
                None
            }
            Action::Finish => {
                self.tell_stop(Shutdown::Stop);
                self.dismiss_operators(Shutdown::Stop);
                self.remove_what_is_ours();
                self.predecessor = None;
                self.finished = true;
                None
            }
        }
    }

    /// A server that serves is worth more than its pid file: a failure is a line in the log and in the status.
    fn write_pid_file(&self) {
        if !self.machine.serves() {
            return;
        }
        if let Some(Err(error)) = self.inner.pid_file.as_ref().map(PidFile::write) {
            log::write(Level::Error, format_args!("{error}"));
        }
    }

    /// The end, by `flip_free` or a hard stop.
    pub(super) fn remove_what_is_ours(&self) {
        let owns = self.machine.owns();
        lock(&self.inner.registry).finish(owns);
        if let Some(Err(error)) = self.inner.pid_file.as_ref().filter(|_| owns).map(PidFile::remove) {
            log::write(Level::Error, format_args!("{error}"));
        }
    }

    /// An upgrade begins: with the question to the host, or else with the spawn.
    pub(super) fn start_clock(&mut self) {
        self.upgrade_started = Instant::now();
        self.upgrade_deadline = self.upgrade_started + self.inner.config.upgrade_timeout;
    }

    /// Everything that a successor needs, then the spawner's turn.
    fn start_successor(&mut self) -> Result<()> {
        self.deaf = None;
        self.given_up = None;
        self.started = None;
        if !self.inner.asks(Kind::Starting) {
            self.start_clock();
        }
        let (mut table, descriptors) = {
            registry::freeze(Frozen::Upgrading);
            let registry = lock(&self.inner.registry);
            (registry.table(), registry.descriptors())
        };
        let mut descriptors: Vec<Passed> = descriptors.into_iter().map(|fd| fd as Passed).collect();
        if let Some((entry, listener)) = self.control.sockets.entry(&table) {
            table.push(entry);
            descriptors.push(listener);
        }
        let names = registry::listen_fdnames(&table);
        let nonce = Nonce(fd::random_16().map_err(|errno| Error::system("cannot make a nonce", errno))?);
        let (ours, theirs) = {
            let no_fork = NoFork::hold();
            let (ours, theirs) = pair()?;
            (no_fork.private(ours), theirs)
        };
        let hello = FromPredecessor::Hello(Box::new(Hello {
            nonce,
            generation: self.inner.generation + 1,
            predecessor: self.this_process()?,
            commit_deadline: in_ns(self.upgrade_deadline + deadlines::grace()),
            state_promised: self.machine.promises_state(),
            table,
            drainers: self.drainers()?,
        }));
        ours.send(&hello)?;
        let overrides = lock(&self.inner.overrides).clone();
        let order = Order {
            environment: self.spawner.environment(&overrides),
            overrides,
            descriptors,
            channel: OwnedFd::from(theirs),
            names,
            nonce,
        };
        self.spawner.spawn(ours, order)
    }

    fn this_process(&mut self) -> Result<Process> {
        let failed = |errno| Error::system("cannot find out about this process", errno);
        let pidfd = process::pidfd_open(Pid::this()).map_err(failed)?;
        let start = self.start_time();
        Ok(Process { pid: std::process::id(), start, pidfd, generation: None })
    }

    /// The generations that still drain, ours excepted: it does not yet.
    fn drainers(&self) -> Result<Vec<Process>> {
        let predecessor = self.predecessor.as_ref().filter(|_| self.machine.predecessor_drains());
        let all = self.drainers.iter().chain(predecessor.map(super::Predecessor::process));
        all.take(MAX_DRAINERS)
            .map(|process| {
                let pidfd = fd::dup_cloexec(process.pidfd.as_fd(), fd::FIRST)
                    .map_err(|errno| Error::system("cannot duplicate a pidfd", errno))?;
                Ok(Process { pid: process.pid, start: process.start, pidfd, generation: process.generation })
            })
            .collect()
    }

    pub(super) fn take_spawn_report(&mut self) {
        match self.spawner.report() {
            None => {}
            Some(Report::Started { channel, spawned }) => {
                log::write(Level::Info, format_args!("new process {} started", spawned.pid));
                self.inner.published.successor.store(spawned.pid.as_raw(), SeqCst);
                self.started = Some(spawned.pid.as_raw());
                self.systemd.progress(&format!("Upgrading: process {} is starting.", spawned.pid));
                self.successor = Some(super::Successor::new(channel, spawned));
                self.feed(Event::Spawned);
            }
            Some(Report::Failed(error)) => {
                let event = self.spawn_failed(&error);
                self.feed(event);
            }
            Some(Report::TooLate(spawned)) => {
                let _ = process::pidfd_send_signal(spawned.pidfd.as_fd(), libc::SIGKILL);
                self.lingering.push(spawned.pidfd);
            }
        }
    }

    fn spawn_failed(&mut self, error: &Error) -> Event {
        self.spawn_errno = Some(error.errno());
        Event::SpawnFailed(sentence(error))
    }

    fn tell_successor(&mut self, says: &PredecessorSays) -> Option<Event> {
        let message = match says {
            PredecessorSays::Commit => FromPredecessor::Commit,
            PredecessorSays::Abort(reason) => FromPredecessor::Abort(reason.clone()),
            PredecessorSays::Released { upgrade_requested } => {
                let phases = self.history.current.as_ref().map(Current::spent_ms).unwrap_or_default();
                FromPredecessor::Released { upgrade_requested: *upgrade_requested, phases }
            }
            PredecessorSays::Stop => FromPredecessor::Stop,
            PredecessorSays::Extend => {
                FromPredecessor::Extend { commit_deadline: in_ns(self.upgrade_deadline + deadlines::grace()) }
            }
            PredecessorSays::State | PredecessorSays::Garbage(_) => return None,
        };
        let outcome = match &self.successor {
            Some(successor) => successor.send(&message),
            None => crate::upgrade::Outcome::Gone,
        };
        matches!(says, PredecessorSays::Commit | PredecessorSays::Released { .. })
            .then_some(Event::Sent(outcome))
    }

    /// A new process that asked for longer gets it, and is told.
    pub(super) fn extend_upgrade(&mut self, by: Duration) {
        self.upgrade_deadline = self.upgrade_deadline.max(Instant::now() + by);
        self.timers.stop(Timer::Upgrade);
        self.systemd.extend(by);
        self.tell_successor(&PredecessorSays::Extend);
        self.set_timers();
    }

    fn signal_successor(&self, signal: i32) {
        match &self.successor {
            Some(successor) => successor.signal(signal),
            None if self.spawner.is_under_way() => self.spawner.kill(),
            None => {}
        }
    }

    fn upgrade_done(&mut self, result: std::result::Result<(), Why>) {
        // A remembered request may start the next upgrade within this very step, with times of its own.
        self.timers.keep(|timer| !matches!(timer, Timer::Upgrade | Timer::Spawn));
        let pid = self.inner.published.successor.load(SeqCst);
        // A process that is being ended has no part of it any more.
        let until = self.given_up.take().unwrap_or_else(Instant::now);
        let after = Seconds(until.saturating_duration_since(self.upgrade_started));
        let result = match result {
            Ok(()) => {
                log::write(Level::Info, format_args!("upgraded to process {pid} after {after:.3} s"));
                Ok(pid)
            }
            Err(why) => {
                let mut text = match why.about_successor() {
                    true => {
                        let pid = self.started.map(|pid| format!("{pid} ")).unwrap_or_default();
                        format!("new process {pid}{} (after {after:.1} s)", why.sentence())
                    }
                    false => why.sentence(),
                };
                if self.deaf == Some(true) {
                    text += match why {
                        Why::Died(_, Stage::Initialising) => NEVER_INITIALISED,
                        Why::Deadline(Timer::Upgrade) => NOT_YET_INITIALISED,
                        _ => "",
                    };
                }
                log::write(Level::Error, format_args!("upgrade failed: {text}"));
                self.tell(Kind::Failed, why.failure(), &text);
                self.systemd.reload_failed(&text);
                let failure = why.failure();
                let errno = self.spawn_errno.take();
                let errno = errno.filter(|errno| failure == Failure::Spawn && !OF_A_CALL.contains(errno));
                match failure {
                    Failure::Stopping if self.freeing => {
                        Err(Error::Canceled("the handle was freed meanwhile".into()))
                    }
                    _ => Err(Error::Upgrade { failure, errno: errno.unwrap_or(failure.errno()), text }),
                }
            }
        };
        let (failure, text) = match &result {
            Ok(pid) => (None, format!("upgraded to process {pid} after {after:.3} s")),
            Err(error) => (Some(error.failure()), error.to_string()),
        };
        let unconfirmed = failure == Some(Failure::Unconfirmed);
        self.history.done(failure, &text, self.started, unconfirmed);
        if let Some(asker) = self.upgrade_caller.take() {
            self.tell_asker(asker, result);
        }
    }

    fn ready_done(&mut self, result: &std::result::Result<(), Final>) {
        if result.as_ref().is_err_and(|why| *why != Final::StateLost) {
            self.inner.state.unwanted();
        }
        if result.is_ok() && !self.inner.published.ready.load(SeqCst) {
            // Before anybody is told: what flip_accept needs of an inherited listener is set here too.
            for line in lock(&self.inner.registry).apply_live() {
                log::write(Level::Error, format_args!("{line}"));
            }
            self.tell_ready();
            self.inner.published.ready.store(true, SeqCst);
            self.inner.ready.open();
        }
        for (_, caller) in self.ready_callers.drain(..) {
            caller.send(result.clone().map_err(|why| final_error(&why)));
        }
    }

    /// The last step of an upgrade, and the first of a stop.
    fn shut_down(&mut self, kind: Shutdown) {
        log::write(Level::Info, format_args!("shutdown: {kind:?}"));
        self.tell_stop(kind);
        let text = match kind {
            Shutdown::Upgrade => "a successor serves",
            Shutdown::Stop => "the service stops",
            Shutdown::Detach => "this process is on its own from now on",
        };
        self.tell(Kind::Shutdown, Failure::None, text);
        self.dismiss_operators(kind);
        if kind == Shutdown::Detach {
            self.inner.detached.open();
            return;
        }
        self.inner.start_drain_time();
        self.inner.published.shutdown.store(shutdown_byte(kind), SeqCst);
        self.inner.start_drain();
        lock(&self.inner.registry).close_listeners(|keep| outlives(keep, kind));
        self.inner.shutdown.fire(shutdown_byte(kind));
    }
}

/// Whether a listener goes on after a shutdown of this kind.
pub(crate) fn outlives(keep: Keep, kind: Shutdown) -> bool {
    match kind {
        Shutdown::Upgrade => keep == Keep::Always,
        Shutdown::Stop => keep != Keep::None,
        Shutdown::Detach => true,
    }
}

fn refusal(why: &Why) -> Error {
    Error::upgrade(why.failure(), why.sentence())
}

fn final_error(why: &Final) -> Error {
    match why {
        Final::Aborted(reason) => {
            Error::Canceled(format!("the predecessor gave up on this process: {reason}"))
        }
        Final::Stopped => Error::Canceled("this process was asked to stop before it was ready".into()),
        Final::Deadline => {
            Error::Deadline("the predecessor did not let this process serve by the upgrade deadline".into())
        }
        Final::Protocol(text) => Error::Protocol(format!("the predecessor broke the protocol: {text}")),
        Final::StateLost => Error::StateLost(
            "the state that the predecessor promised was lost with it: flip_take_state says so too, then call again".into(),
        ),
        Final::Listen(text) => Error::Protocol(text.clone()),
    }
}

/// Of something that failed; a full descriptor table is told with the limit that was met.
pub(crate) fn sentence(error: &Error) -> String {
    match (error.errno(), fd::descriptor_limit()) {
        (Errno::EMFILE, Some(limit)) => {
            format!("{error}; the limit of this process is {limit} (RLIMIT_NOFILE)")
        }
        _ => error.to_string(),
    }
}

/// CLOCK_MONOTONIC is the same clock in both processes.
fn in_ns(at: Instant) -> u64 {
    let ahead = at.saturating_duration_since(Instant::now()).as_nanos();
    fd::monotonic_ns().saturating_add(u64::try_from(ahead).unwrap_or(u64::MAX))
}
