//! `flipctl stop` and `flipctl detach` over the control socket.

use crate::args::Options;
use crate::connect::ANSWER;
use crate::exit::{Exit, Failed};
use crate::progress::Progress;
use crate::words::time;
use nix::errno::Errno;
use serde_json::json;
use shellflip::address::Address;
use shellflip::control::{self, Request};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A drain takes 30 s by default, and the server's own end comes after it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two changes of what is shown.
const REDRAW: Duration = Duration::from_millis(200);

/// Asks the server to stop, and returns when its process is gone.
pub fn stop(address: &Address, options: &Options) -> Result<(), Failed> {
    let started = Instant::now();
    let timeout = options.timeout.unwrap_or(PATIENCE);
    let (answer, answered) = channel();
    let asked = address.clone();
    std::thread::spawn(move || {
        let _ = answer.send(control::request(&asked, Request::Stop, Some(timeout)));
    });
    let progress = Progress::new(options.json);
    let result = loop {
        progress.waiting("the server finishes its connections");
        match answered.recv_timeout(REDRAW) {
            Ok(result) => break result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                break Err(shellflip::error::Error::Canceled("the request ended without an answer".into()));
            }
        }
    };
    drop(progress);
    result.map_err(|error| match error.errno() {
        // It stops, in another pid namespace.
        Errno::ESRCH => Failed::new(Exit::Unknown, error.to_string()),
        _ => error.into(),
    })?;
    told("stopped", started.elapsed(), options.json);
    Ok(())
}

/// Asks the server to go on by itself.
pub fn detach(address: &Address, options: &Options) -> Result<(), Failed> {
    let started = Instant::now();
    control::request(address, Request::Detach, Some(options.timeout.unwrap_or(ANSWER)))?;
    told("detached", started.elapsed(), options.json);
    Ok(())
}

/// One line, or one object.
pub fn told(what: &str, took: Duration, as_json: bool) {
    if as_json {
        let seconds = took.as_millis() as f64 / 1_000.0;
        anstream::println!("{}", json!({ "result": what, "exit_status": 0, "seconds": seconds }));
    } else {
        anstream::println!("{what} in {}", time(took));
    }
}
