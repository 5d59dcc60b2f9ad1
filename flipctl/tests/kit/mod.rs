//! flipctl itself, run by tests against servers of the test kit.
#![allow(dead_code, reason = "each of the two suites uses its part")]

use serde_json::Value;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;
use testkit::host::{Host, SOON, c_program};
use testkit::process::{Family, MARK_VARIABLE, TempDir, temp_dir};
use testkit::wait_until;

/// What a run of flipctl came to.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit status; -1 after a signal.
    pub status: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ran {
    /// What `--json` printed.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// That exit status, else all that it said.
    #[track_caller]
    pub fn expect(self, status: i32) -> Ran {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ran {
            status: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

/// flipctl as a command, found by its family.
pub fn flipctl(family: &Family) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flipctl"));
    command.env(MARK_VARIABLE, family.mark()).stdin(Stdio::null());
    for name in ["FLIPCTL_SOCKET", "FLIPCTL_PID_FILE", "NO_COLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command
}

/// A pid file as the library makes it, whatever the umask.
pub fn write_pid_file(path: impl AsRef<Path>, pid: i32) {
    std::fs::write(&path, format!("{pid}\n")).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
}

/// One that was written before the process was started.
pub fn write_old_pid_file(path: &Path, pid: i32) {
    write_pid_file(path, pid);
    let touched = Command::new("touch").args(["-d", "1 hour ago"]).arg(path).status().unwrap();
    assert!(touched.success());
}

/// A running server with a control socket.
pub struct Stage {
    /// The first generation.
    pub host: Host,
    /// Everything that was started.
    pub family: Family,
    folder: TempDir,
}

impl Stage {
    /// `tests/c/host.c`.
    pub fn new(environment: &[(&str, &str)]) -> Stage {
        Stage::of(&c_program("tests/c/host.c", &[]), environment)
    }

    /// Another program that takes HOST_CONTROL_SOCKET and HOST_PID_FILE.
    pub fn of(program: &Path, environment: &[(&str, &str)]) -> Stage {
        let (family, folder) = (Family::new(), temp_dir());
        let control = format!("unix://{}/ctl", folder.path().display());
        let pid_file = folder.path().join("pid").display().to_string();
        let own = [("HOST_CONTROL_SOCKET", control.as_str()), ("HOST_PID_FILE", &pid_file)];
        let host = Host::start_program(&family, program, &[&own, environment].concat());
        Stage { host, family, folder }
    }

    /// The process that was started first.
    pub fn first(&self) -> i32 {
        self.host.process.pid()
    }

    /// A path in the test's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.path("ctl")
    }

    /// flipctl with this server's socket, to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = flipctl(&self.family);
        command.args(arguments).arg("--socket").arg(self.control());
        command
    }

    /// Runs it.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().expect("flipctl").into()
    }

    /// Runs it with the pid file instead.
    pub fn run_with_pid_file(&self, path: impl AsRef<OsStr>, arguments: &[&str]) -> Ran {
        let mut command = flipctl(&self.family);
        command.args(arguments).arg("--pid-file").arg(path.as_ref()).output().expect("flipctl").into()
    }

    /// Runs it while the test goes on.
    pub fn run_meanwhile(&self, arguments: &[&str]) -> JoinHandle<Ran> {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("flipctl");
        std::thread::spawn(move || child.wait_with_output().expect("flipctl").into())
    }

    /// What the server says of itself.
    pub fn status(&self) -> Value {
        self.run(&["status", "--json"]).expect(0).json()
    }

    /// A connection that the server has counted, and that asks for nothing yet.
    pub fn connection(&self) -> TcpStream {
        let address = self.host.address.to_string();
        let stream = TcpStream::connect(address.trim_start_matches("tcp://")).expect("a connection");
        wait_until("a connection that is counted", SOON, || self.status()["connections"] == 1);
        stream
    }

    /// The next generations take these steps before they are ready; none: no longer.
    pub fn successors(&self, steps: &str) {
        let steps = steps.replace('/', "%2F");
        assert_eq!(self.host.call(&format!("/env/HOST_BEFORE_READY/{steps}")).rc, 0);
    }
}
