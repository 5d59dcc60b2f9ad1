//! The server of hyper's guide to graceful shutdown: SIGTERM ends it, once its connections are finished. The guide has
//! no replacement for a process; who starts the next one binds the address anew.

use bench_peers::{LIMIT, address, connection, live};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(address()).await?;
    live();
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                tokio::spawn(graceful.watch(connection(accepted?.0)));
            }
            _ = stop.recv() => break,
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(LIMIT, graceful.shutdown()).await;
    Ok(())
}
