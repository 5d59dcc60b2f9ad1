//! Line 5: `keep=stop` and `keep=always`.

use crate::host::{Generation, Kind, Place, World, ask_once};
use std::time::Duration;
use testkit::host::SOON;

/// A kept listener and a plain one, both served, and a connection on each.
fn start(keep: &str) -> (World, Generation, Place, Place) {
    let world = World::start(&[("PASSES_STAY", "1")]);
    let now = world.zero();
    let mut kept = Place::new(Kind::TcpV4, &world.folder, "kept");
    kept.address += &format!("&keep={keep}");
    let mut plain = Place::new(Kind::UnixPath, &world.folder, "plain");
    let (one, other) = (kept.listen(&now), plain.listen(&now));
    now.ok("ready -1");
    now.ok(&format!("serve {one} kept"));
    now.ok(&format!("serve {other}"));
    (world, now, kept, plain)
}

/// While it drains, then its end, which an open connection on the kept listener does not delay.
fn drains(world: &World, now: &Generation, kept: &Place, plain: &Place) {
    let of_kept = kept.connect().unwrap();
    of_kept.send().unwrap();
    assert_eq!(of_kept.answer(), Ok(now.pid));
    assert_eq!(now.ok("count"), 0, "connections on it are not counted");
    now.ok("request 2");
    world.first.wait_for_output(&format!("shutdown 2 pid={}", now.pid), SOON);
    testkit::wait_until("the plain listener is closed", SOON, || plain.connect().is_err());
    for _ in 0..20 {
        assert_eq!(ask_once(kept), Ok(now.pid));
    }
    of_kept.send().unwrap();
    assert_eq!(of_kept.answer(), Ok(now.pid));
    now.ok("finish");
    world.first.wait_for_output(&format!("drain 0 pid={}", now.pid), SOON);
    world.family.assert_none_left(SOON);
}

#[test]
fn keep_stop_is_served_while_a_stop_drains() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (world, now, kept, plain) = start("stop");
    drains(&world, &now, &kept, &plain);
}

#[test]
fn keep_always_is_served_while_a_stop_drains() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (world, now, kept, plain) = start("always");
    drains(&world, &now, &kept, &plain);
}

#[test]
fn without_keep_nothing_is_served_while_a_stop_drains() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[("PASSES_STAY", "1")]);
    let now = world.zero();
    let mut plain = Place::new(Kind::TcpV4, &world.folder, "plain");
    let fd = plain.listen(&now);
    now.ok("ready -1");
    now.ok(&format!("serve {fd}"));
    now.ok("request 2");
    world.first.wait_for_output(&format!("served -125 pid={}", now.pid), SOON);
    testkit::wait_until("the plain listener is closed", SOON, || plain.connect().is_err());
    now.ok("finish");
    world.family.assert_none_left(SOON);
}

/// An upgrade while `now` stays to drain; who answers on the kept listener before the successor serves it.
fn upgraded(keep: &str) -> (World, Generation, Generation, Place, i64) {
    let (world, now, mut kept, mut plain) = start(keep);
    let of_kept = kept.connect().unwrap();
    of_kept.send().unwrap();
    assert_eq!(of_kept.answer(), Ok(now.pid));
    let mut fd = 0;
    let next = world.upgrade(&now, |next| {
        fd = kept.listen(next);
        let other = plain.listen(next);
        next.ok(&format!("serve {other}"));
    });
    assert_eq!(ask_once(&plain), Ok(next.pid));
    drop(of_kept);
    (world, now, next, kept, fd)
}

#[test]
fn keep_always_is_shared_with_the_successor_while_an_upgrade_drains() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (world, now, next, kept, fd) = upgraded("always");
    // The new one does not accept yet: the old one goes on.
    for _ in 0..20 {
        assert_eq!(ask_once(&kept), Ok(now.pid));
    }
    next.ok(&format!("serve {fd} kept"));
    now.ok("finish");
    world.first.wait_for_output(&format!("drain 0 pid={}", now.pid), SOON);
    world.family.wait_gone(now.pid, SOON);
    assert_eq!(ask_once(&kept), Ok(next.pid));
    next.ok("finish");
    world.stop(&next);
}

#[test]
fn keep_stop_is_the_successors_alone_after_an_upgrade() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (world, now, next, kept, fd) = upgraded("stop");
    world.first.wait_for_output(&format!("served -125 pid={}", now.pid), SOON);
    let waiting = kept.connect().unwrap();
    waiting.send().unwrap();
    next.ok(&format!("serve {fd} kept"));
    assert_eq!(waiting.answer(), Ok(next.pid));
    now.ok("finish");
    world.family.wait_gone(now.pid, SOON);
    next.ok("finish");
    world.stop(&next);
}

#[test]
fn a_worker_serves_what_outlives_shutdown_also_when_its_master_has_freed_the_handle() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = testkit::process::Family::new();
    let program = family.program(testkit::host::c_program("tests/c/kept_worker.c", &[]));
    let mut process = program.output(testkit::process::Output::File).start();
    let status = process.wait(SOON);
    assert_eq!(status.code(), Some(0), "{}", process.output());
    family.assert_none_left(SOON);
}
