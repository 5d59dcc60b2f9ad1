//! A server's process, found again by its number. Called by `upgrade`, `stop`, `pid_file` and `doctor`.

use crate::report::Report;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procfs::process::Process;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// So old may the server's report be when processes are compared with it.
const SINCE_REPORT: Duration = Duration::from_secs(2);

/// Whether the process has ended by the end of `timeout`; it may be a zombie.
pub fn ended(pidfd: BorrowedFd, timeout: Duration) -> bool {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
}

/// It was started when the server says that it was.
pub fn is_as_old(process: &Process, report: &Report) -> bool {
    let age = process.stat().ok().and_then(|stat| shellflip::sys::fd::age(stat.starttime));
    age.is_some_and(|age| age.abs_diff(Duration::from_millis(report.uptime_ms)) < SINCE_REPORT)
}

/// The server is in our pid namespace, so that the numbers it gives are ours. In doubt it is not.
pub fn shares_our_numbers(report: &Report) -> bool {
    Process::myself().is_ok_and(|me| has_one_number(&me))
        && Process::new(report.pid)
            .is_ok_and(|process| has_one_number(&process) && is_as_old(&process, report))
}

/// It is in the pid namespace that /proc shows; one in a namespace below has a number there, too: proc_pid_status(5).
fn has_one_number(process: &Process) -> bool {
    let numbers = process.status().ok().and_then(|status| status.nspid);
    numbers.is_some_and(|numbers| numbers.len() == 1)
}
