//! A newer systemd than the machine's own: Debian 13's, made once by debootstrap and kept in the target folder.

use super::machine::Release;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use testkit::host::library_folder;

/// Makes it, or waits for another process that does, or finds it.
///
/// # Panics
///
/// When debootstrap fails, with its log.
pub fn release() -> Release {
    let folder = target().join("systemd-trixie");
    std::fs::create_dir_all(&folder).expect("a folder in the target folder");
    let lock = File::create(folder.join("lock")).expect("a lock file");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).expect("the lock");
    let (root, log) = (folder.join("root"), folder.join("debootstrap.log"));
    if !folder.join("complete").exists() {
        let _ = std::fs::remove_dir_all(&root);
        let out = File::create(&log).expect("a log");
        let status = Command::new("debootstrap")
            .args(["--variant=minbase", "--include=systemd", "trixie"])
            .arg(&root)
            .stdout(out.try_clone().expect("the log"))
            .stderr(out)
            .status()
            .unwrap_or_else(|error| panic!("debootstrap: {error}; tools/setup installs it"));
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(40).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        assert!(
            status.success(),
            "debootstrap: {status}; the end of {}:\n{}",
            log.display(),
            tail.join("\n")
        );
        File::create(folder.join("complete")).expect("a mark");
    }
    let release = Release::at(&root).unwrap_or_else(|why| panic!("{}: {why}", root.display()));
    assert!(release.version >= 253, "systemd {} knows no notify-reload", release.version);
    release
}

/// `target`: the libraries of a test are in target/PROFILE/deps.
fn target() -> PathBuf {
    let deps = library_folder();
    deps.ancestors().nth(2).expect("the target folder").to_path_buf()
}
