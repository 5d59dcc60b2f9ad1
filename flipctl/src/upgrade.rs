//! `flipctl upgrade` over the control socket. The request waits on a thread of its own; meanwhile the server's status is
//! asked for again and again: it says what is waited for, and is the proof that the server is still there. The line
//! at the end comes from the request alone, except where its answer was lost.

use crate::args::Options;
use crate::connect::{ANSWER, status};
use crate::exit::{Exit, Failed};
use crate::output;
use crate::process::{ended, shares_our_numbers};
use crate::progress::Progress;
use crate::report::{LastUpgrade, Phase, Report, Upgrade};
use crate::words::{milliseconds, phase, phase_time, time};
use nix::errno::Errno;
use nix::unistd::Pid;
use serde_json::{Value, json};
use shellflip::address::Address;
use shellflip::control::{self, Request};
use shellflip::error::{Error, Failure};
use shellflip::sys::process::pidfd_open;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Between two looks at the status, for somebody who watches.
const OFTEN: Duration = Duration::from_millis(200);
/// The same where nobody does.
const SELDOM: Duration = Duration::from_secs(1);
/// A process that ends has closed its sockets a moment before it counts as gone.
const LEAVING: Duration = Duration::from_secs(1);
/// A server that has said nothing for so long, neither status nor result, is not waited for.
const SILENCE: Duration = Duration::from_secs(30);

/// Asks, waits, and tells.
pub fn run(address: &Address, options: &Options) -> Result<(), Failed> {
    let started = Instant::now();
    let end = options.timeout.map(|timeout| started + timeout);
    let (_, before) = status(address, options.timeout.unwrap_or(ANSWER).min(ANSWER))?;
    let here = shares_our_numbers(&before);
    let result = wait(address, request(address.clone()), end, options);
    let outcome = match result {
        Ok(pid) => look(address, &before, here, pid),
        Err(Ended::Failed(error)) if is_answer(&error) => Err(explain(address, &before, error)),
        Err(Ended::Failed(error)) => search(address, &before, end, &error),
        Err(Ended::TimedOut(text)) => Err(Story::from(Failed::new(Exit::TimedOut, text))),
    };
    tell(outcome, &before, started.elapsed(), options.json)
}

struct Done {
    pid: i32,
    generation: u64,
}

/// Why it failed, and what is known besides.
struct Story {
    failed: Failed,
    failure: Failure,
    phase: Option<Phase>,
    /// Generation and pid of the one that has been seen to serve after it.
    serves: Option<(u64, i32)>,
}

impl From<Failed> for Story {
    fn from(failed: Failed) -> Story {
        Story { failed, failure: Failure::None, phase: None, serves: None }
    }
}

enum Ended {
    Failed(Error),
    TimedOut(String),
}

/// The new process, which the server says has taken over. `here`: its number is ours, too.
fn look(address: &Address, before: &Report, here: bool, pid: i32) -> Result<Done, Story> {
    // Another upgrade may have come between our look at the server and our request.
    let done = |generation| Ok(Done { pid, generation });
    let next = before.generation + 1;
    let unseen = match status(address, ANSWER) {
        Ok((_, report)) if report.pid == pid => return done(report.generation),
        // Or since.
        Ok((_, report)) if report.generation > next => return done(next),
        Ok((_, report)) => format!("process {} answers now", report.pid),
        Err(failed) => failed.text,
    };
    if here && is_gone(pid) {
        let text = format!("process {pid} took over and has ended since ({unseen})");
        return Err(Failed::new(Exit::Unknown, text).into());
    }
    done(next)
}

fn is_gone(pid: i32) -> bool {
    match pidfd_open(Pid::from_raw(pid)) {
        Ok(pidfd) => ended(pidfd.as_fd(), LEAVING),
        Err(errno) => errno == Errno::ESRCH,
    }
}

fn request(address: Address) -> Receiver<Result<i32, Error>> {
    let (answer, answered) = channel();
    std::thread::spawn(move || {
        let result = control::request(&address, Request::Upgrade, None);
        let no_pid = || Error::Protocol("the answer to an upgrade has no pid".into());
        let _ = answer.send(result.and_then(|pid| pid.ok_or_else(no_pid)));
    });
    answered
}

/// Until there is a result, the operator's time is over, or the server is silent.
fn wait(
    address: &Address,
    answered: Receiver<Result<i32, Error>>,
    end: Option<Instant>,
    options: &Options,
) -> Result<i32, Ended> {
    let progress = Progress::new(options.json);
    let pause = if progress.shown() { OFTEN } else { SELDOM };
    let mut heard = Instant::now();
    let mut last = "the upgrade has been asked for".to_string();
    progress.waiting(&last);
    loop {
        let left = end.map_or(pause, |end| end.saturating_duration_since(Instant::now()).min(pause));
        match answered.recv_timeout(left) {
            Ok(result) => return result.map_err(Ended::Failed),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Ended::Failed(Error::Canceled("the request ended without an answer".into())));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            let text = format!("no result by the end of --timeout; the upgrade goes on: {last}");
            return Err(Ended::TimedOut(text));
        }
        let patience = end.map_or(ANSWER, |end| end.saturating_duration_since(Instant::now()).min(ANSWER));
        if let Ok((_, report)) = status(address, patience.max(Duration::from_millis(1))) {
            heard = Instant::now();
            if let Some(upgrade) = &report.upgrade {
                last = describe(upgrade);
            }
        }
        if heard.elapsed() > SILENCE {
            let text = format!(
                "the server has said nothing for {}, and may still upgrade; the last that it said: {last}",
                time(heard.elapsed())
            );
            return Err(Ended::TimedOut(text));
        }
        progress.waiting(&last);
    }
}

/// `waiting until the new process is ready (pid 4711), for 3.2 s, deadline in 57 s`.
pub fn describe(upgrade: &Upgrade) -> String {
    let who = upgrade.successor_pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
    let deadline =
        upgrade.deadline_ms.map_or(String::new(), |ms| format!(", deadline in {}", milliseconds(ms)));
    format!("{}{who}, for {}{deadline}", phase(&upgrade.phase), milliseconds(upgrade.phase_ms))
}

/// The server's word on the upgrade, or nobody to ask any more; not a connection that ended after the request.
fn is_answer(error: &Error) -> bool {
    error.failure() != Failure::None || !matches!(error.errno(), Errno::ECONNRESET | Errno::ECANCELED)
}

/// A failure in the server's words, and the phase in which it came.
fn explain(address: &Address, before: &Report, error: Error) -> Story {
    let failure = error.failure();
    let mut story = Story { failed: error.into(), failure, phase: None, serves: None };
    let Ok((_, after)) = status(address, ANSWER) else { return story };
    story.serves = after.serves().then_some((after.generation, after.pid));
    match failure {
        Failure::InProgress => {
            if let Some(upgrade) = &after.upgrade {
                story.failed.text += &format!(" ({})", describe(upgrade));
            }
        }
        Failure::NotReady | Failure::Draining | Failure::Stopping | Failure::Unsupported => {}
        _ if after.pid == before.pid => {
            let last = after.last_upgrade.as_ref().filter(|last| last.kind == failure as i32);
            story.phase = last.and_then(LastUpgrade::failed_in).cloned();
        }
        _ => {}
    }
    story
}

/// The connection ended without a result: the server may have died, and its successor serve.
fn search(address: &Address, before: &Report, end: Option<Instant>, lost: &Error) -> Result<Done, Story> {
    let until = Instant::now() + ANSWER;
    let until = end.map_or(until, |end| end.min(until));
    loop {
        if let Ok((_, after)) = status(address, ANSWER)
            && after.pid != before.pid
            && after.generation > before.generation
            && after.serves()
        {
            return Ok(Done { pid: after.pid, generation: after.generation });
        }
        if Instant::now() >= until {
            let text = format!("the answer was lost ({lost}), and no new process has been seen to serve");
            return Err(Failed::new(Exit::Unknown, text).into());
        }
        std::thread::sleep(OFTEN);
    }
}

fn tell(outcome: Result<Done, Story>, before: &Report, took: Duration, as_json: bool) -> Result<(), Failed> {
    if as_json {
        output::tell(&as_value(&outcome, before, took).to_string());
    }
    match outcome {
        Ok(done) => {
            if !as_json {
                let (generation, pid) = (done.generation, done.pid);
                output::tell(&format!(
                    "upgraded in {}: generation {generation}, pid {pid}, serves",
                    time(took)
                ));
            }
            Ok(())
        }
        Err(story) => {
            let during = story.phase.map_or(String::new(), |one| {
                format!("; phase: {} ({}), {}", one.phase, phase(&one.phase), phase_time(one.ms))
            });
            let text = match story.failed.exit {
                Exit::Failed(_) => {
                    let serves = story.serves.map_or(String::new(), |(generation, pid)| {
                        format!("; generation {generation}, pid {pid}, serves on")
                    });
                    format!("upgrade failed: {}{during}{serves}", story.failed.text)
                }
                _ => story.failed.text,
            };
            let failed = Failed::new(story.failed.exit, text);
            Err(if as_json { failed.told() } else { failed })
        }
    }
}

fn as_value(outcome: &Result<Done, Story>, before: &Report, took: Duration) -> Value {
    let seconds = took.as_millis() as f64 / 1_000.0;
    match outcome {
        Ok(done) => json!({
            "result": "upgraded", "exit_status": Exit::Done.code(), "pid": done.pid,
            "generation": done.generation, "seconds": seconds,
        }),
        Err(story) => json!({
            "result": story.failed.exit.word(),
            "exit_status": story.failed.exit.code(), "failure": story.failure as i32, "text": story.failed.text,
            "phase": story.phase.as_ref().map(|one| &one.phase),
            "phase_ms": story.phase.as_ref().map(|one| one.ms),
            "pid": before.pid, "generation": before.generation, "seconds": seconds,
        }),
    }
}
