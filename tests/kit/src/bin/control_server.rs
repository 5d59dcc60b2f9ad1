//! An HTTP server that replaces itself on SIGUSR1 in one of three ways: two that people write by hand and that lose
//! connections (`close-and-bind`, `reuseport`), and one that does not (`inherit`). The first two are the negative
//! controls of the load client: a client that sees nothing fail there would prove nothing elsewhere. Everything but
//! the hand-over is the same in all three: an answer announces the close that follows it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, sockopt};
use signal_hook::consts::{SIGTERM, SIGUSR1};

const DRAIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Start the new one, close the listener, let the new one bind
    CloseAndBind,
    /// The new one binds too; then the old one closes its listener
    Reuseport,
    /// The new one gets the listener itself
    Inherit,
}

/// A server that replaces itself on SIGUSR1, rightly or wrongly.
#[derive(Debug, Parser)]
struct Options {
    /// tcp://127.0.0.1:8080
    address: String,
    /// How it replaces itself
    #[arg(long, value_enum)]
    mode: Mode,
    /// What it says it is
    #[arg(long, default_value = "1")]
    version: String,
    /// What the next generation runs, with the address; without it, this program as it was started
    #[arg(long)]
    relaunch: Option<PathBuf>,
}

struct Server {
    version: String,
    generation: u32,
    stopping: AtomicBool,
    open: AtomicUsize,
}

/// A listener that is being served, until it is closed.
struct Accepting {
    latch: UnixStream,
    thread: JoinHandle<()>,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    let address = options.address.trim_start_matches("tcp://").parse().map_err(io::Error::other)?;
    let mut signals = signal_hook::iterator::Signals::new([SIGUSR1, SIGTERM])?;
    let server = Arc::new(Server {
        version: options.version.clone(),
        generation: std::env::var("CONTROL_GENERATION").ok().and_then(|n| n.parse().ok()).unwrap_or(0),
        stopping: AtomicBool::new(false),
        open: AtomicUsize::new(0),
    });
    let listener = match passed("CONTROL_LISTEN_FD") {
        Some(fd) => TcpListener::from(fd),
        None => bind(address, options.mode)?,
    };
    let for_successor = listener.try_clone()?;
    let accepting = accept_on(listener, server.clone())?;
    if let Some(ready) = passed("CONTROL_READY_FD") {
        std::fs::File::from(ready).write_all(b"1")?;
    }
    for signal in &mut signals {
        if signal == SIGTERM {
            break;
        }
        match hand_over(&options, &server, &for_successor) {
            Ok(()) => break,
            Err(error) => eprintln!("upgrade failed: {error}"),
        }
    }
    server.stopping.store(true, Ordering::SeqCst);
    drop(for_successor);
    accepting.close();
    let deadline = Instant::now() + DRAIN;
    while server.open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A descriptor that the predecessor left open for us, under this variable.
fn passed(variable: &str) -> Option<OwnedFd> {
    let number: RawFd = std::env::var(variable).ok()?.parse().ok()?;
    // SAFETY: the predecessor opened it for this process alone, and each variable is read once.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    Some(fd)
}

fn bind(address: SocketAddr, mode: Mode) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if mode == Mode::Reuseport {
        socket::setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    // The predecessor may still be about to close its listener.
    while let Err(error) = socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        if error != Errno::EADDRINUSE || mode != Mode::CloseAndBind || Instant::now() > deadline {
            return Err(error.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    socket::listen(&fd, Backlog::new(1024)?)?;
    Ok(TcpListener::from(fd))
}

/// Returns once it is time to close the listener.
fn hand_over(options: &Options, server: &Server, listener: &TcpListener) -> io::Result<()> {
    let mut command = match &options.relaunch {
        Some(path) => {
            let mut command = Command::new(path);
            command.arg(&options.address);
            command
        }
        None => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(std::env::args_os().skip(1));
            command
        }
    };
    command.env("CONTROL_GENERATION", (server.generation + 1).to_string());
    command.env_remove("CONTROL_LISTEN_FD").env_remove("CONTROL_READY_FD");
    if options.mode == Mode::CloseAndBind {
        command.spawn()?;
        return Ok(());
    }
    let (reader, writer) = io::pipe()?;
    command.env("CONTROL_READY_FD", writer.as_raw_fd().to_string());
    fcntl(&writer, FcntlArg::F_SETFD(FdFlag::empty()))?;
    if options.mode == Mode::Inherit {
        command.env("CONTROL_LISTEN_FD", listener.as_raw_fd().to_string());
        fcntl(listener, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    let spawned = command.spawn();
    fcntl(listener, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    drop(writer);
    wait_ready(reader, spawned?)
}

fn wait_ready(mut reader: io::PipeReader, mut child: Child) -> io::Result<()> {
    let ms = std::env::var("UPGRADE_TIMEOUT_MS").ok().and_then(|ms| ms.parse::<u16>().ok()).unwrap_or(10_000);
    let readable = poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], PollTimeout::from(ms))? > 0;
    if readable && reader.read(&mut [0])? == 1 {
        return Ok(());
    }
    let was = testkit::process::Proc(child.id() as i32).describe();
    child.kill()?;
    let status = child.wait()?;
    let when = if readable { "before it was ready" } else { "by the upgrade time-out" };
    Err(io::Error::other(format!("new process {} ended ({status}) {when}; it was {was}", child.id())))
}

fn accept_on(listener: TcpListener, server: Arc<Server>) -> io::Result<Accepting> {
    listener.set_nonblocking(true)?;
    let (latch, fired) = UnixStream::pair()?;
    let thread = std::thread::spawn(move || {
        loop {
            let mut fds = [
                PollFd::new(listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(fired.as_fd(), PollFlags::POLLIN),
            ];
            let _ = poll(&mut fds, PollTimeout::NONE);
            if fds[1].any() == Some(true) {
                return;
            }
            let Ok((stream, _)) = listener.accept() else { continue };
            server.open.fetch_add(1, Ordering::SeqCst);
            let server = server.clone();
            std::thread::spawn(move || {
                let _ = serve(stream, &server);
                server.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    Ok(Accepting { latch, thread })
}

impl Accepting {
    fn close(self) {
        drop(self.latch);
        let _ = self.thread.join();
    }
}

fn serve(mut stream: TcpStream, server: &Server) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut input = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
                break input.drain(..end + 4).collect::<Vec<u8>>();
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                size => input.extend_from_slice(&buffer[..size]),
            }
        };
        let asked = String::from_utf8_lossy(&head).to_ascii_lowercase().contains("connection: close");
        let close = asked || server.stopping.load(Ordering::SeqCst);
        let (version, generation) = (&server.version, server.generation);
        let body =
            format!(r#"{{"version":"{version}","pid":{},"generation":{generation}}}"#, std::process::id());
        let connection = if close { "close" } else { "keep-alive" };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: {connection}\r\n", body.len());
        stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
        if close {
            return Ok(());
        }
    }
}
