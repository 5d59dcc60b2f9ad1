//! Upgrades in odd company: a stop that comes while a spawn is late, a follow-up of one that failed late, a second handle.

use std::time::Duration;
use testkit::host::{Host, SOON};
use testkit::process::Family;

/// The library waits a second for the pidfd and two for its threads, so about three seconds is when the process ends.
#[test]
fn a_spawn_that_comes_after_a_stop_makes_no_server() {
    let _limit = testkit::limit(Duration::from_secs(60));
    std::thread::scope(|scope| {
        for late in [500, 1000, 2990, 3000, 3005, 3010, 3020, 3050] {
            scope.spawn(move || {
                let family = Family::new();
                let host = Host::start(&family, &[("SHELLFLIP_FAULT", &format!("clone=sleep:{late}"))]);
                let pid = host.who().pid;
                assert_eq!(host.call("/request/1").rc, 0);
                let begun = || host.call("/upgrade/0").rc == -i64::from(libc::EALREADY);
                testkit::wait_until("the upgrade has begun", SOON, begun);
                assert_eq!(host.call("/request/2").rc, 0);
                family.wait_gone(pid, SOON);
                family.assert_none_left(SOON);
            });
        }
    });
}

#[test]
fn a_follow_up_of_an_upgrade_that_failed_late_has_its_whole_time() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let host = Host::start(&family, &[("UPGRADE_TIMEOUT_MS", "4000")]);
    let pid = host.who().pid;
    host.call("/env/HOST_BEFORE_READY/sleep:3000,exit:1");
    assert_eq!(host.call("/request/1").rc, 0);
    testkit::wait_until("the upgrade has begun", SOON, || {
        host.call("/upgrade/0").rc == -i64::from(libc::EALREADY)
    });
    host.call("/env/HOST_BEFORE_READY/sleep:2000");
    assert_eq!(host.call("/request/1").rc, 0);
    assert_eq!(host.wait_for_other(pid).generation, 1);
    family.wait_gone(pid, SOON);
}
