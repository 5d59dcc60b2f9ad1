//! HTTP/1.1 and HTTP/2 on hyper: its guide's graceful shutdown, with an upgrade for a shutdown.

use graceflip::Flip;
use graceflip::tokio::StopOnShutdown;
use graceflip_web::{address, grace, identity, last, limit};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;

async fn answer(flip: Flip, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut answer = Response::new(Full::from(format!("{}\n", identity(&flip))));
    answer.headers_mut().insert("pid", std::process::id().into());
    last(&flip, request.version(), &mut answer);
    Ok(answer)
}

#[tokio::main]
async fn main() -> Result<(), graceflip::Error> {
    let flip = Flip::builder().build()?;
    let mut connections = flip.tcp_stream(StopOnShutdown::Yes, address())?;
    flip.ready_async().await?;

    let graceful = GracefulShutdown::new();
    // Ends when shutdown begins, and has closed the listener then.
    while let Some(connection) = connections.accept().await {
        let flip = flip.clone();
        let service = service_fn(move |request| answer(flip.clone(), request));
        let builder = Builder::new(TokioExecutor::new());
        let io = TokioIo::new(connection.expect("a listener that accepts"));
        let serving = graceful.watch(builder.serve_connection(io, service).into_owned());
        tokio::spawn(async move {
            let _ = serving.await; // a client that goes away
        });
    }
    tokio::time::sleep(grace()).await;
    if tokio::time::timeout(limit(), graceful.shutdown()).await.is_err() {
        eprintln!("hyper: pid {} leaves {} connections behind", std::process::id(), flip.connections());
    }
    Ok(())
}
