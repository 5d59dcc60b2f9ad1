//! One answer of the server: when it is complete, and what it says of the process that gave it.

use std::io::{self, Read, Write};
use std::time::Duration;

use super::address::Address;

/// A complete answer. A server that says hello has status 200, and its line is the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, without chunk sizes.
    pub body: Vec<u8>,
    /// The server has announced that it will close the connection.
    pub close: bool,
    /// How many bytes of the input it took.
    pub(super) size: usize,
}

/// How far an answer has come.
pub(super) enum Progress {
    Complete(Answer),
    /// More is needed.
    Partial,
    /// It ends where the connection ends.
    UntilEof(Answer),
    Malformed(String),
}

/// Reads the answer at the start of `input`.
pub(super) fn parse(input: &[u8]) -> Progress {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(input) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Progress::Partial,
        Err(error) => return Progress::Malformed(format!("not an HTTP answer: {error}")),
    };
    let mut answer = Answer {
        status: response.code.unwrap_or(0),
        body: Vec::new(),
        close: response.version == Some(0),
        size: head,
    };
    let (mut length, mut chunked) = (None, false);
    for header in response.headers.iter() {
        let value = String::from_utf8_lossy(header.value).to_ascii_lowercase();
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => match value.trim().parse::<usize>() {
                Ok(value) => length = Some(value),
                Err(_) => return Progress::Malformed(format!("Content-Length is {value}")),
            },
            "transfer-encoding" => chunked = value.contains("chunked"),
            "connection" if value.contains("close") => answer.close = true,
            "connection" if value.contains("keep-alive") => answer.close = false,
            _ => {}
        }
    }
    let rest = &input[head..];
    if chunked {
        return parse_chunks(rest, answer);
    }
    match length {
        Some(length) if rest.len() < length => Progress::Partial,
        Some(length) => {
            answer.body = rest[..length].to_vec();
            answer.size += length;
            Progress::Complete(answer)
        }
        None if matches!(answer.status, 204 | 304) => Progress::Complete(answer),
        None => {
            answer.close = true;
            answer.body = rest.to_vec();
            answer.size = input.len();
            Progress::UntilEof(answer)
        }
    }
}

fn parse_chunks(mut rest: &[u8], mut answer: Answer) -> Progress {
    loop {
        let (head, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((head, size))) => (head, size as usize),
            Ok(httparse::Status::Partial) => return Progress::Partial,
            Err(_) => return Progress::Malformed("a chunk without a size".into()),
        };
        // Trailers are nobody's business here: the last chunk is taken to end with an empty line.
        let Some(end) = size.checked_add(head + 2) else {
            return Progress::Malformed("a chunk larger than memory".into());
        };
        if rest.len() < end {
            return Progress::Partial;
        }
        answer.body.extend_from_slice(&rest[head..head + size]);
        answer.size += end;
        rest = &rest[end..];
        if size == 0 {
            return Progress::Complete(answer);
        }
    }
}

/// Which server process answered, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Identity {
    /// The version of the program.
    pub version: String,
    /// The process.
    pub pid: i32,
    /// Its place in the chain; `None` when the body does not say.
    pub generation: Option<u32>,
}

impl Identity {
    /// Reads `{"version":"2","pid":123,"generation":4}`, `version=2 pid=123 generation=4` and the like: each field's
    /// name is followed by its value. What is missing stays empty.
    pub fn parse(body: &[u8]) -> Identity {
        let text = String::from_utf8_lossy(body);
        let separator = |c: char| c.is_whitespace() || "{}[]\"':,;=".contains(c);
        let mut words = text.split(separator).filter(|word| !word.is_empty());
        let mut identity = Identity::default();
        while let Some(word) = words.next() {
            match word {
                "version" => identity.version = words.next().unwrap_or_default().into(),
                "pid" => identity.pid = words.next().and_then(|pid| pid.parse().ok()).unwrap_or(0),
                "generation" => identity.generation = words.next().and_then(|number| number.parse().ok()),
                _ => {}
            }
        }
        identity
    }
}

/// One GET on a connection of its own, for "does it answer yet?" and for a single look at who serves.
pub fn get(address: &Address, path: &str, timeout: Duration) -> io::Result<Answer> {
    let mut stream = address.connect_blocking(timeout)?;
    stream.write_all(request(path, true).as_slice())?;
    let mut input = Vec::new();
    stream.read_to_end(&mut input)?;
    match parse(&input) {
        Progress::Complete(answer) | Progress::UntilEof(answer) => Ok(answer),
        Progress::Partial => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is not complete")),
        Progress::Malformed(why) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
    }
}

/// The same for a server that says one line and closes.
pub fn hear(address: &Address, timeout: Duration) -> io::Result<()> {
    let mut input = Vec::new();
    match address.connect_blocking(timeout)?.read_to_end(&mut input)? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it said nothing")),
        _ => Ok(()),
    }
}

pub(super) fn request(path: &str, close: bool) -> Vec<u8> {
    let connection = if close { "Connection: close\r\n" } else { "" };
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{connection}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(input: &str) -> Answer {
        match parse(input.as_bytes()) {
            Progress::Complete(answer) => answer,
            _ => panic!("not complete: {input:?}"),
        }
    }

    #[test]
    fn every_prefix_of_an_answer_is_partial() {
        for whole in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ] {
            for end in 0..whole.len() {
                assert!(matches!(parse(&whole.as_bytes()[..end]), Progress::Partial), "{end} of {whole:?}");
            }
            let answer = complete(whole);
            assert_eq!((answer.body.as_slice(), answer.size), (b"hello".as_slice(), whole.len()));
        }
    }

    #[test]
    fn an_announced_close_is_seen_whatever_its_case() {
        assert!(complete("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nCONNECTION: Close\r\n\r\n").close);
        assert!(!complete("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").close);
    }

    #[test]
    fn a_process_is_recognised_in_json_and_in_text() {
        let expected = Identity { version: "2".into(), pid: 123, generation: Some(4) };
        assert_eq!(Identity::parse(br#"{"version": "2", "pid": 123, "generation": 4}"#), expected);
        assert_eq!(Identity::parse(b"version=2 pid=123 generation=4 pad=xxxx\n"), expected);
        assert_eq!(Identity::parse(b"hello"), Identity::default());
    }
}
