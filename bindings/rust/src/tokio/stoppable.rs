//! Anything that ends, or goes on, when shutdown begins.

use super::Ending;
use crate::error::Result;
use crate::flip::Flip;
use futures_core::Stream;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

/// Whether it ends when shutdown begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopOnShutdown {
    /// It ends then: what is queued on a listener belongs to the successor.
    Yes,
    /// An upgrade ends it, a stop does not: it goes on until the process exits. A listener's connections are not
    /// counted (the option `keep=stop`).
    No,
    /// It goes on until the process exits, after an upgrade too: a health or metrics port that both generations serve
    /// meanwhile. A listener's connections are not counted (the option `keep=always`).
    Never,
}

/// Tells when something ends.
#[derive(Debug)]
pub(super) struct Ends {
    stop: StopOnShutdown,
    flip: shellflip::flip::Flip,
    ending: Ending,
}

impl Ends {
    pub fn new(flip: &Flip, stop: StopOnShutdown) -> Result<Ends> {
        Ok(Ends { stop, flip: flip.core()?.clone(), ending: Ending::new(flip)? })
    }

    /// Whether connections are waited for.
    pub fn counts(&self) -> bool {
        self.stop == StopOnShutdown::Yes
    }

    /// Now; what was published, which is a moment before anybody is told.
    pub fn now(&self) -> bool {
        match self.stop {
            StopOnShutdown::Yes => self.flip.is_shut_down(),
            StopOnShutdown::No => self.flip.shutdown_kind() == Some(shellflip::upgrade::Shutdown::Upgrade),
            StopOnShutdown::Never => false,
        }
    }

    /// The same, or the handle is closed; the task is woken when that changes.
    pub fn poll(&self, context: &mut Context<'_>) -> bool {
        let (shutdown, closed) = self.ending.poll(context);
        closed || (shutdown && self.now())
    }

    /// Waits for it, in any number of tasks.
    async fn ended(&self) {
        self.ending.come().await;
        // Shutdown, and this goes on: then only the handle's end is left.
        if !self.now() {
            self.ending.freed.fired().await;
        }
    }
}

/// Something that is used until shutdown begins: a socket with [`Stoppable::until_stopped`], or a stream, which then ends.
#[derive(Debug)]
pub struct Stoppable<S> {
    inner: S,
    ends: Ends,
}

impl<S> Stoppable<S> {
    /// All that can fail but for making the thing itself.
    pub(super) fn of(
        flip: &Flip,
        stop: StopOnShutdown,
        inner: impl FnOnce() -> Result<S>,
    ) -> Result<Stoppable<S>> {
        let ends = Ends::new(flip, stop)?;
        Ok(Stoppable { inner: inner()?, ends })
    }

    /// The thing itself, which does not stop.
    pub fn as_unstoppable_ref(&self) -> &S {
        &self.inner
    }

    /// The thing itself, which does not stop.
    pub fn as_unstoppable_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The thing itself.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// What an operation gives; none once shutdown has begun, also while it waits. It is not begun after shutdown.
    pub async fn until_stopped<'a, O, F>(&'a self, operation: impl FnOnce(&'a S) -> F) -> Option<O>
    where
        F: Future<Output = O>,
    {
        until(&self.ends, || operation(&self.inner)).await
    }

    /// The same for operations that change it.
    pub async fn until_stopped_mut<'a, O, F>(
        &'a mut self,
        operation: impl FnOnce(&'a mut S) -> F,
    ) -> Option<O>
    where
        F: Future<Output = O>,
    {
        until(&self.ends, || operation(&mut self.inner)).await
    }
}

async fn until<O, F: Future<Output = O>>(ends: &Ends, operation: impl FnOnce() -> F) -> Option<O> {
    if ends.now() {
        return None;
    }
    let mut ended = pin!(ends.ended());
    let mut operation = pin!(operation());
    poll_fn(|context| match operation.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => ended.as_mut().poll(context).map(|()| None),
    })
    .await
}

impl<S: Stream + Unpin> Stream for Stoppable<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        // The runtime may not know yet what was published, and what is queued from then on belongs to the successor.
        if self.ends.poll(context) || self.ends.now() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.inner).poll_next(context)
    }
}

impl Flip {
    /// Makes anything stoppable: a stream, a socket, a channel.
    pub fn stoppable<S>(&self, stop: StopOnShutdown, inner: S) -> Result<Stoppable<S>> {
        Stoppable::of(self, stop, || Ok(inner))
    }
}

/// The next item of a stream; none at its end. For programs that have no other crate for it.
pub async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}
