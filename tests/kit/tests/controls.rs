//! The load client against servers whose upgrades are known to lose connections, and one whose upgrade is known not
//! to: it has to see the first and must not imagine the second.

use std::time::Duration;

use testkit::load::{Address, Config, Load, Report, get};
use testkit::process::{self, Family, Proc, Process, Signal};
use testkit::wait_until;

const SOON: Duration = Duration::from_secs(10);

struct Control {
    // Dropped before the family, which ends whatever generation is left.
    _first: Process,
    load: Load,
    _family: Family,
}

fn start(mode: &str, connections: usize, streams: usize) -> Control {
    let family = Family::new();
    let address: Address = format!("tcp://127.0.0.1:{}", process::free_port()).parse().unwrap();
    let program = family.program(env!("CARGO_BIN_EXE_control_server"));
    let mut first = program.args(["--mode", mode]).arg(address.to_string()).start();
    first.wait_until("it answers", SOON, || get(&address, "/", SOON).is_ok());
    let config = Config::http(address).connections(connections).streams(streams).prefix("{\"version\":\"1\"");
    let load = Load::start(config).unwrap();
    wait_until("every connection was answered", SOON, || load.snapshot().answered >= 200);
    Control { _first: first, load, _family: family }
}

impl Control {
    /// One upgrade, until the new generation answers.
    fn upgrade(&self) {
        let old = self.load.seen().last().expect("someone answers").identity.pid;
        process::signal(old, Signal::SIGUSR1);
        wait_until("the next generation answers", SOON, || {
            self.load.seen().last().unwrap().identity.pid != old
        });
        wait_until("the old generation has exited", SOON, || !Proc(old).alive());
    }

    /// Upgrades until something has failed, at most 100 times.
    fn upgrade_until_failure(self) -> (u32, Report) {
        let mut upgrades = 0;
        while self.load.snapshot().failed == 0 && upgrades < 100 {
            self.upgrade();
            upgrades += 1;
        }
        (upgrades, self.load.stop())
    }
}

#[test]
fn nothing_fails_where_nothing_is_upgraded() {
    let _limit = testkit::limit(Duration::from_secs(60));
    for mode in ["close-and-bind", "reuseport"] {
        let control = start(mode, 32, 4);
        wait_until("two thousand answers", SOON, || control.load.snapshot().answered > 2000);
        let report = control.load.stop();
        report.assert_clean();
        assert_eq!(report.totals.announced_closes, 0);
        assert_eq!(report.totals.sent, report.totals.answered);
    }
}

#[test]
fn closing_the_listener_before_the_new_one_binds_is_seen_to_fail() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let (upgrades, report) = start("close-and-bind", 32, 4).upgrade_until_failure();
    assert!(report.totals.failed > 0, "no failure in {upgrades} upgrades: {:#?}", report.totals);
}

#[test]
fn reuseport_is_seen_to_fail() {
    let _limit = testkit::limit(Duration::from_secs(240));
    let (upgrades, report) = start("reuseport", 32, 8).upgrade_until_failure();
    assert!(report.totals.failed > 0, "no failure in {upgrades} upgrades: {:#?}", report.totals);
}

#[test]
fn an_inherited_listener_loses_nothing() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let control = start("inherit", 32, 4);
    for _ in 0..20 {
        control.upgrade();
    }
    let report = control.load.stop();
    report.assert_clean();
    assert_eq!(report.seen.last().unwrap().identity.generation, Some(20));
    // Not 32 each: a connection may still be queued when its generation is already replaced.
    assert!(report.totals.announced_closes >= 20 * 16, "{:?}", report.totals);
}
