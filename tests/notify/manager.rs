//! A socket in the place of systemd's, that believes the main process alone (`NotifyAccess=main`), as systemd does.

use nix::cmsg_space;
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, bind,
    recvmsg, setsockopt, socket,
};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;
use testkit::host::{Host, SOON, c_program};
use testkit::process::{Family, TempDir, temp_dir};
use testkit::{deadline, wait_for};

/// One datagram.
#[derive(Debug)]
pub struct Said {
    /// Who sent it.
    pub pid: i32,
    pub text: String,
    pub attached: Vec<OwnedFd>,
}

impl Said {
    /// Its lines, with what cannot be known replaced: `MONOTONIC_USEC=now`, seconds as `…`, and no MAINPIDFDID, which old
    /// kernels do not have.
    pub fn lines(&self) -> Vec<String> {
        let line = |line: &str| {
            if let Some(usec) = line.strip_prefix("MONOTONIC_USEC=") {
                let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
                let now = Duration::from(now).as_micros() as u64;
                let then: u64 = usec.parse().expect("a number");
                assert!(then <= now && now - then < 60_000_000, "{usec} at {now}");
                return "MONOTONIC_USEC=now".to_string();
            }
            match line.rsplit_once("after ") {
                Some((before, seconds)) if seconds.starts_with(|char: char| char.is_ascii_digit()) => {
                    let rest = seconds.split_once(" s").expect("seconds").1;
                    format!("{before}after … s{rest}")
                }
                _ => line.to_string(),
            }
        };
        self.text.lines().filter(|line| !line.starts_with("MAINPIDFDID=")).map(line).collect()
    }
}

/// The manager's end.
pub struct Manager {
    socket: OwnedFd,
    /// What NOTIFY_SOCKET says.
    pub address: String,
    _folder: TempDir,
}

impl Manager {
    pub fn new() -> Manager {
        let folder = temp_dir();
        let path = folder.path().join("notify");
        let address = UnixAddr::new(&path).unwrap();
        Manager::bind(&address, path.to_str().unwrap().to_string(), folder)
    }

    /// On a name in the abstract namespace.
    pub fn unnamed() -> Manager {
        let folder = temp_dir();
        let name = folder.path().to_str().unwrap().to_string();
        Manager::bind(&UnixAddr::new_abstract(name.as_bytes()).unwrap(), format!("@{name}"), folder)
    }

    fn bind(at: &UnixAddr, address: String, folder: TempDir) -> Manager {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None).unwrap();
        setsockopt(&socket, PassCred, &true).unwrap();
        bind(socket.as_raw_fd(), at).unwrap();
        Manager { socket, address, _folder: folder }
    }

    /// A host of this manager, from a shell that leaves it its own pid, as systemd would: with SYSTEMD_EXEC_PID where
    /// `direct`. It serves when this returns, and has said nothing that was read.
    pub fn start(&self, family: &Family, direct: bool, environment: &[(&str, &str)]) -> Host {
        let direct = if direct { "export SYSTEMD_EXEC_PID=$$; " } else { "" };
        let mut program = family
            .program("/bin/sh")
            .args(["-c", &format!("{direct}export WATCHDOG_PID=$$; exec \"$0\"")])
            .arg(c_program("tests/c/host.c", &[]))
            .env("NOTIFY_SOCKET", &self.address)
            .env("SHELLFLIP_LOG", "info");
        for (name, value) in environment {
            program = program.env(name, value);
        }
        Host::run(program)
    }

    /// What is there now.
    pub fn try_next(&self) -> Option<Said> {
        let mut bytes = [0; 8192];
        let mut control = cmsg_space!(UnixCredentials, [i32; 16]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
        let (mut pid, mut attached) = (0, Vec::new());
        for one in message.cmsgs().unwrap() {
            match one {
                ControlMessageOwned::ScmCredentials(credentials) => pid = credentials.pid(),
                ControlMessageOwned::ScmRights(rights) => {
                    // SAFETY: received just now, and nobody else's.
                    attached.extend(rights.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
                _ => {}
            }
        }
        let length = message.bytes;
        Some(Said { pid, text: String::from_utf8(bytes[..length].to_vec()).unwrap(), attached })
    }

    /// The next one.
    #[track_caller]
    pub fn next(&self) -> Said {
        wait_for("a datagram", SOON, || self.try_next())
    }

    /// The next one is just this, from this process.
    #[track_caller]
    pub fn expect(&self, pid: i32, lines: &[&str]) -> Said {
        let said = self.next();
        assert_eq!((said.pid, said.lines()), (pid, lines.iter().map(|line| line.to_string()).collect()));
        said
    }

    /// The next ones are those of the beginning of an upgrade; the new process.
    #[track_caller]
    pub fn expect_upgrade(&self, pid: i32) -> i32 {
        self.expect_request(pid);
        let said = self.next();
        let status =
            said.text.strip_prefix("STATUS=Upgrading: process ").unwrap_or_else(|| panic!("{said:?}"));
        assert_eq!(said.pid, pid);
        status.strip_suffix(" is starting.\n").expect("the end of the line").parse().expect("a pid")
    }

    /// The next one is that an upgrade was asked for.
    #[track_caller]
    pub fn expect_request(&self, pid: i32) {
        let status = "STATUS=An upgrade was asked for.";
        self.expect(pid, &["RELOADING=1", "MONOTONIC_USEC=now", "EXTEND_TIMEOUT_USEC=15000000", status]);
    }

    /// The next one is the new main process.
    #[track_caller]
    pub fn expect_main(&self, pid: i32, new: i32, generation: u32) {
        let status = format!("STATUS=Serving (generation {generation}, process {new}), upgraded after … s.");
        self.expect(pid, &[&format!("MAINPID={new}"), "READY=1", &status]);
    }

    /// What could not be said in its time: the request, how far it is, and the new main process, which is the result.
    #[track_caller]
    pub fn expect_upgrade_late(&self, pid: i32) -> i32 {
        self.expect_request(pid);
        let said = self.next();
        let new = said.text.strip_prefix("MAINPID=").unwrap_or_else(|| panic!("{said:?}"));
        assert_eq!(said.pid, pid);
        new.lines().next().expect("a line").parse().expect("a pid")
    }

    /// The next one is a barrier: it lasts as long as the result.
    #[track_caller]
    pub fn expect_barrier(&self, pid: i32) -> OwnedFd {
        let mut said = self.expect(pid, &["BARRIER=1"]);
        assert_eq!(said.attached.len(), 1);
        said.attached.remove(0)
    }

    /// Nothing is said for a while. What should not come cannot be waited for.
    #[track_caller]
    pub fn expect_silence(&self) {
        std::thread::sleep(deadline::scaled(Duration::from_millis(200)));
        if let Some(said) = self.try_next() {
            panic!("{said:?}");
        }
    }

    /// Fills the queue, so that nothing more fits.
    pub fn fill(&self) -> usize {
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut count = 0;
        // The kernel counts what is queued on the reader: SO_SNDBUF of one writer may be full earlier.
        loop {
            let full = match self.address.strip_prefix('@') {
                None => socket.send_to(b"X=1", &self.address).is_err(),
                Some(_) => unreachable!("a path is easier"),
            };
            if full {
                return count;
            }
            count += 1;
        }
    }
}
