//! `flipctl doctor`: looks at a running server from outside and says what would go wrong with the next upgrade, what
//! would happen then, and what to do. Each group of findings is a file; each gets the [`Subject`] and adds to the
//! [`Examination`]. Nothing is changed, nobody is signalled.

mod descriptors;
mod elf;
mod executable;
mod memory;
mod program;
mod root;
mod signals;
mod sockets;
mod supervisor;
mod systemctl;
mod unit;

use crate::args::{Doctor, Options, signal};
use crate::connect::{ANSWER, Server, status};
use crate::exit::{Exit, Failed};
use crate::output;
use crate::pid_file::Running;
use crate::process::is_as_old;
use crate::report::Report;
use crate::words::harmless;
use anstyle::{AnsiColor, Style};
use nix::sys::signal::Signal;
use procfs::process::{FDTarget, Process};
use serde::Serialize;
use serde_json::json;

/// Every finding there is, by its code.
pub const CODES: [(&str, &str); 19] = [
    ("process-1", "The server is process 1 of its container: its end is the container's end."),
    (
        "secure-execution",
        "The program has file capabilities or set-user-id, and believes nobody who starts it.",
    ),
    ("executable-gone", "The file that the next upgrade runs is not there, or cannot be executed."),
    ("directory-gone", "The directory in which the next upgrade starts is not there."),
    ("pid-file", "The server could not write its pid file."),
    ("socket-not-registered", "A listening socket that is not passed on: the new process gets EADDRINUSE."),
    ("descriptors-near-limit", "Few descriptors are left below the limit."),
    ("memory-short", "The memory limit has no room for a second process of this size beside the first."),
    ("signal-without-handler", "The signal that is to upgrade the server is not handled by it."),
    ("signal-blocked", "The signal that is to upgrade the server is blocked in all its threads."),
    ("supervisor-ends", "The supervisor ends when the server's first process does."),
    ("supervisor-restarts", "The supervisor starts a second server when the first process ends."),
    (
        "unit-type",
        "systemd is not told about the new process: neither Type= nor NotifyAccess= says that it listens.",
    ),
    ("unit-notify-access", "systemd ignores or over-hears the server: NotifyAccess= is not main."),
    ("unit-not-notified", "The unit expects messages, and the server has no socket to send them to."),
    ("unit-kill-mode", "A stop of the unit kills processes that drain, or leaves some behind: KillMode=."),
    ("unit-pid-file", "systemd goes by a pid file, and may take the old process for the new: PIDFile=."),
    ("unit-reload-signal", "A reload of the unit sends a signal that does not upgrade the server."),
    ("unit-main-process", "The main process of the unit is another one, and the unit ends with it."),
];

/// Something that would go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// One of [`CODES`].
    pub code: &'static str,
    /// What is wrong.
    pub what: String,
    /// What would happen.
    pub then: String,
    /// What to do.
    pub remedy: String,
}

/// Something that could not be looked at, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// What.
    pub what: &'static str,
    /// Why not.
    pub why: String,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Examination {
    /// What would go wrong.
    pub findings: Vec<Finding>,
    /// What nobody looked at.
    pub unseen: Vec<Unseen>,
}

/// The server that is looked at.
pub struct Subject {
    /// The process; held, so that its number cannot become another's.
    pub process: Process,
    /// What it says of itself, where it has a control socket.
    pub report: Option<Report>,
    /// What the operator says of it.
    pub told: Doctor,
}

impl Examination {
    /// One more finding.
    pub fn found(
        &mut self,
        code: &'static str,
        what: impl Into<String>,
        then: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        debug_assert!(CODES.iter().any(|(known, _)| *known == code), "{code}");
        self.findings.push(Finding { code, what: what.into(), then: then.into(), remedy: remedy.into() });
    }

    /// `what` was not looked at.
    pub fn unseen(&mut self, what: &'static str, why: impl ToString) {
        self.unseen.push(Unseen { what, why: why.to_string() });
    }
}

impl Subject {
    fn of(server: &Server, told: &Doctor, options: &Options) -> Result<Subject, Failed> {
        let (process, report) = match server {
            Server::Socket(address) => {
                let (_, report) = status(address, options.timeout.unwrap_or(ANSWER))?;
                (find(&report)?, Some(report))
            }
            Server::PidFile(path) => {
                let running = Running::find(path)?;
                let failed = |error| {
                    Failed::new(Exit::Unreachable, format!("cannot look at process {}: {error}", running.pid))
                };
                (Process::new(running.pid).map_err(failed)?, None)
            }
        };
        Ok(Subject { process, report, told: told.clone() })
    }

    /// Its number as seen from here.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The signals that are to upgrade it, and whether it said so itself.
    pub fn upgrade_signals(&self) -> (Vec<Signal>, bool) {
        match (&self.told.signal, &self.report) {
            (Some(told), _) => (vec![*told], false),
            (None, Some(report)) => {
                (report.signals.upgrade.iter().filter_map(|name| signal(name).ok()).collect(), true)
            }
            (None, None) => (vec![Signal::SIGUSR1], false),
        }
    }
}

/// The process that answered. What it calls its number is another process's here, where it lives in a container: so its
/// sockets tell, and where nobody's can be looked at, when it was started.
fn find(report: &Report) -> Result<Process, Failed> {
    let direct = Process::new(report.pid).ok();
    let others = procfs::process::all_processes().into_iter().flatten().flatten();
    let mut perhaps = None;
    for process in direct.into_iter().chain(others).filter(|process| calls_itself(process, report.pid)) {
        match is_server(&process, report) {
            Some(true) => return Ok(process),
            None if perhaps.is_none() && is_as_old(&process, report) => perhaps = Some(process),
            _ => {}
        }
    }
    perhaps.ok_or_else(|| {
        let text = format!(
            "the server says that it is process {}, and no process that has its sockets open can be seen from here by that \
             number: it is gone, or in a container, where doctor has to run as root or inside",
            report.pid
        );
        Failed::new(Exit::Unreachable, text)
    })
}

/// Its number in its own pid namespace is that one.
fn calls_itself(process: &Process, pid: i32) -> bool {
    let named = process.status().ok().and_then(|status| status.nspid?.last().copied());
    named.unwrap_or(process.pid()) == pid
}

/// It has a listener open that the server says it has. Nothing: there is none, or it may not be looked at.
fn is_server(process: &Process, report: &Report) -> Option<bool> {
    let inodes: Vec<u64> = report.listeners.iter().filter_map(|one| one.inode).collect();
    let mut sockets = process.fd().ok()?.flatten().filter_map(|fd| match fd.target {
        FDTarget::Socket(inode) => Some(inode),
        _ => None,
    });
    (!inodes.is_empty()).then(|| sockets.any(|inode| inodes.contains(&inode)))
}

/// Looks, and tells.
pub fn run(server: &Server, told: &Doctor, options: &Options) -> Result<Exit, Failed> {
    let subject = Subject::of(server, told, options)?;
    let examination = examine(&subject);
    if !subject.process.is_alive() {
        let text = format!("process {} ended while it was looked at", subject.pid());
        return Err(Failed::new(Exit::Unreachable, text));
    }
    if options.json {
        let object = json!({
            "pid": subject.pid(), "findings": examination.findings, "not_examined": examination.unseen,
        });
        output::print(&format!("{object}\n"))?;
    } else {
        output::print(&render(subject.pid(), &examination))?;
    }
    Ok(if examination.findings.is_empty() { Exit::Done } else { Exit::Findings })
}

fn examine(subject: &Subject) -> Examination {
    let mut examination = Examination::default();
    let groups: [fn(&Subject, &mut Examination); 7] = [
        program::examine,
        sockets::examine,
        descriptors::examine,
        memory::examine,
        signals::examine,
        supervisor::examine,
        unit::examine,
    ];
    for group in groups {
        group(subject, &mut examination);
    }
    examination
}

fn render(pid: i32, examination: &Examination) -> String {
    use std::fmt::Write;
    const BAD: Style = AnsiColor::Red.on_default().bold();
    const GOOD: Style = AnsiColor::Green.on_default();
    const DIM: Style = Style::new().dimmed();
    let mut text = String::new();
    for finding in &examination.findings {
        let (what, then, remedy) =
            (harmless(&finding.what), harmless(&finding.then), harmless(&finding.remedy));
        let _ = writeln!(text, "{BAD}{}{BAD:#}: {what}", finding.code);
        let _ = writeln!(text, "  then: {then}");
        let _ = writeln!(text, "  do:   {remedy}\n");
    }
    for unseen in &examination.unseen {
        let _ = writeln!(text, "{DIM}not examined: {}: {}{DIM:#}", unseen.what, harmless(&unseen.why));
    }
    let _ = match examination.findings.len() {
        0 => writeln!(text, "{GOOD}process {pid}: nothing found{GOOD:#}"),
        1 => writeln!(text, "process {pid}: 1 finding"),
        number => writeln!(text, "process {pid}: {number} findings"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented() {
        let documented: Vec<(&str, &str)> = include_str!("../../docs/flipctl.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
            .collect();
        assert_eq!(documented, CODES);
    }
}
