//! The lines on the control socket, as text and as values: what `docs/control.md` describes. Pure functions over
//! bytes that come from anybody who may connect; they never panic. Called by `server` on one side and by `client` on
//! the other.

use crate::address::quote;
use crate::error::{Error, Failure};
use nix::errno::Errno;
use std::fmt;

/// A longer line is no request.
pub const MAX_REQUEST: usize = 64;
/// The most that a client reads of one answer: a status with 50,000 descriptors of the longest names.
pub const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// One request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Replace yourself; answered when it is over.
    Upgrade,
    /// Finish and exit.
    Stop,
    /// Leave the service, go on serving.
    Detach,
    /// Tell about yourself.
    Status,
}

/// What the bytes that have come so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The beginning of one.
    Unfinished,
    /// One, and how many bytes it took.
    Request(Asked, usize),
    /// None, and it will not become one: the sentence.
    Garbage(String),
}

/// What the other side answers, the status excepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done. An upgrade: the successor; else who answers.
    Ok(i32),
    /// A stop: who will end. It begins when the client has acknowledged, with any line or the end of its input.
    Pids(Vec<i32>),
    /// Not done: [`Failure`] and errno as numbers, and why.
    Failed {
        /// A [`Failure`]; 0 where the request itself was wrong.
        failure: i32,
        /// What C sees.
        errno: i32,
        /// One sentence.
        text: String,
    },
}

impl Asked {
    const ALL: [Asked; 4] = [Asked::Upgrade, Asked::Stop, Asked::Detach, Asked::Status];

    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Asked::Upgrade => "upgrade",
            Asked::Stop => "stop",
            Asked::Detach => "detach",
            Asked::Status => "status",
        }
    }
}

/// The first line of `bytes`; `ended`: no more will come, so that a line needs no end. Blanks around the word, as
/// from `echo` or a terminal in another mode, do not matter.
pub fn parse_request(bytes: &[u8], ended: bool) -> Line {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let line = match end {
        Some(end) => &bytes[..end],
        None if bytes.len() < MAX_REQUEST && !ended => return Line::Unfinished,
        None => bytes,
    };
    let word = line.trim_ascii();
    let known =
        Asked::ALL.into_iter().find(|asked| asked.word().as_bytes() == word && line.len() < MAX_REQUEST);
    match known {
        Some(asked) => Line::Request(asked, end.map_or(bytes.len(), |end| end + 1)),
        None => Line::Garbage(format!(
            "{} is no request: upgrade, stop, detach and status are",
            quote(&word[..word.len().min(MAX_REQUEST)])
        )),
    }
}

impl Answer {
    /// How a failure is told.
    pub fn failed(error: &Error) -> Answer {
        Answer::Failed {
            failure: error.failure() as i32,
            errno: error.errno() as i32,
            text: error.to_string(),
        }
    }

    /// From a line without its end; `None` for what is no answer.
    pub fn parse(line: &[u8]) -> Option<Answer> {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end();
        let (word, rest) = line.split_once(' ')?;
        match word {
            "ok" => pid(rest).map(Answer::Ok),
            "pid" => rest.split(' ').map(pid).collect::<Option<Vec<i32>>>().map(Answer::Pids),
            "failed" => {
                let mut parts = rest.splitn(3, ' ');
                let mut number = || parts.next()?.parse::<u16>().ok().map(i32::from);
                let (failure, errno) = (number()?, number()?);
                let text = parts.next()?.replace(char::is_control, " ");
                Some(Answer::Failed { failure, errno, text })
            }
            _ => None,
        }
    }

    /// What a failure is on this side. A kind of failure that a newer release knows and this one does not keeps its
    /// errno and its sentence.
    pub fn into_error(self) -> Option<Error> {
        let Answer::Failed { failure, errno, text } = self else { return None };
        let errno = Errno::from_raw(errno);
        Some(match Failure::from_number(failure) {
            Some(Failure::None) | None => Error::Refused { errno, text },
            Some(failure) => Error::Upgrade { failure, errno, text },
        })
    }
}

/// 0 and negative numbers mean whole groups to kill(2): they must never get as far as there.
fn pid(text: &str) -> Option<i32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?.filter(|pid| *pid > 0)
}

/// The line, with its end.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Ok(pid) => writeln!(f, "ok {pid}"),
            Answer::Pids(pids) => {
                f.write_str("pid")?;
                pids.iter().try_for_each(|pid| write!(f, " {pid}"))?;
                f.write_str("\n")
            }
            Answer::Failed { failure, errno, text } => {
                writeln!(f, "failed {failure} {errno} {}", text.replace(char::is_control, " "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_word_on_a_line() {
        for asked in Asked::ALL {
            let word = asked.word();
            for line in [format!("{word}\n"), format!("  {word}\t\r\n"), format!("{word}\nmore")] {
                let used = line.find('\n').unwrap() + 1;
                assert_eq!(parse_request(line.as_bytes(), false), Line::Request(asked, used));
            }
            assert_eq!(parse_request(word.as_bytes(), false), Line::Unfinished);
            assert_eq!(parse_request(word.as_bytes(), true), Line::Request(asked, word.len()));
        }
    }

    #[test]
    fn what_is_no_request_is_refused_with_one_line_however_long_it_is() {
        let long = vec![b'a'; MAX_REQUEST];
        let padded = [&[b' '; MAX_REQUEST][..], b"stop\n"].concat();
        let garbage: &[&[u8]] =
            &[b"\n", b"STOP\n", b"stop now\n", b"\xff\x00\n", b"{\"stop\"}\n", &long, &padded];
        for bytes in garbage {
            let Line::Garbage(text) = parse_request(bytes, false) else { panic!("{bytes:?}") };
            assert!(!text.contains(char::is_control) && text.len() < 500, "{text}");
        }
        assert_eq!(parse_request(&long[1..], false), Line::Unfinished);
        assert!(matches!(parse_request(b"", true), Line::Garbage(_)));
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let failed = Answer::failed(&Error::upgrade(Failure::Deadline, "too\nslow"));
        assert_eq!(failed.to_string(), "failed 4 62 too slow\n");
        for answer in [Answer::Ok(4711), Answer::Pids(vec![1]), Answer::Pids(vec![7, 8])] {
            assert_eq!(Answer::parse(answer.to_string().trim_end().as_bytes()), Some(answer));
        }
        let read = Answer::parse(b"failed 4 62 too slow").unwrap();
        assert_eq!(read.into_error(), Some(Error::upgrade(Failure::Deadline, "too slow")));
        let newer = Answer::parse(b"failed 99 5 something new").unwrap().into_error().unwrap();
        assert_eq!((newer.errno(), newer.failure()), (Errno::EIO, Failure::None));
        for wrong in
            [&b""[..], b"ok", b"ok 0", b"ok -1", b"ok +1", b"ok 99999999999", b"pid", b"pid 1 x", b"failed 4"]
        {
            assert_eq!(Answer::parse(wrong), None, "{wrong:?}");
        }
    }
}
