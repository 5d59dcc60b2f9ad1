//! What went wrong, as one sentence for the person who runs the server, with a kind for the program.

use std::fmt;
use std::io;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call did not do what it was asked to do. [`fmt::Display`] gives the whole sentence.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(shellflip::error::Error);

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument, an address or an environment variable makes no sense.
    Invalid,
    /// The kernel refused; [`Error::raw_os_error`] says how.
    System,
    /// Nothing of that name, or not yet; members of a `reuseport` group that are not claimed.
    NotFound,
    /// The predecessor, or the environment, does not keep to the protocol.
    Protocol,
    /// It will not happen any more: shutdown has begun, the handle was closed, or the predecessor gave up.
    Canceled,
    /// The caller's own time-out passed; what was waited for goes on.
    TimedOut,
    /// A configured deadline passed.
    Deadline,
    /// There is a handle in this process already.
    Busy,
    /// The handle was closed.
    Closed,
    /// A forked child has its own connections and nothing else.
    ForkedChild,
    /// The predecessor promised state, and it was lost with it.
    StateLost,
    /// An upgrade, or the request for one, failed.
    Upgrade(Failure),
    /// A defect of the library.
    Internal,
}

/// How an upgrade failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The new program could not be started.
    Spawn,
    /// It exited before it was ready, or before its probation was over.
    Exited,
    /// It was ended by a signal before it was ready, or before its probation was over.
    Signalled,
    /// It was not ready by the upgrade deadline.
    Deadline,
    /// A host refused: the old one in a hook, or the new one by giving up.
    Refused,
    /// The state could not be handed over.
    State,
    /// The other side broke the protocol.
    Protocol,
    /// This process is not ready itself yet.
    NotReady,
    /// Another upgrade is under way.
    InProgress,
    /// Too many older generations still drain.
    Draining,
    /// This process is stopping, or detached.
    Stopping,
    /// The new process was told to serve and has not confirmed it yet; both are left alone.
    Unconfirmed,
    /// Upgrades cannot work here (process 1 …).
    Unsupported,
}

impl Error {
    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        use shellflip::error::Error as Core;
        match &self.0 {
            Core::Invalid(_) => ErrorKind::Invalid,
            Core::NotFound(_) => ErrorKind::NotFound,
            Core::Protocol(_) => ErrorKind::Protocol,
            Core::Canceled(_) => ErrorKind::Canceled,
            Core::TimedOut => ErrorKind::TimedOut,
            Core::Deadline(_) => ErrorKind::Deadline,
            Core::Busy(_) => ErrorKind::Busy,
            Core::Freed => ErrorKind::Closed,
            Core::ForkedChild(_) => ErrorKind::ForkedChild,
            Core::StateLost(_) => ErrorKind::StateLost,
            Core::Upgrade { failure, .. } => {
                Failure::from_core(*failure).map_or(ErrorKind::Internal, ErrorKind::Upgrade)
            }
            Core::Poisoned(_) => ErrorKind::Internal,
            // Interrupted never leaves this crate, and a kind that the core gets later is at least its errno.
            _ => ErrorKind::System,
        }
    }

    /// The errno that stands for it, always greater than 0.
    pub fn raw_os_error(&self) -> i32 {
        self.0.errno() as i32
    }

    /// How the upgrade failed, if it was one.
    pub fn failure(&self) -> Option<Failure> {
        Failure::from_core(self.0.failure())
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Error {
        Error(shellflip::error::Error::Invalid(text.into()))
    }

    pub(crate) fn closed() -> Error {
        Error(shellflip::error::Error::Freed)
    }

    pub(crate) fn canceled(text: &str) -> Error {
        Error(shellflip::error::Error::Canceled(text.into()))
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn timed_out() -> Error {
        Error(shellflip::error::Error::TimedOut)
    }

    pub(crate) fn io(what: &str, error: &io::Error) -> Error {
        use shellflip::error::Error as Core;
        Error(match error.raw_os_error() {
            Some(number) => Core::system_raw(what, number),
            None => Core::Invalid(format!("{what}: {error}")),
        })
    }

    /// A signal handler ran while the call waited: it is made again, as std does.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.0 == shellflip::error::Error::Interrupted
    }
}

impl Failure {
    pub(crate) fn from_core(failure: shellflip::error::Failure) -> Option<Failure> {
        use shellflip::error::Failure as Core;
        Some(match failure {
            Core::None => return None,
            Core::Spawn => Failure::Spawn,
            Core::Exited => Failure::Exited,
            Core::Signalled => Failure::Signalled,
            Core::Deadline => Failure::Deadline,
            Core::Refused => Failure::Refused,
            Core::State => Failure::State,
            Core::Protocol => Failure::Protocol,
            Core::NotReady => Failure::NotReady,
            Core::InProgress => Failure::InProgress,
            Core::Draining => Failure::Draining,
            Core::Stopping => Failure::Stopping,
            Core::Unconfirmed => Failure::Unconfirmed,
            Core::Unsupported => Failure::Unsupported,
        })
    }
}

impl From<shellflip::error::Error> for Error {
    fn from(error: shellflip::error::Error) -> Error {
        Error(error)
    }
}

/// [`io::ErrorKind`] is that of the errno; the text stays the whole sentence.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::new(io::Error::from_raw_os_error(error.raw_os_error()).kind(), error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The sentence: it is what `main` prints when it returns an error.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}
