//! Whether the signal that is to upgrade the server reaches it.

use super::{Examination, Subject};
use crate::pid_file::bit;
use nix::sys::signal::Signal;
use procfs::process::{Process, Status};

pub fn examine(subject: &Subject, examination: &mut Examination) {
    let (signals, said) = subject.upgrade_signals();
    let status = match subject.process.status() {
        Ok(status) => status,
        Err(error) => return examination.unseen("signals", error),
    };
    for signal in signals {
        if let Some(then) = unhandled(&subject.process, &status, signal) {
            let what = match said {
                true => format!("{signal}, which the server has for upgrades, has no handler any more"),
                false => format!("{signal} has no handler"),
            };
            examination.found(
                "signal-without-handler",
                what,
                then,
                if said {
                    "find out who replaced the handler after flip_init: a host whose runtime owns signals turns the \
                     library's off and calls flip_request from its own"
                } else {
                    "name the right signal with --signal, or let the server handle it (flip_config_set_signal)"
                },
            );
        } else if blocked_everywhere(&subject.process, signal) && bit(status.sigcgt, signal) {
            examination.found(
                "signal-blocked",
                format!("{signal} has a handler, and every thread blocks it"),
                "the signal stays pending for ever, and no upgrade begins",
                "leave it unblocked in one thread at least (pthread_sigmask), or upgrade over the control socket",
            );
        }
    }
}

/// What the signal does to a process without a handler for it. None: it has one, or waits for it by other means
/// (sigwait, signalfd), for which a signal has to be blocked.
pub fn unhandled(process: &Process, status: &Status, signal: Signal) -> Option<String> {
    if bit(status.sigign, signal) {
        return Some(format!("{signal} is ignored, and no upgrade begins"));
    }
    if bit(status.sigcgt, signal) || blocked_everywhere(process, signal) {
        return None;
    }
    let harmless = [Signal::SIGCHLD, Signal::SIGCONT, Signal::SIGURG, Signal::SIGWINCH];
    Some(match harmless.contains(&signal) {
        true => format!("{signal} does nothing"),
        false => format!("{signal} ends the server at once, connections and all"),
    })
}

fn blocked_everywhere(process: &Process, signal: Signal) -> bool {
    let Ok(tasks) = process.tasks() else { return false };
    let mut threads = tasks.flatten().filter_map(|task| task.status().ok()).peekable();
    threads.peek().is_some() && threads.all(|status| bit(status.sigblk, signal))
}
