//! A server with a control socket under test, and its operators: by the library's client, and by hand, as with `nc
//! -U`.

use serde_json::Value;
use shellflip::address::Address;
use shellflip::control::{self, Request};
use shellflip::error::{Error, Failure};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;
use testkit::deadline::{scaled, wait_for};
use testkit::host::{Host, SOON, c_program};
use testkit::process::{Family, TempDir, temp_dir};

/// The limit of most tests here.
pub const LIMIT: Duration = Duration::from_secs(90);
/// What an operator allows at most.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a request gave.
pub type Answer = Result<Option<i32>, Error>;

/// A running server and its later generations.
pub struct Served {
    pub host: Host,
    pub family: Family,
    pub folder: TempDir,
    pub socket: PathBuf,
}

impl Served {
    /// `tests/c/host.c`. In the values DIR is the folder.
    pub fn start(environment: &[(&str, &str)]) -> Served {
        Served::at("unix://DIR/ctl", environment)
    }

    /// The same with another control socket.
    pub fn at(address: &str, environment: &[(&str, &str)]) -> Served {
        Served::of("tests/c/host.c", "HOST_CONTROL_SOCKET", address, "ready 0", environment)
    }

    /// The same, and waits for another line of its output.
    pub fn until(line: &str, environment: &[(&str, &str)]) -> Served {
        Served::of("tests/c/host.c", "HOST_CONTROL_SOCKET", "unix://DIR/ctl", line, environment)
    }

    /// `tests/c/takes_part.c`.
    pub fn part(environment: &[(&str, &str)]) -> Served {
        Served::of("tests/c/takes_part.c", "CONTROL_SOCKET", "unix://DIR/ctl", "ready 0", environment)
    }

    fn of(source: &str, variable: &str, address: &str, line: &str, environment: &[(&str, &str)]) -> Served {
        let (family, folder) = (Family::new(), temp_dir());
        let at = folder.path().to_str().expect("a path in UTF-8").to_string();
        let mut all = vec![(variable.to_string(), address.replace("DIR", &at))];
        all.extend(environment.iter().map(|(name, value)| (name.to_string(), value.replace("DIR", &at))));
        let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (&**name, &**value)).collect();
        let host = Host::start_until(&family, &c_program(source, &[]), &all, line);
        Served { host, family, socket: folder.path().join("ctl"), folder }
    }

    /// Later generations of `host.c` wait with flip_ready for [`Served::go`].
    pub fn next_waits(&self) {
        let file = self.folder.path().join("go").display().to_string().replace('/', "%2F");
        assert_eq!(self.host.call(&format!("/env/HOST_BEFORE_READY/wait:{file}")).rc, 0);
    }

    pub fn go(&self) {
        std::fs::write(self.folder.path().join("go"), "").expect("a file");
    }

    /// Where operators ask.
    pub fn address(&self) -> Address {
        at(&self.socket)
    }

    pub fn first(&self) -> i32 {
        self.host.process.pid()
    }

    pub fn ask(&self, request: Request) -> Answer {
        control::request(&self.address(), request, Some(scaled(PATIENCE)))
    }

    pub fn ask_meanwhile(&self, request: Request) -> JoinHandle<Answer> {
        let address = self.address();
        std::thread::spawn(move || control::request(&address, request, Some(scaled(PATIENCE))))
    }

    /// An upgrade that works, as soon as not too many older generations drain.
    pub fn upgrade(&self) -> i32 {
        wait_for("an upgrade", SOON, || match self.ask(Request::Upgrade) {
            Ok(pid) => pid,
            Err(error) if error.failure() == Failure::Draining => None,
            Err(error) => panic!("{error}\n{}", self.host.process.output()),
        })
    }

    pub fn status(&self) -> Value {
        let status = control::status(&self.address(), Some(scaled(PATIENCE)));
        serde_json::from_str(&status.expect("a status")).expect("JSON")
    }

    /// Waits until the status has this value there.
    #[track_caller]
    pub fn wait_for_status(&self, pointer: &str, value: impl Into<Value>) -> Value {
        let value = value.into();
        wait_for(&format!("{pointer} is {value}"), SOON, || {
            Some(self.status()).filter(|status| status.pointer(pointer) == Some(&value))
        })
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("a connection");
        stream.set_read_timeout(Some(scaled(PATIENCE))).unwrap();
        stream
    }

    /// What `echo LINE | nc -NU` shows.
    pub fn raw(&self, line: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(line.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        rest(stream)
    }

    /// Waits until that generation is gone.
    pub fn wait_gone(&mut self, pid: i32) {
        if pid == self.first() {
            self.host.process.wait(SOON);
        } else {
            self.family.wait_gone(pid, SOON);
        }
    }

    /// Stops what is left, over the socket, and sees that nothing is.
    pub fn stop(mut self) {
        let stopped = self.ask(Request::Stop);
        assert_eq!(stopped, Ok(None), "{}", self.host.process.output());
        self.wait_gone(self.first());
        self.family.assert_none_left(SOON);
        assert!(!self.socket.exists());
    }
}

/// The address of a path.
pub fn at(path: &Path) -> Address {
    control::parse_address(format!("unix://{}", path.display()).as_bytes()).expect("an address")
}

/// Everything until the end. A connection that nobody had accepted, or listened to, ends with a reset.
pub fn rest(mut stream: UnixStream) -> String {
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {}
        Err(error) => panic!("neither an answer nor the end: {error}"),
    }
    String::from_utf8(text).expect("UTF-8")
}

/// Lets threads go on until it is dropped, by a failed assertion, too.
pub struct GoOn(Arc<AtomicBool>);

impl GoOn {
    pub fn new() -> (GoOn, impl Fn() -> bool + Clone + Send + Sync) {
        let stop = Arc::new(AtomicBool::new(false));
        (GoOn(Arc::clone(&stop)), move || !stop.load(SeqCst))
    }
}

impl Drop for GoOn {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Kind and errno of a failure.
#[track_caller]
pub fn assert_failed(answer: &Answer, failure: Failure, errno: i32) -> String {
    let error = answer.as_ref().expect_err("a failure");
    assert_eq!((error.failure(), error.errno() as i32), (failure, errno), "{error}");
    error.to_string()
}
