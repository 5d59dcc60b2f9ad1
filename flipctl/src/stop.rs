//! `flipctl stop` and `flipctl detach` over the control socket.

use crate::args::Options;
use crate::connect::{ANSWER, status};
use crate::exit::{Exit, Failed};
use crate::output;
use crate::process::ended;
use crate::progress::Progress;
use crate::report::Drainer;
use crate::words::time;
use nix::errno::Errno;
use nix::unistd::Pid;
use serde_json::{Value, json};
use shellflip::address::Address;
use shellflip::control::{self, Request};
use shellflip::error::Error;
use shellflip::sys::process::pidfd_open;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A drain takes 30 s by default, and the server's own end comes after it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two changes of what is shown.
const REDRAW: Duration = Duration::from_millis(200);

/// An older generation that drains, held by a pidfd: from its number alone nobody could tell later whose it is.
type Older = (Drainer, OwnedFd);

/// Asks the server to stop, and returns when its process is gone.
pub fn stop(address: &Address, options: &Options) -> Result<(), Failed> {
    let started = Instant::now();
    let timeout = options.timeout.unwrap_or(PATIENCE);
    // Half the time at most: the request has to be sent in any case.
    let mut older = draining(address, ANSWER.min(timeout / 2));
    let left = timeout.saturating_sub(started.elapsed());
    let (answer, answered) = channel();
    let asked = address.clone();
    std::thread::spawn(move || {
        let _ = answer.send(control::request(&asked, Request::Stop, Some(left)));
    });
    let progress = Progress::new(options.json);
    let result = loop {
        progress.waiting("the server finishes its connections");
        match answered.recv_timeout(REDRAW) {
            Ok(result) => break result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                break Err(Error::Canceled("the request ended without an answer".into()));
            }
        }
    };
    drop(progress);
    result.map_err(|error| failed(error, started.elapsed()))?;
    older.retain(|(_, pidfd)| !ended(pidfd.as_fd(), Duration::ZERO));
    stopped(&older, started.elapsed(), options.json);
    Ok(())
}

/// None where the server does not say so: it is stopped all the same.
fn draining(address: &Address, patience: Duration) -> Vec<Older> {
    let Ok((_, report)) = status(address, patience) else { return Vec::new() };
    let held = |one: Drainer| {
        let pidfd = pidfd_open(Pid::from_raw(one.pid)).ok()?;
        Some((one, pidfd))
    };
    report.draining.into_iter().filter_map(held).collect()
}

fn failed(error: Error, waited: Duration) -> Failed {
    match error {
        Error::TimedOut => {
            let waited = time(waited);
            let text = format!(
                "the server was asked to stop and is still there after {waited}; the stop goes on until its connections \
                 have ended, or its drain time-out has passed"
            );
            Failed::new(Exit::TimedOut, text)
        }
        // It stops, in another pid namespace.
        error if error.errno() == Errno::ESRCH => Failed::new(Exit::Unknown, error.to_string()),
        error => error.into(),
    }
}

fn stopped(older: &[Older], took: Duration, as_json: bool) {
    if as_json {
        let draining: Vec<Value> =
            older.iter().map(|(one, _)| json!({ "generation": one.generation, "pid": one.pid })).collect();
        let seconds = took.as_millis() as f64 / 1_000.0;
        let object =
            json!({ "result": "stopped", "exit_status": 0, "seconds": seconds, "draining": draining });
        return output::tell(&object.to_string());
    }
    let pids: Vec<String> = older.iter().map(|(one, _)| one.pid.to_string()).collect();
    let rest = match pids.len() {
        0 => String::new(),
        1 => format!("; an older generation goes on draining: pid {}", pids[0]),
        _ => format!("; older generations go on draining: pids {}", pids.join(", ")),
    };
    output::tell(&format!("stopped in {}{rest}", time(took)));
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
        output::tell(&json!({ "result": what, "exit_status": 0, "seconds": seconds }).to_string());
    } else {
        output::tell(&format!("{what} in {}", time(took)));
    }
}
