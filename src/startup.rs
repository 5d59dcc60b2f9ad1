//! How this process was started, so that its successor can be started the same way: program, directory, environment,
//! 0 to 2, signals, limits. [`Startup::capture`] is called once, by flip_init; `program` and `spawn` use the result.
//!
//! What the host changes between its start and flip_init is seen by the load-time constructor in `load`; the
//! environment and 0 to 2 are taken as they are at flip_init.

mod load;

use crate::error::{Error, Result};
use crate::program::{Facts, Original, join};
use crate::sys::file;
use crate::sys::process::{self, FileId};
use nix::errno::Errno;
use std::cell::LazyCell;
use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use load::Loaded;

/// The signals a process starts with, as the kernel's masks: signal n is bit n-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartSignals {
    /// Blocked.
    pub mask: u64,
    /// Ignored.
    pub ignored: u64,
}

/// How this process was started.
#[derive(Debug)]
pub struct Startup {
    /// The program and its arguments; `None`: it cannot be told, and upgrades need a command from the host.
    pub original: Option<Original>,
    /// The environment at flip_init, in its order.
    pub environment: Vec<CString>,
    /// The directory it was started in, by `$PWD` where that leads there, so that a link that is moved is followed.
    pub directory: Option<CString>,
    /// The same directory, by identity.
    pub directory_id: Option<FileId>,
    /// 0, 1 and 2 at flip_init; `None` was closed.
    pub stdio: [Option<Arc<OwnedFd>>; 3],
    /// Mask and ignored signals.
    pub signals: StartSignals,
    /// The soft limit of descriptor numbers; the successor gets it back.
    pub soft_limit: u64,
    /// The hard limit of descriptor numbers at flip_init.
    pub hard_limit: u64,
}

impl Startup {
    /// Takes it all down, with the [`environment`] of this process.
    pub fn capture(environment: Vec<CString>) -> Result<Startup> {
        let what = "cannot see how this process was started";
        let failed = |errno: Errno| Error::system(what, errno);
        let loaded = match load::loaded() {
            Some(loaded) => loaded,
            None => seen_now().map_err(failed)?,
        };
        // Only if it matters: a process that has just started waits for its part of /proc.
        let executable = LazyCell::new(|| process::file_id(c"/proc/self/exe").ok().map(|(id, _)| id));
        let directory = start_directory(&loaded, variable(&environment, b"PWD"));
        let is_running = |path: &CStr| {
            let there = process::file_id(&join(directory.as_deref(), path)).ok().map(|(id, _)| id);
            there.is_some() && there == *executable
        };
        // Only a program that the kernel found no interpreter for can be the loader itself.
        let command_line = if process::has_interpreter() { Vec::new() } else { command_line() };
        let (arguments, execfn) = match through_loader(&loaded.arguments, command_line, is_running) {
            Some(arguments) => (arguments, None),
            None => (loaded.arguments, loaded.execfn),
        };
        let original = Original::plain(&arguments, execfn.as_deref()).or_else(|| {
            Original::find(&Facts {
                arguments: &arguments,
                execfn: execfn.as_deref(),
                executable: *executable,
                directory: directory.as_deref(),
                path: variable(&environment, b"PATH"),
            })
        });
        let (soft_limit, hard_limit) = process::descriptor_limits().map_err(failed)?;
        Ok(Startup {
            original,
            directory,
            directory_id: loaded.directory_id,
            stdio: [stdio(0)?, stdio(1)?, stdio(2)?],
            signals: StartSignals { mask: loaded.mask, ignored: loaded.ignored },
            soft_limit: loaded.soft_limit.unwrap_or(soft_limit),
            hard_limit,
            environment,
        })
    }
}

/// The value of `name`, the first one if there are several (as getenv has it).
pub fn variable<'a>(environment: &'a [CString], name: &[u8]) -> Option<&'a [u8]> {
    environment.iter().find_map(|entry| entry.to_bytes().strip_prefix(name)?.strip_prefix(b"="))
}

/// For when the constructor did not run (a linker that dropped it): as good as it gets.
fn seen_now() -> std::result::Result<Loaded, Errno> {
    // SAFETY: AT_EXECFN is null or a string of the kernel's.
    let execfn = unsafe {
        let path = libc::getauxval(libc::AT_EXECFN) as *const libc::c_char;
        (!path.is_null()).then(|| CStr::from_ptr(path).to_owned())
    };
    let current = std::env::current_dir().ok();
    Ok(Loaded {
        arguments: command_line(),
        execfn,
        directory: current.and_then(|path| CString::new(path.into_os_string().into_encoded_bytes()).ok()),
        directory_id: process::file_id(c".").ok().map(|(id, _)| id),
        mask: process::swap_signal_mask(None)?,
        ignored: process::ignored_signals(),
        soft_limit: None,
    })
}

fn command_line() -> Vec<CString> {
    let bytes = file::read_proc(c"/proc/self/cmdline").unwrap_or_default();
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).filter_map(|argument| CString::new(argument).ok()).collect()
}

/// Started as `ld.so ./app …`, a process is not told so: ld.so takes itself out of argv and AT_EXECFN, only the
/// kernel's copy keeps it. The program may work with that loader alone, so it is started through it again. `None`:
/// started in the usual way, or the host wrote a title over its arguments, which then leads to no file.
fn through_loader(
    arguments: &[CString],
    command_line: Vec<CString>,
    is_running: impl Fn(&CStr) -> bool,
) -> Option<Vec<CString>> {
    let rest = arguments.get(1..).unwrap_or_default();
    let longer = command_line.len() > arguments.len() && command_line.ends_with(rest);
    (longer && command_line.first().is_some_and(|first| is_running(first))).then_some(command_line)
}

fn start_directory(loaded: &Loaded, pwd: Option<&[u8]>) -> Option<CString> {
    let by_pwd = pwd.filter(|pwd| pwd.starts_with(b"/")).and_then(|pwd| CString::new(pwd).ok());
    by_pwd
        .filter(|pwd| {
            let there = process::file_id(pwd).ok().map(|(id, _)| id);
            there.is_some() && there == loaded.directory_id
        })
        .or_else(|| loaded.directory.as_ref().map(|path| join(None, path)))
}

/// This process's, bytes as they are: entries without `=` and doubles too, which std::env would drop. Call it before
/// other threads run, which could change it meanwhile.
pub fn environment() -> Vec<CString> {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let mut entries = Vec::new();
    // SAFETY: environ is null or a null-terminated array of strings, and by contract of flip_init no other thread
    // changes it meanwhile.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            entries.push(CStr::from_ptr(*at).to_owned());
            at = at.add(1);
        }
    }
    entries
}

fn stdio(number: i32) -> Result<Option<Arc<OwnedFd>>> {
    // SAFETY: the number is only given to the kernel, which says EBADF where it is closed.
    match process::duplicate(unsafe { BorrowedFd::borrow_raw(number) }) {
        Ok(fd) => Ok(Some(Arc::new(fd))),
        Err(Errno::EBADF) => Ok(None),
        Err(errno) => {
            Err(Error::system(format!("cannot keep descriptor {number} for the next program"), errno))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<CString> {
        list.iter().map(|one| CString::new(*one).unwrap()).collect()
    }

    #[test]
    fn a_program_started_through_its_loader_is_started_so_again() {
        let whole = strings(&["/lib64/ld.so", "--library-path", "lib", "./app", "-v"]);
        let found = through_loader(&strings(&["./app", "-v"]), whole.clone(), |path| path == c"/lib64/ld.so");
        assert_eq!(found, Some(whole));
    }

    #[test]
    fn a_title_written_over_the_arguments_is_not_taken_for_them() {
        let seen = strings(&["./app"]);
        let title = strings(&["app: master process", "", ""]);
        assert_eq!(through_loader(&seen, title, |path| path == c"./app"), None);
        assert_eq!(through_loader(&seen, seen.clone(), |path| path == c"./app"), None);
    }

    #[test]
    fn the_directory_is_pwd_only_where_that_leads_to_the_same_place() {
        let loaded = load::loaded().expect("the constructor ran");
        let physical = loaded.directory.clone().unwrap();
        let link = std::env::temp_dir().join(format!("startup-link-{}", std::process::id()));
        std::os::unix::fs::symlink(physical.to_str().unwrap(), &link).unwrap();
        let link = link.to_str().unwrap();
        assert_eq!(start_directory(&loaded, Some(link.as_bytes())).unwrap().to_bytes(), link.as_bytes());
        assert_eq!(start_directory(&loaded, Some(b"/")).unwrap(), physical);
        assert_eq!(start_directory(&loaded, Some(b".")).unwrap(), physical);
        assert_eq!(start_directory(&loaded, None).unwrap(), physical);
        std::fs::remove_file(link).unwrap();
    }

    #[test]
    fn capture_keeps_order_and_oddities_of_the_environment() {
        let startup = Startup::capture(environment()).unwrap();
        let kernel = std::fs::read("/proc/self/environ").unwrap();
        let kernel: Vec<_> = kernel.split(|b| *b == 0).filter(|e| !e.is_empty()).collect();
        let ours: Vec<_> = startup.environment.iter().map(|e| e.as_bytes()).collect();
        assert_eq!(ours, kernel);
        assert_eq!(startup.original.unwrap().arguments, command_line());
    }
}
