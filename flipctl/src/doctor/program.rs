//! What the next upgrade runs and where, process 1, what was started with more rights, and the pid file.

use super::executable::{Flaw, Place, machines};
use super::root::Root;
use super::{Examination, Subject};
use nix::errno::Errno;
use nix::sys::stat::SFlag;
use procfs::ProcError;
use shellflip::error::explain;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Where execvp looks if there is no PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// How the kernel calls a file that has never had a path: memfd_create(2).
const MEMFD: &str = "/memfd:";

pub fn examine(subject: &Subject, examination: &mut Examination) {
    process_1(subject, examination);
    secure_execution(subject, examination);
    pid_file(subject, examination);
    let root = match Root::of(subject.pid()) {
        Ok(root) => root,
        Err(error) => return examination.unseen("program and directory", error),
    };
    let gone = directory(subject, &root, examination);
    executable(subject, &root, gone, examination);
}

fn process_1(subject: &Subject, examination: &mut Examination) {
    let Ok(status) = subject.process.status() else { return };
    if status.nspid.is_some_and(|numbers| numbers.last() == Some(&1)) {
        examination.found(
            "process-1",
            "the server is process 1 of its pid namespace",
            "upgrades are refused: with the end of process 1 the kernel kills every process of the container, the new \
             one too",
            "run it below an init that stays when its first child ends, not as the container's entry point",
        );
    }
}

/// What the kernel told the process when it started: getauxval(3).
fn secure_execution(subject: &Subject, examination: &mut Examination) {
    const AT_SECURE: u64 = 23;
    match subject.process.auxv() {
        Ok(told) if told.get(&AT_SECURE).is_some_and(|secure| *secure != 0) => examination.found(
            "secure-execution",
            "the program has more rights than who starts it: file capabilities (getcap shows them) or set-user-id",
            "upgrades are refused: such a program believes nothing that it is started with, and so not its predecessor",
            "take them from the file, and let the service manager give them, with AmbientCapabilities= or a socket unit",
        ),
        Ok(_) => {}
        Err(error) => examination.unseen("rights at the start", error),
    }
}

fn pid_file(subject: &Subject, examination: &mut Examination) {
    let Some(report) = &subject.report else { return };
    if let Some(problem) = &report.pid_file_error {
        let path = report.pid_file.as_deref().unwrap_or_default();
        examination.found(
            "pid-file",
            format!("the pid file {path}: {problem}"),
            "whoever goes by the pid file signals an older process, or none",
            format!("{}; the next upgrade writes it anew", pid_file_remedy(problem)),
        );
    }
}

/// By the name of the errno, with which the server's sentence ends.
fn pid_file_remedy(problem: &str) -> &'static str {
    let errno = problem.strip_suffix(')').and_then(|text| text.rsplit_once('(')).map(|(_, errno)| errno);
    match errno {
        Some("EACCES" | "EPERM") => "let the server's user write there",
        Some("ENOENT" | "ENOTDIR") => "make the directory again",
        Some("ENOSPC") => "make room on that file system, which has no blocks or no inodes left",
        Some("EDQUOT") => "make room: the server's user has used up the disk quota",
        Some("EROFS") => {
            "make that file system writable (in a systemd unit ReadWritePaths=, RuntimeDirectory=)"
        }
        _ => "see to it that a file can be made and renamed in that directory",
    }
}

/// True: it is gone.
fn directory(subject: &Subject, root: &Root, examination: &mut Examination) -> bool {
    let path = match subject.report.as_ref().and_then(|report| report.directory.clone()) {
        Some(path) => PathBuf::from(path),
        // Without a word from the server: where it is now. It may have been started elsewhere.
        None => match subject.process.cwd() {
            Ok(path) => root.inside(path),
            Err(error) => {
                examination.unseen("start directory", error);
                return false;
            }
        },
    };
    let seen = match root.find(&path) {
        Ok(found) if found.kind() != SFlag::S_IFDIR => Err(Errno::ENOTDIR),
        seen => seen,
    };
    match seen {
        Ok(_) => false,
        Err(Errno::EACCES) => {
            examination.unseen("start directory", explain(Errno::EACCES));
            false
        }
        Err(errno) => {
            examination.found(
                "directory-gone",
                format!("the directory {} in which the server was started: {}", path.display(), explain(errno)),
                "the next upgrade fails, since the new process cannot start in it; the old one serves on",
                "make the directory again (a link that is moved to another one will do), or restart the server",
            );
            true
        }
    }
}

fn executable(subject: &Subject, root: &Root, directory_gone: bool, examination: &mut Examination) {
    let directory = subject.report.as_ref().and_then(|report| report.directory.as_ref()).map(PathBuf::from);
    let candidates = match candidates(subject, root, directory.as_deref()) {
        Ok(candidates) => candidates,
        Err(error) => return examination.unseen("program", error),
    };
    let (path, flaw) = match chosen(subject.pid(), root, directory.as_deref(), &candidates) {
        None => return,
        Some((_, Flaw::Unread(errno))) => return examination.unseen("program", explain(errno)),
        Some(flawed) => flawed,
    };
    // A relative path has nowhere to start from: that has been said already.
    if directory_gone
        && candidates.iter().all(|path| directory.as_ref().is_some_and(|one| path.starts_with(one)))
    {
        return;
    }
    if let Some(name) = path.to_str().and_then(|path| path.strip_prefix(MEMFD)) {
        return examination.found(
            "executable-gone",
            format!("the server runs {name} from memory (memfd_create), and no path leads to that"),
            "the next upgrade fails, since there is nothing to run; the old process serves on",
            "start the server from a file, or let it name one with flip_set_command",
        );
    }
    let nowhere = flaw.is_passed_over() && candidates.len() > 1;
    let others = if nowhere { " (nor anywhere else in PATH)" } else { "" };
    examination.found(
        "executable-gone",
        format!("the program {}{others}, which the next upgrade runs: {flaw}", path.display()),
        "the next upgrade fails, since that cannot be run; the old process serves on",
        flaw.remedy(),
    );
}

/// What is wrong with the program that the next upgrade takes. If it takes none, with the one that is there at least.
fn chosen<'a>(
    pid: i32,
    root: &Root,
    directory: Option<&Path>,
    candidates: &'a [PathBuf],
) -> Option<(&'a Path, Flaw)> {
    let place = Place { root, directory: directory.unwrap_or(Path::new("/")), machines: machines(pid) };
    let mut refused = None;
    for path in candidates {
        let flaw = place.flaw(path)?;
        if !flaw.is_passed_over() {
            return Some((path, flaw));
        }
        if refused.is_none() || flaw != Flaw::Unreachable(Errno::ENOENT) {
            refused = Some((path.as_path(), flaw));
        }
    }
    refused
}

/// Where the next upgrade looks for its program, in this order.
fn candidates(subject: &Subject, root: &Root, directory: Option<&Path>) -> Result<Vec<PathBuf>, ProcError> {
    let below = |path: &Path| directory.map_or(path.to_path_buf(), |directory| directory.join(path));
    let Some(executable) = subject.report.as_ref().and_then(|report| report.executable.clone()) else {
        return Ok(vec![root.inside(subject.process.exe()?)]);
    };
    if executable.contains('/') {
        return Ok(vec![below(Path::new(&executable))]);
    }
    let environment = subject.process.environ()?;
    let path = environment.get(OsStr::new("PATH")).cloned().unwrap_or(OsString::from(DEFAULT_PATH));
    Ok(std::env::split_paths(&path).map(|folder| below(&folder.join(&executable))).collect())
}
