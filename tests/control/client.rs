//! The library's client against servers that a test plays: hand-overs in the middle, deaths, nonsense, silence.

use crate::served::{LIMIT, at};
use shellflip::address::Address;
use shellflip::control::{self, Request};
use shellflip::error::Failure;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};
use testkit::deadline::scaled;
use testkit::host::SOON;
use testkit::process::{TempDir, temp_dir};

/// What is done with one connection.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// Closed before the request was read: the client gets a reset.
    Unread,
    /// Read, and closed.
    Read,
    /// Read, answered, closed.
    Says(&'static [u8]),
    /// Read, and never answered.
    Silence,
}

struct Played {
    address: Address,
    server: std::thread::JoinHandle<usize>,
    _folder: TempDir,
}

/// Takes these turns, one for each connection, and then ends.
fn play(turns: &[Turn]) -> Played {
    let folder = temp_dir();
    let path = folder.path().join("ctl");
    let listener = UnixListener::bind(&path).unwrap();
    let turns = turns.to_vec();
    let server = std::thread::spawn(move || {
        let mut silent = Vec::new();
        for (taken, turn) in turns.iter().enumerate() {
            let (mut stream, _) = listener.accept().unwrap();
            if let Turn::Unread = turn {
                wait_for_a_byte(&stream);
                continue;
            }
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut line).unwrap();
            if line == "end\n" {
                return taken;
            }
            match turn {
                Turn::Says(bytes) => _ = stream.write_all(bytes),
                Turn::Silence => silent.push(stream),
                Turn::Read | Turn::Unread => {}
            }
        }
        // Until the client has given up.
        for stream in silent {
            let mut byte = [0];
            let _ = std::io::Read::read(&mut { stream }, &mut byte);
        }
        turns.len()
    });
    Played { address: at(&path), server, _folder: folder }
}

/// So that it is there, and unread, when the connection is closed.
fn wait_for_a_byte(stream: &UnixStream) {
    let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(stream), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut fds, 10_000u16), Ok(1));
}

impl Played {
    fn ask(&self, request: Request) -> Result<Option<i32>, shellflip::error::Error> {
        control::request(&self.address, request, Some(scaled(SOON)))
    }

    fn status(&self) -> Result<String, shellflip::error::Error> {
        control::status(&self.address, Some(scaled(SOON)))
    }

    /// How many connections there were.
    fn end(self) -> usize {
        if !self.server.is_finished()
            && let Some(path) = self.address.path()
        {
            let path =
                std::path::PathBuf::from(std::ffi::OsString::from(String::from_utf8(path.to_vec()).unwrap()));
            let _ = UnixStream::connect(path).and_then(|mut stream| stream.write_all(b"end\n"));
        }
        self.server.join().unwrap()
    }
}

#[test]
fn whoever_is_closed_without_an_answer_asks_again() {
    let _limit = testkit::limit(LIMIT);
    let played = play(&[Turn::Read, Turn::Unread, Turn::Says(b"{\"pid\":1}\n")]);
    assert_eq!(played.status(), Ok("{\"pid\":1}".into()));
    assert_eq!(played.end(), 3);
    let played = play(&[Turn::Read, Turn::Unread, Turn::Says(b"ok 7\n")]);
    assert_eq!(played.ask(Request::Detach), Ok(None));
    assert_eq!(played.end(), 3);
    let played = play(&[Turn::Unread, Turn::Unread, Turn::Says(b"ok 7\n")]);
    assert_eq!(played.ask(Request::Upgrade), Ok(Some(7)));
    assert_eq!(played.end(), 3);
}

/// It may be what killed the server.
#[test]
fn an_upgrade_that_was_read_is_not_asked_for_again() {
    let _limit = testkit::limit(LIMIT);
    let played = play(&[Turn::Read, Turn::Says(b"ok 7\n")]);
    let error = played.ask(Request::Upgrade).unwrap_err();
    assert_eq!((error.errno() as i32, error.failure()), (libc::ECONNRESET, Failure::None));
    assert_eq!(played.end(), 1);
}

#[test]
fn nobody_asks_for_ever() {
    let _limit = testkit::limit(LIMIT);
    let played = play(&[Turn::Read; 20]);
    let error = played.status().unwrap_err();
    assert_eq!(error.errno() as i32, libc::ECONNRESET, "{error}");
    assert_eq!(played.end(), 10);
}

#[test]
fn a_server_that_says_nothing_is_waited_for_as_long_as_was_said() {
    let _limit = testkit::limit(LIMIT);
    let played = play(&[Turn::Silence, Turn::Silence, Turn::Silence]);
    for request in [Request::Upgrade, Request::Stop, Request::Detach] {
        let began = Instant::now();
        let error = control::request(&played.address, request, Some(Duration::from_millis(200))).unwrap_err();
        assert_eq!(error.errno() as i32, libc::ETIMEDOUT);
        assert!(began.elapsed() >= Duration::from_millis(200));
    }
    played.end();
}

#[test]
fn what_is_no_answer_is_called_so() {
    let _limit = testkit::limit(LIMIT);
    for says in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"\n", b"ok\n", b"ok -1\n", b"\xff\xfe\n", b"pid 1\n"]
    {
        let played = play(&[Turn::Says(says)]);
        let error = played.ask(Request::Upgrade).unwrap_err();
        assert_eq!(error.errno() as i32, libc::EPROTO, "{says:?}: {error}");
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
        played.end();
    }
    for says in [&b"ok 1\n"[..], b"{\"\xff\"}\n", b"[]\n"] {
        let played = play(&[Turn::Says(says)]);
        assert_eq!(played.status().unwrap_err().errno() as i32, libc::EPROTO, "{says:?}");
        played.end();
    }
}

#[test]
fn a_kind_of_failure_from_a_later_release_keeps_its_errno_and_its_sentence() {
    let _limit = testkit::limit(LIMIT);
    let played = play(&[Turn::Says(b"failed 77 5 the moon is full\n")]);
    let error = played.ask(Request::Upgrade).unwrap_err();
    assert_eq!((error.errno() as i32, error.failure()), (libc::EIO, Failure::None));
    assert_eq!(error.to_string(), "the moon is full");
    played.end();
}

#[test]
fn nobody_there_is_said_with_the_address() {
    let _limit = testkit::limit(LIMIT);
    let folder = temp_dir();
    let missing = control::status(&at(&folder.path().join("ctl")), None).unwrap_err();
    assert_eq!(missing.errno() as i32, libc::ENOENT);
    assert!(missing.to_string().starts_with("cannot connect to unix:///"), "{missing}");
    drop(UnixListener::bind(folder.path().join("dead")).unwrap());
    let dead = control::status(&at(&folder.path().join("dead")), None).unwrap_err();
    assert_eq!(dead.errno() as i32, libc::ECONNREFUSED);
}

/// unix(7): connect on a full queue waits, or is EAGAIN.
#[test]
fn a_full_queue_is_waited_for() {
    let _limit = testkit::limit(LIMIT);
    let folder = temp_dir();
    let path = folder.path().join("ctl");
    let listener = UnixListener::bind(&path).unwrap();
    // SAFETY: listen(2) on a listener sets its backlog.
    assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 0) }, 0);
    let first = UnixStream::connect(&path).unwrap();
    let error = control::status(&at(&path), Some(Duration::from_millis(100))).unwrap_err();
    assert_eq!(error.errno() as i32, libc::ETIMEDOUT);
    let address = at(&path);
    let waiting = std::thread::spawn(move || control::status(&address, Some(scaled(SOON))));
    drop(listener.accept().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"{}\n").unwrap();
    assert_eq!(waiting.join().unwrap(), Ok("{}".into()));
    drop(first);
}
