//! The supervisor's part in a drain: the latch that says that it is over, its deadline, the hard stop, and the calls that move
//! deadlines.

use super::Supervisor;
use crate::drain::CONNECTIONS;
use crate::error::{Error, Result};
use crate::log::{self, Level};
use crate::sys::fd;
use crate::upgrade::{Starting, State};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

impl Supervisor {
    /// When to look again.
    pub(super) fn drain_timer(&self) -> Option<Instant> {
        if !matches!(self.machine.state(), State::Draining { .. }) {
            return None;
        }
        let deadline = (!self.inner.drained.fired()).then(|| Instant::now() + self.inner.drain_left());
        deadline.into_iter().chain(self.hard_stop_at()).min()
    }

    /// Fires the latch of `flip_drained_fd`, and ends a process that drains for too long.
    pub(super) fn look_after_the_drain(&mut self) {
        if !matches!(self.machine.state(), State::Draining { .. }) || self.finished {
            return;
        }
        if CONNECTIONS.count() == 0 || self.inner.drain_left().is_zero() {
            self.inner.drained.fire();
        }
        if self.hard_stop_at().is_some_and(|at| at <= Instant::now()) {
            log::write(Level::Error, format_args!("hard stop: {} connections open", CONNECTIONS.count()));
            self.remove_what_is_ours();
            // SAFETY: no memory is touched. Nothing that runs in this process could prevent it; but the first process of a
            // container gets no such signal from itself, and goes with the status that it would have had.
            unsafe {
                libc::kill(libc::getpid(), libc::SIGKILL);
                libc::_exit(128 + libc::SIGKILL);
            }
        }
    }

    fn hard_stop_at(&self) -> Option<Instant> {
        let after = self.inner.config.hard_stop?;
        let deadline =
            self.inner.published.drain_deadline.load(SeqCst).saturating_add(after.as_nanos() as u64);
        let left = Duration::from_nanos(deadline.saturating_sub(fd::monotonic_ns()));
        Some(Instant::now() + left)
    }

    /// `flip_extend`.
    pub(super) fn extend(&mut self, by: Duration) -> Result<()> {
        match self.machine.state() {
            // What is over does not begin again: the descriptor that says so stays readable.
            State::Draining { .. } if !self.inner.drain_left().is_zero() => {
                let deadline = fd::monotonic_ns().saturating_add(by.as_nanos() as u64);
                self.inner.published.drain_deadline.store(deadline, SeqCst);
                self.inner.published.drain_cut.store(false, SeqCst);
                CONNECTIONS.notify();
                self.systemd.extend(by);
                Ok(())
            }
            State::Starting(Starting::Alone) => {
                self.systemd.extend(by);
                Ok(())
            }
            State::Starting(Starting::GivenUp(_)) => {
                Err(Error::Canceled("this process will not serve".into()))
            }
            State::Starting(_) => {
                if let Some(predecessor) = &self.predecessor {
                    predecessor.extend(by);
                }
                Ok(())
            }
            _ => Err(Error::Invalid("cannot extend: no deadline is running".into())),
        }
    }
}
