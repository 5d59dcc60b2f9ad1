//! The exit statuses, written once: what the code ends with, what the manual page and `docs/flipctl.md` list. A test
//! compares them.

use nix::errno::Errno;
use shellflip::error::{Error, Failure};

/// What flipctl ends with. The numbers are part of its interface and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done.
    Done,
    /// Something else went wrong.
    Error,
    /// The command line makes no sense; clap's own number.
    Usage,
    /// Nobody is there.
    Unreachable,
    /// Somebody is there and we may not ask.
    Denied,
    /// The operator's own time-out.
    TimedOut,
    /// Asked, and nobody could say what came of it.
    Unknown,
    /// The doctor has findings.
    Findings,
    /// The upgrade failed, or was refused.
    Failed(Failure),
}

/// Failures start here, so that `FLIP_FAILURE_*` is the exit status minus this.
const FAILURES_FROM: u8 = 10;

/// Every exit status and what it means.
pub const TABLE: [(Exit, &str); 21] = [
    (Exit::Done, "Done. For upgrade: the new process was seen serving. For doctor: nothing was found."),
    (Exit::Error, "Anything that no other status stands for."),
    (Exit::Usage, "The command line makes no sense."),
    (
        Exit::Unreachable,
        "No server: nobody listens on the socket, or no process has the pid of the pid file.",
    ),
    (
        Exit::Denied,
        "Permission denied, by the control socket or for sending a signal; or others may have written the pid file.",
    ),
    (
        Exit::TimedOut,
        "The time-out of --timeout passed, or the server stopped answering; what was asked goes on.",
    ),
    (Exit::Unknown, "Result unknown: it was asked for, and nobody could say what came of it."),
    (Exit::Findings, "doctor found something."),
    (Exit::Failed(Failure::Spawn), "The new program could not be started."),
    (
        Exit::Failed(Failure::Exited),
        "The new process exited before it was ready, or before its probation was over.",
    ),
    (
        Exit::Failed(Failure::Signalled),
        "The new process was ended by a signal before it was ready, or before its probation was over.",
    ),
    (Exit::Failed(Failure::Deadline), "The new process was not ready by the upgrade deadline."),
    (Exit::Failed(Failure::Refused), "The server refused to be replaced, or the new process gave up."),
    (Exit::Failed(Failure::State), "The state could not be handed over."),
    (Exit::Failed(Failure::Protocol), "One of the two processes broke the protocol."),
    (Exit::Failed(Failure::NotReady), "The server is not ready itself yet."),
    (Exit::Failed(Failure::InProgress), "Another upgrade is under way."),
    (Exit::Failed(Failure::Draining), "Too many older generations still drain."),
    (Exit::Failed(Failure::Stopping), "The server is stopping, or detached."),
    (
        Exit::Failed(Failure::Unconfirmed),
        "The new process was told to serve and has not confirmed it; both run.",
    ),
    (Exit::Failed(Failure::Unsupported), "Upgrades cannot work where this server runs, as in process 1."),
];

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
            Exit::Denied => 4,
            Exit::TimedOut => 5,
            Exit::Unknown => 6,
            Exit::Findings => 7,
            Exit::Failed(failure) => FAILURES_FROM + failure as u8,
        }
    }

    /// How a command that ended so went, for `--json`.
    pub fn word(self) -> &'static str {
        match self {
            Exit::Done | Exit::Findings => "done",
            Exit::Failed(_) => "failed",
            Exit::TimedOut => "timed out",
            Exit::Unknown => "unknown",
            Exit::Error | Exit::Usage | Exit::Unreachable | Exit::Denied => "error",
        }
    }
}

/// Why a command did not do what it was asked to, as one sentence, and the status that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The status.
    pub exit: Exit,
    /// For the operator.
    pub text: String,
    /// What `--json` prints has been printed.
    pub told: bool,
}

impl Failed {
    /// That status with that sentence.
    pub fn new(exit: Exit, text: impl Into<String>) -> Failed {
        Failed { exit, text: text.into(), told: false }
    }

    /// The same once `--json` has been served.
    pub fn told(self) -> Failed {
        Failed { told: true, ..self }
    }

    /// What `--json` prints where nothing more is known.
    pub fn as_json(&self) -> serde_json::Value {
        serde_json::json!({ "result": self.exit.word(), "exit_status": self.exit.code(), "text": self.text })
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        let exit = match (&error, error.errno()) {
            (Error::Upgrade { failure, .. }, _) if *failure != Failure::None => Exit::Failed(*failure),
            (Error::TimedOut, _) => Exit::TimedOut,
            (Error::Invalid(_), _) => Exit::Usage,
            (_, Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTSOCK | Errno::ENOTDIR) => Exit::Unreachable,
            (_, Errno::EACCES | Errno::EPERM) => Exit::Denied,
            _ => Exit::Error,
        };
        let text = match error {
            Error::TimedOut => {
                "the server has not answered in time (--timeout); what was asked goes on".into()
            }
            error => error.to_string(),
        };
        Failed::new(exit, text)
    }
}

/// The table as rows for people.
pub fn rows() -> impl Iterator<Item = (u8, &'static str)> {
    TABLE.iter().map(|(exit, meaning)| (exit.code(), *meaning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_status_of_its_own() {
        let codes: Vec<u8> = rows().map(|(code, _)| code).collect();
        assert_eq!(codes, [(0..=7).collect::<Vec<u8>>(), (11..=23).collect()].concat());
    }

    #[test]
    fn the_documentation_lists_the_same() {
        let documented: Vec<(u8, String)> = include_str!("../../docs/flipctl.md")
            .lines()
            .skip_while(|line| *line != "## Exit status")
            .skip(1)
            .take_while(|line| !line.starts_with("## "))
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.splitn(2, " | ");
                Some((cells.next()?.parse().ok()?, cells.next()?.to_string()))
            })
            .collect();
        let here: Vec<(u8, String)> = rows().map(|(code, meaning)| (code, meaning.to_string())).collect();
        assert_eq!(documented, here);
    }
}
