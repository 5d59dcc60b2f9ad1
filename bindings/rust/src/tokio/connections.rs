//! Listeners as streams of counted connections.

use super::stoppable::Ends;
use super::{StopOnShutdown, Watched};
use crate::address::Address;
use crate::connections::ConnectionGuard;
use crate::error::{Error, Result};
use crate::flip::Flip;
use futures_core::Stream;
use shellflip::accept::{EXHAUSTED, Retry, retry};
use std::io::{self, IoSlice};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use tokio::time::Sleep;

/// Tokio's listeners.
pub trait Accepts: sealed::Sealed + Unpin {
    /// What comes out.
    type Stream;
    /// Once.
    #[doc(hidden)]
    fn poll_accept_one(&self, context: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for tokio::net::TcpListener {}
    impl Sealed for tokio::net::UnixListener {}
}

impl Accepts for TcpListener {
    type Stream = TcpStream;

    fn poll_accept_one(&self, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        self.poll_accept(context).map_ok(|(stream, _)| stream)
    }
}

impl Accepts for UnixListener {
    type Stream = UnixStream;

    fn poll_accept_one(&self, context: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.poll_accept(context).map_ok(|(stream, _)| stream)
    }
}

/// A stream of connections, each counted until it is dropped: from [`Flip::ready`] on, until shutdown where that was asked for, when
/// the listener is closed. Errors that accept(2) may be retried on are, and while descriptors are exhausted it waits; an error that
/// it yields is the last item.
#[derive(Debug)]
pub struct Connections<L> {
    flip: Flip,
    /// None at its end.
    listener: Option<L>,
    ends: Ends,
    /// None once it has fired.
    ready: Option<Watched>,
    exhausted: Option<Pin<Box<Sleep>>>,
}

impl<L: Accepts> Connections<L> {
    /// All that can fail but for making the listener: one that is bound has to be accepted from.
    fn of(flip: &Flip, stop: StopOnShutdown, listener: impl FnOnce() -> Result<L>) -> Result<Connections<L>> {
        let ready = Some(Watched::new(flip.core()?.ready_fd())?);
        let ends = Ends::new(flip, stop)?;
        Ok(Connections { flip: flip.clone(), listener: Some(listener()?), ends, ready, exhausted: None })
    }

    /// The listener, until its end.
    pub fn listener(&self) -> Option<&L> {
        self.listener.as_ref()
    }

    /// The next connection; none at the end. May be dropped at any time: no connection is lost.
    pub async fn accept(&mut self) -> Option<io::Result<Counted<L::Stream>>> {
        super::next(self).await
    }

    fn end<T>(&mut self, item: Option<T>) -> Poll<Option<T>> {
        self.listener = None;
        Poll::Ready(item)
    }

    /// One connection, counted before it is looked whether shutdown has begun: a drain cannot miss it then.
    fn poll_counted(&self, context: &mut Context<'_>) -> Poll<Option<io::Result<Counted<L::Stream>>>> {
        let Some(listener) = &self.listener else { return Poll::Ready(None) };
        let guard = if self.ends.counts() { self.flip.connection() } else { ConnectionGuard::uncounted() };
        if self.ends.now() {
            return Poll::Ready(None);
        }
        let stream = ready!(listener.poll_accept_one(context));
        Poll::Ready(Some(stream.map(|stream| Counted { stream, guard })))
    }
}

impl<L: Accepts> Stream for Connections<L> {
    type Item = io::Result<Counted<L::Stream>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ends.poll(context) {
            return this.end(None);
        }
        if let Some(ready) = &this.ready {
            ready!(ready.poll_fired(context));
            this.ready = None;
        }
        loop {
            if let Some(sleep) = &mut this.exhausted {
                ready!(sleep.as_mut().poll(context));
                this.exhausted = None;
            }
            match ready!(this.poll_counted(context)) {
                None => return this.end(None),
                Some(Ok(connection)) => return Poll::Ready(Some(Ok(connection))),
                Some(Err(error)) => match retry(error.raw_os_error().unwrap_or(0)) {
                    Retry::AtOnce => {}
                    Retry::Later => this.exhausted = Some(Box::pin(tokio::time::sleep(EXHAUSTED))),
                    Retry::Never => return this.end(Some(Err(error))),
                },
            }
        }
    }
}

/// A connection that [`Flip::drain`] waits for. It reads and writes as what it holds.
#[derive(Debug)]
pub struct Counted<S> {
    // In this order: closed first, ended then.
    stream: S,
    guard: ConnectionGuard,
}

impl<S> Counted<S> {
    /// One that was accepted in another way.
    pub fn new(stream: S, guard: ConnectionGuard) -> Counted<S> {
        Counted { stream, guard }
    }

    /// The stream and its guard, which is to be dropped after it.
    pub fn into_parts(self) -> (S, ConnectionGuard) {
        (self.stream, self.guard)
    }
}

impl<S> Deref for Counted<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

impl<S> DerefMut for Counted<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A listener that does not stop is one that the library must not close either; the address may say so itself.
fn kept(stop: StopOnShutdown, address: Address) -> Address {
    match stop {
        StopOnShutdown::No if !address.has_option("keep") => address.option("keep", "stop"),
        StopOnShutdown::Never if !address.has_option("keep") => address.option("keep", "always"),
        _ => address,
    }
}

fn registered<T>(what: &str, register: io::Result<T>) -> Result<T> {
    register.map_err(|error| Error::io(&format!("the runtime cannot take {what}"), &error))
}

impl Flip {
    /// The connections of a TCP listener as a stream; see [`Flip::listen_tcp`].
    pub fn tcp_stream(
        &self,
        stop: StopOnShutdown,
        address: impl Into<Address>,
    ) -> Result<Connections<TcpListener>> {
        let listener = || self.listen_tcp(kept(stop, address.into()));
        Connections::of(self, stop, || registered("a listener", TcpListener::from_std(listener()?)))
    }

    /// The connections of a unix listener as a stream; see [`Flip::listen_unix`].
    pub fn unix_stream(
        &self,
        stop: StopOnShutdown,
        address: impl Into<Address>,
    ) -> Result<Connections<UnixListener>> {
        let listener = || self.listen_unix(kept(stop, address.into()));
        Connections::of(self, stop, || registered("a listener", UnixListener::from_std(listener()?)))
    }

    /// The connections of a listener that is there already, as one from [`Flip::take`]. It must not block.
    pub fn connections_of<L: Accepts>(&self, stop: StopOnShutdown, listener: L) -> Result<Connections<L>> {
        Connections::of(self, stop, || Ok(listener))
    }

    /// A UDP socket that is used until shutdown; see [`Flip::listen_udp`].
    pub fn udp_stoppable(
        &self,
        stop: StopOnShutdown,
        address: impl Into<Address>,
    ) -> Result<super::Stoppable<UdpSocket>> {
        let socket = || self.listen_udp(kept(stop, address.into()));
        super::Stoppable::of(self, stop, || registered("a socket", UdpSocket::from_std(socket()?)))
    }

    /// A unix datagram socket that is used until shutdown; see [`Flip::listen_unix_datagram`].
    pub fn unix_datagram_stoppable(
        &self,
        stop: StopOnShutdown,
        address: impl Into<Address>,
    ) -> Result<super::Stoppable<UnixDatagram>> {
        let socket = || self.listen_unix_datagram(kept(stop, address.into()));
        super::Stoppable::of(self, stop, || registered("a socket", UnixDatagram::from_std(socket()?)))
    }
}
