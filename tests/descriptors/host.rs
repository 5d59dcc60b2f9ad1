//! Drives `tests/c/passes.c`, generation by generation, and its clients.

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, UnixAddr, bind, connect, recv,
    send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testkit::deadline::scaled;
use testkit::host::{SOON, c_program};
use testkit::process::{Family, Process, Program};
use testkit::wait_for;

/// The longest a scripted step may take.
const STEP: Duration = Duration::from_secs(30);

/// A folder that goes away with the test; its path is short, since unix sockets go into it.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("passes-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One chain of generations.
pub struct World {
    pub family: Family,
    pub folder: Folder,
    pub first: Process,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Generation {
    pub number: u32,
    pub pid: i32,
    folder: PathBuf,
}

/// What a command gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub rc: i64,
    pub text: String,
}

impl World {
    pub fn start(environment: &[(&str, &str)]) -> World {
        World::start_by(environment, |family, host| family.program(host))
    }

    /// `program` says how the host is started: by strace, by a launcher …
    pub fn start_by(environment: &[(&str, &str)], program: impl FnOnce(&Family, &Path) -> Program) -> World {
        let (family, folder) = (Family::new(), Folder::new());
        let program = program(&family, &c_program("tests/c/passes.c", &[]));
        let program = program.env("PASSES_DIR", &folder.0).env("SHELLFLIP_LOG", "info");
        let program = environment.iter().fold(program, |program, (name, value)| program.env(name, value));
        let first = program.start();
        World { family, folder, first }
    }

    /// Waits until that generation takes commands; one that failed before does not count, its socket is dead.
    pub fn generation(&self, number: u32) -> Generation {
        find(&self.folder.0, number)
    }

    pub fn zero(&self) -> Generation {
        self.generation(0)
    }

    /// An upgrade in which `prepare` claims what it wants, up to the new process being READY itself.
    pub fn upgrade(&self, from: &Generation, prepare: impl FnOnce(&Generation)) -> Generation {
        let upgrading = from.begin_upgrade();
        let control = self.folder.path(&(from.number + 1).to_string());
        let started = || upgrading.is_finished() || ask(&control, "pid").is_ok();
        wait_for("the new process or a failure", SOON, || started().then_some(()));
        if upgrading.is_finished() {
            panic!("{:?}\n{}", upgrading.join().unwrap(), self.log());
        }
        let next = self.generation(from.number + 1);
        prepare(&next);
        next.ok("ready -1");
        let upgraded = upgrading.join().unwrap();
        assert_eq!(upgraded.rc, i64::from(next.pid), "{upgraded:?}\n{}", self.log());
        // Until then the old one may still accept.
        self.first.wait_for_output(&format!("shutdown 1 pid={}", from.pid), SOON);
        next
    }

    /// An upgrade whose new process exits before it is ready; what the old one is told.
    pub fn failing_upgrade(&self, from: &Generation, prepare: impl FnOnce(&Generation)) -> Answer {
        let upgrading = from.begin_upgrade();
        let next = self.generation(from.number + 1);
        prepare(&next);
        next.send("exit 7");
        let failed = upgrading.join().unwrap();
        assert_eq!(failed.rc, -i64::from(libc::ECONNABORTED), "{failed:?}");
        failed
    }

    /// What all generations wrote.
    pub fn log(&self) -> String {
        self.first.output()
    }

    /// Stops the last generation, and nobody is left.
    pub fn stop(&self, last: &Generation) {
        last.ok("request 2");
        self.family.wait_gone(last.pid, SOON);
        self.family.assert_none_left(SOON);
    }
}

fn find(folder: &Path, number: u32) -> Generation {
    wait_for(&format!("generation {number} takes commands"), SOON, || {
        let rc = ask(&folder.join(number.to_string()), "pid").ok()?.rc;
        (rc > 0).then(|| Generation { number, pid: rc as i32, folder: folder.into() })
    })
}

fn ask(control: &Path, command: &str) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(scaled(STEP)))?;
    stream.write_all(format!("{command}\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (rc, text) =
        answer.trim_end_matches('\n').split_once(' ').ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok(Answer { rc: rc.parse().expect("a result"), text: text.trim().into() })
}

impl Generation {
    fn control(&self) -> PathBuf {
        self.folder.join(self.number.to_string())
    }

    #[track_caller]
    pub fn call(&self, command: &str) -> Answer {
        ask(&self.control(), command).unwrap_or_else(|error| panic!("{command} in {self:?}: {error}"))
    }

    /// The result, which is no failure.
    #[track_caller]
    pub fn ok(&self, command: &str) -> i64 {
        let answer = self.call(command);
        assert!(answer.rc >= 0, "{command} in generation {}: {answer:?}", self.number);
        answer.rc
    }

    #[track_caller]
    pub fn text(&self, command: &str) -> String {
        let answer = self.call(command);
        assert!(answer.rc >= 0, "{command} in generation {}: {answer:?}", self.number);
        answer.text
    }

    /// The sentence of the failure, which is this one.
    #[track_caller]
    pub fn fails(&self, command: &str, errno: i32) -> String {
        let answer = self.call(command);
        assert_eq!(answer.rc, -i64::from(errno), "{command} in generation {}: {answer:?}", self.number);
        answer.text
    }

    /// A command after which there is nobody to answer.
    pub fn send(&self, command: &str) {
        let _ = ask(&self.control(), command);
    }

    /// An upgrade that this process may not live to tell about.
    pub fn begin_upgrade_that_may_end(&self) -> JoinHandle<()> {
        let control = self.control();
        std::thread::spawn(move || drop(ask(&control, "upgrade -1")))
    }

    /// RELEASED may still be on its way to this generation: until then it says EAGAIN.
    pub fn begin_upgrade(&self) -> JoinHandle<Answer> {
        let control = self.control();
        std::thread::spawn(move || {
            let end = Instant::now() + scaled(SOON);
            loop {
                let answer = ask(&control, "upgrade -1").expect("an answer");
                if answer.rc != -i64::from(libc::EAGAIN) || Instant::now() > end {
                    return answer;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        })
    }
}

/// Every kind of address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    TcpV4,
    TcpV6,
    UnixPath,
    UnixAbstract,
    UnixPacket,
    Udp,
    UnixGram,
}

/// An address of that kind, and the way there.
#[derive(Debug, Clone)]
pub struct Place {
    pub kind: Kind,
    /// For flip_listen.
    pub address: String,
    pub path: PathBuf,
    pub port: u16,
}

impl Place {
    /// `name` is also the socket's name where it has a port: that is 0, and survives by name.
    pub fn new(kind: Kind, folder: &Folder, name: &str) -> Place {
        let path = folder.path(name);
        let shown = path.display();
        let address = match kind {
            Kind::TcpV4 => format!("tcp://127.0.0.1:0?name={name}"),
            Kind::TcpV6 => format!("tcp://[::1]:0?name={name}"),
            Kind::UnixPath => format!("unix://{shown}"),
            Kind::UnixAbstract => format!("unix:@{shown}"),
            Kind::UnixPacket => format!("unixpacket://{shown}"),
            Kind::Udp => format!("udp://127.0.0.1:0?name={name}"),
            Kind::UnixGram => format!("unixgram://{shown}"),
        };
        Place { kind, address, path, port: 0 }
    }

    pub fn tcp(port: u16) -> Place {
        Place { kind: Kind::TcpV4, address: format!("tcp://127.0.0.1:{port}"), path: PathBuf::new(), port }
    }

    pub fn has_path(&self) -> bool {
        matches!(self.kind, Kind::UnixPath | Kind::UnixPacket | Kind::UnixGram)
    }

    pub fn is_datagram(&self) -> bool {
        matches!(self.kind, Kind::Udp | Kind::UnixGram)
    }

    /// Listens there; from then on the port is known.
    #[track_caller]
    pub fn listen(&mut self, generation: &Generation) -> i64 {
        let fd = generation.ok(&format!("listen {}", self.address));
        if let Ok(port) = u16::try_from(generation.call(&format!("port {fd}")).rc) {
            assert!(self.port == 0 || self.port == port, "the port has changed from {} to {port}", self.port);
            self.port = port;
        }
        fd
    }

    pub fn connect(&self) -> nix::Result<Client> {
        let (family, kind) = match self.kind {
            Kind::TcpV4 => (AddressFamily::Inet, SockType::Stream),
            Kind::TcpV6 => (AddressFamily::Inet6, SockType::Stream),
            Kind::UnixPath | Kind::UnixAbstract => (AddressFamily::Unix, SockType::Stream),
            Kind::UnixPacket => (AddressFamily::Unix, SockType::SeqPacket),
            Kind::Udp => (AddressFamily::Inet, SockType::Datagram),
            Kind::UnixGram => (AddressFamily::Unix, SockType::Datagram),
        };
        let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        let limit = TimeVal::new(scaled(SOON).as_secs() as i64, 0);
        setsockopt(&fd, sockopt::ReceiveTimeout, &limit)?;
        setsockopt(&fd, sockopt::SendTimeout, &limit)?;
        let to = |address: &dyn SockaddrLike| {
            // SAFETY: the address is as long as it says, and outlives the call.
            nix::errno::Errno::result(unsafe {
                libc::connect(fd.as_raw_fd(), address.as_ptr(), address.len())
            })
        };
        match self.kind {
            Kind::TcpV4 | Kind::Udp => {
                connect(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, self.port)).map(drop)?
            }
            Kind::TcpV6 => {
                let address = std::net::SocketAddrV6::new(std::net::Ipv6Addr::LOCALHOST, self.port, 0, 0);
                to(&SockaddrIn6::from(address)).map(drop)?;
            }
            Kind::UnixAbstract => {
                to(&UnixAddr::new_abstract(self.path.as_os_str().as_encoded_bytes())?).map(drop)?;
            }
            _ => {
                if self.kind == Kind::UnixGram {
                    // The answer needs a way back: the kernel chooses an abstract name.
                    bind(fd.as_raw_fd(), &UnixAddr::new_unnamed())?;
                }
                to(&UnixAddr::new(&self.path)?).map(drop)?;
            }
        }
        Ok(Client(fd))
    }
}

/// One connection, or one datagram socket that talks to one place.
#[derive(Debug)]
pub struct Client(OwnedFd);

impl Client {
    pub fn send(&self) -> nix::Result<()> {
        send(self.0.as_raw_fd(), b"?", nix::sys::socket::MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    /// The pid of who answers.
    pub fn answer(&self) -> nix::Result<i32> {
        let mut buffer = [0; 64];
        let n = recv(self.0.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty())?;
        match std::str::from_utf8(&buffer[..n]).unwrap().trim().parse() {
            Ok(pid) => Ok(pid),
            // The end of the connection without an answer.
            Err(_) => Err(nix::errno::Errno::ECONNABORTED),
        }
    }

    /// Nothing has arrived and the connection stands.
    pub fn waits(&self) -> bool {
        let mut buffer = [0; 64];
        recv(self.0.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::MSG_DONTWAIT)
            == Err(nix::errno::Errno::EAGAIN)
    }
}

/// One question, asked and answered.
pub fn ask_once(place: &Place) -> nix::Result<i32> {
    let client = place.connect()?;
    client.send()?;
    client.answer()
}

/// Asks again and again, in a thread, and keeps count.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    thread: JoinHandle<Vec<String>>,
}

impl Traffic {
    pub fn start(place: &Place) -> Traffic {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (place, stopped, counter) = (place.clone(), stop.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !stopped.load(SeqCst) {
                match ask_once(&place) {
                    Ok(_) => _ = counter.fetch_add(1, SeqCst),
                    Err(errno) => failures.push(format!("{errno:?} from {}", place.address)),
                }
            }
            failures
        });
        Traffic { stop, done, thread }
    }

    /// Waits for further answers.
    pub fn flows(&self) {
        let before = self.done.load(SeqCst);
        wait_for("traffic goes on", SOON, || (self.done.load(SeqCst) > before + 20).then_some(()));
    }

    pub fn end(self) {
        self.stop.store(true, SeqCst);
        let failures = self.thread.join().unwrap();
        assert!(failures.is_empty(), "{failures:?}");
    }
}

/// A port that is free on 127.0.0.1.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
