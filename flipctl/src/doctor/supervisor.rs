//! Whoever watches over the server by waiting for its child: when the first generation ends after an upgrade, it
//! takes that for the end of the service.

use super::{Examination, Subject};
use procfs::process::Process;
use std::path::Path;

/// What a supervisor does when its child ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// It ends as well, and a container with it.
    Ends,
    /// It starts the service again, beside the one that runs.
    Restarts,
}

/// By the name of the program, as it calls itself or as its file is called.
const SUPERVISORS: [(&str, Does); 14] = [
    ("tini", Does::Ends),
    ("tini-static", Does::Ends),
    ("docker-init", Does::Ends),
    ("podman-init", Does::Ends),
    ("catatonit", Does::Ends),
    ("dumb-init", Does::Ends),
    ("runsv", Does::Restarts),
    ("supervisord", Does::Restarts),
    ("s6-supervise", Does::Restarts),
    ("supervise", Does::Restarts),
    ("supervise-daemon", Does::Restarts),
    // As the kernel cuts it off (TASK_COMM_LEN).
    ("supervise-daemo", Does::Restarts),
    ("perpd", Does::Restarts),
    ("circusd", Does::Restarts),
];

/// Programs that only wait for what they run: whoever runs them sees their end as the server's.
const WRAPPERS: [&str; 12] =
    ["sh", "bash", "dash", "ash", "ksh", "zsh", "busybox", "su", "sudo", "timeout", "strace", "unshare"];

/// Deeper than any start script nests.
const HIGHEST: usize = 16;

pub fn examine(subject: &Subject, examination: &mut Examination) {
    let mut pid = match subject.process.stat() {
        Ok(stat) => stat.ppid,
        Err(error) => return examination.unseen("supervisor", error),
    };
    for _ in 0..HIGHEST {
        let Ok(process) = Process::new(pid) else { return };
        let names = names(&process);
        let known = SUPERVISORS.iter().find(|(name, _)| names.iter().any(|one| one == name));
        if let Some((name, does)) = known {
            return found(examination, name, pid, *does);
        }
        if !names.iter().any(|one| WRAPPERS.contains(&one.as_str())) {
            return;
        }
        let first = process.status().ok().and_then(|status| status.nspid).and_then(|ids| ids.last().copied());
        if first == Some(1) {
            return found(examination, &format!("{} as process 1", names[0]), pid, Does::Ends);
        }
        let Ok(stat) = process.stat() else { return };
        pid = stat.ppid;
    }
}

/// What it calls itself, its file, and for a script the script's file.
fn names(process: &Process) -> Vec<String> {
    let base = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut names = Vec::new();
    names.extend(process.stat().ok().map(|stat| stat.comm));
    names.extend(process.exe().ok().as_deref().and_then(base));
    let command = process.cmdline().unwrap_or_default();
    let interpreter = ["python", "ruby", "node", "perl"];
    if names.iter().any(|name| interpreter.iter().any(|one| name.starts_with(one))) {
        let script = command.iter().skip(1).find(|argument| !argument.starts_with('-'));
        names.extend(script.map(Path::new).and_then(base));
    }
    names
}

fn found(examination: &mut Examination, name: &str, pid: i32, does: Does) {
    let what = format!("the server was started by {name} (process {pid}), which waits for its first process");
    match does {
        Does::Ends => examination.found(
            "supervisor-ends",
            what,
            "when that process ends after an upgrade, so does this one, and a container with it; the new process is \
             killed",
            "give the server a parent that outlives its first process: systemd with Type=notify, or an init in the \
             container that runs until it is told to stop",
        ),
        Does::Restarts => examination.found(
            "supervisor-restarts",
            what,
            "when that process ends after an upgrade, it is started again beside the new one: it gets EADDRINUSE again \
             and again, or with SO_REUSEPORT takes a share of the clients",
            "run the server under systemd with Type=notify, or let its supervisor watch a program that stays the same",
        ),
    }
}
