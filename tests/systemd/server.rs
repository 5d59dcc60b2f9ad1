//! The example server as a unit of a machine.

use super::machine::Machine;
use std::time::Duration;
use testkit::host::SOON;
use testkit::load::{Address, Config, Identity, Load, get};
use testkit::wait_for;

/// A unit that runs.
pub struct Server<'a> {
    pub machine: &'a Machine,
    pub unit: &'static str,
}

impl<'a> Server<'a> {
    /// Type=notify, with a reload that only signals.
    pub fn start_by_signal(machine: &'a Machine) -> Server<'a> {
        machine.example("server-flipctl.service");
        machine.unit(
            "server-flipctl.service.d/signal.conf",
            "[Service]\nExecReload=\nExecReload=kill -USR1 $MAINPID\nEnvironment=IDLE_GRACE_MS=200\n",
        );
        machine.must(&["systemctl", "start", "server-flipctl"]);
        Server { machine, unit: "server-flipctl" }
    }

    pub fn address() -> Address {
        "tcp://127.0.0.1:8080".parse().expect("an address")
    }

    /// Saturating keep-alive connections and a stream of new ones.
    pub fn load(&self) -> Load {
        let config = Config::http(Server::address()).connections(8).streams(1);
        self.machine.inside(|| Load::start(config).expect("a load"))
    }

    /// Who answers, as numbered inside.
    pub fn who(&self) -> i32 {
        let answer = self.machine.inside(|| get(&Server::address(), "/", Duration::from_secs(10)));
        Identity::parse(&answer.expect("an answer").body).pid
    }

    /// `systemctl reload`, and another main process.
    pub fn reload_by_signal(&self) -> i32 {
        let before = self.machine.main_pid(self.unit);
        self.machine.must(&["systemctl", "reload", self.unit]);
        wait_for("another main process", SOON, || {
            let state = self.machine.property(self.unit, "ActiveState");
            assert!(["active", "reloading"].contains(&state.as_str()), "{state}");
            Some(self.machine.main_pid(self.unit)).filter(|now| *now != before)
        })
    }
}
