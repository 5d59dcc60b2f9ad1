//! Everything that can go wrong, as one enum: a sentence for the person who runs the server, one errno for C, and
//! for a failed upgrade the kind of failure that crosses the control socket and becomes flipctl's exit code.

use nix::errno::Errno;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call did not do what it was asked to do. The text is the whole sentence; [`Error::errno`] is what C sees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument, an address or an environment variable makes no sense (`EINVAL`).
    #[error("{0}")]
    Invalid(String),
    /// The kernel refused: what was tried, on what, and what came back (that errno).
    #[error("{what}: {}", explain(*errno))]
    System {
        /// What was tried, on what: `cannot listen on tcp://0.0.0.0:80`.
        what: String,
        /// What the kernel answered.
        errno: Errno,
    },
    /// Nothing of that name, or not yet (`ENOENT`).
    #[error("{0}")]
    NotFound(String),
    /// The other side, or the environment, does not keep to the protocol (`EPROTO`).
    #[error("{0}")]
    Protocol(String),
    /// It will not happen any more: the handle was freed, the process stops, or the predecessor gave up (`ECANCELED`).
    #[error("{0}")]
    Canceled(String),
    /// The caller's own `timeout_ms` passed; what was waited for goes on (`ETIMEDOUT`).
    #[error("the caller's time-out passed; what was waited for goes on")]
    TimedOut,
    /// A configured deadline passed (`ETIME`).
    #[error("{0}")]
    Deadline(String),
    /// A signal handler ran while the call waited; call again (`EINTR`).
    #[error("interrupted by a signal handler; call again")]
    Interrupted,
    /// One is enough: a second handle (`EBUSY`).
    #[error("{0}")]
    Busy(String),
    /// The handle was freed (`EBADF`).
    #[error("the handle was freed")]
    Freed,
    /// A forked child has its own connections and nothing else (`ECHILD`).
    #[error("{0} does not work in a forked child")]
    ForkedChild(&'static str),
    /// State that was promised by the predecessor is lost (`ECONNRESET`).
    #[error("{0}")]
    StateLost(String),
    /// An upgrade, or the request for one, failed: see [`Failure`] for its errno.
    #[error("{text}")]
    Upgrade {
        /// Which way it failed.
        failure: Failure,
        /// What C sees: that of the failure, but for a program that could not be started the kernel's.
        errno: Errno,
        /// The one line that the requester gets.
        text: String,
    },
    /// Another process refused what was asked of it over its control socket, for no reason that is an upgrade's (that
    /// errno).
    #[error("{text}")]
    Refused {
        /// What it answered.
        errno: Errno,
        /// Its sentence.
        text: String,
    },
    /// A defect of this library was caught before it could reach the host (`ENOTRECOVERABLE`).
    #[error("the handle is unusable since an internal error: {0}")]
    Poisoned(String),
}

/// How an upgrade failed. The numbers are part of the C interface and of the control protocol and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Failure {
    /// No upgrade of this thread has failed.
    None = 0,
    /// The new program could not be started.
    Spawn = 1,
    /// It exited before it was ready, or before its probation was over.
    Exited = 2,
    /// It was ended by a signal before it was ready, or before its probation was over.
    Signalled = 3,
    /// It was not ready by the upgrade deadline.
    Deadline = 4,
    /// A host refused: the old one in an event, or the new one by giving up.
    Refused = 5,
    /// The state could not be handed over.
    State = 6,
    /// The other side broke the protocol.
    Protocol = 7,
    /// This process is not ready itself yet.
    NotReady = 8,
    /// Another upgrade is under way.
    InProgress = 9,
    /// Too many older generations still drain.
    Draining = 10,
    /// This process is stopping, or detached.
    Stopping = 11,
    /// The new process was told to serve and has not confirmed it yet; both are left alone.
    Unconfirmed = 12,
    /// Upgrades cannot work here (process 1 …).
    Unsupported = 13,
}

impl Failure {
    /// The errno that stands for this failure in the C interface.
    pub fn errno(self) -> Errno {
        match self {
            Failure::None => Errno::UnknownErrno,
            Failure::Spawn => Errno::ENOEXEC,
            Failure::Exited | Failure::Signalled => Errno::ECONNABORTED,
            Failure::Deadline | Failure::Unconfirmed => Errno::ETIME,
            Failure::Refused => Errno::ECONNREFUSED,
            Failure::State => Errno::EIO,
            Failure::Protocol => Errno::EPROTO,
            Failure::NotReady => Errno::EAGAIN,
            Failure::InProgress => Errno::EALREADY,
            Failure::Draining => Errno::EBUSY,
            Failure::Stopping => Errno::ESHUTDOWN,
            Failure::Unsupported => Errno::EOPNOTSUPP,
        }
    }

    /// The kind with this number, if this release knows it.
    pub fn from_number(number: i32) -> Option<Failure> {
        use Failure::*;
        [
            None,
            Spawn,
            Exited,
            Signalled,
            Deadline,
            Refused,
            State,
            Protocol,
            NotReady,
            InProgress,
            Draining,
            Stopping,
            Unconfirmed,
            Unsupported,
        ]
        .into_iter()
        .find(|failure| *failure as i32 == number)
    }

    /// Its name in a status: `exited`, `not-ready` …
    pub fn name(self) -> &'static str {
        match self {
            Failure::None => "none",
            Failure::Spawn => "spawn",
            Failure::Exited => "exited",
            Failure::Signalled => "signalled",
            Failure::Deadline => "deadline",
            Failure::Refused => "refused",
            Failure::State => "state",
            Failure::Protocol => "protocol",
            Failure::NotReady => "not-ready",
            Failure::InProgress => "in-progress",
            Failure::Draining => "draining",
            Failure::Stopping => "stopping",
            Failure::Unconfirmed => "unconfirmed",
            Failure::Unsupported => "unsupported",
        }
    }
}

impl Error {
    /// The one place that maps errors to errno values.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Invalid(_) => Errno::EINVAL,
            Error::System { errno, .. } => *errno,
            Error::NotFound(_) => Errno::ENOENT,
            Error::Protocol(_) => Errno::EPROTO,
            Error::Canceled(_) => Errno::ECANCELED,
            Error::TimedOut => Errno::ETIMEDOUT,
            Error::Deadline(_) => Errno::ETIME,
            Error::Interrupted => Errno::EINTR,
            Error::Busy(_) => Errno::EBUSY,
            Error::Freed => Errno::EBADF,
            Error::ForkedChild(_) => Errno::ECHILD,
            Error::StateLost(_) => Errno::ECONNRESET,
            Error::Upgrade { errno, .. } | Error::Refused { errno, .. } => *errno,
            Error::Poisoned(_) => Errno::ENOTRECOVERABLE,
        }
    }

    /// The kernel refused `what` with `errno`.
    pub fn system(what: impl Into<String>, errno: Errno) -> Error {
        Error::System { what: what.into(), errno }
    }

    /// The same for an errno as std has it.
    pub fn system_raw(what: impl Into<String>, errno: i32) -> Error {
        Error::system(what, Errno::from_raw(errno))
    }

    /// An upgrade, or the request for one, failed.
    pub fn upgrade(failure: Failure, text: impl Into<String>) -> Error {
        Error::Upgrade { failure, errno: failure.errno(), text: text.into() }
    }

    /// The failure kind of a failed upgrade, [`Failure::None`] for everything else.
    pub fn failure(&self) -> Failure {
        match self {
            Error::Upgrade { failure, .. } => *failure,
            _ => Failure::None,
        }
    }
}

/// `permission denied (EACCES)`: what an errno means, and its name for the search engine.
#[cold]
pub fn explain(errno: Errno) -> String {
    let mut text = errno.desc().to_string();
    // "I/O error" keeps its capital. ASCII, since the tables of Unicode's letters have 13 KB and none of these texts needs one.
    if let [_, second, ..] = text.as_bytes()
        && second.is_ascii_lowercase()
    {
        text[..1].make_ascii_lowercase();
    }
    format!("{text} ({errno:?})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_error_reads_as_a_sentence_with_the_name_of_the_errno() {
        let error = Error::system("cannot listen on tcp://0.0.0.0:80", Errno::EACCES);
        assert_eq!(error.to_string(), "cannot listen on tcp://0.0.0.0:80: permission denied (EACCES)");
        assert_eq!(error.errno(), Errno::EACCES);
    }
}
