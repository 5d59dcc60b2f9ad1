//! Requests that come from signals, and from `flip_request`, which a handler of the host's own may call.
//!
//! All of it is async-signal-safe ([`crate::trigger`]). Handlers run on the alternate stack where there is one (Go needs
//! that), restart system calls, keep errno, do nothing in a forked child, and call the handler that was there before.

use crate::config::Binding;
use crate::error::{Error, Result};
use crate::trigger::TRIGGER;
use crate::upgrade::Request;
use nix::errno::Errno;
use nix::sys::signal::SigSet;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, Ordering::SeqCst};

const HIGHEST: usize = 64;

/// The pid that handlers work for: not a forked child's.
static OWNER: AtomicI32 = AtomicI32::new(0);
static TABLE: [Slot; HIGHEST + 1] = [const { Slot::new() }; HIGHEST + 1];

/// One signal: what it asks for, and what was there before.
struct Slot {
    /// 0: not ours.
    request: AtomicU8,
    /// What was there before ours was installed the last time; null: ours is nowhere.
    before: AtomicPtr<Before>,
    /// The thread that is passing the signal on: a handler that was installed over ours and calls it may be below it by now.
    passing_on: AtomicI32,
    /// What such a call of ours is passed on to.
    below: AtomicPtr<Before>,
    /// All there ever were.
    made: AtomicPtr<Before>,
}

/// What ours was installed over, never changed and never freed, since a handler may be reading it.
struct Before {
    action: libc::sigaction,
    /// Where that calls ours, which had been there already: what ours had been installed over then. Or null.
    below: *mut Before,
    made_before: *mut Before,
}

impl Slot {
    const fn new() -> Slot {
        Slot {
            request: AtomicU8::new(0),
            before: AtomicPtr::new(null_mut()),
            passing_on: AtomicI32::new(0),
            below: AtomicPtr::new(null_mut()),
            made: AtomicPtr::new(null_mut()),
        }
    }

    /// `action` over `below`; the one that says the same, where there is one.
    fn over(&self, action: libc::sigaction, below: *mut Before) -> *mut Before {
        let same = |other: &&Before| other.below == below && is_same(&other.action, &action);
        if let Some(known) = chain(&self.made, |before| before.made_before).find(same) {
            return std::ptr::from_ref(known).cast_mut();
        }
        let made_before = self.made.load(SeqCst);
        let made = Box::into_raw(Box::new(Before { action, below, made_before }));
        self.made.store(made, SeqCst);
        made
    }
}

/// One after the other.
fn chain(
    first: &AtomicPtr<Before>,
    next: fn(&Before) -> *mut Before,
) -> impl Iterator<Item = &'static Before> {
    // SAFETY: null, or made by `Slot::over` and never freed.
    let look = |at: *mut Before| unsafe { at.as_ref() };
    std::iter::successors(look(first.load(SeqCst)), move |before| look(next(before)))
}

fn is_same(one: &libc::sigaction, other: &libc::sigaction) -> bool {
    // SAFETY: the kernel's.
    let mask = |action: &libc::sigaction| unsafe { SigSet::from_sigset_t_unchecked(action.sa_mask) };
    one.sa_sigaction == other.sa_sigaction && one.sa_flags == other.sa_flags && mask(one) == mask(other)
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
    let previous = unsafe { previous.assume_init() };
    let known = slot.before.load(SeqCst);
    // Ours was put back by a handler that had been on top of it, or that handler came back: what is below is known.
    let again = is_ours(&previous)
        || chain(&slot.before, |before| before.below).any(|before| is_same(&before.action, &previous));
    if !again {
        let below = if is_handler(&previous) { known } else { null_mut() };
        slot.before.store(slot.over(previous, below), SeqCst);
    }
    slot.request.store(bit(binding.request) as u8, SeqCst);
    // SAFETY: all zero is a valid sigaction; the fields that matter follow.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART | libc::SA_SIGINFO;
    if is_handler(&previous) && !is_ours(&previous) {
        // What it relies on not to be interrupted by.
        action.sa_mask = previous.sa_mask;
    }
    // SAFETY: a valid action, and a handler that stays loaded.
    let done = Errno::result(unsafe { libc::sigaction(binding.signal, &action, std::ptr::null_mut()) });
    if done.is_err() {
        slot.request.store(0, SeqCst);
        slot.before.store(known, SeqCst);
    }
    done.map(drop)
}

/// Gives the signals back, where the handler is still ours.
pub fn restore() {
    for (signal, slot) in TABLE.iter().enumerate() {
        if slot.request.swap(0, SeqCst) != 0 {
            give_back(signal as i32, slot);
        }
    }
}

/// The same in a forked child, whose signals are its own business. Async-signal-safe.
pub fn restore_in_child() {
    TRIGGER.restart_in_child();
    restore();
}

/// Where another handler is on top of ours and calls it, ours stays, and passes the signal on.
fn give_back(signal: i32, slot: &Slot) {
    if let Some(before) = chain(&slot.before, |before| before.below).next()
        && is_installed(signal)
    {
        // SAFETY: sets what was there before us.
        unsafe { libc::sigaction(signal, &before.action, std::ptr::null_mut()) };
        slot.before.store(before.below, SeqCst);
    }
}

/// Whether the kernel calls our handler and none on top of it. Async-signal-safe.
fn is_installed(signal: libc::c_int) -> bool {
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asking only; the kernel fills `current` where it returns 0.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), current.as_mut_ptr()) == 0
            && is_ours(current.assume_init_ref())
    }
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == handler as *const () as usize
}

fn is_handler(action: &libc::sigaction) -> bool {
    action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let errno = Errno::last_raw();
    let slot = &TABLE[(signal as usize).min(HIGHEST)];
    // SAFETY: getpid is async-signal-safe.
    let is_owner = OWNER.load(SeqCst) == unsafe { libc::getpid() };
    if is_owner {
        match slot.request.load(SeqCst) {
            1 => _ = request(Request::Upgrade),
            2 => _ = request(Request::Stop),
            4 => _ = request(Request::Detach),
            _ => {}
        }
    }
    // SAFETY: gettid is async-signal-safe.
    let thread = unsafe { libc::gettid() };
    let is_nested = slot.passing_on.load(SeqCst) == thread;
    let before = if is_nested { &slot.below } else { &slot.before };
    if let Some(before) = chain(before, |before| before.below).next() {
        pass_on(signal, info, context, slot, before, thread, is_owner && slot.request.load(SeqCst) != 0);
        slot.passing_on.store(if is_nested { thread } else { 0 }, SeqCst);
    }
    Errno::set_raw(errno);
}

fn pass_on(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
    slot: &Slot,
    before: &Before,
    thread: libc::pid_t,
    handled: bool,
) {
    let previous = before.action;
    if is_handler(&previous) {
        slot.below.store(before.below, SeqCst);
        slot.passing_on.store(thread, SeqCst);
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
    } else if !handled && is_installed(signal) {
        // Put back by a handler that had been on top of it, after the library was gone; or in a child whose signals are not
        // its own yet (fork handlers run late, and for clone(2) never): what was there before holds, and the signal,
        // which is blocked here, comes again.
        // SAFETY: async-signal-safe.
        unsafe {
            libc::sigaction(signal, &previous, std::ptr::null_mut());
            libc::raise(signal);
        }
    }
}
