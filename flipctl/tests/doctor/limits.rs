//! Descriptors and memory near their limits.

use crate::patient::{Patient, codes};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use testkit::host::SOON;
use testkit::process::Family;
use testkit::{limit, wait_until};

const LIMIT: Duration = Duration::from_secs(100);

#[test]
fn descriptors_near_the_limit_are_found() {
    let _limit = limit(LIMIT);
    let limited = |family: &Family, _: &std::path::Path| {
        let script = r#"ulimit -Sn 256 && exec "$0""#;
        family.program("sh").args(["-c", script]).arg(crate::patient::sick())
    };
    assert_eq!(Patient::started("descriptors:100", limited).findings(&[]), [] as [&str; 0]);
    assert_eq!(Patient::started("descriptors:200", limited).findings(&[]), ["descriptors-near-limit"]);
}

/// A cgroup of the test's own, with a limit of memory.
struct Cgroup {
    folder: PathBuf,
    limit: &'static str,
}

impl Cgroup {
    /// `Err`: why there can be none here.
    fn new() -> Result<Cgroup, String> {
        let name = format!("flipctl-test-{}", std::process::id());
        for (root, limit) in
            [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
        {
            let folder = PathBuf::from(root).join(&name);
            if fs::create_dir(&folder).is_ok() {
                let cgroup = Cgroup { folder, limit };
                if cgroup.folder.join(limit).exists() {
                    return Ok(cgroup);
                }
            }
        }
        Err("no cgroup with a memory limit can be made".into())
    }

    fn write(&self, file: &str, text: impl ToString) {
        fs::write(self.folder.join(file), text.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..1_000 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("{} stays: it is not empty", self.folder.display());
    }
}

#[test]
fn a_memory_limit_that_holds_one_process_and_not_two_is_found() {
    let _limit = limit(LIMIT);
    let cgroup = match Cgroup::new() {
        Ok(cgroup) => cgroup,
        Err(why) => {
            println!("SKIPPED: limits::a_memory_limit_that_holds_one_process_and_not_two_is_found: {why}");
            return;
        }
    };
    let procs = cgroup.folder.join("cgroup.procs");
    let patient = Patient::started("memory:64", |family, _| {
        let script = format!(r#"echo $$ > {} && exec "$0""#, procs.display());
        family.program("sh").args(["-c", &script]).arg(crate::patient::sick())
    });
    assert_eq!(patient.findings(&[]), [] as [&str; 0]);
    cgroup.write(cgroup.limit, 256 << 20);
    assert_eq!(patient.findings(&[]), [] as [&str; 0]);
    cgroup.write(cgroup.limit, 100 << 20);
    let value = patient.json(&[]);
    assert_eq!(codes(&value), ["memory-short"]);
    let what = value["findings"][0]["what"].as_str().unwrap();
    assert!(what.contains("the limit of 100.0 MiB"), "{what}");
    drop(patient);
    wait_until("an empty cgroup", SOON, || fs::read_to_string(&procs).unwrap().is_empty());
}
