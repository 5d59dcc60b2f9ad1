//! A server as a unit of a machine, as its operator and its clients see it.

use super::machine::Machine;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use testkit::deadline::scaled;
use testkit::host::{SOON, c_program};
use testkit::load::{Address, Config, Identity, Load, get};
use testkit::process::kit_program;
use testkit::{wait_for, wait_until};

/// A unit that runs.
pub struct Server<'a> {
    pub machine: &'a Machine,
    pub unit: &'static str,
}

impl<'a> Server<'a> {
    /// The example unit for this systemd, running `http_epoll`, with these settings in its [Service].
    pub fn start(machine: &'a Machine, settings: &str) -> Server<'a> {
        Server::start_program(machine, "examples/c/http_epoll.c", settings)
    }

    /// The same with the host of the tests, which makes library calls on request.
    pub fn start_host(machine: &'a Machine, settings: &str) -> Server<'a> {
        let environment = "HOST_ADDRESS=tcp://127.0.0.1:8080 HOST_CONTROL_SOCKET=unix:///run/server/ctl";
        let settings = format!("Environment={environment}\nRuntimeDirectory=server\n{settings}");
        Server::start_program(machine, "tests/c/host.c", &settings)
    }

    fn start_program(machine: &'a Machine, source: &str, settings: &str) -> Server<'a> {
        machine.install(&c_program(source, &[]), "server");
        let unit = if machine.version >= 253 { "server.service" } else { "server-flipctl.service" };
        machine.install(flipctl(), "flipctl");
        machine.example(unit);
        let server = Server { machine, unit };
        server.settings(&format!("Environment=IDLE_GRACE_MS=200\n{settings}"));
        machine.must(&["systemctl", "start", unit]);
        server
    }

    /// Settings that come on top of the unit's.
    pub fn settings(&self, settings: &str) {
        self.machine.unit(&format!("{}.d/test.conf", self.unit), &format!("[Service]\n{settings}\n"));
    }

    /// Where it listens.
    pub fn address() -> Address {
        "tcp://127.0.0.1:8080".parse().expect("an address")
    }

    /// Saturating keep-alive connections and a stream of new ones.
    pub fn load(&self) -> Load {
        let config = Config::http(Server::address()).connections(8).streams(1);
        self.machine.inside(|| Load::start(config).expect("a load"))
    }

    /// One request; the pid that answers, as numbered inside.
    pub fn get(&self, path: &str) -> std::io::Result<i32> {
        let answer = self.machine.inside(|| get(&Server::address(), path, Duration::from_secs(20)))?;
        Ok(Identity::parse(&answer.body).pid)
    }

    /// Who answers.
    pub fn who(&self) -> i32 {
        self.get("/").expect("an answer")
    }

    /// A library call of the host.
    #[track_caller]
    pub fn call(&self, path: &str) {
        self.get(path).expect("an answer");
    }

    /// `systemctl reload`: its exit status.
    pub fn try_reload(&self) -> i32 {
        self.machine.run(&["systemctl", "reload", self.unit]).0
    }

    /// A reload that succeeds, and has led to another main process once systemctl has returned.
    #[track_caller]
    pub fn reload(&self) -> i32 {
        let before = self.main_pid();
        assert_eq!(self.try_reload(), 0);
        let now = self.main_pid();
        assert_ne!(now, before);
        assert_eq!(self.state(), "active");
        now
    }

    /// Begins a reload whose new process takes its time, and returns once that has started.
    pub fn begin_slow_reload(&self, steps: &str) {
        let before = self.machine.processes(self.unit).len();
        self.call(&format!("/env/HOST_BEFORE_READY/{steps}"));
        self.machine.must(&["systemctl", "reload", "--no-block", self.unit]);
        wait_until("a new process", SOON, || {
            self.status().starts_with("Upgrading: process")
                && self.machine.processes(self.unit).len() > before
        });
    }

    pub fn main_pid(&self) -> i32 {
        self.machine.property(self.unit, "MainPID").parse().expect("a pid")
    }

    pub fn state(&self) -> String {
        self.machine.property(self.unit, "ActiveState")
    }

    pub fn status(&self) -> String {
        self.machine.property(self.unit, "StatusText")
    }

    pub fn restarts(&self) -> u32 {
        self.machine.property(self.unit, "NRestarts").parse().expect("a number")
    }

    pub fn journal(&self) -> String {
        self.machine.journal(self.unit)
    }

    /// systemd has never taken it for anything but active or reloading since it was started.
    #[track_caller]
    pub fn assert_always_active(&self) {
        assert_eq!(self.state(), "active");
        assert_eq!(self.machine.property(self.unit, "ActiveExitTimestampMonotonic"), "0");
        assert_eq!(self.restarts(), 0);
    }

    /// A signal to a process inside.
    pub fn kill(&self, pid: i32, signal: &str) {
        // A shell's own: kill(1) is not everywhere.
        self.machine.must(&["sh", "-c", &format!("kill -s {signal} {pid}")]);
    }

    /// Waits until the unit was restarted so many times and is active; how long that took.
    #[track_caller]
    pub fn wait_for_restart(&self, times: u32, since: Instant) -> Duration {
        wait_for("a restart", SOON, || {
            (self.restarts() == times && self.state() == "active").then(|| since.elapsed())
        })
    }

    /// A connection to the process that serves now, which drains for as long as it is open: it has answered one request
    /// there, and has got half of a second.
    pub fn open(&self) -> Open {
        let stream = self.machine.inside(|| TcpStream::connect("127.0.0.1:8080")).expect("a connection");
        stream.set_read_timeout(Some(scaled(SOON))).expect("a time-out");
        let mut open = Open(stream);
        open.0.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("a request");
        assert_eq!(open.answer().expect("an answer"), self.main_pid());
        open.0.write_all(b"GET / HTTP/1.1\r\n").expect("half a request");
        open
    }
}

/// The operator's tool, built here; with the faults, as all that shares the target folder with the tests.
pub fn flipctl() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(cargo) = std::env::var_os("CARGO") {
            let build = ["build", "--quiet", "--package", "flipctl", "--features", "libshellflip/faults"];
            let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
            let status = Command::new(cargo).args(build).args(["--manifest-path", manifest]).status();
            assert!(status.expect("cargo").success(), "flipctl cannot be built");
        }
        kit_program("flipctl").expect("cargo build --package flipctl --features libshellflip/faults")
    })
}

/// See [`Server::open`].
pub struct Open(TcpStream);

impl Open {
    /// The rest of the request, and who answers it.
    pub fn finish(mut self) -> std::io::Result<i32> {
        self.0.write_all(b"Host: a\r\n\r\n")?;
        self.answer()
    }

    /// Up to the end of the one line of the body.
    fn answer(&mut self) -> std::io::Result<i32> {
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"}\n") {
            self.0.read_exact(&mut byte)?;
            text.push(byte[0]);
        }
        let body = text.iter().rposition(|byte| *byte == b'{').unwrap_or(0);
        Ok(Identity::parse(&text[body..]).pid)
    }
}
