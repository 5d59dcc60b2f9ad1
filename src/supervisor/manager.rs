//! When the service manager is told something: the supervisor's moments, in the words of `systemd`.

use super::Supervisor;
use crate::drain::CONNECTIONS;
use crate::flip::lock;
use crate::log::{self, Level};
use crate::upgrade::{Event, Request, Shutdown, State};
use std::sync::atomic::Ordering::SeqCst;

impl Supervisor {
    /// Before the machine takes the event: every request for an upgrade is one that the manager may have made.
    pub(super) fn before_step(&mut self, event: &Event) {
        self.refused = None;
        let asked = matches!(event, Event::Ask(Request::Upgrade, _));
        if asked && matches!(self.machine.state(), State::Ready | State::Detached) {
            self.systemd.reload_begins();
        }
    }

    /// After all that followed from an event: a request that led to no upgrade is over.
    pub(super) fn after_step(&mut self) {
        if !self.systemd.is_reloading() {
            return;
        }
        match self.machine.state() {
            State::Upgrading(_) => {}
            State::Ready if self.machine.remembers() => {
                self.systemd.progress("An upgrade was asked for, and waits for older generations to finish.");
            }
            _ => {
                let why = self.refused.take().unwrap_or_else(|| "it was refused".into());
                self.systemd.reload_failed(&why);
            }
        }
    }

    fn is_upgrading(&self) -> bool {
        matches!(self.machine.state(), State::Upgrading(_))
    }

    /// When to look after the manager at the latest.
    pub(super) fn systemd_timer(&self) -> Option<std::time::Instant> {
        self.systemd.timer(self.is_upgrading())
    }

    /// What is due now.
    pub(super) fn look_after_systemd(&mut self) {
        let told = self.systemd.look(self.is_upgrading());
        if told {
            self.feed(Event::Announced);
        }
    }

    /// The successor is the main process. `None`: the manager has to be waited for.
    pub(super) fn announce(&mut self) -> Option<Event> {
        let after = self.upgrade_started.elapsed();
        match &self.successor {
            Some(successor) if self.systemd.announce(&successor.spawned, after) => {
                if self.freeing {
                    self.systemd.hurry();
                }
                None
            }
            _ => Some(Event::Announced),
        }
    }

    /// `flip_ready` is about to return 0 for the first time.
    pub(super) fn tell_ready(&mut self) {
        if self.inner.generation == 0 {
            // What the manager's store had from an earlier start, and this one has no use for.
            self.drop_unclaimed();
            self.systemd.ready();
        }
    }

    /// Paths and pid file are this process's now: after RELEASED, a predecessor's death, or an upgrade that failed late.
    pub(super) fn own(&mut self) {
        if self.machine.serves() && self.inner.generation > 0 {
            match self.machine.predecessor_drains() {
                true => self.systemd.released(),
                false => self.systemd.took_over(),
            }
        }
        self.drop_unclaimed();
    }

    fn drop_unclaimed(&mut self) {
        let (gone, dropped, stored) = {
            let mut registry = lock(&self.inner.registry);
            let gone = registry.unclaimed_in_store();
            let stored = if self.systemd.stores() { registry.for_store() } else { Vec::new() };
            (gone, registry.drop_unclaimed(), stored)
        };
        for name in dropped {
            log::write(Level::Info, format_args!("closed {name}: inherited, and not claimed"));
        }
        self.systemd.keep(gone, stored);
    }

    /// The host has added, claimed or forgotten a listener.
    pub(super) fn listeners_changed(&mut self) {
        if self.systemd.stores() && self.inner.published.ready.load(SeqCst) && self.machine.serves() {
            let stored = lock(&self.inner.registry).for_store();
            self.systemd.keep(Vec::new(), stored);
        }
    }

    /// A real stop. What will be unlinked must not come back from the store without its path.
    pub(super) fn tell_stop(&mut self, kind: Shutdown) {
        if kind == Shutdown::Stop {
            if self.systemd.stores() && self.machine.owns() {
                let mut stored = lock(&self.inner.registry).for_store();
                stored.retain(|(name, _)| !crate::systemd::store::has_path(name));
                self.systemd.keep(Vec::new(), stored);
            }
            self.systemd.stops(CONNECTIONS.count());
        }
    }
}
