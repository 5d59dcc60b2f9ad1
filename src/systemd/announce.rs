//! From MAINPID to the moment at which the manager has read it: BARRIER=1, as sd_notify_barrier(3) does it, but without
//! waiting. Whoever leaves earlier may be gone before MAINPID was read, and then the unit ends.

use super::socket::{NotifySocket, Sent};
use crate::error::explain;
use crate::latch::fired;
use crate::log::{self, Level, Seconds};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// From MAINPID, queued, until the manager has read it.
const BARRIER: Duration = Duration::from_secs(5);

/// From a barrier that the socket did not take to the next try.
const RETRY: Duration = Duration::from_millis(50);

/// One announcement.
#[derive(Default)]
pub(super) struct Announcement {
    /// MAINPID is in the manager's queue, or need not get there; so long it may take.
    deadline: Option<Instant>,
    /// Ends when the manager has read the barrier.
    barrier: Option<OwnedFd>,
    /// A barrier that was not taken is tried again then.
    next_try: Option<Instant>,
}

impl Announcement {
    /// MAINPID is in the manager's queue.
    pub fn queued(&mut self, socket: &NotifySocket) {
        self.deadline = Some(Instant::now() + limit());
        self.send_barrier(socket);
    }

    /// Over by then, even if MAINPID is not queued until then.
    pub fn limit(&mut self) {
        self.deadline.get_or_insert_with(|| Instant::now() + limit());
    }

    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.barrier.as_ref().map(AsFd::as_fd)
    }

    /// When to look again.
    pub fn due(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.next_try).min()
    }

    /// Whether it is over: the manager has read everything, or its time has passed.
    pub fn look(&mut self, socket: &NotifySocket, now: Instant) -> bool {
        let Some(deadline) = self.deadline else { return false };
        if self.next_try.is_some_and(|at| at <= now) {
            self.send_barrier(socket);
        }
        if self.barrier.as_ref().is_some_and(|barrier| fired(barrier.as_fd())) {
            return true;
        }
        if now >= deadline {
            // It will be read before our end: the manager handles messages before deaths.
            let waited = Seconds(limit());
            log::write(
                Level::Error,
                format_args!("systemd has not read the new main process in {waited:.1} s"),
            );
        }
        now >= deadline
    }

    fn send_barrier(&mut self, socket: &NotifySocket) {
        self.next_try = None;
        match socket.barrier() {
            (Sent::Taken, barrier) => self.barrier = barrier,
            (Sent::Full(_), _) => self.next_try = Some(Instant::now() + RETRY),
            (Sent::Never(errno), _) => {
                log::write(Level::Error, format_args!("systemd cannot be waited for: {}", explain(errno)));
                self.deadline = Some(Instant::now());
            }
        }
    }
}

fn limit() -> Duration {
    crate::supervisor::barrier_limit(BARRIER)
}
