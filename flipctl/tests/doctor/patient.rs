//! `tests/c/sick.c`, and what the doctor says of it.

use crate::kit::{Ran, Stage, flipctl, write_pid_file};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::host::c_program;
use testkit::process::{Family, Process, Program, TempDir, copy_program, temp_dir, write_script};

/// A server to look at, found by its control socket.
pub struct Patient {
    pub family: Family,
    pub process: Process,
    folder: TempDir,
}

/// supervisord takes seconds to start what it watches.
const START: Duration = Duration::from_secs(40);

/// The program.
pub fn sick() -> PathBuf {
    c_program("tests/c/sick.c", &[])
}

impl Patient {
    /// With that list of illnesses.
    pub fn new(illnesses: &str) -> Patient {
        Patient::started(illnesses, |family, _| family.program(sick()))
    }

    /// Started in a way of its own, in which the folder may take part.
    pub fn started(illnesses: &str, program: impl FnOnce(&Family, &Path) -> Program) -> Patient {
        let (family, folder) = (Family::new(), temp_dir());
        let control = format!("unix://{}/ctl", folder.path().display());
        let program = program(&family, folder.path()).env("SICK", illnesses).env("CONTROL_SOCKET", control);
        let process = program.start();
        process.wait_for_output("ready", START);
        Patient { family, process, folder }
    }

    /// A path in the test's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the doctor, through the control socket.
    pub fn doctor(&self, arguments: &[&str]) -> Ran {
        let mut command = flipctl(&self.family);
        command.arg("doctor").args(arguments).arg("--socket").arg(self.path("ctl"));
        command.output().expect("flipctl").into()
    }

    /// The server itself, which may not be the process that was started.
    pub fn server(&self) -> i32 {
        let mut command = flipctl(&self.family);
        command.args(["status", "--json", "--socket"]).arg(self.path("ctl"));
        Ran::from(command.output().expect("flipctl")).expect(0).json()["pid"].as_i64().expect("a pid") as i32
    }

    /// The codes that it finds.
    #[track_caller]
    pub fn findings(&self, arguments: &[&str]) -> Vec<String> {
        codes(&self.json(arguments))
    }

    /// All that it says.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.doctor(&[arguments, &["--json"]].concat());
        let value = ran.json();
        let expected = if codes(&value).is_empty() { 0 } else { 7 };
        ran.expect(expected);
        value
    }
}

/// The codes of the findings.
pub fn codes(value: &Value) -> Vec<String> {
    let findings = value["findings"].as_array().expect("findings");
    for finding in findings {
        for key in ["what", "then", "remedy"] {
            assert!(finding[key].as_str().is_some_and(|text| text.len() > 10), "{finding}");
        }
    }
    findings.iter().map(|finding| finding["code"].as_str().expect("a code").to_string()).collect()
}

/// Looks at whoever a pid file in that folder names.
pub fn by_pid_file(family: &Family, folder: &Path, pid: i32, arguments: &[&str]) -> Ran {
    let path = folder.join(format!("{pid}.pid"));
    write_pid_file(&path, pid);
    let mut command = flipctl(family);
    command.arg("doctor").args(arguments).arg("--json").arg("--pid-file").arg(path);
    command.output().expect("flipctl").into()
}

/// A copy of the program, which the test may replace.
pub fn copy(family: &Family, folder: &Path) -> Program {
    let program = folder.join("server");
    copy_program(sick(), &program);
    family.program(program)
}

/// For unshare(1): a namespace in which this user may mount.
pub const MOUNTS: [&str; 3] = ["--user", "--map-root-user", "--mount"];

/// `Err`: why there can be none here.
pub fn may_mount() -> Result<(), String> {
    let output = Command::new("unshare").args(MOUNTS).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    match output.map_err(|error| error.to_string())? {
        output if output.status.success() => Ok(()),
        output => Err(String::from_utf8_lossy(&output.stderr).trim().into()),
    }
}

/// A program that starts `tests/c/host.c` from a file system of its own, and where that is, in its namespace alone.
pub fn on_its_own_file_system(folder: &Path) -> (PathBuf, PathBuf) {
    let (program, mounted) = (folder.join("start"), folder.join("mounted"));
    std::fs::create_dir(&mounted).expect("a directory");
    let unshare = ["unshare", &MOUNTS.join(" ")].join(" ");
    let script = "mount -t tmpfs -o size=512k none $0 && cp $1 $0/host && exec $0/host";
    let (at, host) = (mounted.display(), c_program("tests/c/host.c", &[]));
    write_script(&program, &format!("#!/bin/sh\nexec {unshare} sh -c '{script}' {at} {}\n", host.display()));
    (program, mounted)
}

/// Lets the host run a command in its namespace.
pub fn system(stage: &Stage, command: &str) {
    let command = command.replace('/', "%2F").replace(' ', "%20");
    assert_eq!(stage.host.call(&format!("/system/{command}")).rc, 0);
}

/// The program is there in another's `PATH`.
pub fn installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or(OsString::from("/usr/bin:/bin"));
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}
