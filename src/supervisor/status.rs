//! What this process tells about itself, as one line of JSON: `flip_status`, and `status` on the control socket. The
//! keys are described in `docs/control.md`; they are added to and never change their meaning.

use super::Supervisor;
use super::history::{Record, Spent};
use super::json::{Json, Object};
use crate::channel::Process;
use crate::drain::CONNECTIONS;
use crate::flip::{lock, lock_within};
use crate::pid_file::PidFile;
use crate::registry::Listed;
use crate::startup::variable;
use crate::sys::fd;
use crate::upgrade::{Request, State};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// How long a status waits for the table of sockets.
const PATIENCE: Duration = Duration::from_millis(100);

impl Supervisor {
    /// The line, without its end.
    pub(super) fn status(&mut self) -> String {
        // A thread of the host may hold it, as a rule for some microseconds. What was last seen is better than no status.
        if let Some(registry) = lock_within(&self.inner.registry, PATIENCE) {
            self.listed = registry.listed();
        }
        let uptime = fd::age(self.start_time());
        let inner = &self.inner;
        let startup = &inner.startup;
        let (command, directory) = lock(&inner.overrides).next(startup);
        let executable = command.as_ref().map(|command| text(command.executable.as_bytes()));
        let arguments: Vec<String> =
            command.iter().flat_map(|command| &command.arguments).map(|one| text(one.as_bytes())).collect();
        let (listeners, descriptors): (Vec<&Listed>, Vec<&Listed>) =
            self.listed.iter().partition(|listed| listed.listener);
        let draining = matches!(self.machine.state(), State::Draining { .. });
        // By the alphabet: a reader of old finds them where they were.
        let mut out = Object::default();
        out.put("arguments", list(arguments));
        out.put("connections", CONNECTIONS.count());
        out.put("control_socket", self.control.sockets.address().map(|address| address.endpoint.to_string()));
        out.put("descriptors", list(descriptors.iter().map(|one| descriptor(one))));
        out.put("directory", directory.as_ref().map(|path| text(path.as_bytes())));
        out.put("drain_ms_left", draining.then(|| ms(inner.drain_left())));
        out.put("draining", self.draining_status());
        out.put("executable", executable);
        out.put("generation", inner.generation);
        out.put("last_upgrade", self.history.last.as_ref().map(last));
        out.put("listeners", list(listeners.iter().map(|one| listener(one))));
        out.put("notify", variable(&startup.environment, b"NOTIFY_SOCKET").is_some());
        out.put("notify_stuck", self.systemd.announcement_is_stuck());
        out.put("pid", std::process::id());
        out.put("pid_file", inner.config.pid_file.as_ref().map(|path| text(path.as_os_str().as_bytes())));
        out.put("pid_file_error", inner.pid_file.as_ref().and_then(PidFile::problem));
        out.put("predecessor", self.predecessor_status());
        out.put("signals", self.signals());
        out.put("state", self.state_name());
        out.put("upgrade", self.upgrade_status());
        out.put("upgrade_remembered", self.machine.remembers());
        out.put("uptime_ms", uptime.map_or(0, ms));
        out.put("version", env!("CARGO_PKG_VERSION"));
        out.line()
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
    fn signals(&self) -> Object {
        let of = |request: Request| {
            let bindings = self.inner.config.signals.iter().filter(|binding| binding.request == request);
            let handled = bindings.filter(|binding| binding.applies(self.inner.startup.signals.ignored));
            list(handled.map(|binding| signal_name(binding.signal)))
        };
        let mut out = Object::default();
        out.put("detach", of(Request::Detach));
        out.put("stop", of(Request::Stop));
        out.put("upgrade", of(Request::Upgrade));
        out
    }

    fn predecessor_status(&self) -> Option<Object> {
        let pid = self.ancestor?;
        let mut out = Object::default();
        out.put("alive", self.predecessor.is_some());
        out.put("pid", pid);
        Some(out)
    }

    fn draining_status(&self) -> Json {
        let predecessor = self.predecessor.as_ref().filter(|_| self.machine.predecessor_drains());
        let all = self.drainers.iter().chain(predecessor.map(super::Predecessor::process));
        list(all.map(drainer))
    }

    fn upgrade_status(&self) -> Option<Object> {
        let current = self.history.current.as_ref()?;
        let (phase, since) = current.phase()?;
        let deadline = (!self.machine.has_committed())
            .then(|| ms(self.upgrade_deadline.saturating_duration_since(Instant::now())));
        let mut out = Object::default();
        out.put("deadline_ms", deadline);
        out.put("elapsed_ms", current.began().map(|began| ms(began.elapsed())));
        out.put("phase", phase);
        out.put("phase_ms", ms(since.elapsed()));
        out.put("phases", phases(&current.spent()));
        out.put("successor_pid", self.started.map(i32::unsigned_abs));
        Some(out)
    }
}

fn list<T: Into<Json>>(all: impl IntoIterator<Item = T>) -> Json {
    Json::List(all.into_iter().map(T::into).collect())
}

fn listener(listed: &Listed) -> Object {
    let mut out = Object::default();
    out.put("address", listed.address.clone());
    out.put("inode", listed.inode);
    out.put("keep", listed.keep);
    out.put("name", text(&listed.name));
    out
}

fn descriptor(listed: &Listed) -> Object {
    let mut out = Object::default();
    out.put("name", text(&listed.name));
    out
}

fn drainer(process: &Process) -> Object {
    let mut out = Object::default();
    out.put("age_ms", fd::age(process.start).map(ms));
    out.put("generation", process.generation);
    out.put("pid", process.pid);
    out
}

fn last(record: &Record) -> Object {
    let mut out = Object::default();
    out.put("ended_ms_ago", ms(record.ended.elapsed()));
    out.put("failure", record.failure.map(|failure| failure.name()));
    out.put("kind", record.failure.map_or(0, |failure| failure as u32));
    out.put("phases", phases(&record.phases));
    out.put("result", if record.failure.is_none() { "released" } else { "failed" });
    out.put("successor_pid", record.successor.map(i32::unsigned_abs));
    out.put("text", &*record.text);
    out
}

fn phases(spent: &[Spent]) -> Json {
    list(spent.iter().map(|(phase, time)| {
        let mut out = Object::default();
        out.put("ms", ms(*time));
        out.put("phase", &**phase);
        out
    }))
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
