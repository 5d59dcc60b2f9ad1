//! An HTTP/2 load that never retries: what was sent and not answered rightly has failed. A request that was not sent, since the
//! connection had been told to end (GOAWAY) before, goes to a new connection: it is a client's first try.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use testkit::deadline::scaled;

const CONNECTIONS: usize = 4;
/// Requests at once on each.
const STREAMS: usize = 3;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// `GET /`.
    Http,
    /// `grpc.health.v1.Health/Check` of the whole server.
    Grpc,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Sums {
    pub answered: u64,
    pub failures: Vec<String>,
    /// Connections that ended, or were told to, and had to be replaced.
    pub goaway: u64,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    goaway: AtomicU64,
    /// In the order of their first answers: the last answer of an old one may be read late.
    seen: Mutex<Vec<i32>>,
    failures: Mutex<Vec<String>>,
}

/// A running load.
pub struct Http2 {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

type Sender = SendRequest<Full<Bytes>>;

/// A stream that was answered and stays open, since its client takes no byte of the body, until this is dropped.
pub struct Held {
    _answer: hyper::Response<hyper::body::Incoming>,
    _runtime: tokio::runtime::Runtime,
}

impl Held {
    pub fn open(port: u16, asks: Asks) -> Held {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let answer = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
            let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            client.initial_stream_window_size(0);
            let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
            tokio::spawn(connection);
            let asked = sender.send_request(asks.request());
            tokio::time::timeout(scaled(Duration::from_secs(10)), asked)
                .await
                .expect("in time")
                .expect("an answer")
        });
        Held { _answer: answer, _runtime: runtime }
    }
}

impl Asks {
    fn request(self) -> Request<Full<Bytes>> {
        let request = match self {
            Asks::Http => Request::get("http://localhost/").body(Full::default()),
            Asks::Grpc => Request::post("http://localhost/grpc.health.v1.Health/Check")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                // Not compressed, no bytes: a HealthCheckRequest with defaults.
                .body(Full::from(vec![0; 5])),
        };
        request.expect("a request")
    }
}

impl Http2 {
    pub fn start(port: u16, asks: Asks) -> Http2 {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut connections = tokio::task::JoinSet::new();
                for _ in 0..CONNECTIONS {
                    connections.spawn(one_connection(Arc::clone(&of_thread), port, asks));
                }
                while connections.join_next().await.is_some() {}
            });
        });
        Http2 { shared, thread }
    }

    /// The newest process that has answered.
    pub fn newest(&self) -> Option<i32> {
        self.shared.seen.lock().expect("a lock").last().copied()
    }

    pub fn answered(&self) -> u64 {
        self.shared.answered.load(SeqCst)
    }

    pub fn stop(self) -> Sums {
        self.shared.stop.store(true, SeqCst);
        self.thread.join().expect("the load's thread");
        let failures = std::mem::take(&mut *self.shared.failures.lock().expect("a lock"));
        Sums {
            answered: self.shared.answered.load(SeqCst),
            failures,
            goaway: self.shared.goaway.load(SeqCst),
        }
    }
}

impl Shared {
    fn failed(&self, what: String) {
        self.failures.lock().expect("a lock").push(what);
    }
}

/// Keeps one connection busy, and replaces it once it has ended.
async fn one_connection(shared: Arc<Shared>, port: u16, asks: Asks) {
    while !shared.stop.load(SeqCst) {
        let connect = async {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            let io = TokioIo::new(stream);
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(std::io::Error::other)
        };
        let (sender, connection) = match connect.await {
            Ok(connected) => connected,
            Err(error) => {
                shared.failed(format!("cannot connect: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = tokio::spawn(connection);
        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..STREAMS {
            streams.spawn(one_stream(Arc::clone(&shared), sender.clone(), asks));
        }
        drop(sender);
        while streams.join_next().await.is_some() {}
        connection.abort();
        shared.goaway.fetch_add(u64::from(!shared.stop.load(SeqCst)), SeqCst);
    }
}

/// One request after the other until the connection takes no more.
async fn one_stream(shared: Arc<Shared>, mut sender: Sender, asks: Asks) {
    while !shared.stop.load(SeqCst) {
        // Nothing was sent: no request has failed.
        if sender.ready().await.is_err() {
            return;
        }
        match tokio::time::timeout(scaled(Duration::from_secs(10)), ask(&mut sender, asks)).await {
            Ok(Ok(Some(pid))) => {
                shared.answered.fetch_add(1, SeqCst);
                let mut seen = shared.seen.lock().expect("a lock");
                if !seen.contains(&pid) {
                    seen.push(pid);
                }
            }
            Ok(Ok(None)) => return,
            Ok(Err(why)) => shared.failed(why),
            Err(_) => shared.failed("no answer".into()),
        }
    }
}

/// The pid of who answered; none: the request never left.
async fn ask(sender: &mut Sender, asks: Asks) -> Result<Option<i32>, String> {
    let answer = match sender.try_send_request(asks.request()).await {
        Ok(answer) => answer,
        Err(mut error) => match error.take_message() {
            Some(_) => return Ok(None),
            None => return Err(format!("{:?}", error.into_error())),
        },
    };
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(|error| format!("in the body: {error:?}"))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let body = body.to_bytes();
    let right = match asks {
        Asks::Http => body.starts_with(b"{"),
        // One message: status 1, SERVING.
        Asks::Grpc => body.as_ref() == [0, 0, 0, 0, 2, 8, 1] && status(&head.headers, &trailers) == Some("0"),
    };
    let pid = head.headers.get("pid").and_then(|pid| pid.to_str().ok()).and_then(|pid| pid.parse().ok());
    match pid {
        Some(pid) if head.status == 200 && right => Ok(Some(pid)),
        _ => Err(format!("{}: {:?} {trailers:?} {body:?}", head.status, head.headers)),
    }
}

fn status<'a>(headers: &'a HeaderMap, trailers: &'a HeaderMap) -> Option<&'a str> {
    headers.get("grpc-status").or(trailers.get("grpc-status"))?.to_str().ok()
}
