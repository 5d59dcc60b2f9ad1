//! The thread that drives every connection of a load, and what one connection goes through. It looks at each
//! connection only when epoll says so; a connection that has failed is counted and opened anew.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::{Events, Interest, Poll, Registry, Token};

use super::address::Stream;
use super::answer::{self, Answer, Identity, Progress};
use super::record::{Kind, Mark};
use super::{Config, Protocol, Shared};

/// How often time-outs are looked at, and how soon a stop is noticed.
const TICK: Duration = Duration::from_millis(10);

/// After a failure that is already counted: without it a server that is gone costs a whole core of refused connects.
const AFTER_FAILURE: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    KeepAlive,
    Fresh,
    Hello,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// No connection; the next one is opened from then on.
    Closed {
        until: Mark,
    },
    Connecting,
    /// So many bytes of the request are gone.
    Sending(usize),
    Reading,
    /// The load is stopped and this one is through.
    Done,
}

struct Connection {
    slot: usize,
    role: Role,
    stream: Option<Stream>,
    phase: Phase,
    sent_at: Mark,
    /// Requests on this connection so far, for the details of a failure.
    nth: u64,
    /// Requests answered or failed, on all its connections.
    finished: u64,
    input: Vec<u8>,
}

pub(super) struct Worker {
    context: Context,
    poll: Poll,
    connections: Vec<Connection>,
}

/// What every connection needs while it is driven.
struct Context {
    config: Config,
    shared: Arc<Shared>,
    registry: Registry,
    keep_alive_request: Vec<u8>,
    fresh_request: Vec<u8>,
    buffer: Box<[u8]>,
    /// The last body and who it named: nearly every answer repeats it.
    last: (Vec<u8>, Identity),
    stopping: bool,
}

impl Worker {
    pub(super) fn new(config: Config, shared: Arc<Shared>) -> io::Result<Worker> {
        let poll = Poll::new()?;
        let role = |slot| match config.protocol {
            Protocol::Hello => Role::Hello,
            Protocol::Http if slot < config.connections => Role::KeepAlive,
            Protocol::Http => Role::Fresh,
        };
        let connections =
            (0..config.connections + config.streams).map(|slot| Connection::new(slot, role(slot))).collect();
        let context = Context {
            keep_alive_request: answer::request(&config.path, false),
            fresh_request: answer::request(&config.path, true),
            buffer: vec![0; 64 * 1024].into_boxed_slice(),
            last: Default::default(),
            registry: poll.registry().try_clone()?,
            stopping: false,
            config,
            shared,
        };
        Ok(Worker { context, poll, connections })
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let (mut again, mut turn) = (Vec::new(), Vec::new());
        loop {
            self.context.stopping = self.context.shared.stop.load(Ordering::Acquire);
            let now = self.context.shared.now();
            let (mut nap, mut done) = (if again.is_empty() { TICK } else { Duration::ZERO }, true);
            for connection in &mut self.connections {
                connection.tick(&mut self.context, now);
                done &= connection.phase == Phase::Done;
                if let Phase::Closed { until } = connection.phase {
                    nap = nap.min(until.after(now));
                }
            }
            if done {
                return Ok(());
            }
            match self.poll.poll(&mut events, Some(nap)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            turn.append(&mut again);
            turn.extend(events.iter().map(|event| event.token().0));
            for slot in turn.drain(..) {
                if let Some(connection) = self.connections.get_mut(slot)
                    && connection.drive(&mut self.context)
                {
                    again.push(slot);
                }
            }
        }
    }
}

impl Connection {
    fn new(slot: usize, role: Role) -> Connection {
        Connection {
            slot,
            role,
            stream: None,
            phase: Phase::Closed { until: Mark(0) },
            sent_at: Mark(0),
            nth: 0,
            finished: 0,
            input: Vec::new(),
        }
    }

    fn tick(&mut self, context: &mut Context, now: Mark) {
        match self.phase {
            Phase::Closed { .. } if context.stopping => self.phase = Phase::Done,
            Phase::Closed { until } if until <= now => self.open(context),
            Phase::Closed { .. } | Phase::Done => {}
            _ if now.after(self.sent_at) > context.config.timeout => {
                self.fail(
                    context,
                    Kind::TimedOut,
                    &format!("no complete answer in {:?}", context.config.timeout),
                );
            }
            _ => {}
        }
    }

    /// A request counts as sent from the connect on when it needs a new connection.
    fn begin_request(&mut self, context: &Context) {
        self.sent_at = context.shared.now();
        self.nth += 1;
        self.input.clear();
        context.shared.log().sent(self.slot, self.sent_at);
    }

    fn open(&mut self, context: &mut Context) {
        self.nth = 0;
        self.begin_request(context);
        self.phase = Phase::Connecting;
        let opened = context.config.address.connect(context.config.timeout).and_then(|mut stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            context.registry.register(stream.source(), Token(self.slot), interest)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => self.stream = Some(stream),
            Err(error) => self.fail_io(context, &error),
        }
    }

    /// Goes as far as it can without waiting, but for one request at most: a server that answers within the same
    /// microseconds would else keep the thread on this connection. True: not at a would-block yet, and epoll, which
    /// is edge-triggered here, will not call again.
    fn drive(&mut self, context: &mut Context) -> bool {
        let finished = self.finished;
        loop {
            if self.finished != finished && matches!(self.phase, Phase::Connecting | Phase::Reading) {
                return true;
            }
            let Some(stream) = self.stream.as_mut() else { return false };
            let step = match self.phase {
                Phase::Connecting => match stream.established() {
                    Ok(true) if self.role == Role::Hello => Ok(Some(Phase::Reading)),
                    Ok(true) => Ok(Some(Phase::Sending(0))),
                    Ok(false) => Ok(None),
                    Err(error) => Err(error),
                },
                Phase::Sending(from) => {
                    let request = match self.role {
                        Role::KeepAlive => &context.keep_alive_request,
                        _ => &context.fresh_request,
                    };
                    stream.write(&request[from..]).map(|written| match from + written {
                        gone if gone == request.len() => Some(Phase::Reading),
                        gone => Some(Phase::Sending(gone)),
                    })
                }
                Phase::Reading => match stream.read(&mut context.buffer) {
                    Ok(0) => {
                        self.end_of_input(context);
                        continue;
                    }
                    Ok(size) => {
                        self.input.extend_from_slice(&context.buffer[..size]);
                        if self.role == Role::KeepAlive {
                            self.look_for_answer(context);
                        }
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Phase::Closed { .. } | Phase::Done => return false,
            };
            match step {
                Ok(Some(phase)) => self.phase = phase,
                Ok(None) => return false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.fail_io(context, &error);
                    return false;
                }
            }
        }
    }

    /// Keep-alive: an answer is over when it is complete, and the next request goes out in the same breath.
    fn look_for_answer(&mut self, context: &mut Context) {
        let answer = match answer::parse(&self.input) {
            Progress::Complete(answer) => answer,
            Progress::Partial | Progress::UntilEof(_) => return,
            Progress::Malformed(why) => return self.fail(context, Kind::WrongAnswer, &why),
        };
        if answer.size < self.input.len() {
            return self.fail(context, Kind::Other, "bytes after the end of the answer");
        }
        if !self.accept(context, &answer) {
            return;
        }
        if answer.close {
            context.shared.log().announced_close();
            self.close(context, Mark(0));
        } else if context.stopping {
            self.stream = None;
            self.phase = Phase::Done;
        } else {
            self.begin_request(context);
            self.phase = Phase::Sending(0);
        }
    }

    fn end_of_input(&mut self, context: &mut Context) {
        if self.input.is_empty() {
            return self.fail(context, Kind::EarlyEof, "closed before the answer");
        }
        let answer = if self.role == Role::Hello {
            match self.input.strip_suffix(b"\n") {
                Some(line) => {
                    Answer { status: 200, body: line.to_vec(), close: true, size: self.input.len() }
                }
                None => return self.fail(context, Kind::ShortAnswer, "closed in the middle of the line"),
            }
        } else {
            match answer::parse(&self.input) {
                Progress::Complete(answer) | Progress::UntilEof(answer) => answer,
                Progress::Malformed(why) => return self.fail(context, Kind::WrongAnswer, &why),
                Progress::Partial => {
                    let detail = format!("closed after {} bytes of the answer", self.input.len());
                    return self.fail(context, Kind::ShortAnswer, &detail);
                }
            }
        };
        if answer.size < self.input.len() {
            return self.fail(context, Kind::Other, "bytes after the end of the answer");
        }
        if self.accept(context, &answer) {
            self.close(context, Mark(0));
        }
    }

    /// Writes a complete answer down as right or wrong.
    fn accept(&mut self, context: &mut Context, answer: &Answer) -> bool {
        let body = || String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]).into_owned();
        if answer.status != 200 {
            self.fail(context, Kind::WrongAnswer, &format!("status {}: {}", answer.status, body()));
            return false;
        }
        if !answer.body.starts_with(&context.config.prefix) {
            self.fail(context, Kind::WrongAnswer, &format!("the body is {}", body()));
            return false;
        }
        if let Some(check) = &context.config.check
            && let Err(why) = check(answer)
        {
            self.fail(context, Kind::WrongAnswer, &format!("{why}; the body is {}", body()));
            return false;
        }
        if context.last.0 != answer.body {
            context.last = (answer.body.clone(), Identity::parse(&answer.body));
        }
        self.finished += 1;
        context.shared.log().answered(self.slot, context.shared.now(), &context.last.1);
        true
    }

    fn close(&mut self, context: &mut Context, until: Mark) {
        self.stream = None;
        self.phase = Phase::Closed { until };
        if context.stopping {
            self.phase = Phase::Done;
        } else if until == Mark(0) {
            self.open(context);
        }
    }

    fn fail_io(&mut self, context: &mut Context, error: &io::Error) {
        let kind = match error.kind() {
            // A unix path that is not there is what a refused port is to TCP.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Kind::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Kind::Reset,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Kind::TimedOut,
            _ => Kind::Other,
        };
        self.fail(context, kind, &error.to_string());
    }

    fn fail(&mut self, context: &mut Context, kind: Kind, detail: &str) {
        self.finished += 1;
        let now = context.shared.now();
        let (nth, slot, phase, got) = (self.nth, self.slot, &self.phase, self.input.len());
        let role = match self.role {
            Role::KeepAlive => "keep-alive connection",
            Role::Fresh | Role::Hello => "new connection",
        };
        let at = match phase {
            Phase::Connecting => "connecting",
            Phase::Sending(_) => "sending",
            _ => "waiting for the answer",
        };
        context.shared.log().failed(slot, now, kind, || {
            format!("{detail} ({role} {slot}, request {nth} on it, {at}, {got} bytes of the answer so far)")
        });
        let until = Mark(now.0 + AFTER_FAILURE.as_nanos() as u64);
        self.close(context, until);
    }
}
