//! Events: for a program that reads them itself. Most use the hooks of [`crate::Builder`].

use crate::Failure;
use crate::error::{Error, Result};
use crate::flip::{Flip, after, retry};
use shellflip::events::{HostEvent, Kind};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::BitOr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Which events the program reads; joined with `|`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventMask(u32);

impl EventMask {
    /// [`Event::Starting`].
    pub const STARTING: EventMask = EventMask(Kind::Starting as u32);
    /// [`Event::State`].
    pub const STATE: EventMask = EventMask(Kind::State as u32);
    /// [`Event::Failed`].
    pub const FAILED: EventMask = EventMask(Kind::Failed as u32);
    /// [`Event::Shutdown`].
    pub const SHUTDOWN: EventMask = EventMask(Kind::Shutdown as u32);
    /// [`Event::Log`].
    pub const LOG: EventMask = EventMask(Kind::Log as u32);

    pub(crate) fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for EventMask {
    type Output = EventMask;

    fn bitor(self, other: EventMask) -> EventMask {
        EventMask(self.0 | other.0)
    }
}

/// Something that happened, and perhaps a question.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// An upgrade is about to start and waits for an answer.
    Starting(Starting),
    /// The state for the new process is to be written; the upgrade waits for it.
    State(StateWriter),
    /// An upgrade has failed. This process serves on.
    Failed(Failure, String),
    /// Shutdown has begun; why, as a sentence.
    Shutdown(String),
    /// A line for the log. The newest are kept; a line says how many events were dropped before it.
    Log(Level, String),
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed.
    Error,
    /// An upgrade and its phases.
    Info,
}

/// An upgrade that is about to start; dropped without an answer, it is refused.
#[derive(Debug)]
pub struct Starting(HostEvent);

impl Starting {
    /// Who asked.
    pub fn who(&self) -> &str {
        &self.0.text
    }

    /// Lets it start. An error: nobody waits for the answer any more.
    pub fn accept(self) -> Result<()> {
        Ok(self.0.answer(Ok(()))?)
    }

    /// Refuses it, with a reason that reaches whoever asked.
    pub fn refuse(self, reason: impl Into<String>) -> Result<()> {
        Ok(self.0.answer(Err(reason.into()))?)
    }
}

/// Takes the state for the new process: a buffered writer over an empty file in memory. Dropped without an answer, the
/// upgrade is refused. Its [`AsFd`] is the file, for those who write to a descriptor.
#[derive(Debug)]
pub struct StateWriter {
    event: HostEvent,
    file: BufWriter<File>,
}

impl StateWriter {
    fn new(mut event: HostEvent) -> Result<StateWriter> {
        let file = event.state.take().ok_or_else(|| Error::canceled("this event has no state"))?;
        Ok(StateWriter { event, file: BufWriter::with_capacity(1 << 16, File::from(file)) })
    }

    /// The state is complete. An error: it could not be written, which fails the upgrade, or nobody waits for it any
    /// more.
    pub fn done(mut self) -> Result<()> {
        if let Err(error) = self.file.flush() {
            let reason = format!("cannot write the state: {error}");
            self.event.answer(Err(reason.clone()))?;
            return Err(Error::canceled(&reason));
        }
        Ok(self.event.answer(Ok(()))?)
    }

    /// There will be none: the upgrade fails, and the reason reaches whoever asked.
    pub fn refuse(self, reason: impl Into<String>) -> Result<()> {
        Ok(self.event.answer(Err(reason.into()))?)
    }
}

impl Write for StateWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for StateWriter {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl AsFd for StateWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.get_ref().as_fd()
    }
}

impl Event {
    pub(crate) fn new(event: HostEvent) -> Result<Event> {
        Ok(match event.kind {
            Kind::Starting => Event::Starting(Starting(event)),
            Kind::State => Event::State(StateWriter::new(event)?),
            Kind::Failed => {
                let failure = Failure::from_core(event.failure).unwrap_or(Failure::Protocol);
                Event::Failed(failure, event.text.clone())
            }
            Kind::Shutdown => Event::Shutdown(event.text.clone()),
            Kind::Log => {
                let level = match event.level {
                    shellflip::events::Level::Error => Level::Error,
                    _ => Level::Info,
                };
                Event::Log(level, event.text.clone())
            }
        })
    }
}

impl Flip {
    /// The core, where the program reads events itself: two readers would each get half of them.
    pub(crate) fn events(&self) -> Result<&shellflip::flip::Flip> {
        let core = self.core()?;
        if self.has_hooks() {
            return Err(Error::invalid("hooks, or the log, read the events; without them, Builder::events"));
        }
        Ok(core)
    }

    /// Readable while an event waits. Never read from it.
    ///
    /// [`crate::ErrorKind::Invalid`], as for the calls below, where hooks or the `log` facade read the events.
    pub fn event_fd(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.events()?.event_fd()?)
    }

    /// Waits for the next event of those given to [`crate::Builder::events`]. [`crate::ErrorKind::Canceled`] once the handle is
    /// closed.
    pub fn next_event(&self) -> Result<Event> {
        let core = self.events()?;
        Event::new(retry(|| core.next_event(None))?)
    }

    /// The same; [`crate::ErrorKind::TimedOut`] after this long. Zero asks whether there is one.
    pub fn next_event_timeout(&self, timeout: Duration) -> Result<Event> {
        let (core, deadline) = (self.events()?, after(timeout));
        Event::new(retry(|| core.next_event(deadline))?)
    }
}

/// To the facade, under the name that people filter by.
#[cfg(feature = "log")]
pub(crate) fn log_line(level: Level, line: &str) {
    let level = match level {
        Level::Error => log::Level::Error,
        Level::Info => log::Level::Info,
    };
    log::log!(target: "graceflip", level, "{line}");
}
