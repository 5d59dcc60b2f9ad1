//! The server of ecdysis' example, speaking HTTP on hyper, whose graceful shutdown ends the connections. SIGHUP replaces
//! it.

use bench_peers::{LIMIT, address, connection, live};
use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use futures::StreamExt;
use hyper_util::server::graceful::GracefulShutdown;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let builder = TokioEcdysisBuilder::new(SignalKind::hangup())?;
    let mut connections = builder.build_listen_tcp(StopOnShutdown::Yes, address(), |socket, address| {
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    })?;
    let server = tokio::spawn(async move {
        let graceful = GracefulShutdown::new();
        while let Some(Ok(stream)) = connections.next().await {
            tokio::spawn(graceful.watch(connection(stream)));
        }
        let _ = tokio::time::timeout(LIMIT, graceful.shutdown()).await;
    });
    let (_ecdysis, exit) = builder.ready()?;
    live();
    exit.await?;
    server.await?;
    Ok(())
}
