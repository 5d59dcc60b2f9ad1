//! What is shown while something is waited for: one line that changes, on a terminal only. Called by what waits.

use crate::words::{harmless, time};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// A line at the bottom of the terminal; gone when this is dropped.
pub struct Progress {
    bar: ProgressBar,
    since: Instant,
}

impl Progress {
    /// On standard error if that is a terminal. `quiet`: never.
    pub fn new(quiet: bool) -> Progress {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        if shown {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Progress { bar, since: Instant::now() }
    }

    /// Somebody sees it.
    pub fn shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// What is waited for, with the time it has taken so far.
    pub fn waiting(&self, what: &str) {
        self.bar.set_message(format!("{}  {}", harmless(what), time(self.since.elapsed())));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
