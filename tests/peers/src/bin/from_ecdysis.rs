//! A server on ecdysis: lines of text come back, over TCP, over a unix socket, and over UDP.
use ecdysis::tokio_ecdysis::{ExitMode, SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use futures::{Stream, StreamExt};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, copy, split};

async fn serve<C>(mut clients: impl Stream<Item = io::Result<C>> + Unpin)
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    while let Some(Ok(client)) = clients.next().await {
        tokio::spawn(async move {
            let (mut from, mut to) = split(client);
            let _ = copy(&mut from, &mut to).await;
        });
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into()).parse()?;
    let path = std::env::args().nth(2).unwrap_or("/tmp/lines.sock".into());
    let mut builder = TokioEcdysisBuilder::new(SignalKind::hangup())?;
    builder.stop_on_signal(SignalKind::terminate())?;
    builder.upgrade_on_socket(format!("{path}.upgrade"))?;
    builder.set_pid_file(format!("{path}.pid"));
    builder.partial_stop_on_signal(SignalKind::user_defined2())?;
    let tcp = builder.build_listen_tcp(StopOnShutdown::Yes, address, |socket, address| {
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(64)?;
        Ok(socket.into())
    })?;
    let unix = builder.listen_unix(StopOnShutdown::No, path)?;
    let udp = builder.build_stoppable_socket_udp(StopOnShutdown::Yes, address, |socket, address| {
        socket.bind(&address.into())?;
        Ok(socket.into())
    })?;
    let tcp = tokio::spawn(serve(tcp));
    tokio::spawn(serve(unix));
    tokio::spawn(async move {
        let mut bytes = [0; 1500];
        while let Some(Ok((length, from))) = udp.until_stopped(|udp| udp.recv_from(&mut bytes)).await {
            let _ = udp.as_unstoppable_ref().send_to(&bytes[..length], from).await;
        }
    });
    let (ecdysis, exit) = builder.ready()?;
    eprintln!("serving, {}", if ecdysis.is_child() { "after an upgrade" } else { "the first one" });
    let (mode, _reason) = exit.await?;
    tcp.await?;
    if let ExitMode::PartialStop = mode {
        eprintln!("on our own now");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}
