//! The state, and hooks, for async code. State lies in memory: reading and writing it waits for no device, so it is done
//! where it is asked for.

use crate::builder::Builder;
use crate::error::Error;
use crate::events::StateWriter;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;

/// The predecessor's state; see [`crate::Flip::state_async`].
#[derive(Debug)]
pub struct StateReader(File);

impl StateReader {
    pub(crate) fn new(file: File) -> StateReader {
        StateReader(file)
    }

    /// The file, for code that is not async.
    pub fn into_file(self) -> File {
        self.0
    }
}

impl AsFd for StateReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsyncRead for StateReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.0.read(buffer.initialize_unfilled());
        Poll::Ready(read.map(|length| buffer.advance(length)))
    }
}

impl AsyncWrite for StateWriter {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.write(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

impl Builder {
    /// [`Builder::on_starting`] with an async closure, which runs in the current runtime's context on the thread for hooks. A
    /// `current_thread` runtime has to be running meanwhile (in `block_on`), and so for the others here: its timers and
    /// sockets stand still otherwise, and the upgrade fails at its deadline.
    pub fn on_starting_async<E: fmt::Display>(
        self,
        mut hook: impl AsyncFnMut(&str) -> Result<(), E> + Send + 'static,
    ) -> Builder {
        match current() {
            Ok(runtime) => self.on_starting(move |who| runtime.block_on(hook(who))),
            Err(error) => self.refused(error),
        }
    }

    /// [`Builder::on_state`] with an async closure, which runs in the current runtime's context on the thread for hooks.
    ///
    /// ```no_run
    /// use tokio::io::AsyncWriteExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), graceflip::Error> {
    /// let flip = graceflip::Flip::builder().on_state_async(async |state| state.write_u32(7).await).build()?;
    /// # Ok(()) }
    /// ```
    pub fn on_state_async(
        self,
        mut hook: impl AsyncFnMut(&mut StateWriter) -> io::Result<()> + Send + 'static,
    ) -> Builder {
        match current() {
            Ok(runtime) => self.on_state(move |state| runtime.block_on(hook(state))),
            Err(error) => self.refused(error),
        }
    }

    /// [`Builder::on_failed`] with an async closure, which runs in the current runtime's context on the thread for hooks.
    pub fn on_failed_async(
        self,
        mut hook: impl AsyncFnMut(crate::Failure, &str) + Send + 'static,
    ) -> Builder {
        match current() {
            Ok(runtime) => self.on_failed(move |failure, why| runtime.block_on(hook(failure, why))),
            Err(error) => self.refused(error),
        }
    }
}

fn current() -> Result<Handle, Error> {
    Handle::try_current()
        .map_err(|_| Error::invalid("an async hook needs a tokio runtime, and there is none here"))
}
