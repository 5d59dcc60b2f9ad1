//! The handle.

use crate::address::Address;
use crate::builder::Builder;
use crate::error::{Error, ErrorKind, Result};
use crate::hooks::Hooks;
use std::ffi::{CString, OsStr};
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// One generation of a server, as its own process sees it. Clones are the same handle; there is one per process at a
/// time. All calls may be made from any thread.
///
/// Dropping the last clone is a stop, as [`Flip::close`] says. A clone that is still held by a thread or a `static` when `main`
/// returns is never dropped, and the pid file and unix paths stay: a program that has such clones calls `close` at its end.
///
/// [`AsFd`] gives a descriptor for poll, epoll or an event loop: readable from shutdown on, for ever, for every reader. Never read
/// from it.
#[derive(Clone)]
pub struct Flip {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    core: shellflip::flip::Flip,
    closed: AtomicBool,
    hooks: std::sync::Mutex<Option<Hooks>>,
}

/// What can be asked of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Replace yourself.
    Upgrade,
    /// Finish and exit.
    Stop,
    /// Leave the service but go on: no more upgrades, no listener's path is unlinked, nobody is told.
    Detach,
}

/// Why shutdown began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// The successor serves; finish the open connections and exit.
    Upgrade,
    /// The service ends; finish the open connections and exit.
    Stop,
    /// This process is on its own from now on and goes on serving.
    Detach,
}

/// When a wait of this length ends; none: never.
pub(crate) fn after(duration: Duration) -> Option<Instant> {
    Instant::now().checked_add(duration)
}

/// Makes a call again that a signal handler interrupted.
pub(crate) fn retry<T>(mut call: impl FnMut() -> shellflip::error::Result<T>) -> Result<T> {
    loop {
        match call().map_err(Error::from) {
            Err(error) if error.is_interrupted() => {}
            result => return result,
        }
    }
}

impl Flip {
    /// What can be chosen, with its defaults.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(core: shellflip::flip::Flip) -> Flip {
        Flip { shared: Arc::new(Shared { core, closed: AtomicBool::new(false), hooks: Default::default() }) }
    }

    pub(crate) fn attach(&self, hooks: Hooks) {
        *self.shared.hooks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(hooks);
    }

    pub(crate) fn has_hooks(&self) -> bool {
        self.shared.hooks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_some()
    }

    pub(crate) fn inner(&self) -> &shellflip::flip::Flip {
        &self.shared.core
    }

    pub(crate) fn core(&self) -> Result<&shellflip::flip::Flip> {
        if self.shared.closed.load(SeqCst) { Err(Error::closed()) } else { Ok(&self.shared.core) }
    }

    /// Gives everything back now, whatever clones there are: calls that wait return [`ErrorKind::Canceled`], later ones
    /// `Closed`. A second time does nothing, and does not wait for the first.
    ///
    /// Before [`Flip::ready`] has returned it gives up: the upgrade fails and the predecessor serves on. In a process that
    /// serves it is a stop whose drain is over; while a successor is on its way it ends that first, or, once the
    /// successor was told to serve, waits until it does (at most 10 s). A stop without a successor unlinks unix paths.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Which generation this process is; 0: it was not started by an upgrade.
    pub fn generation(&self) -> u32 {
        self.inner().generation()
    }

    /// What the next upgrade runs. Without it: the program as it was started, found by the same path, with the same
    /// arguments. A program without a slash is looked for in PATH then. The arguments begin with the program's name
    /// for itself.
    pub fn set_command<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<()> {
        let program = c_string("the program", program.as_ref())?;
        let arguments = arguments.into_iter().map(|argument| c_string("an argument", argument.as_ref()));
        let arguments: Vec<CString> = arguments.collect::<Result<_>>()?;
        let arguments: Vec<_> = arguments.iter().map(CString::as_c_str).collect();
        Ok(self.core()?.set_command(&program, &arguments)?)
    }

    /// A variable in the environment of the next generation, which is otherwise that of this process when it called
    /// [`Builder::build`].
    pub fn set_env(&self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Result<()> {
        let name = c_string("a variable's name", name.as_ref())?;
        let value = c_string("a variable's value", value.as_ref())?;
        Ok(self.core()?.set_env(&name, Some(&value))?)
    }

    /// The next generation starts without this variable.
    pub fn remove_env(&self, name: impl AsRef<OsStr>) -> Result<()> {
        Ok(self.core()?.set_env(&c_string("a variable's name", name.as_ref())?, None)?)
    }

    /// The directory in which the next generation starts, resolved when it does.
    pub fn set_directory(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(self.core()?.set_directory(&c_string("the directory", path.as_ref().as_os_str())?)?)
    }

    /// A listener: inherited where it matches, else bound now. `127.0.0.1:8080`, `[::1]:443`, `:8080` (all), with or without
    /// `tcp://`, a [`std::net::SocketAddr`]; options as [`Address`] says. Non-blocking.
    ///
    /// Accept nothing before [`Flip::ready`] has returned, and drop it when shutdown begins.
    pub fn listen_tcp(&self, address: impl Into<Address>) -> Result<TcpListener> {
        self.listen_as("tcp", address.into())
    }

    /// A UDP socket; both generations receive from it until shutdown. Non-blocking.
    pub fn listen_udp(&self, address: impl Into<Address>) -> Result<UdpSocket> {
        self.listen_as("udp", address.into())
    }

    /// A unix stream listener: a path, or `@name` for an abstract one. Non-blocking.
    pub fn listen_unix(&self, address: impl Into<Address>) -> Result<UnixListener> {
        self.listen_as("unix", address.into())
    }

    /// A bound unix datagram socket. Non-blocking.
    pub fn listen_unix_datagram(&self, address: impl Into<Address>) -> Result<UnixDatagram> {
        self.listen_as("unixgram", address.into())
    }

    /// A unix seqpacket listener, for which std has no type: whatever is made of a descriptor.
    pub fn listen_unix_seqpacket<T: From<OwnedFd>>(&self, address: impl Into<Address>) -> Result<T> {
        self.listen_as("unixpacket", address.into())
    }

    /// A socket of any kind as any type that is made of a descriptor; the address names its scheme.
    ///
    /// ```no_run
    /// # fn main() -> graceflip::Result<()> {
    /// # let flip = graceflip::Flip::builder().build()?;
    /// let listener: std::net::TcpListener = flip.listen("tcp://0.0.0.0:80?backlog=512")?;
    /// # Ok(()) }
    /// ```
    pub fn listen<T: From<OwnedFd>>(&self, address: impl Into<Address>) -> Result<T> {
        Ok(self.core()?.listen(address.into().as_bytes())?.into())
    }

    fn listen_as<T: From<OwnedFd>>(&self, scheme: &str, address: Address) -> Result<T> {
        Ok(self.core()?.listen(address.with_scheme(scheme)?.as_bytes())?.into())
    }

    /// The inheriting half of [`Flip::listen`]: none where nothing matches; it never binds.
    pub fn inherit<T: From<OwnedFd>>(&self, address: impl Into<Address>) -> Result<Option<T>> {
        found(self.core()?.inherit(address.into().as_bytes()))
    }

    /// Passes any descriptor on, as a copy; what had the name before is forgotten.
    pub fn add(&self, name: impl AsRef<[u8]>, descriptor: impl AsFd) -> Result<()> {
        Ok(self.core()?.add(name.as_ref(), descriptor.as_fd())?)
    }

    /// What was inherited under that name, once; none after that, and where there is nothing. It goes on being passed
    /// on.
    pub fn take<T: From<OwnedFd>>(&self, name: impl AsRef<[u8]>) -> Result<Option<T>> {
        found(self.core()?.take(name.as_ref()))
    }

    /// What was inherited under that name; else what this makes, which is passed on from then on. For sockets that are made in
    /// a way of their own.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), graceflip::Error> {
    /// # let flip = graceflip::Flip::builder().build()?;
    /// let socket = flip.take_or("dns", || std::net::UdpSocket::bind("127.0.0.1:53"))?;
    /// # Ok(()) }
    /// ```
    pub fn take_or<T: From<OwnedFd> + AsFd>(
        &self,
        name: impl AsRef<[u8]>,
        make: impl FnOnce() -> io::Result<T>,
    ) -> Result<T> {
        let name = name.as_ref();
        if let Some(inherited) = self.take(name)? {
            return Ok(inherited);
        }
        let what = || format!("cannot make {}", String::from_utf8_lossy(name));
        let made = make().map_err(|error| Error::io(&what(), &error))?;
        self.add(name, &made)?;
        Ok(made)
    }

    /// A line between this generation and the next: the end that the predecessor holds the other one of, if it made a line of
    /// that name, and one end of a new line, whose other end the successor will get. Failed successors get the same end.
    pub fn unix_datagram_pair(&self, name: impl AsRef<[u8]>) -> Result<(Option<UnixDatagram>, UnixDatagram)> {
        let to_predecessor = self.take(name.as_ref())?;
        let pair = UnixDatagram::pair().map_err(|error| Error::io("cannot make a pair of sockets", &error));
        let (mine, successors) = pair?;
        self.add(name.as_ref(), &successors)?;
        Ok((to_predecessor, mine))
    }

    /// Stops passing it on, and whether there was anything of that name. Never unlinks.
    pub fn forget(&self, name: impl AsRef<[u8]>) -> Result<bool> {
        Ok(found::<(), ()>(self.core()?.forget(name.as_ref()))?.is_some())
    }

    /// The inherited names that nobody has claimed. What is left unclaimed is closed once this process is released.
    pub fn unclaimed(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.core()?.unclaimed()?)
    }

    /// The predecessor's state, as it was written in its [`Builder::on_state`]: a reader at its beginning, which may be
    /// mapped. Waits until it has come. None: no state was promised (generation 0, or a predecessor that writes none).
    ///
    /// [`ErrorKind::StateLost`]: it was promised, and lost with the predecessor. This process may serve all the same.
    pub fn state(&self) -> Result<Option<File>> {
        let core = self.core()?;
        match retry(|| core.take_state(None)) {
            Ok(state) => Ok(Some(File::from(state))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same; [`ErrorKind::TimedOut`] after this long.
    pub fn state_timeout(&self, timeout: Duration) -> Result<Option<File>> {
        let (core, deadline) = (self.core()?, after(timeout));
        match retry(|| core.take_state(deadline)) {
            Ok(state) => Ok(Some(File::from(state))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says that this process could serve, and waits until it may: once it has returned, serve. In generation 0 that
    /// is at once; a successor waits until its predecessor lets it, or is dead. Idempotent.
    ///
    /// Final, exit then: [`ErrorKind::Canceled`] (the predecessor gave up, or somebody asked this process to stop), `Deadline`,
    /// `Protocol`. Not final: `NotFound`, members of an inherited `reuseport` group are unclaimed; `StateLost`: call
    /// [`Flip::state`] first.
    pub fn ready(&self) -> Result<()> {
        let core = self.core()?;
        Ok(core.ready(None)?)
    }

    /// The same; [`ErrorKind::TimedOut`] after this long: call again.
    pub fn ready_timeout(&self, timeout: Duration) -> Result<()> {
        Ok(self.core()?.ready(after(timeout))?)
    }

    /// Replaces this process by a new one and waits: the pid of the successor, once shutdown has begun or is about to.
    /// Otherwise [`ErrorKind::Upgrade`], and this process serves on as before.
    ///
    /// Not in a hook, which it would wait for: use [`Flip::request`] there.
    pub fn upgrade(&self) -> Result<u32> {
        let core = self.core()?;
        retry(|| core.upgrade(None)).map(pid)
    }

    /// The same; [`ErrorKind::TimedOut`] after this long. The upgrade goes on, and the next call of the same thread goes
    /// on waiting for it.
    pub fn upgrade_timeout(&self, timeout: Duration) -> Result<u32> {
        let (core, deadline) = (self.core()?, after(timeout));
        retry(|| core.upgrade(deadline)).map(pid)
    }

    /// What this process is and does, as one line of JSON; the keys are in `docs/control.md`. In every state.
    pub fn status(&self) -> Result<String> {
        Ok(self.core()?.status()?)
    }

    /// Asks and returns: what signals do. An upgrade that cannot start yet is remembered and leads to one later.
    pub fn request(&self, request: Request) -> Result<()> {
        self.core()?;
        shellflip::flip::Flip::request(request.into())
            .map_err(|errno| shellflip::error::Error::system("cannot ask the library", errno).into())
    }

    /// Waits until shutdown begins, and says why. A detach is reported once.
    pub fn wait_shutdown(&self) -> Result<Shutdown> {
        let core = self.core()?;
        retry(|| core.wait_shutdown(None)).map(Shutdown::from)
    }

    /// The same; [`ErrorKind::TimedOut`] after this long.
    pub fn wait_shutdown_timeout(&self, timeout: Duration) -> Result<Shutdown> {
        let (core, deadline) = (self.core()?, after(timeout));
        retry(|| core.wait_shutdown(deadline)).map(Shutdown::from)
    }

    /// Whether shutdown has begun: what a server looks at to end its keep-alive connections. A few nanoseconds.
    pub fn is_shutting_down(&self) -> bool {
        self.inner().is_shut_down()
    }

    /// Waits until no connection is open, at most this long, and at most until the drain deadline
    /// ([`Builder::drain_timeout`]). Drop the listeners first.
    ///
    /// [`ErrorKind::TimedOut`]: this long; `Deadline`: the drain deadline; `Canceled`: a second stop cut it short;
    /// `Invalid`: shutdown has not begun.
    pub fn drain(&self, limit: Duration) -> Result<()> {
        Ok(self.core()?.drain(after(limit))?)
    }

    /// Readable for ever once [`Flip::drain`] would return. Never read from it.
    pub fn drained_fd(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.core()?.drained_fd()?)
    }

    /// Waits until the predecessor has exited; at once in generation 0.
    pub fn wait_predecessor(&self) -> Result<()> {
        let core = self.core()?;
        retry(|| core.wait_predecessor(None))
    }

    /// The same; [`ErrorKind::TimedOut`] after this long.
    pub fn wait_predecessor_timeout(&self, timeout: Duration) -> Result<()> {
        let (core, deadline) = (self.core()?, after(timeout));
        retry(|| core.wait_predecessor(deadline))
    }

    /// Readable for ever once the predecessor has exited; at once in generation 0. Never read from it.
    pub fn predecessor_fd(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.core()?.predecessor_fd()?)
    }

    /// The pid of the last successor that was started, also of one that failed; none before.
    pub fn successor_pid(&self) -> Result<Option<u32>> {
        Ok(found::<i32, i32>(self.core()?.successor_pid())?.map(pid))
    }

    /// Moves the deadline that is running to this long from now: before [`Flip::ready`] the upgrade deadline (which only
    /// grows), after shutdown the drain deadline. [`ErrorKind::Invalid`] where none is running.
    pub fn extend(&self, by: Duration) -> Result<()> {
        Ok(self.core()?.extend(crate::builder::milliseconds(by))?)
    }
}

/// None for what is not there.
fn found<F, T: From<F>>(result: shellflip::error::Result<F>) -> Result<Option<T>> {
    match result.map_err(Error::from) {
        Ok(found) => Ok(Some(found.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn pid(pid: i32) -> u32 {
    pid.unsigned_abs()
}

fn c_string(what: &str, text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| Error::invalid(format!("{what} has a NUL byte in it: {text:?}")))
}

impl Shared {
    fn close(&self) {
        if self.closed.swap(true, SeqCst) {
            return;
        }
        let _ = self.core.free();
        let hooks = self.hooks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(hooks) = hooks {
            hooks.join();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

/// The descriptor of shutdown.
impl AsFd for Flip {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner().shutdown_fd()
    }
}

impl fmt::Debug for Flip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flip")
            .field("generation", &self.generation())
            .field("shutting_down", &self.is_shutting_down())
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

impl From<Request> for shellflip::upgrade::Request {
    fn from(request: Request) -> Self {
        match request {
            Request::Upgrade => Self::Upgrade,
            Request::Stop => Self::Stop,
            Request::Detach => Self::Detach,
        }
    }
}

impl From<shellflip::upgrade::Shutdown> for Shutdown {
    fn from(shutdown: shellflip::upgrade::Shutdown) -> Shutdown {
        match shutdown {
            shellflip::upgrade::Shutdown::Upgrade => Shutdown::Upgrade,
            shellflip::upgrade::Shutdown::Stop => Shutdown::Stop,
            shellflip::upgrade::Shutdown::Detach => Shutdown::Detach,
        }
    }
}
