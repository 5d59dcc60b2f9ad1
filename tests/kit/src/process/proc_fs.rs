//! What `/proc/PID` says of one process, as far as tests ask. A process that is gone answers `None` or nothing.

use std::path::PathBuf;

use procfs::process::{FDTarget, Process, Stat, Status};

/// One descriptor of a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// `socket:[…]`, `pipe:[…]`, an anonymous inode, or a path.
    pub target: String,
    /// The inode of a socket or pipe.
    pub inode: Option<u64>,
    /// It does not survive exec.
    pub cloexec: bool,
}

/// A process by its number. Nothing is kept open: each question reads anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proc(pub i32);

impl Proc {
    /// This process.
    pub fn me() -> Proc {
        Proc(std::process::id() as i32)
    }

    fn open(self) -> Option<Process> {
        Process::new(self.0).ok()
    }

    pub(super) fn stat(self) -> Option<Stat> {
        self.open()?.stat().ok()
    }

    fn status(self) -> Option<Status> {
        self.open()?.status().ok()
    }

    /// `R`, `S`, `D`, `T` (stopped), `Z` (dead and not reaped) …
    pub fn state(self) -> Option<char> {
        self.stat().map(|stat| stat.state)
    }

    /// It exists and is not a zombie.
    pub fn alive(self) -> bool {
        self.state().is_some_and(|state| !matches!(state, 'Z' | 'X'))
    }

    /// Its parent.
    pub fn parent(self) -> Option<i32> {
        self.stat().map(|stat| stat.ppid)
    }

    /// When it started, in clock ticks since boot: tells two processes of one number apart.
    pub fn start_time(self) -> Option<u64> {
        self.stat().map(|stat| stat.starttime)
    }

    /// Its children, zombies too.
    pub fn children(self) -> Vec<Proc> {
        all().into_iter().filter(|process| process.parent() == Some(self.0)).collect()
    }

    /// How many threads it has.
    pub fn threads(self) -> Option<usize> {
        Some(self.open()?.tasks().ok()?.flatten().count())
    }

    /// Whether the library has done all that it does once the process is ready: its two threads are there, and sleep.
    pub fn library_rests(self) -> bool {
        let states = || -> Option<Vec<char>> {
            let stats = self.open()?.tasks().ok()?.flatten().filter_map(|task| task.stat().ok());
            Some(stats.filter(|stat| stat.comm == "shellflip").map(|stat| stat.state).collect())
        };
        states().is_some_and(|states| states == ['S', 'S'])
    }

    /// How many memory mappings it has.
    pub fn mappings(self) -> Option<usize> {
        Some(self.open()?.maps().ok()?.len())
    }

    /// Resident memory in bytes.
    pub fn resident(self) -> Option<u64> {
        self.status()?.vmrss.map(|kib| kib * 1024)
    }

    /// The signals it ignores, bit n-1 for signal n.
    pub fn ignored(self) -> Option<u64> {
        self.status().map(|status| status.sigign)
    }

    /// The signals its main thread blocks, bit n-1 for signal n.
    pub fn blocked(self) -> Option<u64> {
        self.status().map(|status| status.sigblk)
    }

    /// The signals it has handlers for, bit n-1 for signal n.
    pub fn caught(self) -> Option<u64> {
        self.status().map(|status| status.sigcgt)
    }

    /// Its open descriptors by number.
    pub fn descriptors(self) -> Vec<Descriptor> {
        let Some(fds) = self.open().and_then(|process| process.fd().ok()) else { return Vec::new() };
        let mut descriptors: Vec<_> = fds
            .flatten()
            .map(|fd| {
                let (target, inode) = match &fd.target {
                    FDTarget::Socket(inode) => (format!("socket:[{inode}]"), Some(*inode)),
                    FDTarget::Pipe(inode) => (format!("pipe:[{inode}]"), Some(*inode)),
                    FDTarget::Path(path) => (path.display().to_string(), None),
                    other => (format!("{other:?}"), None),
                };
                Descriptor { number: fd.fd, target, inode, cloexec: self.cloexec(fd.fd) }
            })
            .collect();
        descriptors.sort();
        descriptors
    }

    /// The flags are octal in fdinfo (proc(5)).
    fn cloexec(self, number: i32) -> bool {
        let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{number}", self.0)).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
    }

    /// Its command line.
    pub fn command(self) -> Vec<String> {
        self.open().and_then(|process| process.cmdline().ok()).unwrap_or_default()
    }

    /// The file it runs; ` (deleted)` is part of it when the file is gone.
    pub fn executable(self) -> Option<PathBuf> {
        self.open()?.exe().ok()
    }

    /// One variable of the environment it was started with. A zombie has none.
    pub fn variable(self, name: &str) -> Option<Vec<u8>> {
        let environment = std::fs::read(format!("/proc/{}/environ", self.0)).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|variable| {
            variable.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec)
        })
    }

    /// One line for a person: number, state, parent, threads, where it waits, command.
    pub fn describe(self) -> String {
        let Some(stat) = self.stat() else { return format!("{}: gone", self.0) };
        let wait = std::fs::read_to_string(format!("/proc/{}/wchan", self.0)).unwrap_or_default();
        let command = self.command().join(" ");
        let command = if command.is_empty() { format!("[{}]", stat.comm) } else { command };
        let (state, parent, threads) = (stat.state, stat.ppid, stat.num_threads);
        format!("{}: state {state}, parent {parent}, {threads} threads, in {wait}: {command}", self.0)
    }
}

/// Every process there is.
pub fn all() -> Vec<Proc> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Proc).collect()
}
