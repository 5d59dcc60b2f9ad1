//! What this process tells about itself, as one line of JSON: `flip_status`, and `status` on the control socket. The
//! keys are described in `docs/control.md`; they are added to and never change their meaning.

use super::Supervisor;
use super::history::{Record, Spent};
use crate::channel::Process;
use crate::drain::CONNECTIONS;
use crate::flip::lock;
use crate::pid_file::PidFile;
use crate::registry::Listed;
use crate::startup::variable;
use crate::sys::fd;
use crate::upgrade::{Request, State};
use serde_json::{Value, json};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

impl Supervisor {
    /// The line, without its end.
    pub(super) fn status(&mut self) -> String {
        // A thread of the host may hold it while it waits for the lock of a unix path.
        if let Ok(registry) = self.inner.registry.try_lock() {
            self.listed = registry.listed();
        }
        let uptime = self.start_time().ok().and_then(fd::age);
        let inner = &self.inner;
        let startup = &inner.startup;
        let (command, directory) = lock(&inner.overrides).next(startup);
        let executable = command.as_ref().map(|command| text(command.executable.as_bytes()));
        let arguments: Vec<String> =
            command.iter().flat_map(|command| &command.arguments).map(|one| text(one.as_bytes())).collect();
        let (listeners, descriptors): (Vec<&Listed>, Vec<&Listed>) =
            self.listed.iter().partition(|listed| listed.listener);
        let draining = matches!(self.machine.state(), State::Draining { .. });
        let value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "generation": inner.generation,
            "pid": std::process::id(),
            "state": self.state_name(),
            "uptime_ms": uptime.map_or(0, ms),
            "executable": executable,
            "arguments": arguments,
            "directory": directory.as_ref().map(|path| text(path.as_bytes())),
            "signals": self.signals(),
            "connections": CONNECTIONS.count(),
            "listeners": listeners.iter().map(|one| listener(one)).collect::<Vec<_>>(),
            "descriptors": descriptors.iter().map(|one| json!({ "name": text(&one.name) })).collect::<Vec<_>>(),
            "pid_file": inner.config.pid_file.as_ref().map(|path| text(path.as_os_str().as_bytes())),
            "pid_file_error": inner.pid_file.as_ref().and_then(PidFile::problem),
            "control_socket": self.control.sockets.address().map(|address| address.endpoint.to_string()),
            "predecessor": self.predecessor_status(),
            "draining": self.draining_status(),
            "upgrade": self.upgrade_status(),
            "upgrade_remembered": self.machine.remembers(),
            "last_upgrade": self.history.last.as_ref().map(last),
            "drain_ms_left": draining.then(|| ms(inner.drain_left())),
            "notify": variable(&startup.environment, b"NOTIFY_SOCKET").is_some(),
            "notify_stuck": self.systemd.announcement_is_stuck(),
        });
        value.to_string()
    }

    fn state_name(&self) -> &'static str {
        match self.machine.state() {
            State::Starting(_) => "starting",
            State::Live => "live",
            State::Ready => "ready",
            State::Upgrading(_) => "upgrading",
            State::Detached => "detached",
            State::Draining { .. } | State::Freed => "draining",
        }
    }

    /// By request, those that this process handles.
    fn signals(&self) -> Value {
        let of = |request: Request| -> Vec<String> {
            let bindings = self.inner.config.signals.iter().filter(|binding| binding.request == request);
            let handled = bindings.filter(|binding| binding.applies(self.inner.startup.signals.ignored));
            handled.map(|binding| signal_name(binding.signal)).collect()
        };
        json!({
            "upgrade": of(Request::Upgrade),
            "stop": of(Request::Stop),
            "detach": of(Request::Detach),
        })
    }

    fn predecessor_status(&self) -> Value {
        match &self.ancestor {
            None => Value::Null,
            Some(pid) => json!({ "pid": pid, "alive": self.predecessor.is_some() }),
        }
    }

    fn draining_status(&self) -> Vec<Value> {
        let predecessor = self.predecessor.as_ref().filter(|_| self.machine.predecessor_drains());
        let all = self.drainers.iter().chain(predecessor.map(super::Predecessor::process));
        let one = |process: &Process| {
            let age = fd::age(process.start).map(ms);
            json!({ "generation": process.generation, "pid": process.pid, "age_ms": age })
        };
        all.map(one).collect()
    }

    fn upgrade_status(&self) -> Value {
        let Some(current) = &self.history.current else { return Value::Null };
        let Some((phase, since)) = current.phase() else { return Value::Null };
        let deadline = (!self.machine.has_committed())
            .then(|| ms(self.upgrade_deadline.saturating_duration_since(Instant::now())));
        json!({
            "phase": phase,
            "phase_ms": ms(since.elapsed()),
            "elapsed_ms": current.began().map(|began| ms(began.elapsed())),
            "deadline_ms": deadline,
            "successor_pid": self.started,
            "phases": phases(&current.spent()),
        })
    }
}

fn listener(listed: &Listed) -> Value {
    json!({
        "name": text(&listed.name),
        "address": listed.address,
        "inode": listed.inode,
        "keep": listed.keep,
    })
}

fn last(record: &Record) -> Value {
    json!({
        "result": if record.failure.is_none() { "released" } else { "failed" },
        "failure": record.failure.map(|failure| failure.name()),
        "kind": record.failure.map_or(0, |failure| failure as i32),
        "text": record.text,
        "successor_pid": record.successor,
        "ended_ms_ago": ms(record.ended.elapsed()),
        "phases": phases(&record.phases),
    })
}

fn phases(spent: &[Spent]) -> Vec<Value> {
    spent.iter().map(|(phase, time)| json!({ "phase": phase, "ms": ms(*time) })).collect()
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Names and paths are bytes, JSON is UTF-8: what is not becomes %XX.
fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

fn signal_name(signal: i32) -> String {
    let first = libc::SIGRTMIN();
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(known) => known.as_str().to_string(),
        Err(_) => format!("SIGRTMIN+{}", signal - first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_text_that_says_what_they_were() {
        assert_eq!(text(b"/srv/100%"), "/srv/100%");
        assert_eq!(text("ä".as_bytes()), "ä");
        assert_eq!(text(b"\xff:a\xc3"), "%FF:a%C3");
    }

    #[test]
    fn every_signal_has_a_name() {
        assert_eq!(signal_name(libc::SIGUSR1), "SIGUSR1");
        assert_eq!(signal_name(libc::SIGRTMIN() + 3), "SIGRTMIN+3");
    }
}
