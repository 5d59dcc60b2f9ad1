//! Real sockets on loopback and in a folder of their own.

#[cfg(feature = "faults")]
mod faults;
mod matching;
mod paths;

use super::*;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that goes away with its contents.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique =
            format!("shellflip-socket-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn address(&self, scheme: &str, name: &str) -> Address {
        parse(&format!("{scheme}://{}", self.path(name).display()))
    }

    fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.0).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn parse(text: &str) -> Address {
    Address::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn open(text: &str) -> Bound {
    bind_and_listen(&parse(text)).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs one test in a process of its own.
fn run_alone(test: &str, env: &[(&str, &str)]) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--include-ignored", test]).envs(env.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{env:?}: {text}");
}

fn abstract_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("shellflip-socket-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn local(fd: &OwnedFd) -> SocketAddr {
    match net::local_address(fd.as_fd()) {
        Ok(SockAddr::Inet(local)) => local,
        other => panic!("{other:?}"),
    }
}

fn option(fd: &OwnedFd, level: i32, name: i32) -> i32 {
    net::option(fd.as_fd(), level, name).unwrap()
}

fn ipv6() -> bool {
    let there = UdpSocket::bind("[::1]:0").is_ok();
    if !there {
        eprintln!("SKIPPED: this machine has no IPv6 loopback, nothing about IPv6 was tested");
    }
    there
}

/// The server's side of a client that has connected already.
fn accept(fd: &OwnedFd) -> OwnedFd {
    let mut poll = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut poll, 5_000u16), Ok(1), "no connection within 5 s");
    let raw = nix::sys::socket::accept(fd.as_raw_fd()).unwrap();
    unsafe_own(raw)
}

fn unsafe_own(raw: i32) -> OwnedFd {
    // SAFETY: the callers have just got this number from the kernel.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn assert_made_as_promised(fd: &OwnedFd) {
    assert!(fd.as_raw_fd() >= 3);
    assert!(net::flags(fd.as_fd()).unwrap().contains(OFlag::O_NONBLOCK));
    let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}

fn assert_serves(client: impl Read + Write, listener: &OwnedFd) {
    let mut client = client;
    let server = accept(listener);
    client.write_all(b"ping").unwrap();
    let mut got = [0; 4];
    std::fs::File::from(server).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ping");
}

#[test]
fn tcp_listens_on_v4_and_v6_and_on_both_at_once() {
    let v4 = open("tcp://localhost:0");
    assert_made_as_promised(&v4.fd);
    assert!(v4.path.is_none());
    assert_serves(TcpStream::connect(local(&v4.fd)).unwrap(), &v4.fd);

    let both = open("tcp://:0");
    let port = local(&both.fd).port();
    assert_serves(TcpStream::connect(("127.0.0.1", port)).unwrap(), &both.fd);
    if !ipv6() {
        return;
    }
    assert_serves(TcpStream::connect(("::1", port)).unwrap(), &both.fd);
    let v6 = open("tcp://[::1]:0");
    assert_serves(TcpStream::connect(local(&v6.fd)).unwrap(), &v6.fd);
    let only = open("tcp://[::]:0?v6only=1");
    let port = local(&only.fd).port();
    assert_serves(TcpStream::connect(("::1", port)).unwrap(), &only.fd);
    let error = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let zone = open("tcp://[::1%25lo]:0");
    assert!(matching(zone.fd.as_fd(), &parse("tcp://[::1]:0"), true).unwrap().is_some());
}

#[test]
fn udp_receives_on_v4_and_v6() {
    for (address, client) in
        [("udp://127.0.0.1:0", "127.0.0.1"), ("udp://:0", "127.0.0.1"), ("udp://:0", "::1")]
    {
        if client == "::1" && !ipv6() {
            continue;
        }
        let bound = open(address);
        assert_made_as_promised(&bound.fd);
        let sender = UdpSocket::bind((client, 0)).unwrap();
        sender.send_to(b"ping", (client, local(&bound.fd).port())).unwrap();
        let mut got = [0; 8];
        let receiver = UdpSocket::from(bound.fd);
        receiver.set_nonblocking(false).unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        assert_eq!(receiver.recv(&mut got).unwrap(), 4);
    }
}

#[test]
fn every_unix_kind_works_by_path_and_by_abstract_name() {
    let folder = Folder::new();
    for (scheme, kind) in
        [("unix", libc::SOCK_STREAM), ("unixgram", libc::SOCK_DGRAM), ("unixpacket", libc::SOCK_SEQPACKET)]
    {
        let path = folder.path(scheme);
        let name = abstract_name();
        for (text, at) in [
            (format!("{scheme}://{}", path.display()), SockAddr::UnixPath(path.to_str().unwrap().into())),
            (format!("{scheme}:@{name}"), SockAddr::UnixAbstract(name.clone().into())),
        ] {
            let bound = open(&text);
            assert_made_as_promised(&bound.fd);
            assert_eq!(bound.path.is_some(), text.contains("://"));
            assert_eq!(describe(bound.fd.as_fd()).unwrap().to_string(), text);
            let client = net::socket(libc::AF_UNIX, kind).unwrap();
            net::connect(client.as_fd(), &at).unwrap();
            nix::unistd::write(&client, b"ping").unwrap();
            let server = if kind == libc::SOCK_DGRAM { bound.fd } else { accept(&bound.fd) };
            let mut got = [0; 8];
            assert_eq!(nix::unistd::read(&server, &mut got), Ok(4), "{text}");
            let again = bind_and_listen(&parse(&text)).map(|_| ());
            if kind == libc::SOCK_DGRAM {
                let expected = format!("cannot bind {text}: address already in use (EADDRINUSE)");
                assert_eq!(again.unwrap_err().to_string(), expected);
            }
        }
    }
}

#[test]
fn an_address_in_use_is_named() {
    let first = open("tcp://127.0.0.1:0");
    let text = format!("tcp://127.0.0.1:{}", local(&first.fd).port());
    let error = bind_and_listen(&parse(&format!("{text}?backlog=7"))).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {text}: address already in use (EADDRINUSE)"));
    assert_eq!(error.errno(), Errno::EADDRINUSE);

    let error = bind_and_listen(&parse("udp://192.0.2.1:9")).unwrap_err();
    assert!(error.to_string().starts_with("cannot bind udp://192.0.2.1:9: "), "{error}");
    assert_eq!(error.errno(), Errno::EADDRNOTAVAIL);
    let error = bind_and_listen(&parse("tcp://127.0.0.1:0?device=no-such-dev")).unwrap_err();
    assert!(error.to_string().contains("the option device was refused: "), "{error}");
    if ipv6() {
        let error = bind_and_listen(&parse("tcp://[fe80::1%25no-such-dev]:0")).unwrap_err();
        assert!(error.to_string().contains(r#"there is no interface "no-such-dev""#), "{error}");
    }
}

#[test]
fn options_reach_the_socket() {
    let tcp = open("tcp://127.0.0.1:0?nodelay=1&defer=3&fastopen=16&reuseport=1&freebind=1&device=lo");
    assert_eq!(option(&tcp.fd, libc::SOL_TCP, libc::TCP_NODELAY), 1);
    assert!(option(&tcp.fd, libc::SOL_TCP, libc::TCP_DEFER_ACCEPT) >= 3);
    assert_eq!(option(&tcp.fd, libc::SOL_TCP, libc::TCP_FASTOPEN), 16);
    assert_eq!(option(&tcp.fd, libc::SOL_IP, libc::IP_FREEBIND), 1);
    assert_eq!(option(&tcp.fd, libc::SOL_SOCKET, libc::SO_REUSEADDR), 1);
    assert_eq!(describe(tcp.fd.as_fd()).unwrap().device, b"lo");
    let port = local(&tcp.fd).port();
    let second = open(&format!("tcp://127.0.0.1:{port}?reuseport=1&device=lo"));
    assert_eq!(local(&second.fd).port(), port);
    let text = describe(second.fd.as_fd()).unwrap().to_string();
    assert_eq!(text, format!("tcp://127.0.0.1:{port}?reuseport=1&device=lo"));

    let free = open("udp://192.0.2.1:0?freebind=1");
    assert_eq!(local(&free.fd).ip().to_string(), "192.0.2.1");
    assert_eq!(option(&free.fd, libc::SOL_SOCKET, libc::SO_REUSEADDR), 0);
    if ipv6() {
        let free = open("tcp://[2001:db8::1]:0?freebind=1");
        assert_eq!(local(&free.fd).ip().to_string(), "2001:db8::1");
    }
    match bind_and_listen(&parse("tcp://127.0.0.1:0?transparent=1")) {
        Ok(bound) => assert_eq!(option(&bound.fd, libc::SOL_IP, libc::IP_TRANSPARENT), 1),
        Err(error) => {
            assert_eq!(error.errno(), Errno::EPERM, "{error}");
            eprintln!("SKIPPED: transparent=1 needs CAP_NET_ADMIN");
        }
    }
}

/// The backlog in force: the send queue column of a listener in TCP_INFO.
fn backlog(fd: &OwnedFd) -> u32 {
    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    let raw = fd.as_raw_fd();
    // SAFETY: `info` has room for `length` bytes.
    let done = unsafe {
        libc::getsockopt(raw, libc::SOL_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length)
    };
    assert_eq!(done, 0);
    // tcpi_sacked, which a listener uses for its backlog: 8 bytes of flags, then u32s: rto, ato, snd_mss, rcv_mss,
    // unacked, sacked.
    u32::from_ne_bytes(info[28..32].try_into().unwrap())
}

#[test]
fn the_backlog_is_what_was_asked_or_the_limit_of_the_kernel() {
    let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    assert_eq!(backlog(&open("tcp://127.0.0.1:0").fd), somaxconn.trim().parse::<u32>().unwrap());
    assert_eq!(backlog(&open("tcp://127.0.0.1:0?backlog=7").fd), 7);
}

#[test]
fn what_a_live_socket_takes_is_changed_and_the_rest_is_left() {
    let bound = open("tcp://127.0.0.1:0?backlog=7&nodelay=1");
    let client = TcpStream::connect(local(&bound.fd)).unwrap();
    apply_live(bound.fd.as_fd(), &parse("tcp://127.0.0.1:0"), None).unwrap();
    assert_eq!((backlog(&bound.fd), option(&bound.fd, libc::SOL_TCP, libc::TCP_NODELAY)), (7, 1));
    apply_live(bound.fd.as_fd(), &parse("tcp://127.0.0.1:0?backlog=9&nodelay=0&defer=2&fastopen=5"), None)
        .unwrap();
    assert_eq!((backlog(&bound.fd), option(&bound.fd, libc::SOL_TCP, libc::TCP_NODELAY)), (9, 0));
    assert!(option(&bound.fd, libc::SOL_TCP, libc::TCP_DEFER_ACCEPT) > 0);
    assert_eq!(option(&bound.fd, libc::SOL_TCP, libc::TCP_FASTOPEN), 5);
    assert_serves(client, &bound.fd);
    let unix = open(&format!("unix:@{}", abstract_name()));
    let error = apply_live(unix.fd.as_fd(), &parse("tcp://127.0.0.1:80?nodelay=1"), None).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot change tcp://127.0.0.1:80: the option nodelay was refused: ")
    );
}

#[test]
fn nonblocking_is_set_once_and_nothing_else_is_touched() {
    let listener = UnixListener::bind(Folder::new().path("a")).unwrap();
    net::set_flags(listener.as_fd(), OFlag::O_ASYNC).unwrap();
    assert_eq!(set_nonblocking_once(listener.as_fd()), Ok(true));
    assert_eq!(set_nonblocking_once(listener.as_fd()), Ok(false));
    let flags = net::flags(listener.as_fd()).unwrap();
    assert!(flags.contains(OFlag::O_NONBLOCK | OFlag::O_ASYNC));
}

#[test]
fn a_descriptor_that_would_be_stdio_is_moved_up() {
    // The other tests of this process have their own stdin.
    run_alone("socket::tests::with_stdin_closed", &[]);
}

#[test]
#[ignore = "run by a_descriptor_that_would_be_stdio_is_moved_up"]
fn with_stdin_closed() {
    drop(unsafe_own(0));
    let bound = open("tcp://127.0.0.1:0");
    assert_made_as_promised(&bound.fd);
    assert!(net::flags(unsafe_borrow(0)).is_err(), "the first copy is still open");
}

fn unsafe_borrow(raw: i32) -> BorrowedFd<'static> {
    // SAFETY: for a number that is asked about and not used.
    unsafe { BorrowedFd::borrow_raw(raw) }
}

#[test]
fn listeners_are_told_from_everything_else() {
    let folder = Folder::new();
    let listens = |fd: BorrowedFd<'_>| is_listener(fd).unwrap_or_else(|error| panic!("{error}"));
    assert!(listens(open("tcp://127.0.0.1:0").fd.as_fd()));
    assert!(listens(open("udp://127.0.0.1:0").fd.as_fd()));
    assert!(listens(open(&format!("unixgram:@{}", abstract_name())).fd.as_fd()));
    assert!(listens(bind_and_listen(&folder.address("unixpacket", "p")).unwrap().fd.as_fd()));
    assert!(!listens(bind(&parse("tcp://127.0.0.1:0")).unwrap().fd.as_fd()), "bound, not listening");
    assert!(!listens(net::socket(libc::AF_INET, libc::SOCK_DGRAM).unwrap().as_fd()), "not bound");
    assert!(!listens(UnixDatagram::unbound().unwrap().as_fd()));
    let (a, _b) = UnixStream::pair().unwrap();
    assert!(!listens(a.as_fd()));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect("127.0.0.1:9").unwrap();
    assert!(!listens(client.as_fd()), "a client of one peer");
    assert!(!listens(std::fs::File::open("/dev/null").unwrap().as_fd()));
    assert!(!listens(net::hold(b"/").unwrap().as_fd()));
    let closed = unsafe_borrow(1_000_000);
    assert_eq!(is_listener(closed).map_err(|error| error.errno()), Err(Errno::EBADF));
}
