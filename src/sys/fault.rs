//! The seam of the tests: named points at which this process can be failed, killed, stopped or made to panic.
//!
//! Without the feature `faults` every call here is an empty inline function. With it, `SHELLFLIP_FAULT` holds
//! `point=action`, comma-separated, where `point` may end in `#n` (the n-th time only, from 1; without it every
//! time) and action is `fail:ERRNO-NUMBER`, `kill` (SIGKILL), `stop` (SIGSTOP, goes on after SIGCONT), `exit`,
//! `panic` or `sleep:MS`. Each hit appends `pid point action` to the file named by `SHELLFLIP_FAULT_LOG`, before the
//! action, so that a test can assert which step it hit. The variable belongs to this process alone: the
//! next generation gets the value of `SHELLFLIP_FAULT_NEXT` as its `SHELLFLIP_FAULT`.

use nix::errno::Errno;

/// A system call or step named `point` is about to happen; an error stands for its failure.
#[inline(always)]
#[cfg(not(feature = "faults"))]
pub fn at(_point: &str) -> Result<(), Errno> {
    Ok(())
}

#[cfg(feature = "faults")]
pub use enabled::at;

#[cfg(feature = "faults")]
mod enabled {
    use super::Errno;
    use std::io::Write;
    use std::sync::{Mutex, OnceLock};
    use std::time::Duration;

    struct Fault {
        point: String,
        nth: Option<u32>,
        action: String,
        seen: u32,
    }

    fn faults() -> &'static Mutex<Vec<Fault>> {
        static FAULTS: OnceLock<Mutex<Vec<Fault>>> = OnceLock::new();
        FAULTS.get_or_init(|| {
            let spec = std::env::var("SHELLFLIP_FAULT").unwrap_or_default();
            let parse = |one: &str| {
                let (point, action) = one.split_once('=')?;
                let (point, nth) = match point.split_once('#') {
                    Some((point, n)) => (point, Some(n.parse().ok()?)),
                    None => (point, None),
                };
                Some(Fault { point: point.into(), nth, action: action.into(), seen: 0 })
            };
            Mutex::new(spec.split(',').filter_map(parse).collect())
        })
    }

    /// See the other one: this is what the tests run.
    pub fn at(point: &str) -> Result<(), Errno> {
        let action = {
            let mut faults = faults().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut hit = None;
            for fault in faults.iter_mut().filter(|fault| fault.point == point) {
                fault.seen += 1;
                if fault.nth.is_none_or(|nth| nth == fault.seen) {
                    hit = Some(fault.action.clone());
                }
            }
            hit
        };
        let Some(action) = action else { return Ok(()) };
        if let Some(log) = std::env::var_os("SHELLFLIP_FAULT_LOG")
            && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(log)
        {
            let _ = file.write_all(format!("{} {point} {action}\n", std::process::id()).as_bytes());
        }
        match action.split_once(':') {
            Some(("fail", number)) => return Err(Errno::from_raw(number.parse().unwrap_or(libc::EIO))),
            Some(("sleep", ms)) => {
                std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
            }
            // SAFETY: these touch no memory of ours.
            _ => unsafe {
                match action.as_str() {
                    "kill" => _ = libc::kill(libc::getpid(), libc::SIGKILL),
                    // To this thread: a signal to the process is taken by the main thread, and until that gets
                    // to run this one would go on, past the point.
                    "stop" => {
                        _ = libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGSTOP)
                    }
                    "exit" => libc::_exit(0),
                    "panic" => panic!("fault at {point}"),
                    _ => {}
                }
            },
        }
        Ok(())
    }
}
