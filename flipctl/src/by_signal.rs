//! Upgrade, stop and detach where all that is known is a pid file: a signal asks, and process and pid file are
//! followed. The generation that was released writes the pid file, so that another number in it is proof enough, unless
//! that process was started once the old one had ended: that was a supervisor.

use crate::args::Options;
use crate::exit::{Exit, Failed};
use crate::output;
use crate::pid_file::{Running, ticks_now};
use crate::progress::Progress;
use crate::stop::{PATIENCE, told};
use crate::words::time;
use nix::sys::signal::Signal;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two looks at the pid file; the end of the process is seen at once.
const LOOK: Duration = Duration::from_millis(50);

/// A successor whose predecessor has died takes over by itself, and then writes the pid file.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// Sends the signal, and waits until the pid file names another process that lives.
pub fn upgrade(path: &Path, signal: Signal, options: &Options) -> Result<(), Failed> {
    let started = Instant::now();
    let end = started + options.timeout.unwrap_or(PATIENCE);
    let old = Running::find(path)?;
    old.signal(signal, false)?;
    let progress = Progress::new(options.json);
    let mut gone: Option<(Instant, u64)> = None;
    loop {
        // Before the look at the file: who is found in it then was not started since.
        if gone.is_none() && old.ended(Duration::ZERO) {
            gone = Some((Instant::now(), ticks_now()));
        }
        // Whatever is wrong with the file now may be right the next time: it is being replaced.
        if let Ok(new) = Running::find(path)
            && new.pid != old.pid
            && !new.ended(Duration::ZERO)
        {
            drop(progress);
            // Not within one tick, in which a quick server is replaced and gone.
            if let Some((gone, _)) = gone.filter(|(_, ticks)| new.started > *ticks) {
                return Err(Failed::new(
                    Exit::Unknown,
                    format!(
                        "result unknown: process {} ended {} after it was sent {signal}, and process {}, which the pid \
                         file {} names now, was started after that, as by a supervisor",
                        old.pid,
                        time(gone - started),
                        new.pid,
                        path.display()
                    ),
                ));
            }
            succeeded(new.pid, started.elapsed(), options.json);
            return Ok(());
        }
        let now = Instant::now();
        if let Some((gone, _)) = gone.filter(|(gone, _)| now >= *gone + TAKE_OVER) {
            return Err(Failed::new(
                Exit::Unknown,
                format!(
                    "process {} ended {} after {signal}, and the pid file {} names no successor: it stopped, or its \
                     successor writes none",
                    old.pid,
                    time(gone - started),
                    path.display()
                ),
            ));
        }
        if now >= end {
            return Err(Failed::new(
                Exit::Unknown,
                format!(
                    "result unknown: process {} was sent {signal}, and after {} the pid file {} names no other; its \
                     log says why (a server with a control socket would)",
                    old.pid,
                    time(now - started),
                    path.display()
                ),
            ));
        }
        progress
            .waiting(&format!("process {} was sent {signal}; the pid file names no successor yet", old.pid));
        let pause = LOOK.min(end.saturating_duration_since(now));
        if gone.is_some() {
            std::thread::sleep(pause);
        } else {
            old.ended(pause);
        }
    }
}

fn succeeded(pid: i32, took: Duration, as_json: bool) {
    if as_json {
        let seconds = took.as_millis() as f64 / 1_000.0;
        let object = json!({ "result": "upgraded", "exit_status": 0, "pid": pid, "seconds": seconds });
        output::tell(&object.to_string());
    } else {
        output::tell(&format!("upgraded in {}: pid {pid} serves", time(took)));
    }
}

/// Sends the signal, and waits until the process is gone.
pub fn stop(path: &Path, signal: Signal, options: &Options) -> Result<(), Failed> {
    let started = Instant::now();
    let timeout = options.timeout.unwrap_or(PATIENCE);
    let running = Running::find(path)?;
    running.signal(signal, true)?;
    let progress = Progress::new(options.json);
    while !running.ended(LOOK.min(timeout.saturating_sub(started.elapsed()))) {
        if started.elapsed() >= timeout {
            let (pid, waited) = (running.pid, time(started.elapsed()));
            let text = format!("process {pid} was sent {signal} and is still there after {waited}");
            return Err(Failed::new(Exit::TimedOut, text));
        }
        progress.waiting(&format!("process {} was sent {signal} and finishes its connections", running.pid));
    }
    drop(progress);
    told("stopped", started.elapsed(), options.json);
    Ok(())
}

/// Sends the signal; nothing that can be seen from outside follows.
pub fn detach(path: &Path, signal: Option<Signal>) -> Result<(), Failed> {
    let Some(signal) = signal else {
        let text = "no signal detaches a server by default: give --signal, or --socket instead of --pid-file";
        return Err(Failed::new(Exit::Usage, text));
    };
    Running::find(path)?.signal(signal, false)?;
    let text = format!("{signal} was sent; whether it detached cannot be seen without its control socket");
    Err(Failed::new(Exit::Unknown, text))
}
