//! The same server on graceflip, as in the recipe for hyper. SIGUSR1 replaces it.

use bench_peers::{LIMIT, address, answer, live};
use graceflip::Flip;
use graceflip::tokio::StopOnShutdown;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::time::Duration;

/// How long a keep-alive connection without a request stays open once shutdown has begun.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), graceflip::Error> {
    let flip = Flip::builder().build()?;
    let mut connections = flip.tcp_stream(StopOnShutdown::Yes, format!("tcp://{}", address()))?;
    flip.ready_async().await?;
    live();

    let graceful = GracefulShutdown::new();
    while let Some(connection) = connections.accept().await {
        let flip = flip.clone();
        let service = service_fn(move |_: hyper::Request<Incoming>| {
            let mut answer = answer();
            if flip.is_shutting_down() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let io = TokioIo::new(connection.expect("a listener that accepts"));
        tokio::spawn(graceful.watch(Builder::new().serve_connection(io, service)));
    }
    let _ = flip.drain_async(GRACE).await; // those that are still open have no request
    let _ = tokio::time::timeout(LIMIT, graceful.shutdown()).await;
    Ok(())
}
