//! An HTTP/1.1 keep-alive server, a thread per connection, that is replaced without a failed request.
//!
//! Once shutdown has begun, nothing more is accepted: what is queued on the listener belongs to the successor. Every
//! request that still comes is answered, with `Connection: close`, so that the client's next one goes to the successor. A
//! connection without a request stays open for IDLE_GRACE_MS, so that a client that pauses for less than that never
//! meets a closing connection.
//!
//! Usage: http [ADDRESS]. Environment: ADDRESS, IDLE_GRACE_MS, UPGRADE_TIMEOUT_MS, DRAIN_TIMEOUT_MS; at build time VERSION,
//! `crash` and `hang` being versions that are no good.

use graceflip::{Error, Flip};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

const VERSION: &str = match option_env!("VERSION") {
    Some(version) => version,
    None => "1",
};
/// The longest request head, and body.
const LONGEST: usize = 8192;
const IDLE: Duration = Duration::from_secs(60);
const LINGER: Duration = Duration::from_secs(2);
/// How often a thread that waits for a request looks whether shutdown has begun.
const LOOK: Duration = Duration::from_millis(50);

fn setting(name: &str, otherwise: u64) -> Duration {
    let value = std::env::var(name).ok().and_then(|text| text.parse().ok());
    Duration::from_millis(value.unwrap_or(otherwise))
}

/// One request's length in the buffer, and whether it is the last one; none while it is not complete.
fn request(input: &[u8]) -> Result<Option<(usize, bool)>, &'static str> {
    let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if input.len() < LONGEST { Ok(None) } else { Err("431 Request Header Fields Too Large") };
    };
    let head = std::str::from_utf8(&input[..end]).map_err(|_| "400 Bad Request")?;
    let mut lines = head.split("\r\n");
    let words: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let [_, _, version @ ("HTTP/1.1" | "HTTP/1.0")] = words[..] else { return Err("400 Bad Request") };
    let (mut body, mut last) = (None, version == "HTTP/1.0");
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("400 Bad Request")?;
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            // Only digits, and only once: what servers read differently is how requests are smuggled.
            "content-length" if body.is_none() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                body = Some(value.parse().map_err(|_| "400 Bad Request")?);
            }
            "content-length" => return Err("400 Bad Request"),
            "transfer-encoding" => return Err("501 Not Implemented"),
            "connection" => last |= value.eq_ignore_ascii_case("close"),
            _ if name.is_empty() || name.contains([' ', '\t', '\r', '\n']) => return Err("400 Bad Request"),
            _ => {}
        }
    }
    match body.unwrap_or(0) {
        body if body > LONGEST => Err("413 Content Too Large"),
        body if end + 4 + body > input.len() => Ok(None),
        body => Ok(Some((end + 4 + body, last))),
    }
}

/// Serves one connection to its end.
fn serve(flip: &Flip, mut client: TcpStream, grace: Duration) -> std::io::Result<()> {
    let (mut input, mut chunk) = (Vec::new(), [0; 4096]);
    let mut idle_since = Instant::now();
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(LOOK))?;
    loop {
        let taken = match request(&input) {
            Ok(None) => None,
            Ok(Some((length, last))) => Some((length, last, "200 OK")),
            Err(status) => Some((input.len(), true, status)),
        };
        if let Some((length, last, status)) = taken {
            input.drain(..length);
            // A pipelined request that is here already is answered too: it was sent before we could announce the close.
            let last = last || (flip.is_shutting_down() && input.is_empty());
            let body = format!(
                "{{\"version\":\"{VERSION}\",\"pid\":{},\"generation\":{}}}\n",
                std::process::id(),
                flip.generation()
            );
            let (length, close) = (body.len(), if last { "Connection: close\r\n" } else { "" });
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
            );
            client.write_all(format!("{head}{close}\r\n{body}").as_bytes())?;
            if last {
                break;
            }
            idle_since = Instant::now();
            continue;
        }
        match client.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                input.extend_from_slice(&chunk[..length]);
                idle_since = Instant::now();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let patience = if flip.is_shutting_down() && input.is_empty() { grace } else { IDLE };
                if idle_since.elapsed() >= patience {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // A plain close with unread input makes the kernel send a reset, which can destroy an answer that the client has not
    // read yet: stop sending, and give the client a moment to close.
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(LINGER))?;
    while client.read(&mut chunk)? > 0 {}
    Ok(())
}

fn run() -> Result<(), Error> {
    let grace = setting("IDLE_GRACE_MS", 5000);
    let flip = Flip::builder()
        .upgrade_timeout(setting("UPGRADE_TIMEOUT_MS", 60_000))
        .drain_timeout(setting("DRAIN_TIMEOUT_MS", 30_000))
        .on_failed(|_, why| eprintln!("http: upgrade failed: {why}"))
        .build()?;
    match VERSION {
        "crash" => std::process::exit(1),
        "hang" => std::thread::sleep(Duration::MAX),
        _ => {}
    }
    let address = std::env::args().nth(1).or_else(|| std::env::var("ADDRESS").ok());
    let listener = flip.listen_tcp(address.unwrap_or("tcp://127.0.0.1:8080".into()))?;
    flip.ready()?;
    eprintln!(
        "http: version {VERSION}, pid {}, generation {}: serving",
        std::process::id(),
        flip.generation()
    );
    for connection in flip.incoming(&listener) {
        let (client, guard) = connection?;
        let flip = flip.clone();
        let serve = move || {
            let _ = serve(&flip, client, grace);
            drop(guard);
        };
        if let Err(error) = std::thread::Builder::new().spawn(serve) {
            eprintln!("http: cannot serve a connection: {error}");
        }
    }
    drop(listener);
    let drained = flip.drain(Duration::MAX);
    // Threads that have not ended hold the handle too, so that dropping this one closes nothing.
    flip.close();
    drained
}

fn main() {
    if let Err(error) = run() {
        eprintln!("http: pid {}: {error}", std::process::id());
        std::process::exit(1);
    }
}
