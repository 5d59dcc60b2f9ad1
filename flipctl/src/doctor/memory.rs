//! Whether a second process of the same size fits beside the first: during an upgrade both live, and share a limit.

use super::{Examination, Subject};
use crate::words::size;
use procfs::process::{MountInfo, Process};
use std::path::{Path, PathBuf};

/// cgroup v1 says "no limit" with a number near 2^63.
const UNLIMITED: u64 = 1 << 62;

/// The names of the same things in the two versions of cgroups.
struct Files {
    limit: &'static str,
    usage: &'static str,
    reclaimable: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};
const V2: Files = Files { limit: "memory.max", usage: "memory.current", reclaimable: "inactive_file" };

/// The one of the limits above the process that leaves least.
struct Tightest {
    folder: PathBuf,
    limit: u64,
    left: u64,
}

pub fn examine(subject: &Subject, examination: &mut Examination) {
    const WHAT: &str = "memory limit";
    let status = match subject.process.status() {
        Ok(status) => status,
        Err(error) => return examination.unseen(WHAT, error),
    };
    let kib = status.rssanon.unwrap_or(0) + status.rssshmem.unwrap_or(0);
    let tightest = match tightest(&subject.process) {
        Ok(Some(tightest)) => tightest,
        Ok(None) => return,
        Err(why) => return examination.unseen(WHAT, why),
    };
    let needed = kib * 1024;
    if needed > tightest.left {
        let (name, limit) = (tightest.folder.display(), size(tightest.limit));
        examination.found(
            "memory-short",
            format!(
                "the process uses {}, and the limit of {limit} of its cgroup ({name}) leaves {}",
                size(needed),
                size(tightest.left)
            ),
            "during an upgrade both processes live; if the new one grows as big as this one before this one ends, the \
             kernel kills one of the two",
            "raise the limit (MemoryMax= in a systemd unit, --memory of a container) to twice the size of one process",
        );
    }
}

/// `None`: there is no limit.
fn tightest(process: &Process) -> Result<Option<Tightest>, String> {
    let own = process.cgroups().map_err(|error| error.to_string())?;
    let mounts = Process::myself().and_then(|me| me.mountinfo()).map_err(|error| error.to_string())?;
    let mut tightest: Option<Tightest> = None;
    let mut seen = false;
    for cgroup in own {
        let files = match &cgroup.controllers[..] {
            [] => V2,
            [one] if one.is_empty() => V2,
            controllers if controllers.iter().any(|one| one == "memory") => V1,
            _ => continue,
        };
        let is_v2 = files.limit == V2.limit;
        let Some((top, leaf)) = mounts.iter().find_map(|mount| folder(mount, is_v2, &cgroup.pathname)) else {
            continue;
        };
        seen = true;
        for folder in leaf.ancestors().take_while(|folder| folder.starts_with(&top)) {
            let Some((limit, left)) = room(folder, &files) else { continue };
            if tightest.as_ref().is_none_or(|one| left < one.left) {
                tightest = Some(Tightest { folder: folder.to_path_buf(), limit, left });
            }
        }
    }
    if seen { Ok(tightest) } else { Err("its cgroup is not mounted here".into()) }
}

/// Where this mount shows the cgroup: the mount's own folder and that of the cgroup.
fn folder(mount: &MountInfo, v2: bool, path: &str) -> Option<(PathBuf, PathBuf)> {
    let fits = match (v2, mount.fs_type.as_str()) {
        (true, "cgroup2") => true,
        (false, "cgroup") => mount.super_options.contains_key("memory"),
        _ => false,
    };
    // Outside of what is mounted, as that of a container's neighbour, a path begins with `/..`.
    let below =
        Path::new(path).strip_prefix(&mount.root).ok().filter(|_| fits && !path.starts_with("/.."))?;
    let top = mount.mount_point.clone();
    let leaf = if below.as_os_str().is_empty() { top.clone() } else { top.join(below) };
    leaf.is_dir().then_some((top, leaf))
}

/// The limit of one cgroup, and what it leaves: what the kernel can take back at once does not count as used.
fn room(folder: &Path, files: &Files) -> Option<(u64, u64)> {
    let number = |file| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let limit = number(files.limit).filter(|limit| *limit < UNLIMITED)?;
    let usage = number(files.usage)?;
    let statistics = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let reclaimable = statistics
        .lines()
        .find_map(|line| line.strip_prefix(files.reclaimable)?.strip_prefix(' ')?.trim().parse::<u64>().ok());
    Some((limit, limit.saturating_sub(usage.saturating_sub(reclaimable.unwrap_or(0)))))
}
