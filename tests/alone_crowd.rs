//! Many threads of one host inside the library at once: 64 in flip_accept through upgrades under load, with events and
//! without; and every call at random against every other one and against the end of the handle.

use std::time::Duration;
use testkit::host::{SOON, c_program};
use testkit::load::{Address, Config, Load, get};
use testkit::process::{Family, Proc, Signal, free_port, signal};
use testkit::wait_until;

const UPGRADES: usize = 10;

fn upgrades_under_load(events: &str) {
    let family = Family::new();
    let address: Address = format!("tcp://127.0.0.1:{}", free_port()).parse().expect("an address");
    let program = family.program(c_program("tests/c/crowd.c", &[])).arg(address.to_string());
    let mut first = program.env("EVENTS", events).start();
    first.wait_until("it answers", SOON, || get(&address, "/", SOON).is_ok());
    let load = Load::start(Config::http(address).connections(32).streams(4).prefix("{\"version\":"))
        .expect("a load");
    wait_until("every connection was answered", SOON, || load.snapshot().answered >= 500);
    let mut old = first.pid();
    for _ in 0..UPGRADES {
        let began = load.mark();
        signal(old, Signal::SIGUSR1);
        wait_until("another process answers", SOON, || {
            load.seen().last().is_some_and(|seen| seen.identity.pid != old)
        });
        wait_until("the old process has exited", SOON * 4, || !Proc(old).alive());
        assert!(load.between(began, load.mark()).sent > 0, "void: no request was sent during an upgrade");
        let asked = if events == "0" { 0 } else { 2 };
        let line = format!("threads 64 canceled 64 answered {asked} drained 0 pid={old}");
        first.wait_for_output(&line, SOON);
        old = load.seen().last().expect("somebody answers").identity.pid;
    }
    load.stop().assert_clean();
    signal(old, Signal::SIGTERM);
    family.wait_gone(old, SOON);
    first.wait_for_output(&format!("threads 64 canceled 64 answered 0 drained 0 pid={old}"), SOON);
    assert!(first.wait(SOON).success());
    family.assert_none_left(SOON);
}

#[test]
fn a_host_of_64_threads_in_accept_is_replaced_under_load() {
    let _limit = testkit::limit(Duration::from_secs(120));
    upgrades_under_load("0");
}

#[test]
fn a_host_of_64_threads_in_accept_that_answers_events_is_replaced_under_load() {
    let _limit = testkit::limit(Duration::from_secs(120));
    upgrades_under_load("31");
}

/// Each round frees the handle under threads that do everything else.
#[test]
fn all_calls_from_many_threads_at_random_against_the_end_of_the_handle() {
    let _limit = testkit::limit(Duration::from_secs(900));
    let family = Family::new();
    let deep = std::env::var("SHELLFLIP_DEEP").as_deref() == Ok("1");
    let rounds = if deep { "2000" } else { "150" };
    // A new seed for each run, and named where it failed.
    let seed = std::process::id().to_string();
    let storm = family.program(c_program("tests/c/storm.c", &[])).args([rounds, &seed]);
    let mut storm = storm.env("STORM_LIMIT_S", if deep { "600" } else { "60" }).start();
    let status = storm.wait(Duration::from_secs(if deep { 80 } else { 10 }));
    let said = storm.output();
    assert!(status.success(), "seed {seed}: {status:?}\n{said}");
    // A storm in which nothing met anything shows nothing.
    let words: Vec<&str> = said.lines().last().expect("a line").split(' ').collect();
    for counted in words.chunks(2) {
        assert!(counted[1].parse::<u64>().expect("a number") > 0, "{} never happened: {said}", counted[0]);
    }
    family.assert_none_left(SOON);
}
