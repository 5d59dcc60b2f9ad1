//! The promise itself: a C server under full load is replaced again and again and no request fails, while the same client
//! in the same test sees the ways that are known to fail do so.

use std::path::Path;
use std::time::Duration;
use testkit::host::{SOON, c_program};
use testkit::load::{Address, Config, Load, Report, get};
use testkit::process::{self, Family, Proc, Signal, build_kit_program};
use testkit::wait_until;

const UPGRADES: usize = 12;

/// Starts it under 32 saturating keep-alive connections and four streams of new ones.
fn start(family: &Family, program: &Path, arguments: &[&str]) -> Load {
    let address: Address = format!("tcp://127.0.0.1:{}", process::free_port()).parse().expect("an address");
    let mut first = family.program(program).args(arguments).arg(address.to_string()).start();
    first.wait_until("it answers", SOON, || get(&address, "/", SOON).is_ok());
    // The family ends it.
    std::mem::forget(first);
    let load = Load::start(Config::http(address).connections(32).streams(4).prefix("{\"version\":"))
        .expect("a load");
    wait_until("every connection was answered", SOON, || load.snapshot().answered >= 500);
    load
}

/// One upgrade by signal: how many requests were sent from the signal until the old one was gone.
fn upgrade(load: &Load) -> u64 {
    let old = load.seen().last().expect("somebody answers").identity.pid;
    let began = load.mark();
    process::signal(old, Signal::SIGUSR1);
    wait_until("another process answers", SOON, || {
        load.seen().last().is_some_and(|seen| seen.identity.pid != old)
    });
    wait_until("the old process has exited", SOON * 4, || !Proc(old).alive());
    load.between(began, load.mark()).sent
}

fn fails(mode: &str) -> Report {
    let family = Family::new();
    let load = start(&family, &build_kit_program("control_server"), &["--mode", mode]);
    for _ in 0..100 {
        if load.snapshot().failed > 0 {
            break;
        }
        upgrade(&load);
    }
    load.stop()
}

#[test]
fn no_request_fails_over_upgrades_under_full_load_and_the_client_sees_others_fail() {
    let _limit = testkit::limit(Duration::from_secs(240));
    let family = Family::new();
    let programs =
        ["-DVERSION=1", "-DVERSION=2"].map(|version| c_program("examples/c/http_epoll.c", &[version]));
    let folder = process::temp_dir();
    let live = folder.path().join("http");
    process::copy_program(&programs[0], &live);
    let load = start(&family, &live, &[]);
    for number in 1..=UPGRADES {
        let next = folder.path().join("next");
        process::copy_program(&programs[number % 2], &next);
        std::fs::rename(&next, &live).expect("a rename");
        let sent = upgrade(&load);
        assert!(sent > 0, "upgrade {number} is void: no request was sent during it");
        let now = load.seen().last().expect("somebody answers").identity.clone();
        assert_eq!(now.generation, Some(number as u32));
        assert_eq!(now.version, (number % 2 + 1).to_string());
    }
    let last = load.seen().last().expect("somebody answers").identity.pid;
    let report = load.stop();
    report.assert_clean();
    process::signal(last, Signal::SIGTERM);
    family.wait_gone(last, SOON);
    family.assert_none_left(SOON);

    for mode in ["close-and-bind", "reuseport"] {
        let report = fails(mode);
        assert!(report.totals.failed > 0, "{mode}: nothing failed: {:#?}", report.totals);
    }
}
