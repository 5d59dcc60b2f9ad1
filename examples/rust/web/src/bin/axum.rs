//! HTTP/1.1 and HTTP/2 on axum.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use graceflip::tokio::{Connections, Counted, StopOnShutdown};
use graceflip::{ErrorKind, Flip};
use graceflip_web::{address, grace, identity, last, limit};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// What axum accepts from: nothing more once shutdown has begun, though axum itself is told only after the grace.
struct Listener {
    connections: Connections<TcpListener>,
    address: SocketAddr,
}

impl axum::serve::Listener for Listener {
    type Io = Counted<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        while let Some(connection) = self.connections.accept().await {
            // One that has gone meanwhile has no address.
            if let Ok(connection) = connection
                && let Ok(peer) = connection.peer_addr()
            {
                return (connection, peer);
            }
        }
        std::future::pending().await
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn who(State(flip): State<Flip>) -> Json<serde_json::Value> {
    Json(identity(&flip))
}

/// Returns what it is sent on a connection that is HTTP no more, which is what a WebSocket is.
async fn echo(mut request: Request) -> Response {
    if request.headers().get(UPGRADE).is_none_or(|protocol| protocol != "echo") {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut from, &mut to).await; // a client that goes away
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, "echo")]).into_response()
}

async fn say_close(State(flip): State<Flip>, request: Request, next: Next) -> Response {
    let version = request.version();
    let mut answer = next.run(request).await;
    answer.headers_mut().insert("pid", std::process::id().into());
    last(&flip, version, &mut answer);
    answer
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flip = Flip::builder().drain_timeout(grace() + limit()).build()?;
    let connections = flip.tcp_stream(StopOnShutdown::Yes, address())?;
    let address = connections.listener().ok_or("no listener")?.local_addr()?;
    let app = Router::new().route("/", get(who)).route("/echo", get(echo));
    let app = app.layer(from_fn_with_state(flip.clone(), say_close));
    let app = app.with_state(flip.clone());
    flip.ready_async().await?;

    let signal = flip.shutdown_signal()?;
    let serving = axum::serve(Listener { connections, address }, app).with_graceful_shutdown(async move {
        signal.wait().await;
        tokio::time::sleep(grace()).await;
    });
    // axum's own shutdown has no end.
    match flip.bounded(serving.into_future(), grace() + limit()).await {
        Err(error) if error.kind() == ErrorKind::TimedOut => {} // said below
        served => served??,
    }
    // It does not wait for upgraded connections either, which are counted as all others.
    if flip.drain_async(Duration::MAX).await.is_err() {
        eprintln!("axum: pid {} leaves {} connections behind", std::process::id(), flip.connections());
    }
    Ok(())
}
