//! Requests that come from signals, and from `flip_request`, which a handler of the host's own may call.
//!
//! All of it is async-signal-safe ([`crate::trigger`]). Handlers run on the alternate stack where there is one (Go needs
//! that), restart system calls, keep errno, do nothing in a forked child, and call the handler that was there before.

use crate::config::Binding;
use crate::error::{Error, Result};
use crate::trigger::TRIGGER;
use crate::upgrade::Request;
use nix::errno::Errno;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering::SeqCst};

const HIGHEST: usize = 64;

/// The pid that handlers work for: not a forked child's.
static OWNER: AtomicI32 = AtomicI32::new(0);
static TABLE: [Slot; HIGHEST + 1] = [const { Slot::new() }; HIGHEST + 1];

/// One signal: what it asks for, and what was there before.
struct Slot {
    /// 0: not ours.
    request: AtomicU8,
    known: AtomicBool,
    /// The thread that is passing the signal on: a handler that was installed over ours and calls it may be below it by now.
    passing_on: AtomicI32,
    previous: UnsafeCell<MaybeUninit<libc::sigaction>>,
}

// SAFETY: `previous` is written before `known` is set and while no handler of ours is installed for that signal.
unsafe impl Sync for Slot {}

impl Slot {
    const fn new() -> Slot {
        Slot {
            request: AtomicU8::new(0),
            known: AtomicBool::new(false),
            passing_on: AtomicI32::new(0),
            previous: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }
}

fn bit(request: Request) -> u32 {
    match request {
        Request::Upgrade => 1,
        Request::Stop => 2,
        Request::Detach => 4,
    }
}

/// Asks the supervisor. Async-signal-safe. False: there is none.
pub fn request(request: Request) -> bool {
    TRIGGER.ask(bit(request))
}

/// What was asked for since the last call, each once.
pub fn take_requests() -> Vec<Request> {
    let bits = TRIGGER.take();
    [Request::Stop, Request::Detach, Request::Upgrade]
        .into_iter()
        .filter(|one| bits & bit(*one) != 0)
        .collect()
}

/// Requests go to this descriptor from now on.
pub fn connect(wake: BorrowedFd) {
    // SAFETY: getpid has no conditions.
    OWNER.store(unsafe { libc::getpid() }, SeqCst);
    TRIGGER.connect(wake);
}

/// Installs a handler for each; `ignored` tells what the process was started with. Undone when one of them fails.
pub fn install(bindings: &[Binding], ignored: u64) -> Result<()> {
    for binding in bindings.iter().filter(|binding| binding.applies(ignored)) {
        if let Err(errno) = install_one(binding) {
            restore();
            return Err(Error::system(format!("cannot handle signal {}", binding.signal), errno));
        }
    }
    Ok(())
}

fn install_one(binding: &Binding) -> nix::Result<()> {
    crate::sys::fault::at("sigaction")?;
    let slot = &TABLE[binding.signal as usize];
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asking only; the kernel fills `previous`.
    Errno::result(unsafe { libc::sigaction(binding.signal, std::ptr::null(), previous.as_mut_ptr()) })?;
    // SAFETY: filled by the kernel.
    let before = unsafe { previous.assume_init() };
    // Ours was put back by a handler that had been on top of it: what was there before ours is known.
    let again = slot.known.load(SeqCst) && before.sa_sigaction == handler as *const () as usize;
    if !again {
        // SAFETY: not known yet, so no handler reads it.
        unsafe { *slot.previous.get() = previous };
    }
    slot.request.store(bit(binding.request) as u8, SeqCst);
    slot.known.store(true, SeqCst);
    // SAFETY: all zero is a valid sigaction; the fields that matter follow.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART | libc::SA_SIGINFO;
    if is_handler(&before) && !again {
        // What it relies on not to be interrupted by.
        action.sa_mask = before.sa_mask;
    }
    // SAFETY: a valid action, and a handler that stays loaded.
    let done = Errno::result(unsafe { libc::sigaction(binding.signal, &action, std::ptr::null_mut()) });
    if done.is_err() {
        slot.request.store(0, SeqCst);
        slot.known.store(false, SeqCst);
    }
    done.map(drop)
}

/// Gives the signals back, where the handler is still ours.
pub fn restore() {
    for (signal, slot) in TABLE.iter().enumerate() {
        if slot.request.swap(0, SeqCst) != 0 && give_back(signal as i32, slot) {
            slot.known.store(false, SeqCst);
        }
    }
}

/// The same in a forked child, whose signals are its own business. Async-signal-safe.
pub fn restore_in_child() {
    TRIGGER.restart_in_child();
    restore();
}

/// False where another handler is on top of ours and calls it: then ours stays, and passes the signal on.
fn give_back(signal: i32, slot: &Slot) -> bool {
    let ours = is_ours(signal);
    if ours {
        // SAFETY: sets what was there before us, which `known` says was stored.
        unsafe { libc::sigaction(signal, (*slot.previous.get()).as_ptr(), std::ptr::null_mut()) };
    }
    ours
}

/// Whether the kernel calls our handler and none on top of it. Async-signal-safe.
fn is_ours(signal: libc::c_int) -> bool {
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asking only; the kernel fills `current` where it returns 0.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), current.as_mut_ptr()) == 0
            && current.assume_init().sa_sigaction == handler as *const () as usize
    }
}

fn is_handler(action: &libc::sigaction) -> bool {
    action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let errno = Errno::last_raw();
    let slot = &TABLE[(signal as usize).min(HIGHEST)];
    // SAFETY: getpid is async-signal-safe.
    if OWNER.load(SeqCst) == unsafe { libc::getpid() } {
        match slot.request.load(SeqCst) {
            1 => _ = request(Request::Upgrade),
            2 => _ = request(Request::Stop),
            4 => _ = request(Request::Detach),
            _ => {}
        }
    }
    // SAFETY: gettid is async-signal-safe.
    let thread = unsafe { libc::gettid() };
    if slot.known.load(SeqCst) && slot.passing_on.load(SeqCst) != thread {
        slot.passing_on.store(thread, SeqCst);
        // SAFETY: `known` says it was stored.
        let previous = unsafe { (*slot.previous.get()).assume_init() };
        if is_handler(&previous) {
            // SAFETY: the host installed this handler with these flags, which say how it is called.
            unsafe {
                if previous.sa_flags & libc::SA_SIGINFO != 0 {
                    let call: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(previous.sa_sigaction);
                    call(signal, info, context);
                } else {
                    let call: extern "C" fn(libc::c_int) = std::mem::transmute(previous.sa_sigaction);
                    call(signal);
                }
            }
        } else if slot.request.load(SeqCst) == 0 && is_ours(signal) {
            // Put back by a handler that had been on top of it, after the library was gone: what was there before holds,
            // and the signal, which is blocked here, comes again.
            // SAFETY: async-signal-safe; `known` says that it was stored.
            unsafe {
                libc::sigaction(signal, &previous, std::ptr::null_mut());
                libc::raise(signal);
            }
        }
        slot.passing_on.store(0, SeqCst);
    }
    Errno::set_raw(errno);
}
