//! C programs of the tests, linked with the library that the tests were built with, and `tests/c/host.c`: a server that
//! makes library calls when it is asked to.

use crate::deadline::{scaled, wait_for};
use crate::load::{Address, get};
use crate::process::{Family, Output, Process, Program, copy_program};
use serde_json::Value;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long anything that normally takes milliseconds may take.
pub const SOON: Duration = Duration::from_secs(10);

/// The folder with the shared library of this very build (`cargo test` leaves it beside the tests), its soname linked.
pub fn library_folder() -> PathBuf {
    let deps =
        std::env::current_exe().expect("the test's own path").parent().expect("a folder").to_path_buf();
    // Cargo keeps one file for builds with and without the faults, and may take the one for the other.
    static HAS_FAULTS: OnceLock<bool> = OnceLock::new();
    let has_faults = || {
        let mut grep = Command::new("grep");
        grep.args(["-qF", "SHELLFLIP_FAULT_LOG"]).arg(deps.join("libshellflip.so"));
        grep.status().is_ok_and(|status| status.success())
    };
    assert!(
        *HAS_FAULTS.get_or_init(has_faults),
        "libshellflip.so was built without the feature `faults` since: touch src/lib.rs, and build it with that again"
    );
    let soname = deps.join("libshellflip.so.0");
    if !soname.exists() {
        let _ = std::os::unix::fs::symlink("libshellflip.so", soname);
    }
    deps
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The C compiler of this machine: what CC says, found as build scripts find it, without flags of its own.
///
/// # Panics
/// When there is none.
pub fn c_compiler() -> Command {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = cc::Build::new();
    build.target(&target).host(&target).opt_level(1).cargo_metadata(false).no_default_flags(true);
    build.try_get_compiler().expect("a C compiler").to_command()
}

/// Compiles a C program once per test process. `source` is relative to the repository.
pub fn c_program(source: &str, flags: &[&str]) -> PathBuf {
    static BUILT: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());
    let key = format!("{source} {flags:?}");
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, path)) = built.iter().find(|(one, _)| *one == key) {
        return path.clone();
    }
    let library = library_folder();
    let name = Path::new(source).file_stem().expect("a name").to_string_lossy().into_owned();
    let folder = library.join("c");
    std::fs::create_dir_all(&folder).expect("a folder for C programs");
    let out = folder.join(format!("{name}-{}-{}", std::process::id(), built.len()));
    let status = c_compiler()
        .args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1", "-pthread"])
        .args(flags)
        .arg("-I")
        .arg(root().join("include"))
        .arg(root().join(source))
        .arg("-o")
        .arg(&out)
        .arg("-L")
        .arg(&library)
        .arg("-lshellflip")
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .status()
        .expect("cc");
    assert!(status.success(), "cc {source} {flags:?}");
    built.push((key, out.clone()));
    out
}

/// A copy of a C program with the file capability to bind low ports, and the library where any user may read it: such a
/// program takes no library from LD_LIBRARY_PATH.
///
/// # Errors
/// Where this user, or the file system, cannot give it.
pub fn capable_copy(source: &str, folder: &Path) -> std::io::Result<PathBuf> {
    // CAP_NET_BIND_SERVICE, permitted and effective: linux/capability.h, struct vfs_cap_data of revision 2.
    let capabilities = [0x0200_0001u32, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let program = folder.join("capable");
    copy_program(c_program(source, &[&format!("-Wl,-rpath,{}", folder.display())]), &program);
    std::fs::copy(library_folder().join("libshellflip.so"), folder.join("libshellflip.so.0"))?;
    let path = CString::new(program.as_os_str().as_bytes())?;
    let (name, value) = (c"security.capability", capabilities.as_ptr().cast());
    // SAFETY: strings and bytes that outlive the call.
    match unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value, capabilities.len(), 0) } {
        0 => Ok(program),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A running host and where it listens.
pub struct Host {
    /// The first generation.
    pub process: Process,
    /// Where it answers.
    pub address: Address,
}

/// What an answer says about who gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// HOST_VERSION.
    pub version: String,
    /// Its pid.
    pub pid: i32,
    /// Its generation.
    pub generation: i64,
}

/// What a call of the library returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// The return value.
    pub rc: i64,
    /// `flip_last_failure`.
    pub failure: i64,
    /// `flip_last_error`.
    pub error: String,
}

impl Host {
    /// Starts `tests/c/host.c` with these variables, and waits until it serves.
    pub fn start(family: &Family, environment: &[(&str, &str)]) -> Host {
        Host::start_program(family, &c_program("tests/c/host.c", &[]), environment)
    }

    /// The same for a copy, a script, another build …
    pub fn start_program(family: &Family, program: &Path, environment: &[(&str, &str)]) -> Host {
        Host::start_until(family, program, environment, "ready 0")
    }

    /// The same, but waits for another line of its output, not before the one with its address.
    pub fn start_until(family: &Family, program: &Path, environment: &[(&str, &str)], line: &str) -> Host {
        let program = environment
            .iter()
            .fold(family.program(program), |program, (name, value)| program.env(name, value));
        Host::run_until(program, line)
    }

    /// The same for a program that is started in a way of its own.
    pub fn run(program: Program) -> Host {
        Host::run_until(program, "ready 0")
    }

    fn run_until(program: Program, line: &str) -> Host {
        let process = program.output(Output::File).start();
        process.wait_for_output(line, SOON);
        let output = process.output();
        let line = output.lines().find_map(|line| line.strip_prefix("listening ")).expect("listening");
        let address = line.split_whitespace().next().expect("an address").parse().expect("an address");
        Host { process, address }
    }

    /// Who answers now.
    pub fn who(&self) -> Who {
        let value = self.ask("/", SOON);
        Who {
            version: value["version"].as_str().unwrap_or_default().into(),
            pid: value["pid"].as_i64().unwrap_or_default() as i32,
            generation: value["generation"].as_i64().unwrap_or(-1),
        }
    }

    /// Waits until somebody else than `pid` answers.
    pub fn wait_for_other(&self, pid: i32) -> Who {
        wait_for("an answer of another process", SOON, || Some(self.who()).filter(|who| who.pid != pid))
    }

    /// Asks for a library call: `/upgrade`, `/env/NAME/VALUE` …
    pub fn call(&self, path: &str) -> Called {
        call(&self.address, path)
    }

    /// The same on a thread of its own, for a call that waits while the test goes on.
    pub fn call_meanwhile(&self, path: &str) -> JoinHandle<Called> {
        let (address, path) = (self.address.clone(), path.to_string());
        std::thread::spawn(move || call(&address, &path))
    }

    /// Asks for an upgrade, again while it is refused with EAGAIN (a new process serves a moment before its predecessor has
    /// released it) or ESHUTDOWN (the old one may answer a moment longer).
    pub fn upgrade(&self) -> Called {
        let again = [libc::EAGAIN, libc::ESHUTDOWN].map(|errno| -i64::from(errno));
        wait_for("a process that can be upgraded", SOON, || {
            Some(self.call("/upgrade")).filter(|called| !again.contains(&called.rc))
        })
    }

    fn ask(&self, path: &str, timeout: Duration) -> Value {
        ask(&self.address, path, timeout)
    }
}

/// Asks whoever listens there for a library call.
pub fn call(address: &Address, path: &str) -> Called {
    let value = ask(address, path, Duration::from_secs(90));
    Called {
        rc: value["rc"].as_i64().expect("rc"),
        failure: value["failure"].as_i64().expect("failure"),
        error: value["error"].as_str().expect("error").into(),
    }
}

fn ask(address: &Address, path: &str, timeout: Duration) -> Value {
    let answer = get(address, path, scaled(timeout)).expect("an answer");
    serde_json::from_slice(&answer.body).expect("JSON")
}
