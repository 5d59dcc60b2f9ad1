//! Programs under test, the generations that they start, and the promise that none of them outlives its test.
//!
//! An upgrade starts processes that are not our children. A [`Family`] finds them all the same: every program it
//! starts carries a random mark in its environment, which later generations inherit and `/proc/PID/environ` shows; and
//! this process is a child subreaper (prctl(2)), so that whoever loses its parent becomes our child and can be reaped.
//! Dropping the family ends and reaps every member.

mod family;
pub mod proc_fs;
mod program;

pub use family::{Family, MARK_VARIABLE, describe_all, kill_all};
pub use proc_fs::{Descriptor, Proc};
pub use program::{Output, Process, Program, Signal, signal};
pub use tempfile::TempDir;

use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// A TCP port on 127.0.0.1 that was free a moment ago.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// A directory that is removed when the value is dropped.
///
/// # Panics
/// When it cannot be made.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("shellflip-test-").tempdir().expect("a temporary directory")
}

/// Copies a program, by a process of its own: a descriptor of ours that is open for writing would be in every child that
/// another test forks meanwhile, and a file that somebody writes to cannot be executed (ETXTBSY).
///
/// # Panics
/// When it cannot be copied.
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let (from, to) = (from.as_ref(), to.as_ref());
    let status = std::process::Command::new("cp").args([from, to]).status().expect("cp");
    assert!(status.success(), "cp {} {}", from.display(), to.display());
}

/// Makes a script that can be executed, in the same way.
///
/// # Panics
/// When it cannot be written.
pub fn write_script(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    let status = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"", &path.to_string_lossy(), text])
        .status()
        .expect("sh");
    assert!(status.success(), "writing {}", path.display());
}

/// A program of the kit; built here, unless the test runs without cargo.
///
/// # Panics
///
/// If it cannot be built or found.
pub fn build_kit_program(name: &str) -> PathBuf {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let mut build = std::process::Command::new(cargo);
        build.args(["build", "--quiet", "--bin", name, "--manifest-path", manifest]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo").success(), "the program {name} cannot be built");
    }
    kit_program(name).unwrap_or_else(|| panic!("cargo build -p testkit --bin {name}"))
}

/// Where cargo put the kit's program `name`, built beforehand with `cargo build -p testkit --bins`; the tests of the
/// kit itself have `env!("CARGO_BIN_EXE_name")`, which builds it.
pub fn kit_program(name: &str) -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    exe.ancestors().skip(1).take(3).map(|dir| dir.join(name)).find(|path| path.is_file())
}
