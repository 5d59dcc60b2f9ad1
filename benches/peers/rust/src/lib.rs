//! What the servers share: what they answer, and how they say that they are live.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1::{Builder, Connection};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nix::time::{ClockId, clock_gettime};
use std::convert::Infallible;
use std::fs::OpenOptions;
use std::future::{Ready, ready};
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Connections that have not ended this long after shutdown are cut.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Tells the benchmark, by one line in the file that LIVE names: CLOCK_MONOTONIC in nanoseconds, and the pid.
pub fn live() {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    if let Some(path) = std::env::var_os("LIVE") {
        let line = format!("{} {}\n", now.tv_sec() * 1_000_000_000 + now.tv_nsec(), std::process::id());
        let written =
            OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the benchmark reads it");
    }
}

/// The first argument.
pub fn address() -> SocketAddr {
    let address = std::env::args().nth(1).expect("usage: SERVER ADDRESS");
    address.parse().expect("an address such as 127.0.0.1:8080")
}

pub fn answer() -> Response<Full<Bytes>> {
    Response::new(Full::from(format!("hello from pid {}\n", std::process::id())))
}

/// Answers every request.
pub struct Hello;

impl Service<Request<Incoming>> for Hello {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, _: Request<Incoming>) -> Self::Future {
        ready(Ok(answer()))
    }
}

/// One connection on hyper, to be awaited.
pub fn connection(stream: TcpStream) -> Connection<TokioIo<TcpStream>, Hello> {
    Builder::new().serve_connection(TokioIo::new(stream), Hello)
}
