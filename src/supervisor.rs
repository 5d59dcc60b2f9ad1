//! What polls, feeds the state machine and carries out its actions, in order. A thread drives it: one of the library's,
//! which blocks every signal but the two that the C library needs, or for a moment one of the host's ([`crew`]).
//!
//! It runs none of the host's code. What it knows of the world is four kinds of descriptor: channels (what the others
//! say), pidfds (that they died), its wake descriptor (what the host and signals ask, what came of a spawn) and the
//! control socket with its clients (what operators ask). All that a dead process sent is read before its death is told to
//! the machine.

mod actions;
mod asking;
mod crew;
mod deadlines;
mod draining;
mod history;
mod json;
mod manager;
mod operators;
mod peers;
mod spawner;
mod status;

use crate::channel::{Hello, ToPredecessor};
use crate::control::server::{ClientId, Server};
use crate::control::socket::Sockets;
use crate::error::{Error, Result};
use crate::events::{Kind, Ticket};
use crate::flip::Inner;
use crate::fork::{NoFork, Private};
use crate::latch::fired;
use crate::log::{self, Level};
use crate::registry::{self, Frozen, Listed};
use crate::reply::Reply;
use crate::signals;
use crate::sys::fd;
use crate::systemd::{Systemd, Unit};
use crate::upgrade::{Action, Event, Machine, Origin, Question, Request, Setup, State, Timer};
pub(crate) use actions::{outlives, sentence};
pub(crate) use crew::give_back;
use crossbeam_channel::Receiver;
use deadlines::Timers;
pub(crate) use deadlines::{barrier as barrier_limit, extension as extension_interval};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use peers::{Ended, Predecessor, Successor};
use spawner::{Errand, Spawner};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// What the host's threads ask.
#[derive(Debug)]
pub(crate) enum Command {
    /// A thread is in `flip_ready`; the number tells it from others.
    Ready(usize, Reply<Result<()>>),
    /// It leaves, unless it has been answered already.
    LeaveReady(usize),
    /// An upgrade, and who is told how it went.
    Upgrade(Reply<Result<i32>>),
    /// The host's answer to a question, if that is still the one that is open.
    Answered(Question, Arc<Ticket>, std::result::Result<(), String>),
    /// `flip_take_state` has returned that the state is lost.
    ToldOfLoss,
    /// Whatever deadline runs moves to this long from now.
    Extend(Duration, Reply<Result<()>>),
    /// `flip_status`.
    Status(Reply<String>),
    /// A listener was added, claimed or forgotten.
    Listeners,
    /// `flip_free`, and who is told that it may return.
    Free(Reply<()>),
    /// The same with nobody to tell.
    FreeUnanswered,
}

/// Who asks for something and is told how it went.
pub(super) enum Asker {
    /// `flip_upgrade`.
    Call(Reply<Result<i32>>),
    /// A client of the control socket.
    Operator(ClientId, Request),
}

/// Everything that belongs to it; whoever holds it drives it.
pub(crate) struct Supervisor {
    inner: Arc<Inner>,
    inbox: Receiver<Command>,
    machine: Machine,
    predecessor: Option<Predecessor>,
    successor: Option<Successor>,
    /// Older generations that still drain.
    drainers: Vec<crate::channel::Process>,
    /// Successors that are not watched any more; reaped if they end as our children.
    lingering: Vec<OwnedFd>,
    spawner: Spawner,
    timers: Timers,
    ready_callers: Vec<(usize, Reply<Result<()>>)>,
    /// Who asked for the upgrade under way.
    upgrade_caller: Option<Asker>,
    /// The request that is being handled.
    asking: Option<Asker>,
    /// Operators who wait for a detach that was taken.
    detaching: Vec<ClientId>,
    control: Server,
    history: history::History,
    /// What was passed on when the registry could last be looked at.
    listed: Vec<Listed>,
    /// The predecessor's pid, dead or alive.
    ancestor: Option<u32>,
    /// When this process started, in clock ticks since boot; looked up once.
    start_time: Option<u64>,
    free_caller: Option<Reply<()>>,
    /// Whether the successor had never called `flip_init`, as seen when its upgrade failed.
    deaf: Option<bool>,
    upgrade_started: Instant,
    /// When its new process was told to end.
    given_up: Option<Instant>,
    /// Why the last program could not be started.
    spawn_errno: Option<Errno>,
    /// flip_free was called: whoever waits is told so, and not what became of the wait.
    freeing: bool,
    /// The new process of this upgrade, once it has started.
    started: Option<i32>,
    upgrade_deadline: Instant,
    /// Until when this process, as a successor, waits for COMMIT.
    commit_deadline: Instant,
    /// What the host was asked and has not answered yet.
    question: Option<asking::Asked>,
    systemd: Systemd,
    /// Why the request that is being handled was refused.
    refused: Option<String>,
    /// A thread of the host's drives it.
    assisted: bool,
    finished: bool,
}

/// Makes the supervisor and the first thread for it; the second follows when there is time for it.
pub(crate) fn start(
    inner: &Arc<Inner>,
    inbox: Receiver<Command>,
    predecessor: Option<(ToPredecessor, Hello)>,
    control: Sockets,
) -> Result<()> {
    let unit = Unit::of(&inner.startup.environment, std::process::id());
    // NOTIFY_SOCKET may be anybody's who starts a program with more rights than they have: nothing is given away there.
    let (watchdog, fd_store) = (inner.config.watchdog, inner.config.fd_store && !fd::secure_execution());
    let systemd = Systemd::new(&unit, inner.generation, watchdog, fd_store)?;
    let heard = systemd.is_there();
    let draining = predecessor.as_ref().map_or(0, |(_, hello)| hello.drainers.len() as u32);
    let unsupported = if std::process::id() == 1 {
        Some(
            "process 1 cannot replace itself: its end would end the container; run the server under an init"
                .into(),
        )
    } else if fd::secure_execution() {
        // Its successor would believe no environment either: inherit::find().
        Some("a program with file capabilities or set-user-id cannot replace itself, since whoever starts it has fewer \
             rights; let the service manager give the rights (AmbientCapabilities=, or a socket unit)".into())
    } else {
        unit.unsupported(heard)
    };
    let machine = Machine::new(Setup {
        with_predecessor: predecessor.is_some(),
        draining,
        max_draining: inner.config.max_draining,
        unsupported,
        state_promised: predecessor.as_ref().is_some_and(|(_, hello)| hello.state_promised),
        asks_before_start: inner.asks(Kind::Starting),
        promises_state: inner.asks(Kind::State),
        probation: inner.config.probation.is_some(),
    });
    let ancestor = predecessor.as_ref().map(|(_, hello)| hello.predecessor.pid);
    let now = Instant::now();
    let (predecessor, drainers, commit_deadline) = match predecessor {
        None => {
            inner.predecessor.fire();
            (None, Vec::new(), now)
        }
        Some((channel, hello)) => {
            let left = hello.commit_deadline.saturating_sub(fd::monotonic_ns());
            let channel = NoFork::hold().private(channel);
            let predecessor = Predecessor::new(channel, hello.predecessor);
            (Some(predecessor), hello.drainers, now + Duration::from_nanos(left))
        }
    };
    let supervisor = Supervisor {
        inner: Arc::clone(inner),
        inbox,
        machine,
        predecessor,
        successor: None,
        drainers,
        lingering: Vec::new(),
        spawner: Spawner::new(unit.direct && heard),
        timers: Timers::default(),
        ready_callers: Vec::new(),
        upgrade_caller: None,
        asking: None,
        detaching: Vec::new(),
        control: Server::new(control),
        history: history::History::default(),
        listed: Vec::new(),
        ancestor,
        start_time: None,
        free_caller: None,
        deaf: None,
        upgrade_started: now,
        given_up: None,
        spawn_errno: None,
        freeing: false,
        started: None,
        upgrade_deadline: now,
        commit_deadline,
        question: None,
        systemd,
        refused: None,
        assisted: false,
        finished: false,
    };
    let fresh = supervisor.predecessor.is_some();
    inner.duty.place(Box::new(supervisor), fresh);
    crew::start_threads(inner, 1).inspect_err(|_| inner.duty.end())
}

impl Supervisor {
    /// On a thread of the library: to the end, or until there is something to do that holds the thread which does it.
    fn drive(&mut self) -> Option<Errand> {
        while !self.finished {
            if let Some(errand) = self.spawner.errand() {
                match crew::start_threads(&self.inner, 2) {
                    Ok(()) => return Some(errand),
                    Err(error) => errand.fail(&self.inner, error),
                }
            }
            self.guarded(|own| {
                // Before the first wait too: a thread of the host's may have come as far as that.
                own.prepare_for_an_upgrade();
                own.wait(None);
                own.look();
            });
        }
        None
    }

    /// On a thread of the host's: until `done`, the deadline or the end.
    pub(crate) fn assist(&mut self, deadline: Option<Instant>, done: impl Fn() -> bool) {
        self.assisted = true;
        if !self.finished {
            self.guarded(Self::look);
        }
        while !self.finished && !done() && deadline.is_none_or(|at| Instant::now() < at) {
            self.guarded(|own| {
                own.wait(deadline);
                own.look();
            });
        }
        self.assisted = false;
    }

    /// A defect ends the supervisor and nothing else.
    fn guarded(&mut self, act: impl FnOnce(&mut Self)) {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(self)));
        if result.is_err() {
            // Nobody reads requests any more: the host gets its signals back, and every call that waits is told.
            signals::restore();
            crate::handle::poison("the supervisor panicked");
            self.inner.freed.open();
            self.finished = true;
        }
        if self.finished
            && let Some(caller) = self.free_caller.take()
        {
            caller.send(());
        }
    }

    /// Handles all that there is.
    fn look(&mut self) {
        let _ = fd::eventfd_drain(self.inner.wake.as_fd());
        // What has happened comes before what is asked: a RELEASED that is there to be read makes an upgrade possible.
        self.take_spawn_report();
        self.listen_to_predecessor();
        self.listen_to_successor();
        self.look_after_the_old();
        self.reap();
        self.take_commands();
        for request in signals::take_requests() {
            self.feed(Event::Ask(request, Origin::Unanswered));
        }
        self.listen_to_operators();
        self.expire();
        self.look_after_systemd();
        self.look_after_the_drain();
    }

    /// What an upgrade will need and nobody waits for now. What fails here is tried again by the upgrade, which tells.
    /// On a thread of the library: a further one gets its affinity, namespaces and filters, and so those of `flip_init`.
    fn prepare_for_an_upgrade(&mut self) {
        if *self.machine.state() == State::Ready {
            let _ = crew::start_threads(&self.inner, 2);
            let _ = self.spawner.prepare(&self.inner);
            let _ = self.start_time();
        }
    }

    /// When this process started, in clock ticks since boot; 0 where there is no /proc to ask: it is only shown.
    fn start_time(&mut self) -> u64 {
        self.start_time = self.start_time.or_else(|| fd::start_time().ok());
        self.start_time.unwrap_or(0)
    }

    /// Until there is something, a timer is over, or that moment has come.
    fn wait(&self, limit: Option<Instant>) {
        let mut fds: Vec<BorrowedFd> = vec![self.inner.wake.as_fd()];
        fds.extend(self.predecessor.iter().flat_map(Predecessor::watched));
        fds.extend(self.successor.iter().flat_map(Successor::watched));
        fds.extend(self.drainers.iter().map(|drainer| drainer.pidfd.as_fd()));
        fds.extend(self.lingering.iter().map(AsFd::as_fd));
        fds.extend(self.systemd.watched());
        let operators = self.machine.answers_operators();
        let fds = fds.into_iter().map(|fd| (fd, PollFlags::POLLIN)).chain(self.control.watched(operators));
        let mut fds: Vec<PollFd> = fds.map(|(fd, events)| PollFd::new(fd, events)).collect();
        let next = self.timers.values().copied().chain(self.drain_timer());
        let next = next.chain(self.control.timer(operators)).chain(self.systemd_timer()).chain(limit).min();
        let next = next.map(|at| at.saturating_duration_since(Instant::now()));
        if let Err(errno) = fd::poll(&mut fds, next)
            && errno != Errno::EINTR
        {
            log::write(Level::Error, format_args!("poll: {}", crate::error::explain(errno)));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn take_commands(&mut self) {
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Ready(id, caller) => {
                    self.ready_callers.push((id, caller));
                    self.feed(Event::HostReady);
                }
                Command::LeaveReady(id) => {
                    if let Some(index) = self.ready_callers.iter().position(|(caller, _)| *caller == id) {
                        self.ready_callers.remove(index).1.send(Err(Error::TimedOut));
                        if self.ready_callers.is_empty() {
                            self.feed(Event::HostLeft);
                        }
                    }
                }
                Command::Upgrade(caller) => {
                    self.asking = Some(Asker::Call(caller));
                    self.feed(Event::Ask(Request::Upgrade, Origin::Answered));
                    self.asking = None;
                }
                Command::Answered(question, ticket, answer) => {
                    if self.question.as_ref().is_some_and(|open| Arc::ptr_eq(&open.ticket, &ticket)) {
                        if question == Question::Starting || answer.is_err() {
                            self.question = None;
                        }
                        self.feed(Event::HostAnswered(question, answer));
                    }
                }
                Command::ToldOfLoss => self.feed(Event::HostToldOfLoss),
                Command::Extend(by, caller) => caller.send(self.extend(by)),
                Command::Status(caller) => caller.send(self.status()),
                Command::Listeners => self.listeners_changed(),
                Command::Free(caller) => {
                    self.free_caller = Some(caller);
                    self.free();
                }
                Command::FreeUnanswered => self.free(),
            }
        }
    }

    fn free(&mut self) {
        self.freeing = true;
        self.systemd.hurry();
        self.feed(Event::Free);
    }

    /// One event, everything that follows from it, and the timers of where it led.
    fn feed(&mut self, event: Event) {
        log::write(Level::Debug, format_args!("{event:?} in {:?}", self.machine.state()));
        self.before_step(&event);
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            // RELEASED may follow, and nobody else learns what is asked of this process later.
            if event == Event::SuccessorAlive {
                for request in signals::take_requests() {
                    self.step(Event::Ask(request, Origin::Unanswered), &mut events);
                }
            }
            self.step(event, &mut events);
        }
        self.after_step();
        self.set_timers();
        registry::freeze(self.frozen());
    }

    fn step(&mut self, event: Event, events: &mut VecDeque<Event>) {
        let actions = self.machine.step(event);
        // The state after one that ends an upgrade may be that of the next one.
        let ends = actions.iter().any(|action| matches!(action, Action::UpgradeDone(_)));
        if !ends {
            self.history.note(self.machine.state());
        }
        for action in actions {
            log::write(Level::Debug, format_args!("  {action:?}"));
            events.extend(self.act(action));
        }
        self.history.note(self.machine.state());
    }

    fn frozen(&self) -> Frozen {
        use crate::upgrade::{Phase, State};
        match self.machine.state() {
            // The host may still change what is passed on.
            State::Upgrading(Phase::Asking) => Frozen::Open,
            State::Upgrading(_) => Frozen::Upgrading,
            State::Draining { .. } | State::Freed => Frozen::Released,
            _ => Frozen::Open,
        }
    }

    fn set_timers(&mut self) {
        let wanted = self.machine.timers();
        self.timers.keep(|timer| wanted.contains(&timer));
        for timer in wanted {
            let at = match timer {
                Timer::Upgrade => self.upgrade_deadline,
                Timer::Commit => self.commit_deadline,
                Timer::Spawn => Instant::now() + deadlines::SPAWN,
                Timer::Live => Instant::now() + deadlines::live(),
                Timer::SuccessorGone | Timer::PredecessorGone => Instant::now() + deadlines::grace(),
                Timer::Term => Instant::now() + deadlines::term(),
                Timer::Kill => Instant::now() + deadlines::KILL,
                Timer::Probation => Instant::now() + self.inner.config.probation.unwrap_or_default(),
            };
            self.timers.start(timer, at);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(timer) = self.timers.take_ended(now) {
            if let (Timer::Upgrade, Some(successor)) = (timer, &self.successor) {
                self.deaf.get_or_insert(successor.deaf());
            }
            self.feed(Event::Timer(timer));
        }
    }

    fn look_after_the_old(&mut self) {
        let before = self.drainers.len();
        self.drainers.retain(|drainer| !fired(drainer.pidfd.as_fd()));
        for _ in self.drainers.len()..before {
            self.feed(Event::DrainerGone);
        }
    }

    /// Successors that were let go are still our children as long as we live.
    fn reap(&mut self) {
        self.lingering.retain(|pidfd| {
            let ended = fired(pidfd.as_fd());
            if ended {
                let _ = peers::wait(pidfd.as_fd());
            }
            !ended
        });
    }

    fn listen_to_predecessor(&mut self) {
        loop {
            // What follows RELEASED, files and the service manager, is not for a thread whose rights are the host's.
            if self.assisted && self.inner.published.ready.load(SeqCst) {
                return;
            }
            let Some(predecessor) = &mut self.predecessor else { return };
            match predecessor.next() {
                None => return,
                Some(Ended::Died) => {
                    self.predecessor = None;
                    self.inner.predecessor.fire();
                    self.inner.state.lost();
                    self.feed(Event::PredecessorDied);
                }
                Some(Ended::HungUp) => self.feed(Event::PredecessorHungUp),
                Some(Ended::Said(says)) => {
                    if let crate::upgrade::PredecessorSays::Extend = says {
                        self.commit_deadline = predecessor.commit_deadline.unwrap_or(self.commit_deadline);
                        self.timers.stop(Timer::Commit);
                    }
                    if let Some(state) = predecessor.state.take() {
                        self.inner.state.arrived(state);
                    }
                    if let Some(phases) = predecessor.phases.take() {
                        self.history.begotten(phases);
                    }
                    self.feed(Event::FromPredecessor(says));
                }
            }
        }
    }

    fn listen_to_successor(&mut self) {
        loop {
            let Some(successor) = &mut self.successor else { return };
            match successor.next() {
                None => return,
                Some(Ended::Died) => {
                    let exit = successor.exit();
                    self.deaf.get_or_insert(successor.deaf());
                    self.successor = None;
                    self.feed(Event::SuccessorDied(exit));
                }
                Some(Ended::HungUp) => self.feed(Event::SuccessorHungUp),
                Some(Ended::Said(says)) => {
                    let longer = successor.extended.take();
                    self.feed(Event::FromSuccessor(says));
                    if let Some(by) = longer {
                        self.extend_upgrade(by);
                    }
                }
            }
        }
    }
}

/// A descriptor that forked children do not keep, of a channel.
pub(super) type PrivateChannel<T> = Private<T>;
