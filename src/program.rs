//! What is run by the next upgrade: executable, arguments and directory, found again each time so that a replaced
//! file or a moved link gives the new program. [`Original`] is how this process was started, [`Overrides`] what the
//! host has set since; `upgrade` calls [`Overrides::resolve`] and hands the [`Program`] to `spawn`.

use crate::error::{Error, Result};
use crate::spawn::environment::RESERVED;
use crate::startup::{Startup, variable};
use crate::sys::process::{self, FileId};
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::fmt;

/// Where execvp looks if there is no PATH.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// The deepest that the kernel nests interpreters is 5; each puts at most two arguments before the script's path.
const INTERPRETER_ARGUMENTS: usize = 10;

/// The command that started this process, in the words of that time: links unresolved, relative paths relative to
/// the directory it was started in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// The path to exec: of the script, where a script was started.
    pub executable: CString,
    /// Its arguments, from argv[0].
    pub arguments: Vec<CString>,
}

/// What is known about the start of this process.
#[derive(Debug)]
pub struct Facts<'a> {
    /// argv as the process saw it.
    pub arguments: &'a [CString],
    /// AT_EXECFN.
    pub execfn: Option<&'a CStr>,
    /// The file that runs: /proc/self/exe, if /proc is there.
    pub executable: Option<FileId>,
    /// The directory it was started in.
    pub directory: Option<&'a CStr>,
    /// PATH.
    pub path: Option<&'a [u8]>,
}

impl Original {
    /// The usual case, which needs no look at the disk: started by a path that is argv[0] too, and no script, since the kernel
    /// puts a script's path among the further arguments. Whatever file that path leads to by now is what is wanted.
    pub fn plain(arguments: &[CString], execfn: Option<&CStr>) -> Option<Original> {
        let path = execfn.filter(|path| path.to_bytes().contains(&b'/') && !temporary(path))?;
        let mut seen = arguments.iter().take(INTERPRETER_ARGUMENTS + 1).map(CString::as_c_str);
        (seen.next() == Some(path) && !seen.any(|argument| argument == path))
            .then(|| Original { executable: path.to_owned(), arguments: arguments.to_vec() })
    }

    /// The command, or `None` if no path leads back to the program.
    pub fn find(facts: &Facts<'_>) -> Option<Original> {
        let execfn = facts.execfn.filter(|path| !path.is_empty() && !temporary(path));
        let is_running = |path: &CStr| {
            let there = process::file_id(&join(facts.directory, path)).ok().map(|(id, _)| id);
            there.is_some() && there == facts.executable
        };
        let first = facts.arguments.first().filter(|argument| !argument.is_empty());
        let as_seen =
            |path: &CStr| Some(Original { executable: path.to_owned(), arguments: facts.arguments.to_vec() });
        if let Some(path) = execfn.filter(|path| is_running(path)) {
            return as_seen(path);
        }
        // A `#!` script: the kernel ran its interpreter and put the script's path, as given, among the arguments.
        // Running that path with the arguments behind it makes the kernel put the rest there again.
        if let Some(path) = execfn
            && first.is_some_and(|first| match facts.executable {
                Some(_) => is_running(first),
                None => first.as_c_str() != path,
            })
            && let Some(at) =
                facts.arguments.iter().skip(1).take(INTERPRETER_ARGUMENTS).position(|a| **a == *path)
        {
            return Some(Original {
                executable: path.to_owned(),
                arguments: facts.arguments[at + 1..].to_vec(),
            });
        }
        if let Some(first) = first.filter(|path| !temporary(path)) {
            let found = if first.as_bytes().contains(&b'/') {
                Some(first.clone())
            } else {
                search(first, facts.path, facts.directory)
            };
            if let Some(path) = found.filter(|path| is_running(path)) {
                return as_seen(&path);
            }
        }
        // The file was replaced since the start: its path leads to the new program, which is what is wanted.
        if let Some(path) = execfn {
            return as_seen(path);
        }
        let target = std::fs::read_link("/proc/self/exe").ok()?;
        let target = CString::new(target.into_os_string().into_encoded_bytes()).ok()?;
        if is_running(&target) { as_seen(&target) } else { None }
    }
}

/// /proc/self/exe and /dev/fd/3 lead to the old inode, or nowhere, in the child.
fn temporary(path: &CStr) -> bool {
    [&b"/proc/"[..], b"/dev/fd/"].iter().any(|start| path.to_bytes().starts_with(start))
}

/// What the host wants to be different in the next program.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    command: Option<Original>,
    environment: Vec<(CString, Option<CString>)>,
    directory: Option<CString>,
}

/// What to exec, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Absolute, or relative to `directory`.
    pub executable: CString,
    /// From argv[0].
    pub arguments: Vec<CString>,
    /// Where it starts; `None`: where this process is.
    pub directory: Option<CString>,
}

impl Program {
    /// The executable's whole path.
    pub fn path(&self) -> CString {
        join(self.directory.as_deref(), &self.executable)
    }

    /// Why it cannot be started, as far as a look at the file tells. The kernel looks at it anyway: this is for who asks
    /// why that failed.
    pub fn check(&self) -> Result<()> {
        let path = self.path();
        let refused = |errno| Error::system(format!("cannot start {self}"), errno);
        let (_, is_directory) = process::file_id(&path).map_err(refused)?;
        if is_directory {
            return Err(refused(Errno::EISDIR));
        }
        process::may_execute(&path).map_err(refused)
    }
}

/// Its path, for the person who reads about it.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path().to_string_lossy())
    }
}

impl Overrides {
    /// Runs `executable` with `arguments` (from argv[0]; none: the executable alone) from now on. Without a slash it
    /// is looked for in PATH, relative with one it is relative to the directory that the program starts in.
    pub fn set_command(&mut self, executable: &CStr, arguments: &[&CStr]) -> Result<()> {
        if executable.is_empty() {
            return Err(Error::Invalid("the executable is the empty string".into()));
        }
        let arguments = match arguments {
            [] => vec![executable.to_owned()],
            _ => arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        };
        self.command = Some(Original { executable: executable.to_owned(), arguments });
        Ok(())
    }

    /// Sets (`None`: removes) one variable of the next program's environment.
    pub fn set_env(&mut self, name: &CStr, value: Option<&CStr>) -> Result<()> {
        let shown = name.to_string_lossy();
        if name.is_empty() || name.to_bytes().contains(&b'=') {
            return Err(Error::Invalid(format!("\"{shown}\" is no name of an environment variable")));
        }
        if RESERVED.contains(&name.to_bytes()) {
            return Err(Error::Invalid(format!("{shown} is set by the upgrade itself")));
        }
        self.environment.retain(|(known, _)| **known != *name);
        self.environment.push((name.to_owned(), value.map(CStr::to_owned)));
        Ok(())
    }

    /// Starts the next program in `directory`; relative: to where this process was started.
    pub fn set_directory(&mut self, directory: &CStr) -> Result<()> {
        if directory.is_empty() {
            return Err(Error::Invalid("the directory is the empty string".into()));
        }
        self.directory = Some(directory.to_owned());
        Ok(())
    }

    /// The environment that `startup` began with, and what was changed.
    pub fn environment(&self, startup: &Startup) -> Vec<CString> {
        let mut entries = startup.environment.clone();
        // $PWD says by which path a directory was entered, and the next generation goes by it.
        let mut changes: Vec<(&CStr, Option<&CStr>)> = Vec::new();
        let pwd = self.directory.as_deref().map(|path| join(startup.directory.as_deref(), path));
        if let Some(pwd) = pwd.as_deref().filter(|pwd| pwd.to_bytes().starts_with(b"/")) {
            changes.push((c"PWD", Some(pwd)));
        }
        changes.extend(self.environment.iter().map(|(name, value)| (name.as_c_str(), value.as_deref())));
        for (name, value) in changes {
            let is_name = |entry: &CString| {
                entry.as_bytes().strip_prefix(name.to_bytes()).is_some_and(|rest| rest.starts_with(b"="))
            };
            let at = entries.iter().position(is_name).unwrap_or(entries.len());
            entries.retain(|entry| !is_name(entry));
            if let Some(value) = value {
                entries.insert(at.min(entries.len()), concat(&[name.to_bytes(), b"=", value.to_bytes()]));
            }
        }
        entries
    }

    /// What the next upgrade runs and where, as it is known without a look at the disk; without a slash the executable is
    /// looked for in PATH then.
    pub fn next(&self, startup: &Startup) -> (Option<Original>, Option<CString>) {
        let start = startup.directory.as_deref();
        let directory = match &self.directory {
            Some(path) => Some(join(start, path)),
            None => start.map(CStr::to_owned),
        };
        let original = || {
            let original = startup.original.as_ref()?;
            Some(Original { executable: join(start, &original.executable), ..original.clone() })
        };
        let by_path = |command: &Original| {
            let mut command = command.clone();
            if command.executable.as_bytes().contains(&b'/') {
                command.executable = join(directory.as_deref(), &command.executable);
            }
            command
        };
        (self.command.as_ref().map(by_path).or_else(original), directory)
    }

    /// The program for an upgrade now, whose directory can be entered.
    pub fn resolve(&self, startup: &Startup) -> Result<Program> {
        let start = startup.directory.as_deref();
        let directory = match &self.directory {
            Some(path) => Some(join(start, path)),
            None => start.map(CStr::to_owned),
        };
        let directory = match directory {
            Some(path) => {
                enterable(path, self.directory.is_none().then_some(startup.directory_id).flatten())?
            }
            None => None,
        };
        let Original { executable, arguments } = match (&self.command, &startup.original) {
            (Some(command), _) => command.clone(),
            (None, Some(original)) if self.directory.is_some() => {
                Original { executable: join(start, &original.executable), ..original.clone() }
            }
            (None, Some(original)) => original.clone(),
            (None, None) => {
                return Err(Error::NotFound(
                    "no path leads back to the program that this process runs: set the command to upgrade to"
                        .into(),
                ));
            }
        };
        let executable = if executable.as_bytes().contains(&b'/') {
            executable
        } else {
            let environment = self.environment(startup);
            let path = variable(&environment, b"PATH");
            search(&executable, path, directory.as_deref()).ok_or_else(|| {
                let name = executable.to_string_lossy();
                let path = String::from_utf8_lossy(path.unwrap_or(DEFAULT_PATH));
                Error::system(format!("cannot start {name}, which is not in PATH ({path})"), Errno::ENOENT)
            })?
        };
        Ok(Program { executable, arguments, directory })
    }
}

/// `path` if it can be entered. A process that gave up its rights may no longer enter the directory in which it
/// started (`start`) although it is still there: the next program then just stays there (`None`).
fn enterable(path: CString, start: Option<FileId>) -> Result<Option<CString>> {
    let refused =
        |errno| Error::system(format!("cannot start in directory {}", path.to_string_lossy()), errno);
    // One that is no directory is refused by chdir.
    match process::may_execute(&path) {
        Ok(()) => Ok(Some(path)),
        Err(Errno::EACCES) if start.is_some() && process::file_id(c".").ok().map(|(id, _)| id) == start => {
            Ok(None)
        }
        Err(errno) => Err(refused(errno)),
    }
}

/// `path` as seen from `directory`.
pub fn join(directory: Option<&CStr>, path: &CStr) -> CString {
    match directory {
        Some(directory) if !path.to_bytes().starts_with(b"/") => {
            let slash: &[u8] = if directory.to_bytes().ends_with(b"/") { b"" } else { b"/" };
            concat(&[directory.to_bytes(), slash, path.to_bytes()])
        }
        _ => path.to_owned(),
    }
}

/// The first executable file of that name in `path`, as execvp(3) finds it; empty parts are the directory.
fn search(name: &CStr, path: Option<&[u8]>, directory: Option<&CStr>) -> Option<CString> {
    path.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':').find_map(|part| {
        let part = if part.is_empty() { b"." } else { part };
        let candidate = concat(&[part, b"/", name.to_bytes()]);
        let whole = join(directory, &candidate);
        let is_file = process::file_id(&whole).is_ok_and(|(_, is_directory)| !is_directory);
        (is_file && process::may_execute(&whole).is_ok()).then_some(candidate)
    })
}

/// Parts of C strings hold no NUL, so that their sum is one.
fn concat(parts: &[&[u8]]) -> CString {
    CString::new(parts.concat()).unwrap_or_default()
}

#[cfg(test)]
#[path = "program/tests.rs"]
mod tests;
