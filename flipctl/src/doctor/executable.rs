//! Whether execve(2) would run a file: what the kernel looks at before it gives up the old program. Called by `program`.

use super::elf::{self, Elf, Machine};
use super::root::Root;
use nix::errno::Errno;
use nix::sys::stat::SFlag;
use shellflip::error::explain;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// So much of a file the kernel looks at to know what it is: BINPRM_BUF_SIZE in linux/binfmts.h.
const HEAD: usize = 256;

/// A script's interpreter may be a script, and so on: exec_binprm in fs/exec.c.
const DEEPEST: u32 = 5;

/// Where handlers for other formats are registered, such as an emulator of another machine.
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// How the server's programs are looked up and run.
pub struct Place<'a> {
    /// The server's.
    pub root: &'a Root,
    /// Where a relative path of an interpreter begins.
    pub directory: &'a Path,
    /// Programs that run here: for their machines there is a kernel.
    pub machines: Vec<Machine>,
}

/// Why a file would not be run.
#[derive(Debug, PartialEq, Eq)]
pub enum Flaw {
    /// There is none, it is a directory, or the way to it is barred.
    Unreachable(Errno),
    /// No regular file, but this.
    Kind(&'static str),
    /// Nobody has the right to execute it.
    NotExecutable,
    /// Nobody may execute anything there.
    NoExec,
    /// Nothing is in it.
    Empty,
    /// No program, or not all of it.
    Damaged,
    /// Neither program nor script.
    NoFormat,
    /// A program for that one.
    Machine(u64),
    /// The interpreter of the script, or of the program (ld.so), has that flaw.
    Interpreter(PathBuf, Box<Flaw>),
    /// A script's first line ends with CR LF.
    CarriageReturn,
    /// We may not read it.
    Unread(Errno),
}

impl Place<'_> {
    /// `None`: it would be run.
    pub fn flaw(&self, path: &Path) -> Option<Flaw> {
        self.check(path, DEEPEST).err()
    }

    fn check(&self, path: &Path, depth: u32) -> Result<(), Flaw> {
        let file = self.open(path)?;
        let head = head(&file)?;
        if head.is_empty() {
            return Err(Flaw::Empty);
        }
        let known = match head.strip_prefix(b"#!") {
            Some(line) => self.script(line, depth),
            None if head.starts_with(elf::MAGIC) => self.program(&file),
            None => Err(Flaw::NoFormat),
        };
        if known.is_err() && has_handler(path, &head) { Ok(()) } else { known }
    }

    /// What every file has to be that is executed.
    fn open(&self, path: &Path) -> Result<File, Flaw> {
        let found = self.root.find(path).map_err(Flaw::Unreachable)?;
        match found.kind() {
            SFlag::S_IFREG if !found.is_executable() => Err(Flaw::NotExecutable),
            SFlag::S_IFREG if found.is_on_noexec() => Err(Flaw::NoExec),
            SFlag::S_IFREG => found.open().map_err(unread),
            SFlag::S_IFDIR => Err(Flaw::Unreachable(Errno::EISDIR)),
            SFlag::S_IFIFO => Err(Flaw::Kind("a FIFO")),
            SFlag::S_IFSOCK => Err(Flaw::Kind("a socket")),
            _ => Err(Flaw::Kind("a device")),
        }
    }

    /// As load_script in fs/binfmt_script.c reads it.
    fn script(&self, line: &[u8], depth: u32) -> Result<(), Flaw> {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0)).filter(|word| !word.is_empty());
        let name = words.next().ok_or(Flaw::NoFormat)?;
        let path = self.directory.join(OsStr::from_bytes(name));
        // env(1) is run, and does not find what it is to run.
        if path.file_name() == Some(OsStr::new("env")) && line.ends_with(b"\r") {
            return Err(Flaw::CarriageReturn);
        }
        match self.check(&path, depth.checked_sub(1).ok_or(Flaw::Unreachable(Errno::ELOOP))?) {
            Err(Flaw::Unreachable(Errno::ENOENT)) if name.ends_with(b"\r") => Err(Flaw::CarriageReturn),
            checked => of_interpreter(path, checked),
        }
    }

    fn program(&self, file: &File) -> Result<(), Flaw> {
        let Elf { machine, interpreter } = Elf::read(file).ok_or(Flaw::Damaged)?;
        if !self.machines.is_empty() && !self.machines.iter().any(|one| one.may_run(machine)) {
            return Err(Flaw::Machine(machine.number));
        }
        match interpreter.map(|path| self.directory.join(path)) {
            Some(path) => {
                let opened = self.open(&path).map(drop);
                of_interpreter(path, opened)
            }
            None => Ok(()),
        }
    }
}

fn of_interpreter(path: PathBuf, checked: Result<(), Flaw>) -> Result<(), Flaw> {
    match checked {
        // What may not be read may well be executed.
        Ok(()) | Err(Flaw::Unread(_)) => Ok(()),
        Err(flaw) => Err(Flaw::Interpreter(path, Box::new(flaw))),
    }
}

/// Of programs that run: flipctl, and the server or its interpreter.
pub fn machines(pid: i32) -> Vec<Machine> {
    let machine = |path: &str| Some(Elf::read(&File::open(path).ok()?)?.machine);
    ["/proc/self/exe".into(), format!("/proc/{pid}/exe")].iter().filter_map(|path| machine(path)).collect()
}

fn head(file: &File) -> Result<Vec<u8>, Flaw> {
    let mut head = vec![0; HEAD];
    let length = file.read_at(&mut head, 0).map_err(unread)?;
    head.truncate(length);
    Ok(head)
}

fn unread(error: std::io::Error) -> Flaw {
    Flaw::Unread(Errno::from_raw(error.raw_os_error().unwrap_or_default()))
}

/// Something else than the kernel runs such files.
fn has_handler(path: &Path, head: &[u8]) -> bool {
    let Ok(handlers) = std::fs::read_dir(HANDLERS) else { return false };
    let texts = handlers.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts.into_iter().any(|text| handles(&text, path, head))
}

/// The format is that of Documentation/admin-guide/binfmt-misc.rst.
fn handles(handler: &str, path: &Path, head: &[u8]) -> bool {
    let value = |key| handler.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    if handler.lines().next() != Some("enabled") {
        return false;
    }
    if let Some(extension) = value("extension .") {
        return path.extension() == Some(OsStr::new(extension));
    }
    let Some(magic) = value("magic ").map(hexadecimal) else { return false };
    let mask = value("mask ").map_or(vec![0xff; magic.len()], hexadecimal);
    let offset = value("offset ").and_then(|text| text.parse().ok()).unwrap_or(0);
    let Some(there) = head.get(offset..offset + magic.len()) else { return false };
    there.iter().zip(&magic).zip(&mask).all(|((there, magic), mask)| (there ^ magic) & mask == 0)
}

fn hexadecimal(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

impl Flaw {
    /// Where a program is looked for in PATH, a file like this is passed over.
    pub fn is_passed_over(&self) -> bool {
        matches!(self, Flaw::Unreachable(_) | Flaw::NotExecutable | Flaw::NoExec)
    }

    /// What to do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Flaw::Unreachable(Errno::EACCES) => {
                "let the server's user search every directory on the way to it"
            }
            Flaw::NotExecutable => "give the server's user the right to execute it (chmod +x)",
            Flaw::NoExec => {
                "put the program on a file system that is not mounted noexec, or mount it without"
            }
            Flaw::Machine(_) => "put the program there that was built for this machine",
            Flaw::CarriageReturn => "end the script's lines with LF alone",
            Flaw::NoFormat => {
                "put a program there, or a script whose first line is #! and the path of its interpreter"
            }
            Flaw::Interpreter(_, flaw) if **flaw == Flaw::Unreachable(Errno::ENOENT) => {
                "install the interpreter where the server runs, or put a program there that was built for what is installed"
            }
            Flaw::Interpreter(_, flaw) => flaw.remedy(),
            Flaw::Unreachable(_) | Flaw::Kind(_) | Flaw::Empty | Flaw::Damaged | Flaw::Unread(_) => {
                "put the program there, by renaming a complete file to that name, before the upgrade is asked for"
            }
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Unreachable(errno) | Flaw::Unread(errno) => write!(f, "{}", explain(*errno)),
            Flaw::Kind(kind) => write!(f, "it is {kind}: {}", explain(Errno::EACCES)),
            Flaw::NotExecutable => write!(f, "nobody may execute it: {}", explain(Errno::EACCES)),
            Flaw::NoExec => write!(f, "its file system is mounted noexec: {}", explain(Errno::EACCES)),
            Flaw::Empty => write!(f, "the file is empty: {}", explain(Errno::ENOEXEC)),
            Flaw::Damaged => write!(f, "it is damaged, or only a part of it is there"),
            Flaw::NoFormat => {
                write!(f, "it is neither an ELF program nor a script: {}", explain(Errno::ENOEXEC))
            }
            Flaw::Machine(number) => {
                write!(f, "it is for another machine (number {number} in elf.h): {}", explain(Errno::ENOEXEC))
            }
            Flaw::Interpreter(path, flaw) => write!(f, "its interpreter {}: {flaw}", path.display()),
            Flaw::CarriageReturn => {
                write!(
                    f,
                    "its first line ends with CR LF, and CR is taken for a part of the name: {}",
                    explain(Errno::ENOENT)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_for_a_magic_number_under_a_mask_or_for_an_extension() {
        let magic =
            "enabled\ninterpreter /usr/bin/emulator\nflags: OC\noffset 2\nmagic 7f45ff\nmask fffff0\n";
        let takes = |handler: &str, head: &[u8]| handles(handler, Path::new("/srv/app.jar"), head);
        assert!(takes(magic, b"..\x7fE\xf7"));
        assert!(!takes(magic, b"..\x7fE\x0f"));
        assert!(!takes(magic, b"..\x7fE"));
        assert!(!takes(&magic.replace("enabled", "disabled"), b"..\x7fE\xf7"));
        assert!(takes("enabled\ninterpreter /usr/bin/java\nflags: \nextension .jar\n", b""));
        assert!(!takes("enabled\ninterpreter /usr/bin/wine\nflags: \nextension .exe\n", b""));
        assert!(!takes("enabled", b"\x7fELF"));
    }
}
