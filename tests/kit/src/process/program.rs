//! One program under test: how it is started, what it has written, how it ended.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

pub use nix::sys::signal::Signal;

use super::family::{MARK_VARIABLE, Members};
use super::proc_fs::Proc;
use crate::deadline::{try_for, wait_for, wait_until};

/// Where the output of a program goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Both streams into one file, which later generations go on writing to. The default.
    File,
    /// Standard output into a pipe ([`Process::take_stdout`]), standard error into the file.
    Pipe,
    /// Where the test's own output goes.
    Inherit,
}

/// A program to be started.
#[derive(Debug)]
pub struct Program {
    command: Command,
    output: Output,
    log: Option<PathBuf>,
    members: Arc<Members>,
}

impl Program {
    pub(super) fn new(path: OsString, members: Arc<Members>) -> Program {
        let mut command = Command::new(path);
        // Whoever started the tests may ignore signals (a job in the background has SIGINT ignored), and what is ignored
        // stays so across exec.
        // SAFETY: signal(2) and sigprocmask(2) are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                for number in 1..32 {
                    libc::signal(number, libc::SIG_DFL);
                }
                let mut none = std::mem::zeroed();
                libc::sigemptyset(&mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
                Ok(())
            })
        };
        command.env(MARK_VARIABLE, &members.mark).stdin(Stdio::null()).process_group(0);
        Program { command, output: Output::File, log: None, members }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Program {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        self.command.args(args);
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Program {
        self.command.env(name, value);
        self
    }

    /// Where it starts.
    pub fn directory(mut self, path: impl AsRef<Path>) -> Program {
        self.command.current_dir(path);
        self
    }

    /// Where its output goes.
    pub fn output(self, output: Output) -> Program {
        Program { output, ..self }
    }

    /// The file for its output, appended to; without it, one of the process's own.
    pub fn log(self, path: impl Into<PathBuf>) -> Program {
        Program { log: Some(path.into()), ..self }
    }

    /// The command itself, for what has no name here.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(self) -> Process {
        let path = self.command.get_program().to_owned();
        self.try_start().unwrap_or_else(|error| panic!("cannot start {}: {error}", path.display()))
    }

    /// Starts it, or says why not.
    pub fn try_start(mut self) -> std::io::Result<Process> {
        let (log, own) = match self.log {
            Some(log) => (log, None),
            None => {
                let own = tempfile::NamedTempFile::with_prefix("shellflip-log-")?.into_temp_path();
                (own.to_path_buf(), Some(own))
            }
        };
        let open = || File::options().append(true).create(true).open(&log).map(Stdio::from);
        match self.output {
            Output::File => _ = self.command.stdout(open()?).stderr(open()?),
            Output::Pipe => _ = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(open()?),
            Output::Inherit => {}
        }
        let mut child = self.command.spawn()?;
        let pid = child.id() as i32;
        self.members.started(pid);
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(Process { child, pid, log, _own: own, members: self.members, stdin, stdout })
    }
}

/// A started program. Dropping it ends this one process; its successors are the family's.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: i32,
    log: PathBuf,
    _own: Option<tempfile::TempPath>,
    members: Arc<Members>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
}

impl Process {
    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What the kernel says of it.
    pub fn proc(&self) -> Proc {
        Proc(self.pid)
    }

    /// What it and its later generations have written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The pipe to its standard input, with [`Output::Pipe`], once.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// The pipe from its standard output, with [`Output::Pipe`], once.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.stdout.take()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has been reaped, or the kernel refuses.
    #[track_caller]
    pub fn signal(&self, number: Signal) {
        signal(self.pid, number);
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            self.members.reaped(self.pid);
        }
        status
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs at the (scaled) deadline.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        if let Some(status) = try_for(deadline, || self.exit_status()) {
            return status;
        }
        panic!("still running after {deadline:.1?}: {}\n{}", self.proc().describe(), self.output());
    }

    /// Waits until its output, or that of its later generations, contains `text`.
    ///
    /// # Panics
    /// When it does not by the (scaled) deadline, with the output.
    #[track_caller]
    pub fn wait_for_output(&self, text: &str, deadline: Duration) {
        if try_for(deadline, || self.output().contains(text).then_some(())).is_none() {
            panic!("not within {deadline:.1?}: {text:?} in the output, which is:\n{}", self.output());
        }
    }

    /// Waits until `condition` holds; the end of the process before that is a failure at once.
    ///
    /// # Panics
    /// At the (scaled) deadline, or when the process ends, naming `what` and showing the output.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
        wait_until(&format!("{what} (process {})", self.pid), deadline, || {
            let holds = condition();
            if !holds && let Some(status) = self.exit_status() {
                panic!("ended ({status}) before {what}:\n{}", self.output());
            }
            holds
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.members.reaped(self.pid);
    }
}

/// Sends `signal` to any process.
///
/// # Panics
/// When there is no such process.
#[track_caller]
pub fn signal(pid: i32, signal: Signal) {
    if let Err(error) = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal) {
        panic!("cannot send {signal} to process {pid}: {error}");
    }
}

impl Proc {
    /// Waits until it is stopped (SIGSTOP).
    ///
    /// # Panics
    /// When it is not by the (scaled) deadline.
    #[track_caller]
    pub fn wait_stopped(self, deadline: Duration) {
        wait_for(&format!("process {} is stopped", self.0), deadline, || {
            (self.state()? == 'T').then_some(())
        });
    }
}
