//! A server on graceflip: lines of text come back, over TCP, over a unix socket, and over UDP.
use futures_core::Stream;
use graceflip::tokio::{StopOnShutdown, next};
use graceflip::{Address, Flip, Request, Shutdown};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, copy, split};
use tokio::signal::unix::SignalKind;

async fn serve<C>(mut clients: impl Stream<Item = io::Result<C>> + Unpin)
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    while let Some(Ok(client)) = next(&mut clients).await {
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
    let flip = Flip::builder()
        .no_signals()
        .signal(SignalKind::hangup().as_raw_value(), Request::Upgrade)
        .signal(SignalKind::terminate().as_raw_value(), Request::Stop)
        .signal(SignalKind::user_defined2().as_raw_value(), Request::Detach)
        .control_socket(format!("{path}.upgrade"))
        .pid_file(format!("{path}.pid"))
        .build()?;
    let tcp = flip.tcp_stream(StopOnShutdown::Yes, Address::from(address).backlog(64))?;
    let unix = flip.unix_stream(StopOnShutdown::No, path)?;
    let udp = flip.udp_stoppable(StopOnShutdown::Yes, address)?;
    let tcp = tokio::spawn(serve(tcp));
    tokio::spawn(serve(unix));
    tokio::spawn(async move {
        let mut bytes = [0; 1500];
        while let Some(Ok((length, from))) = udp.until_stopped(|udp| udp.recv_from(&mut bytes)).await {
            let _ = udp.as_unstoppable_ref().send_to(&bytes[..length], from).await;
        }
    });
    flip.ready_async().await?;
    eprintln!("serving, {}", if flip.generation() > 0 { "after an upgrade" } else { "the first one" });
    while let Shutdown::Detach = flip.shutdown().await? {
        eprintln!("on our own now");
    }
    tcp.await?;
    flip.drain_async(Duration::from_secs(1)).await?;
    Ok(())
}
