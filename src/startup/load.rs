//! What can only be known as the program is loaded: its arguments before anyone wrote over them, and its signal mask,
//! ignored signals, limits and directory before main changed them. A constructor in `.init_array` copies them;
//! [`loaded`] gives them to `startup`. And what is quickly done while there is one thread: [`membarrier::register`].
//!
//! Loaded late (dlopen), the constructor finds the arguments as they are by then and the rest as the host had it.

use crate::sys::membarrier;
use crate::sys::process::{FileId, ignored_signals, swap_signal_mask};
use libc::{c_char, c_int};
use std::cell::UnsafeCell;
use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the constructor saw.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// argv.
    pub arguments: Vec<CString>,
    /// AT_EXECFN: the path that was given to execve.
    pub execfn: Option<CString>,
    /// The physical path of the current directory.
    pub directory: Option<CString>,
    /// The same directory, by identity.
    pub directory_id: Option<FileId>,
    /// The signal mask of the main thread.
    pub mask: u64,
    /// The ignored signals, as a mask.
    pub ignored: u64,
    /// The soft limit of descriptor numbers.
    pub soft_limit: Option<u64>,
}

struct Seen {
    done: AtomicBool,
    raw: UnsafeCell<Raw>,
}

/// `text` is argv, AT_EXECFN and the directory, each string with its NUL, in one mapping that is never given back.
#[derive(Clone, Copy)]
struct Raw {
    text: *const c_char,
    arguments: usize,
    directory_id: Option<FileId>,
    mask: u64,
    ignored: u64,
    soft_limit: Option<u64>,
}

// SAFETY: `raw` is written once, by the constructor, before `done` is set; read only when `done` is.
unsafe impl Sync for Seen {}

static SEEN: Seen = Seen {
    done: AtomicBool::new(false),
    raw: UnsafeCell::new(Raw {
        text: ptr::null(),
        arguments: 0,
        directory_id: None,
        mask: 0,
        ignored: 0,
        soft_limit: None,
    }),
};

type Constructor = unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char);

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: Constructor = at_load;

const DIRECTORY_SIZE: usize = libc::PATH_MAX as usize;

/// No Rust allocation: a host's own allocator may need its main first.
unsafe extern "C" fn at_load(argc: c_int, argv: *const *const c_char, _environment: *const *const c_char) {
    // Only glibc passes arguments to constructors; elsewhere these registers hold anything.
    let count = if cfg!(target_env = "gnu") && !argv.is_null() { argc.max(0) as usize } else { 0 };
    // SAFETY: argv has argc strings; AT_EXECFN is a string of the kernel's or null; the mapping is as large as the
    // sum of what is copied; `raw` has no other user before `done` is set.
    unsafe {
        let execfn = libc::getauxval(libc::AT_EXECFN) as *const c_char;
        let empty = c"".as_ptr();
        let string = |i: usize| match i {
            i if i < count => *argv.wrapping_add(i),
            _ if execfn.is_null() => empty,
            _ => execfn,
        };
        let mut size = DIRECTORY_SIZE;
        for i in 0..=count {
            size = size.wrapping_add(libc::strlen(string(i))).wrapping_add(1);
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let text = libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0);
        if text == libc::MAP_FAILED {
            return;
        }
        let mut at = text.cast::<c_char>();
        for i in 0..=count {
            let length = libc::strlen(string(i)).wrapping_add(1);
            ptr::copy_nonoverlapping(string(i), at, length);
            at = at.wrapping_add(length);
        }
        // The mapping is zeroed: a failure leaves the empty string.
        libc::syscall(libc::SYS_getcwd, at, DIRECTORY_SIZE);
        let mut stat: libc::stat = std::mem::zeroed();
        let directory_id = (libc::stat(c".".as_ptr(), &mut stat) == 0)
            .then_some(FileId { device: stat.st_dev, inode: stat.st_ino });
        let mut limit: libc::rlimit = std::mem::zeroed();
        let soft_limit = (libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0).then_some(limit.rlim_cur);
        let Ok(mask) = swap_signal_mask(None) else { return };
        let ignored = ignored_signals();
        *SEEN.raw.get() =
            Raw { text: text.cast(), arguments: count, directory_id, mask, ignored, soft_limit };
        SEEN.done.store(true, Ordering::Release);
        membarrier::register();
    }
}

/// What the constructor saw; `None`: it did not run.
pub fn loaded() -> Option<Loaded> {
    // Named here so that whoever links this function from a static library gets the constructor too.
    std::hint::black_box(&CONSTRUCTOR);
    if !SEEN.done.load(Ordering::Acquire) {
        return None;
    }
    // SAFETY: `done` is set, so `raw` is written and never changes again; `text` holds that many strings.
    unsafe {
        let raw = *SEEN.raw.get();
        let mut at = raw.text;
        let mut next = || {
            let string = CStr::from_ptr(at).to_owned();
            at = at.wrapping_add(string.as_bytes_with_nul().len());
            string
        };
        let arguments = (0..raw.arguments).map(|_| next()).collect();
        let execfn = Some(next()).filter(|path| !path.is_empty());
        // "(unreachable)/…" is no path.
        let directory = Some(next()).filter(|path| path.as_bytes().starts_with(b"/"));
        Some(Loaded {
            arguments,
            execfn,
            directory,
            directory_id: raw.directory_id,
            mask: raw.mask,
            ignored: raw.ignored,
            soft_limit: raw.soft_limit,
        })
    }
}
