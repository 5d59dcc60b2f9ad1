//! For programs on tokio: the same handle, awaited.
//!
//! ```no_run
//! use graceflip::Flip;
//! use graceflip::tokio::{StopOnShutdown, next};
//! use std::time::Duration;
//! use tokio::io::AsyncWriteExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), graceflip::Error> {
//! let flip = Flip::builder().build()?;
//! let mut connections = flip.tcp_stream(StopOnShutdown::Yes, "127.0.0.1:8080")?;
//! flip.ready_async().await?;
//! while let Some(connection) = next(&mut connections).await {
//!     let mut connection = connection.expect("a connection"); // counted until it is dropped
//!     tokio::spawn(async move { connection.write_all(b"hello\n").await });
//! }
//! flip.drain_async(Duration::from_secs(30)).await
//! # }
//! ```
//!
//! [`Flip::shutdown`], [`Flip::drain_async`] and the streams register copies of some of the library's descriptors with the runtime
//! they are made in, which has to run for as long as they are waited for, in whatever task: one that has ended tells nothing any
//! more. Nothing here needs a runtime of its own, and any number of runtimes may use one handle. The runtime's I/O must be enabled, and its time where a function takes a duration and for [`Connections`], which rest for a moment when no
//! descriptor is left: a runtime without it would panic, and only then.

mod connections;
mod coordinator;
mod hooks;
mod signal;
mod stoppable;
#[cfg(feature = "tokio-util")]
mod tracker;

pub use connections::{Accepts, Connections, Counted};
pub use coordinator::{ShutdownCoordinator, ShutdownHandle};
pub use hooks::StateReader;
pub use signal::ShutdownSignal;
pub use stoppable::{StopOnShutdown, Stoppable, next};

use crate::error::{Error, ErrorKind, Result};
use crate::events::Event;
use crate::flip::{Flip, Shutdown, after};
use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use std::future::poll_fn;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A copy of one of the library's descriptors, known to the runtime. A copy, since a runtime takes each descriptor
/// once.
#[derive(Debug)]
pub(crate) struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    #[allow(
        deprecated,
        reason = "its replacement is unsafe, for types that may change their descriptor; OwnedFd does not"
    )]
    pub fn new(descriptor: BorrowedFd<'_>) -> Result<Watched> {
        ::tokio::runtime::Handle::try_current()
            .map_err(|_| Error::invalid("this needs a tokio runtime, and there is none here"))?;
        let watch = || AsyncFd::with_interest(descriptor.try_clone_to_owned()?, Interest::READABLE);
        watch()
            .map(Watched)
            .map_err(|error: std::io::Error| Error::io("cannot wait for a descriptor", &error))
    }

    /// Of latches, which stay readable: any number of tasks may wait.
    pub async fn fired(&self) {
        if self.0.readable().await.is_err() {
            the_runtime_is_gone().await;
        }
    }

    /// The same, for one task at a time.
    pub fn poll_fired(&self, context: &mut Context<'_>) -> Poll<()> {
        match self.0.poll_read_ready(context) {
            Poll::Ready(Ok(_)) => Poll::Ready(()),
            // As below.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Of descriptors that somebody reads empty: waits until there may be something new.
    async fn look_again(&self) {
        match self.0.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            Err(_) => the_runtime_is_gone().await,
        }
    }
}

/// The runtime that a descriptor was registered with has ended, and tells nothing any more. That is no shutdown, which would
/// end a healthy server in another runtime.
async fn the_runtime_is_gone() {
    std::future::pending().await
}

/// Waits for either of two latches.
async fn either(one: &Watched, other: &Watched) {
    poll_fn(|context| match (one.poll_fired(context), other.poll_fired(context)) {
        (Poll::Pending, Poll::Pending) => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await
}

/// Shutdown, or the end of the handle, which is one too for who waits for it.
#[derive(Debug)]
pub(crate) struct Ending {
    shutdown: Watched,
    freed: Watched,
}

impl Ending {
    pub fn new(flip: &Flip) -> Result<Ending> {
        let core = flip.core()?;
        Ok(Ending { shutdown: Watched::new(core.shutdown_fd())?, freed: Watched::new(core.freed_fd())? })
    }

    /// For any number of tasks.
    pub async fn come(&self) {
        let (mut shutdown, mut freed) =
            (std::pin::pin!(self.shutdown.fired()), std::pin::pin!(self.freed.fired()));
        poll_fn(|context| match (shutdown.as_mut().poll(context), freed.as_mut().poll(context)) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            _ => Poll::Ready(()),
        })
        .await
    }

    /// Whether shutdown has begun, and whether the handle is closed; for one task at a time.
    pub fn poll(&self, context: &mut Context<'_>) -> (bool, bool) {
        (self.shutdown.poll_fired(context).is_ready(), self.freed.poll_fired(context).is_ready())
    }
}

/// Now: for calls that shall only look.
fn now() -> Option<Instant> {
    Some(Instant::now())
}

/// What was asked without waiting; none if it is not there yet.
fn there<T>(result: shellflip::error::Result<T>) -> Option<Result<T>> {
    match result.map_err(Error::from) {
        Err(error) if error.kind() == ErrorKind::TimedOut || error.is_interrupted() => None,
        result => Some(result),
    }
}

/// A call that waits in the core, on one of the runtime's threads for such calls.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match ::tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::canceled("the runtime ended meanwhile")),
    }
}

/// The drain that needs no descriptor. In short waits: one that was dropped does not hold up the end of the runtime.
async fn drain_in_the_core(core: shellflip::flip::Flip, deadline: Option<Instant>) -> Result<()> {
    const SHORT: Duration = Duration::from_millis(100);
    let passed = || deadline.is_some_and(|at| Instant::now() >= at);
    loop {
        let (core, short) = (core.clone(), Instant::now() + SHORT);
        let until = deadline.map_or(short, |at| at.min(short));
        match blocking(move || Ok(core.drain(Some(until))?)).await {
            Err(error) if error.kind() == ErrorKind::TimedOut && !passed() => {}
            result => return result,
        }
    }
}

/// Each waits on one of the runtime's threads for blocking calls, which holds up the runtime's end where the server is silent:
/// set a [`crate::Control::timeout`]. They are for other processes; a server asks itself by [`Flip::request`].
impl crate::Control {
    /// [`crate::Control::upgrade`]. What was asked for goes on when it is dropped.
    pub async fn upgrade_async(&self) -> Result<u32> {
        let control = self.clone();
        blocking(move || control.upgrade()).await
    }

    /// [`crate::Control::stop`]. What was asked for goes on when it is dropped.
    pub async fn stop_async(&self) -> Result<()> {
        let control = self.clone();
        blocking(move || control.stop()).await
    }

    /// [`crate::Control::status`].
    pub async fn status_async(&self) -> Result<String> {
        let control = self.clone();
        blocking(move || control.status()).await
    }
}

impl Flip {
    /// Waits until shutdown begins, and says why; a detach is reported once. The first thing to do then is to drop
    /// listeners, which the streams of this module do by themselves. May be dropped at any time; but make it once and pin
    /// it where it stands in a `select!` in a loop, since each one needs three descriptors, and fails where none is left.
    ///
    /// For many waiters there is [`Flip::shutdown_signal`], which costs two descriptors for all its clones.
    pub async fn shutdown(&self) -> Result<Shutdown> {
        let core = self.core()?;
        let (ending, detached) = (Ending::new(self)?, Watched::new(core.detached_fd())?);
        let mut told_of_detach = false;
        loop {
            if let Some(result) = there(core.wait_shutdown(now())) {
                return result.map(Shutdown::from);
            }
            poll_fn(|context| {
                if !told_of_detach && detached.poll_fired(context).is_ready() {
                    // Either the next look tells it, or it was told before, and this stays readable.
                    told_of_detach = true;
                    return Poll::Ready(());
                }
                if ending.poll(context) == (false, false) { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        }
    }

    /// [`Flip::ready`]. It goes on when it is dropped before it has returned, so do not: a process that may serve has to.
    pub async fn ready_async(&self) -> Result<()> {
        let core = self.core()?.clone();
        blocking(move || Ok(core.ready(None)?)).await
    }

    /// [`Flip::upgrade`]. The upgrade goes on when it is dropped.
    pub async fn upgrade_async(&self) -> Result<u32> {
        let core = self.core()?.clone();
        let upgrade = move || {
            shellflip::flip::Flip::forget_unfinished_upgrade();
            crate::flip::retry(|| core.upgrade(None))
        };
        blocking(upgrade).await.map(i32::unsigned_abs)
    }

    /// [`Flip::drain`]. May be dropped at any time. Where no descriptor is left to wait with, one of the runtime's threads
    /// for blocking calls waits.
    pub async fn drain_async(&self, limit: Duration) -> Result<()> {
        let (core, deadline) = (self.core()?, after(limit));
        if let Some(result) = there(core.drain(now())) {
            return result;
        }
        let watch =
            || -> Result<_> { Ok((Watched::new(core.drained_fd()?)?, Watched::new(core.freed_fd())?)) };
        match watch() {
            Ok((drained, freed)) => {
                let over = either(&drained, &freed);
                let cut = match deadline {
                    Some(_) => ::tokio::time::timeout(limit, over).await.is_err(),
                    None => {
                        over.await;
                        false
                    }
                };
                // Whoever comes first, the core says how it went.
                match there(core.drain(now())) {
                    Some(result) => return result,
                    None if cut => return Err(Error::timed_out()),
                    // The descriptor says for ever that it was over once; a connection has begun since.
                    None => {}
                }
            }
            Err(error) if error.kind() == ErrorKind::System => {}
            Err(error) => return Err(error),
        }
        drain_in_the_core(core.clone(), deadline).await
    }

    /// Runs a server to its end: without a limit while it serves, at most this long once shutdown has begun, since graceful
    /// shutdowns of servers know no end of their own. [`ErrorKind::TimedOut`]: it was cut.
    pub async fn bounded<F: Future>(&self, server: F, limit: Duration) -> Result<F::Output> {
        let (signal, mut server) = (self.shutdown_signal()?, std::pin::pin!(server));
        let mut cut = std::pin::pin!(async move {
            signal.wait().await;
            ::tokio::time::sleep(limit).await;
        });
        poll_fn(|context| match server.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => cut.as_mut().poll(context).map(|()| Err(Error::timed_out())),
        })
        .await
    }

    /// [`Flip::state`]: a reader for async code.
    pub async fn state_async(&self) -> Result<Option<StateReader>> {
        let core = self.core()?.clone();
        let state = blocking(move || crate::flip::retry(|| core.take_state(None))).await;
        match state {
            Ok(state) => Ok(Some(StateReader::new(state.into()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until the predecessor has exited; [`ErrorKind::Canceled`] if the handle is closed meanwhile. May be dropped at
    /// any time.
    pub async fn predecessor_exited(&self) -> Result<()> {
        let core = self.core()?;
        if let Some(result) = there(core.wait_predecessor(now())) {
            return result;
        }
        let exited = Watched::new(core.predecessor_fd()?)?;
        let freed = Watched::new(core.freed_fd())?;
        loop {
            either(&exited, &freed).await;
            if let Some(result) = there(core.wait_predecessor(now())) {
                return result;
            }
        }
    }

    /// [`Flip::next_event`]. May be dropped at any time: no event is lost.
    pub async fn next_event_async(&self) -> Result<Event> {
        let core = self.events()?;
        let (bell, freed) = (Watched::new(core.event_fd()?)?, Watched::new(core.freed_fd())?);
        loop {
            if let Some(event) = there(core.next_event(now())) {
                return Event::new(event?);
            }
            let mut again = std::pin::pin!(bell.look_again());
            poll_fn(|context| match (again.as_mut().poll(context), freed.poll_fired(context)) {
                (Poll::Pending, Poll::Pending) => Poll::Pending,
                _ => Poll::Ready(()),
            })
            .await;
        }
    }
}
