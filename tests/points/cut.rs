//! Both sides of an upgrade held at one point: where neither can do the next thing before the test lets it.

use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;
use testkit::deadline::scaled;
use testkit::host::{Called, Host, SOON, Who};
use testkit::load::{Address, Config, Identity, Load};
use testkit::process::{Family, Proc, Signal, TempDir, signal};
use testkit::{wait_for, wait_until};

use std::io::{Read, Write};
use std::thread::JoinHandle;

/// A point of an upgrade, in the order in which they are passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    BeforeReady,
    Ready,
    BeforeCommit,
    Commit,
    BeforeLive,
    Live,
    BeforeReleased,
    Released,
}

pub const CUTS: [Cut; 8] = [
    Cut::BeforeReady,
    Cut::Ready,
    Cut::BeforeCommit,
    Cut::Commit,
    Cut::BeforeLive,
    Cut::Live,
    Cut::BeforeReleased,
    Cut::Released,
];

impl Cut {
    /// Where the predecessor and the successor are held. Whoever has no point of its own waits for the other one.
    fn points(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Cut::BeforeReady => (None, Some("send:READY")),
            Cut::Ready => (Some("received:READY"), Some("sent:READY")),
            Cut::BeforeCommit => (Some("send:COMMIT"), None),
            Cut::Commit => (Some("sent:COMMIT"), Some("received:COMMIT")),
            Cut::BeforeLive => (None, Some("send:LIVE")),
            Cut::Live => (Some("received:LIVE"), Some("sent:LIVE")),
            Cut::BeforeReleased => (Some("send:RELEASED"), None),
            Cut::Released => (Some("sent:RELEASED"), Some("received:RELEASED")),
        }
    }
}

/// Who asks for the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A call that waits in the predecessor.
    ByCall,
    /// SIGUSR1: nobody waits.
    BySignal,
}

/// An upgrade under light load, both processes stopped at a point of it, and clients that connected then.
pub struct Held {
    pub cut: Cut,
    pub family: Family,
    pub host: Host,
    pub predecessor: i32,
    pub successor: i32,
    pub requester: Option<JoinHandle<Called>>,
    load: Load,
    /// Opened before the upgrade, so that the predecessor has it.
    early: Client,
    queued: Vec<Client>,
    folder: TempDir,
}

const QUEUED: usize = 8;
const CONNECTIONS: usize = 2;
const STREAMS: usize = 1;

impl Held {
    pub fn at(cut: Cut, asked: Asked, environment: &[(&str, &str)]) -> Held {
        let family = Family::new();
        let folder = testkit::process::temp_dir();
        let log = folder.path().join("faults");
        let (first, second) = cut.points();
        let stop = |point: Option<&str>| point.map_or(String::new(), |point| format!("{point}#1=stop"));
        // HELLO tells the successor's pid, READY that it was sent, wherever they are held.
        let second = format!("received:HELLO=sleep:0,sent:READY=sleep:0,{}", stop(second));
        let first = stop(first);
        let mut variables = vec![
            ("SHELLFLIP_LOG", "info"),
            ("SHELLFLIP_FAULT", first.as_str()),
            ("SHELLFLIP_FAULT_NEXT", second.as_str()),
            ("SHELLFLIP_FAULT_LOG", log.to_str().expect("a path in UTF-8")),
        ];
        variables.extend(environment);
        let host = Host::start(&family, &variables);
        let predecessor = host.process.pid();
        let mut early = Client::connect(&host.address);
        assert_eq!(early.ask().pid, predecessor);
        let config = Config::http(host.address.clone()).connections(CONNECTIONS).streams(STREAMS);
        let load = Load::start(config).expect("a load");
        wait_until("the load is answered", SOON, || load.snapshot().answered > 10);

        let requester = match asked {
            Asked::ByCall => Some(host.call_meanwhile("/upgrade")),
            Asked::BySignal => {
                signal(predecessor, Signal::SIGUSR1);
                None
            }
        };
        let faults = Faults(log);
        let successor = faults.wait("received:HELLO", "sleep:0");
        let (first, second) = cut.points();
        for (point, pid) in [(first, predecessor), (second, successor)] {
            if let Some(point) = point {
                assert_eq!(faults.wait(point, "stop"), pid, "{cut:?}");
                wait_all_stopped(pid);
            }
        }
        let said = host.process.output();
        match cut {
            Cut::BeforeReleased => host.process.wait_for_output(&ready_line(successor), SOON),
            Cut::Released => {}
            _ => assert!(!said.contains(&ready_line(successor)), "{cut:?}: served before LIVE:\n{said}"),
        }
        for (point, pid) in [(first, predecessor), (second, successor)] {
            if point.is_none() {
                stop_all(pid);
            }
        }
        let queued = (0..QUEUED).map(|_| Client::asking(&host.address)).collect();
        Held { cut, family, host, predecessor, successor, requester, load, early, queued, folder }
    }

    /// Waits until the successor has sent READY, wherever it was held before.
    pub fn wait_sent_ready(&self) {
        Faults(self.folder.path().join("faults")).wait("sent:READY", "");
    }

    /// None of those who connected while nobody could accept has an answer, or an error.
    pub fn assert_still_queued(&mut self) {
        for client in &mut self.queued {
            client.assert_waiting();
        }
    }

    /// All of those who connected while nobody could accept are answered, by one of these.
    pub fn assert_answered_by(&mut self, by: &[i32]) {
        for (number, mut client) in self.queued.drain(..).enumerate() {
            let answered = client.try_answer().unwrap_or_else(|error| {
                let said = self.host.process.output();
                panic!("{:?}: client {number} was promised an answer by {by:?}: {error}\n{said}", self.cut)
            });
            assert!(by.contains(&answered.pid), "{:?}: {answered:?}, not one of {by:?}", self.cut);
        }
    }

    /// A connection from before the upgrade still leads to the predecessor.
    pub fn assert_early_connection_works(&mut self) {
        self.early.send();
        assert_eq!(self.early.answer().pid, self.predecessor, "{:?}", self.cut);
    }

    /// The predecessor shuts down, finishes the connection from before the upgrade, and ends.
    pub fn assert_predecessor_drains(&mut self) {
        let process = &self.host.process;
        process.wait_for_output(&format!("shutdown 1 pid={} ", self.predecessor), SOON);
        self.assert_early_connection_works();
        self.host.process.wait_for_output(&format!("end 0 pid={} ", self.predecessor), SOON);
    }

    /// What the requester was told.
    pub fn told(&mut self) -> Called {
        self.requester.take().expect("asked by call").join().expect("an answer to the call")
    }

    /// Waits until this one answers, and nobody else.
    pub fn assert_serves(&self, pid: i32, generation: i64) {
        let who = wait_for("the right process answers", SOON, || {
            Some(self.host.who()).filter(|who| who.pid == pid)
        });
        assert_eq!((who.pid, who.generation), (pid, generation), "{:?}", self.cut);
    }

    /// The server that is left can be upgraded and stopped, and no process remains.
    pub fn finish(self, failed_connections: u64) {
        let before = self.host.who();
        self.host.call("/env/SHELLFLIP_FAULT_NEXT");
        let called = wait_for("an upgrade that is not refused", SOON, || {
            let called = self.host.call("/upgrade");
            let too_early = [-i64::from(libc::EAGAIN), -i64::from(libc::EBUSY)].contains(&called.rc);
            (!too_early).then_some(called)
        });
        assert!(called.rc > 0, "{:?}: {called:?}\n{}", self.cut, self.host.process.output());
        let after: Who = self.host.wait_for_other(before.pid);
        assert_eq!((i64::from(after.pid), after.generation), (called.rc, before.generation + 1));
        let report = self.load.stop();
        if failed_connections == 0 {
            report.assert_clean();
        } else {
            // What a dead process had accepted is lost, and nothing else.
            let failures = &report.first_failures;
            assert_eq!(report.failed_by(testkit::load::Kind::Refused), 0, "{failures:#?}");
            assert!(report.totals.failed <= failed_connections, "{:?}: {failures:#?}", self.cut);
        }
        drop((self.early, self.queued));
        // Until its shutdown has fired the old one accepts, and would take the request for its own.
        wait_until("the old one is gone", SOON, || !Proc(before.pid).alive());
        assert_eq!(self.host.call("/request/2").rc, 0);
        self.family.assert_none_left(SOON);
    }

    /// As it has to be where both sides are gone.
    pub fn assert_nobody_is_left(self) {
        drop(self.load);
        drop((self.early, self.queued));
        self.family.assert_none_left(SOON);
    }
}

/// How many connections of the load one process can take with it.
pub const ALL_CONNECTIONS: u64 = (CONNECTIONS + STREAMS) as u64;

/// What `tests/c/host.c` writes when `flip_ready` has returned 0.
pub fn ready_line(pid: i32) -> String {
    format!("ready 0 pid={pid} ")
}

/// Returns when all of it is gone: a process whose main thread is a zombie may still have others, and descriptors.
pub fn kill(pid: i32) {
    // SAFETY: makes a descriptor, which is nobody's yet.
    let pidfd = unsafe { OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32) };
    signal(pid, Signal::SIGKILL);
    let mut dead = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    wait_until("a killed process is dead", SOON, || unsafe { libc::poll(&mut dead, 1, 0) } == 1);
}

pub fn go_on(pid: i32) {
    signal(pid, Signal::SIGCONT);
}

pub fn stop_all(pid: i32) {
    signal(pid, Signal::SIGSTOP);
    wait_all_stopped(pid);
}

/// The state of a process is that of its main thread, and the others may still be on their way.
fn wait_all_stopped(pid: i32) {
    wait_until(&format!("every thread of {pid} is stopped"), SOON, || {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        })
    });
}

/// SHELLFLIP_FAULT_LOG.
struct Faults(PathBuf);

impl Faults {
    /// Waits for a hit, and says whose it was.
    fn wait(&self, point: &str, action: &str) -> i32 {
        wait_for(&format!("{point} is hit"), SOON, || {
            let text = std::fs::read_to_string(&self.0).unwrap_or_default();
            text.lines().find_map(|line| {
                let [pid, hit, done] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
                (hit == point && (action.is_empty() || done == action)).then(|| pid.parse().ok())?
            })
        })
    }
}

/// A client that connects now and reads its answer when the test wants to.
struct Client(TcpStream);

impl Client {
    fn connect(address: &Address) -> Client {
        let Address::Tcp(address) = address else { panic!("{address} is not TCP") };
        let stream = TcpStream::connect_timeout(address, scaled(SOON)).expect("the kernel queues it");
        stream.set_read_timeout(Some(scaled(SOON))).expect("a time-out");
        Client(stream)
    }

    fn asking(address: &Address) -> Client {
        let mut client = Client::connect(address);
        client.0.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").expect("the kernel queues it");
        client
    }

    fn send(&mut self) {
        self.0.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    }

    fn ask(&mut self) -> Identity {
        self.send();
        self.answer()
    }

    fn answer(&mut self) -> Identity {
        self.try_answer().expect("an answer")
    }

    fn try_answer(&mut self) -> std::io::Result<Identity> {
        let (mut input, mut buffer) = (Vec::new(), [0; 1024]);
        while !input.ends_with(b"}\n") {
            let read = self.0.read(&mut buffer)?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            input.extend_from_slice(&buffer[..read]);
        }
        let text = String::from_utf8_lossy(&input);
        Ok(Identity::parse(text.split("\r\n\r\n").nth(1).expect("a body").as_bytes()))
    }

    fn assert_waiting(&mut self) {
        self.0.set_read_timeout(Some(Duration::from_millis(1))).expect("a time-out");
        let read = self.0.read(&mut [0]);
        let kind = read.as_ref().map_err(std::io::Error::kind);
        assert_eq!(kind, Err(std::io::ErrorKind::WouldBlock), "neither answered nor reset");
        self.0.set_read_timeout(Some(scaled(SOON))).expect("a time-out");
    }
}
