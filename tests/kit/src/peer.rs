//! Scripted peers: one side of a hand-over that says what a test tells it to say, right or wrong.
//!
//! A second implementation of `docs/protocol.md`, from that page alone: nothing of the library is used here, so that
//! a mistake in the library cannot hide behind the same mistake in its test. Like all of the kit it panics where
//! something fails that is not under test, and waits for nothing without a deadline.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The messages by name and type.
pub const FROM_PREDECESSOR: [(&str, u16); 7] =
    [("HELLO", 1), ("STATE", 2), ("COMMIT", 3), ("ABORT", 4), ("RELEASED", 5), ("STOP", 6), ("EXTEND", 7)];
/// The messages by name and type.
pub const FROM_SUCCESSOR: [(&str, u16); 5] =
    [("READY", 0x8001), ("LIVE", 0x8002), ("STOPPING", 0x8003), ("WITHDRAWN", 0x8004), ("EXTEND", 0x8005)];

/// The tags of the fields, by name.
pub mod tag {
    #![expect(missing_docs, reason = "they are in docs/protocol.md, under these names")]
    pub const NONCE: u16 = 1;
    pub const GENERATION: u16 = 2;
    pub const PID: u16 = 3;
    pub const START: u16 = 4;
    pub const COMMIT_DEADLINE: u16 = 5;
    pub const STATE_PROMISED: u16 = 6;
    pub const DRAINER: u16 = 7;
    pub const TABLE_SIZE: u16 = 8;
    pub const REASON: u16 = 9;
    pub const UPGRADE_REQUESTED: u16 = 10;
    pub const MS: u16 = 11;
    pub const ENTRY: u16 = 16;
    pub const NAME: u16 = 17;
    pub const LISTENER: u16 = 18;
    pub const KEEP: u16 = 19;
    pub const OWNER_PATH: u16 = 20;
    pub const OWNER_DEV: u16 = 21;
    pub const OWNER_INO: u16 = 22;
    pub const CONTROL: u16 = 23;
    pub const PHASE: u16 = 24;
    pub const PHASE_NAME: u16 = 25;
    pub const DRAINER_GENERATION: u16 = 26;
}

/// One field; `flags` 1 is CRITICAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// See [`tag`].
    pub tag: u16,
    /// 0, or 1 for CRITICAL.
    pub flags: u16,
    /// The bytes.
    pub value: Vec<u8>,
}

impl Field {
    /// A field that is not critical.
    pub fn new(tag: u16, value: impl AsRef<[u8]>) -> Field {
        Field { tag, flags: 0, value: value.as_ref().to_vec() }
    }

    /// The fields that it consists of.
    pub fn inner(&self) -> Vec<Field> {
        parse_fields(&self.value)
    }
}

/// The bytes of fields.
pub fn fields(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend(field.tag.to_le_bytes());
        bytes.extend(field.flags.to_le_bytes());
        bytes.extend(u32::try_from(field.value.len()).unwrap().to_le_bytes());
        bytes.extend(&field.value);
    }
    bytes
}

/// The bytes of a record.
pub fn record(kind: u16, flags: u16, parts: &[Field]) -> Vec<u8> {
    let mut bytes = b"SFLP\x01\0".to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(fields(parts));
    bytes
}

fn parse_fields(mut bytes: &[u8]) -> Vec<Field> {
    let mut parsed = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        parsed.push(Field {
            tag: u16::from_le_bytes([bytes[0], bytes[1]]),
            flags: u16::from_le_bytes([bytes[2], bytes[3]]),
            value: bytes[8..8 + length].to_vec(),
        });
        bytes = &bytes[8 + length..];
    }
    parsed
}

/// A message that was received.
#[derive(Debug)]
pub struct Heard {
    /// Its type.
    pub kind: u16,
    /// Its name, `?` for an unknown one.
    pub name: &'static str,
    /// Its fields.
    pub fields: Vec<Field>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Heard {
    fn parse(bytes: &[u8], descriptors: Vec<OwnedFd>) -> Heard {
        assert_eq!(&bytes[..6], b"SFLP\x01\0", "not a record of version 1: {bytes:02x?}");
        let kind = u16::from_le_bytes([bytes[6], bytes[7]]);
        let mut all = FROM_PREDECESSOR.iter().chain(&FROM_SUCCESSOR);
        let name = all.find(|(_, number)| *number == kind).map_or("?", |(name, _)| name);
        Heard { kind, name, fields: parse_fields(&bytes[12..]), descriptors }
    }

    /// The value of the first field with this tag.
    pub fn field(&self, tag: u16) -> Option<&[u8]> {
        self.fields.iter().find(|field| field.tag == tag).map(|field| &field.value[..])
    }

    /// The same, as a number of whatever size.
    pub fn number(&self, tag: u16) -> Option<u64> {
        self.field(tag).map(number)
    }

    /// REASON.
    pub fn reason(&self) -> String {
        String::from_utf8_lossy(self.field(tag::REASON).unwrap_or_default()).into_owned()
    }
}

fn number(value: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..value.len()].copy_from_slice(value);
    u64::from_le_bytes(bytes)
}

/// One end of a channel. Dropping it closes it.
#[derive(Debug)]
pub struct Peer {
    /// The socket.
    pub socket: OwnedFd,
    says: &'static [(&'static str, u16)],
}

impl Peer {
    /// Sends the message of this name, without fields.
    pub fn say(&self, name: &str) {
        self.say_with(name, &[], &[]);
    }

    /// Sends the message of this name.
    pub fn say_with(&self, name: &str, parts: &[Field], descriptors: &[RawFd]) {
        let kind =
            self.says.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no {name}")).1;
        self.say_raw(&record(kind, 0, parts), descriptors).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Sends these bytes, whatever they mean.
    pub fn say_raw(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let mut control = [0u64; 140];
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: all-zero is a valid msghdr; then it names a buffer and a control area that are alive and large enough
        // for 253 numbers, which sendmsg only reads.
        let sent = unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &mut part;
            header.msg_iovlen = 1;
            if !descriptors.is_empty() {
                let size = u32::try_from(size_of_val(descriptors)).unwrap();
                header.msg_control = control.as_mut_ptr().cast();
                header.msg_controllen = libc::CMSG_SPACE(size) as _;
                assert!(header.msg_controllen as usize <= size_of_val(&control));
                let rights = libc::CMSG_FIRSTHDR(&header);
                (*rights).cmsg_level = libc::SOL_SOCKET;
                (*rights).cmsg_type = libc::SCM_RIGHTS;
                (*rights).cmsg_len = libc::CMSG_LEN(size) as _;
                let data = libc::CMSG_DATA(rights).cast::<RawFd>();
                data.copy_from_nonoverlapping(descriptors.as_ptr(), descriptors.len());
            }
            libc::sendmsg(self.socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next message, `None` at the end of the channel. Panics when nothing came in `timeout`.
    pub fn hear(&self, timeout: Duration) -> Option<Heard> {
        let deadline = Instant::now() + timeout;
        let mut buffer = vec![0; 65_536];
        loop {
            self.wait(deadline);
            match self.receive(&mut buffer) {
                Ok((0, _)) => return None,
                Ok((length, descriptors)) => return Some(Heard::parse(&buffer[..length], descriptors)),
                // A peer that died with our message unread: what it said before comes next.
                Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {}
                Err(error) => panic!("cannot read the channel: {error}"),
            }
        }
    }

    /// The next message has to be the one of this name.
    pub fn expect(&self, name: &str, timeout: Duration) -> Heard {
        let heard = self.hear(timeout).unwrap_or_else(|| panic!("the end instead of {name}"));
        assert_eq!(heard.name, name, "{heard:?}");
        heard
    }

    /// Closes this end.
    pub fn close(self) {}

    fn wait(&self, deadline: Instant) {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, alive.
            match unsafe { libc::poll(&mut poll, 1, i32::try_from(left.as_millis()).unwrap() + 1) } {
                0 => panic!("nothing was said on the channel in time"),
                1 => return,
                _ => assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EINTR)),
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut control = [0u64; 140];
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut descriptors = Vec::new();
        // SAFETY: as in say_raw, and recvmsg writes within the given lengths; each number in SCM_RIGHTS is new and ours.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &mut part;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of_val(&control) as _;
            let length = libc::recvmsg(self.socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC);
            let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
            assert_eq!(header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC), 0);
            let mut part = libc::CMSG_FIRSTHDR(&header);
            while !part.is_null() {
                let count = ((*part).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let numbers = libc::CMSG_DATA(part).cast::<RawFd>();
                for index in (0..count).filter(|_| (*part).cmsg_type == libc::SCM_RIGHTS) {
                    descriptors.push(OwnedFd::from_raw_fd(numbers.add(index).read_unaligned()));
                }
                part = libc::CMSG_NXTHDR(&header, part);
            }
            Ok((length, descriptors))
        }
    }
}

/// A successor without the library: what a program does that was started by a predecessor under test.
#[derive(Debug)]
pub struct ScriptedSuccessor {
    /// To speak with the predecessor.
    pub peer: Peer,
    /// What it said first.
    pub hello: Heard,
    /// The table, as the fields of each entry.
    pub table: Vec<Vec<Field>>,
    /// The descriptors from 3 on.
    pub descriptors: Vec<OwnedFd>,
}

impl ScriptedSuccessor {
    /// From the environment of this process, as a successor finds it; `None` if it is not meant as one. To be called
    /// once, before anything else is opened.
    pub fn from_env() -> Option<ScriptedSuccessor> {
        let channel = std::env::var("SHELLFLIP_CHANNEL").ok()?;
        let (pid, rest) = channel.split_once(':').expect("SHELLFLIP_CHANNEL");
        if pid != std::process::id().to_string() {
            return None;
        }
        let (fd, nonce) = rest.split_once(':').expect("SHELLFLIP_CHANNEL");
        let fd: RawFd = fd.parse().expect("SHELLFLIP_CHANNEL");
        let count: RawFd = std::env::var("LISTEN_FDS").map_or(0, |count| count.parse().expect("LISTEN_FDS"));
        if count > 0 {
            assert_eq!(std::env::var("LISTEN_PID").as_deref(), Ok(pid));
        }
        // SAFETY: the predecessor opened these for this process, and nobody else took them: called once and first.
        let own = |number| unsafe {
            assert_ne!(libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC), -1, "descriptor {number}");
            OwnedFd::from_raw_fd(number)
        };
        let descriptors: Vec<OwnedFd> = (3..3 + count).map(own).collect();
        let peer = Peer { socket: own(fd), says: &FROM_SUCCESSOR };
        let hello = peer.expect("HELLO", Duration::from_secs(5));
        let hex: String =
            hello.field(tag::NONCE).expect("NONCE").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, nonce);
        let entries = match hello.number(tag::TABLE_SIZE) {
            None => hello.fields.clone(),
            Some(size) => {
                let memfd = hello.descriptors.last().expect("memfd");
                let mut bytes = vec![0; usize::try_from(size).unwrap()];
                std::os::unix::fs::FileExt::read_exact_at(
                    &std::fs::File::from(memfd.try_clone().unwrap()),
                    &mut bytes,
                    0,
                )
                .expect("the table in the memfd");
                parse_fields(&bytes)
            }
        };
        let entries = entries.iter().filter(|field| field.tag == tag::ENTRY);
        let table: Vec<Vec<Field>> = entries.map(Field::inner).collect();
        assert_eq!(table.len(), descriptors.len(), "HELLO and LISTEN_FDS");
        Some(ScriptedSuccessor { peer, hello, table, descriptors })
    }

    /// The descriptor of this name.
    pub fn descriptor(&self, name: &[u8]) -> Option<&OwnedFd> {
        let named =
            |entry: &Vec<Field>| entry.iter().any(|field| field.tag == tag::NAME && field.value == name);
        self.descriptors.get(self.table.iter().position(named)?)
    }
}

/// The fields of an ENTRY without a path.
pub fn entry(name: impl AsRef<[u8]>, listener: bool, keep: u8) -> Field {
    let parts = [
        Field::new(tag::NAME, name),
        Field::new(tag::LISTENER, [listener.into()]),
        Field::new(tag::KEEP, [keep]),
    ];
    Field::new(tag::ENTRY, fields(&parts))
}

/// A predecessor without the library: what starts a program under test as a successor.
#[derive(Debug)]
pub struct ScriptedPredecessor {
    /// To speak with the successor.
    pub peer: Peer,
    theirs: Option<OwnedFd>,
    /// In HELLO and in SHELLFLIP_CHANNEL.
    pub nonce: [u8; 16],
    /// What the successor finds from 3 on.
    pub descriptors: Vec<OwnedFd>,
    /// What it finds in its environment; `$$` in the first two becomes its pid.
    pub channel_variable: Option<String>,
    /// LISTEN_PID.
    pub listen_pid: Option<String>,
    /// LISTEN_FDS.
    pub listen_fds: Option<String>,
    /// LISTEN_FDNAMES.
    pub listen_fdnames: Option<String>,
}

impl ScriptedPredecessor {
    /// A channel, and the descriptors to pass on. HELLO is to be queued and the successor to be started.
    pub fn new(descriptors: Vec<OwnedFd>) -> ScriptedPredecessor {
        let mut pair = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: two numbers are written, then they are ours.
        let (mine, theirs) = unsafe {
            assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()), 0);
            (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1]))
        };
        let mut nonce = [0; 16];
        io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut nonce).unwrap();
        let hex: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        let count = descriptors.len();
        ScriptedPredecessor {
            peer: Peer { socket: mine, says: &FROM_PREDECESSOR },
            theirs: Some(theirs),
            nonce,
            channel_variable: Some(format!("$$:{}:{hex}", 3 + count)),
            listen_pid: Some("$$".into()),
            listen_fds: Some(count.to_string()),
            listen_fdnames: None,
            descriptors,
        }
    }

    /// The fields of a good HELLO but for the table, and the descriptors that go with it: a pidfd of this process.
    pub fn hello(&self, generation: u32) -> (Vec<Field>, Vec<OwnedFd>) {
        let deadline = monotonic_ns() + 30_000_000_000;
        let fields = vec![
            Field::new(tag::NONCE, self.nonce),
            Field::new(tag::GENERATION, generation.to_le_bytes()),
            Field::new(tag::PID, std::process::id().to_le_bytes()),
            Field::new(tag::START, start_time().to_le_bytes()),
            Field::new(tag::COMMIT_DEADLINE, deadline.to_le_bytes()),
            Field::new(tag::STATE_PROMISED, [0]),
        ];
        // SAFETY: makes a descriptor, which is ours then.
        let pidfd = unsafe {
            let number = libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0);
            OwnedFd::from_raw_fd(RawFd::try_from(number).unwrap())
        };
        (fields, vec![pidfd])
    }

    /// Queues a good HELLO with these entries, see [`entry`].
    pub fn queue_hello(&self, generation: u32, table: Vec<Field>) {
        let (mut fields, descriptors) = self.hello(generation);
        fields.extend(table);
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        self.peer.say_with("HELLO", &fields, &numbers);
    }

    /// Starts a program as the successor; `configure` may set its environment and its standard streams. From then on
    /// only it has the other end.
    pub fn start<S: AsRef<OsStr>>(
        &mut self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
        configure: impl FnOnce(&mut Command),
    ) -> Child {
        let theirs = self.theirs.take().expect("starts one successor");
        let mut placed: Vec<&OwnedFd> = self.descriptors.iter().collect();
        placed.push(&theirs);
        let mut exports = String::new();
        for (name, value) in [("SHELLFLIP_CHANNEL", &self.channel_variable), ("LISTEN_PID", &self.listen_pid)]
        {
            if let Some(value) = value {
                exports.push_str(&format!("export {name}={value}; "));
            }
        }
        start_with(&placed, &exports, program, arguments, |command| {
            for (name, value) in [("LISTEN_FDS", &self.listen_fds), ("LISTEN_FDNAMES", &self.listen_fdnames)]
            {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            configure(command);
        })
    }
}

/// Starts a program with these descriptors from 3 on. A shell runs `exports` first, in which `$$` is the program's
/// pid, since the shell becomes the program.
pub fn start_with<S: AsRef<OsStr>>(
    descriptors: &[&OwnedFd],
    exports: &str,
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
    configure: impl FnOnce(&mut Command),
) -> Child {
    // Copies above all the numbers that are to be set, so that placing one never overwrites another.
    let above = 3 + RawFd::try_from(descriptors.len()).unwrap() + 16;
    let copies: Vec<OwnedFd> = descriptors
        .iter()
        .map(|fd| {
            // SAFETY: makes a descriptor, which is ours then.
            unsafe {
                let copy = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above);
                assert!(copy >= above, "{}", io::Error::last_os_error());
                OwnedFd::from_raw_fd(copy)
            }
        })
        .collect();
    let numbers: Vec<RawFd> = copies.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("{exports}exec \"$@\"")).arg("sh").arg(program.as_ref()).args(arguments);
    for name in ["SHELLFLIP_CHANNEL", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"] {
        command.env_remove(name);
    }
    configure(&mut command);
    // SAFETY: dup2 only, which is async-signal-safe; a dup2'd descriptor is not CLOEXEC.
    unsafe {
        command.pre_exec(move || {
            for (target, number) in (3..).zip(&numbers) {
                if libc::dup2(*number, target) == -1 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.spawn().expect("the successor starts")
}

/// CLOCK_MONOTONIC.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one timespec is written.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) }, 0);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// Of this process: field 22 of /proc/self/stat.
fn start_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(19).unwrap().parse().unwrap()
}
