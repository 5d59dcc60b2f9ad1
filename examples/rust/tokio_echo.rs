//! An echo server on tokio: says first how often it was replaced (four bytes, big-endian), then returns what it is sent.
//!
//! SIGUSR1 upgrades, SIGTERM stops, SIGUSR2 detaches: the process goes on serving until it is stopped.
//!
//! Usage: tokio_echo [ADDRESS [PATH]]

use graceflip::tokio::{Accepts, Connections, Counted, ShutdownCoordinator, ShutdownHandle, StopOnShutdown};
use graceflip::{Error, Flip, Request, Shutdown};
use std::sync::Weak;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::signal::unix::SignalKind;

/// Connections that are open after this long are cut.
const PATIENCE: Duration = Duration::from_secs(60);

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: Counted<S>,
    generation: u32,
) -> std::io::Result<u64> {
    client.write_all(&generation.to_be_bytes()).await?;
    let (mut from, mut to) = split(client);
    copy(&mut from, &mut to).await
}

async fn serve<L>(mut connections: Connections<L>, generation: u32, tasks: Weak<ShutdownHandle>)
where
    L: Accepts,
    L::Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    while let Some(connection) = connections.accept().await {
        match (connection, tasks.upgrade()) {
            (Ok(client), Some(task)) => {
                tokio::spawn(async move {
                    let _ = echo(client, generation).await; // a client that goes away
                    drop(task);
                });
            }
            (Ok(_), None) => {}
            (Err(error), _) => eprintln!("tokio_echo: cannot accept: {error}"),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let flip = Flip::builder()
        .signal(SignalKind::user_defined2().as_raw_value(), Request::Detach)
        .drain_timeout(PATIENCE)
        .build()?;
    let tcp = arguments.next().unwrap_or("tcp://[::1]:22222?v6only=1".into());
    let tcp = flip.tcp_stream(StopOnShutdown::Yes, tcp)?;
    let unix = arguments.next().map(|path| flip.unix_stream(StopOnShutdown::Yes, path)).transpose()?;
    flip.ready_async().await?;

    let generation = flip.generation();
    let coordinator = ShutdownCoordinator::new();
    let mut listeners = tokio::task::JoinSet::new();
    listeners.spawn(serve(tcp, generation, coordinator.handle_weak()));
    if let Some(unix) = unix {
        listeners.spawn(serve(unix, generation, coordinator.handle_weak()));
    }
    println!("tokio_echo: pid {}, generation {generation}: serving", std::process::id());

    while flip.shutdown().await? == Shutdown::Detach {
        println!("tokio_echo: pid {}: on its own", std::process::id());
    }
    listeners.join_all().await; // they have closed their listeners
    if !coordinator.shutdown_with_timeout(PATIENCE).await {
        eprintln!("tokio_echo: pid {} leaves {} connections behind", std::process::id(), flip.connections());
    }
    Ok(())
}
