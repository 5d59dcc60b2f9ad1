//! What the recipes share: what a server says of itself, and when its keep-alive connections end.
//!
//! HTTP/1.1 has no way to say "no further request, please" but in an answer. So once shutdown has begun, every answer carries
//! `Connection: close` ([`last`]), and a connection without a request stays open for [`grace`]: whoever pauses for less than
//! that never meets a closing connection. Only then are the servers told to shut down, which closes what is still idle
//! at once. HTTP/2 says it with GOAWAY, which loses nothing at any time.

use graceflip::Flip;
use hyper::Version;
use hyper::header::{CONNECTION, HeaderValue};
use std::time::Duration;

/// DRAIN_TIMEOUT_MS: connections that have not ended this long after the grace are cut.
pub fn limit() -> Duration {
    setting("DRAIN_TIMEOUT_MS", 30_000)
}

/// IDLE_GRACE_MS: how long an idle keep-alive connection stays open once shutdown has begun.
pub fn grace() -> Duration {
    setting("IDLE_GRACE_MS", 5000)
}

fn setting(name: &str, otherwise: u64) -> Duration {
    let value = std::env::var(name).ok().and_then(|text| text.parse().ok());
    Duration::from_millis(value.unwrap_or(otherwise))
}

/// The first argument, or a default.
pub fn address() -> String {
    std::env::args().nth(1).unwrap_or("tcp://127.0.0.1:8080".into())
}

/// Who answers.
pub fn identity(flip: &Flip) -> serde_json::Value {
    serde_json::json!({ "version": "1", "pid": std::process::id(), "generation": flip.generation() })
}

/// Says that this answer is the connection's last one, where that is how the protocol says it.
pub fn last<B>(flip: &Flip, version: Version, answer: &mut hyper::Response<B>) {
    if version < Version::HTTP_2 && flip.is_shutting_down() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}
