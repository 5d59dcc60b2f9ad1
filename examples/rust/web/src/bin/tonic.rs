//! gRPC on tonic: the health service that gRPC defines, and no other, so that nothing has to be generated.

use graceflip::tokio::{Counted, StopOnShutdown};
use graceflip::{ErrorKind, Flip};
use graceflip_web::{address, limit};
use hyper::Response;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A counted connection that tells tonic where it comes from.
struct Connection(Counted<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpStream::connect_info(&self.0)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flip = Flip::builder().build()?;
    // It ends when shutdown begins, which is what tells tonic; its graceful shutdown begins then, with GOAWAY.
    let connections = flip.tcp_stream(StopOnShutdown::Yes, address())?.map(|one| one.map(Connection));
    let (_reporter, health) = tonic_health::server::health_reporter();
    let say_pid = tower::util::MapResponseLayer::new(|mut answer: Response<tonic::body::Body>| {
        answer.headers_mut().insert("pid", std::process::id().into());
        answer
    });
    flip.ready_async().await?;

    let signal = flip.shutdown_signal()?;
    let serving = tonic::transport::Server::builder()
        .layer(say_pid)
        .add_service(health)
        .serve_with_incoming_shutdown(connections, signal.wait());
    // tonic's own shutdown has no end.
    match flip.bounded(serving, limit()).await {
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            eprintln!("tonic: pid {} leaves {} connections behind", std::process::id(), flip.connections());
        }
        served => served??,
    }
    Ok(())
}
