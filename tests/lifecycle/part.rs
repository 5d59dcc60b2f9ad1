//! `tests/c/takes_part.c` under test: a family, a host in it, and the control socket of each generation.

use std::thread::JoinHandle;
use std::time::Duration;
use testkit::deadline::{try_for, wait_until};
use testkit::host::{Called, Host, SOON, c_program, call};
use testkit::load::Address;
use testkit::process::{Family, TempDir, temp_dir};

/// A running `takes_part` and its later generations.
pub struct Part {
    pub host: Host,
    pub family: Family,
    folder: TempDir,
}

/// -errno as a call returns it.
pub fn minus(errno: i32) -> i64 {
    -i64::from(errno)
}

impl Part {
    pub fn start(environment: &[(&str, &str)]) -> Part {
        Part::start_in(&[], environment)
    }

    /// Started by this command, whose argument it is.
    pub fn start_in(wrapper: &[&str], environment: &[(&str, &str)]) -> Part {
        let (family, folder) = (Family::new(), temp_dir());
        let program = c_program("tests/c/takes_part.c", &[]);
        let mut command = match wrapper {
            [] => family.program(program),
            [first, rest @ ..] => family.program(first).args(rest).arg(program),
        };
        for (name, value) in environment {
            command = command.env(name, value);
        }
        let host = Host::run(command.env("CONTROL", folder.path()));
        Part { host, family, folder }
    }

    pub fn first(&self) -> i32 {
        self.host.process.pid()
    }

    /// Where clients connect.
    pub fn public(&self) -> String {
        self.host.address.to_string().trim_start_matches("tcp://").to_string()
    }

    fn control(&self, pid: i32) -> Address {
        let path = self.folder.path().join(pid.to_string());
        wait_until("a control socket", SOON, || path.exists());
        format!("unix://{}", path.display()).parse().expect("an address")
    }

    /// A call in that very generation.
    pub fn call(&self, pid: i32, path: &str) -> Called {
        call(&self.control(pid), path)
    }

    pub fn call_meanwhile(&self, pid: i32, path: &str) -> JoinHandle<Called> {
        let (address, path) = (self.control(pid), path.to_string());
        std::thread::spawn(move || call(&address, &path))
    }

    /// The same for a generation that will not live to answer: keep the connection.
    pub fn call_unanswered(&self, pid: i32, path: &str) -> std::os::unix::net::UnixStream {
        let socket = self.folder.path().join(pid.to_string());
        let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("a connection");
        std::io::Write::write_all(&mut stream, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())
            .expect("sent");
        stream
    }

    /// An upgrade that works; the successor's pid.
    pub fn upgrade(&self, pid: i32) -> i32 {
        let before = self.lines("accepts no more").len();
        let called = try_for(SOON, || {
            Some(self.call(pid, "/upgrade")).filter(|called| called.rc != minus(libc::EAGAIN))
        });
        let called = called.expect("a process that can be upgraded");
        assert!(called.rc > 0, "{called:?}\n{}", self.host.process.output());
        // Until then the old one may accept a connection more.
        self.wait_for_lines("accepts no more", before + 1);
        called.rc as i32
    }

    /// Waits for the pid of the successor that is on its way.
    pub fn successor(&self) -> i32 {
        let other = || self.lines("init generation=1").last().and_then(|line| pid_of(line));
        testkit::deadline::wait_for("a successor", SOON, other)
    }

    /// The lines of output that contain `text`.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let output = self.host.process.output();
        output.lines().filter(|line| line.contains(text)).map(String::from).collect()
    }

    pub fn wait_for_line(&self, text: &str) {
        self.host.process.wait_for_output(text, SOON);
    }

    pub fn wait_for_lines(&self, text: &str, count: usize) {
        if try_for(SOON, || (self.lines(text).len() >= count).then_some(())).is_none() {
            panic!("not {count} times {text:?}:\n{}", self.host.process.output());
        }
    }

    /// Stops that generation, and sees that nothing is left.
    pub fn stop(self, pid: i32) {
        testkit::process::signal(pid, testkit::process::Signal::SIGTERM);
        let mut host = self.host;
        if pid == host.process.pid() {
            host.process.wait(SOON);
        } else {
            self.family.wait_gone(pid, SOON);
        }
        self.family.assert_none_left(SOON);
    }
}

/// The pid at the end of a line.
fn pid_of(line: &str) -> Option<i32> {
    line.rsplit_once("pid=")?.1.trim().parse().ok()
}

/// The limit of most tests here.
pub const LIMIT: Duration = Duration::from_secs(60);
