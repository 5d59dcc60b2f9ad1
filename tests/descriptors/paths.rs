//! Line 6: who removes a unix path, and who may use it.

use crate::host::{Generation, Kind, Place, World, ask_once};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;
use testkit::host::SOON;
use testkit::process::{Signal, signal};

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

fn serve(world: &World, place: &mut Place) -> Generation {
    let now = world.zero();
    let fd = place.listen(&now);
    now.ok("ready -1");
    now.ok(&format!("serve {fd}"));
    now
}

#[test]
fn a_stop_by_signal_unlinks_and_an_upgrade_does_not() {
    let _limit = testkit::limit(Duration::from_secs(60));
    for kind in [Kind::UnixPath, Kind::UnixPacket, Kind::UnixGram] {
        let world = World::start(&[]);
        let mut place = Place::new(kind, &world.folder, "p");
        let now = serve(&world, &mut place);
        let before = inode(&place.path);
        let next = world.upgrade(&now, |next| _ = place.listen(next));
        world.family.wait_gone(now.pid, SOON);
        assert_eq!(inode(&place.path), before);
        signal(next.pid, Signal::SIGTERM);
        world.family.wait_gone(next.pid, SOON);
        assert!(!place.path.exists());
        world.family.assert_none_left(SOON);
    }
}

#[test]
fn a_path_that_somebody_replaced_is_left_alone() {
    let _limit = testkit::limit(Duration::from_secs(60));
    for upgrade in [false, true] {
        let world = World::start(&[]);
        let mut place = Place::new(Kind::UnixPath, &world.folder, "p");
        let mut now = serve(&world, &mut place);
        if upgrade {
            now = world.upgrade(&now, |next| _ = place.listen(next));
        }
        std::fs::remove_file(&place.path).unwrap();
        let theirs = UnixListener::bind(&place.path).unwrap();
        let before = inode(&place.path);
        signal(now.pid, Signal::SIGTERM);
        world.family.wait_gone(now.pid, SOON);
        assert_eq!(inode(&place.path), before);
        drop(theirs);
        world.family.assert_none_left(SOON);
    }
}

#[test]
fn whoever_outlives_a_killed_predecessor_unlinks() {
    let _limit = testkit::limit(Duration::from_secs(60));
    // Killed before the new one is ready, after which it serves, and while it drains.
    for drains in [false, true] {
        let world = World::start(&[("PASSES_STAY", "1")]);
        let mut place = Place::new(Kind::UnixPath, &world.folder, "p");
        let mut dropped = Place::new(Kind::UnixPath, &world.folder, "dropped");
        let now = world.zero();
        place.listen(&now);
        dropped.listen(&now);
        now.ok("ready -1");
        let upgrading = now.begin_upgrade_that_may_end();
        let next = world.generation(1);
        let fd = place.listen(&next);
        if drains {
            next.ok("ready -1");
            world.first.wait_for_output(&format!("shutdown 1 pid={}", now.pid), SOON);
        }
        signal(now.pid, Signal::SIGKILL);
        world.family.wait_gone(now.pid, SOON);
        next.ok("ready -1");
        let _ = upgrading.join();
        next.ok(&format!("serve {fd}"));
        assert_eq!(ask_once(&place), Ok(next.pid));
        testkit::wait_until("the unclaimed path is gone", SOON, || !dropped.path.exists());
        next.ok("request 2");
        next.ok("finish");
        world.family.wait_gone(next.pid, SOON);
        assert!(!place.path.exists());
        world.family.assert_none_left(SOON);
    }
}

#[test]
fn a_successor_that_gives_up_unlinks_what_it_bound_and_nothing_else() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let mut place = Place::new(Kind::UnixPath, &world.folder, "p");
    let mut unclaimed = Place::new(Kind::UnixGram, &world.folder, "unclaimed");
    let mut new = Place::new(Kind::UnixPath, &world.folder, "new");
    let now = world.zero();
    let fd = place.listen(&now);
    unclaimed.listen(&now);
    now.ok("ready -1");
    now.ok(&format!("serve {fd}"));
    for give_up in ["free", "request 2"] {
        let upgrading = now.begin_upgrade();
        let next = world.generation(1);
        place.listen(&next);
        new.listen(&next);
        assert!(new.path.exists());
        next.send(give_up);
        assert!(upgrading.join().unwrap().rc < 0);
        world.family.wait_gone(next.pid, SOON);
        assert!(!new.path.exists() && place.path.exists() && unclaimed.path.exists(), "{give_up}");
        assert_eq!(ask_once(&place), Ok(now.pid));
    }
    // One that is killed leaves its path stale, and the next one takes its place.
    world.failing_upgrade(&now, |next| _ = new.listen(next));
    assert!(new.path.exists());
    let next = world.upgrade(&now, |next| {
        place.listen(next);
        let fd = new.listen(next);
        next.ok(&format!("serve {fd}"));
    });
    assert_eq!(ask_once(&new), Ok(next.pid));
    world.stop(&next);
    assert!(!new.path.exists() && !place.path.exists() && !unclaimed.path.exists());
}

#[test]
fn a_stale_path_is_replaced_and_a_live_one_is_in_use() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let now = world.zero();
    let place = Place::new(Kind::UnixPath, &world.folder, "p");
    let theirs = UnixListener::bind(&place.path).unwrap();
    let text = now.fails(&format!("listen {}", place.address), libc::EADDRINUSE);
    assert!(text.contains("EADDRINUSE") && text.contains(place.path.to_str().unwrap()), "{text}");
    drop(theirs);
    // A fork of another test may have a copy for a moment.
    testkit::wait_until("it is stale", SOON, || place.connect().is_err());
    let fd = now.ok(&format!("listen {}", place.address));
    now.ok("ready -1");
    now.ok(&format!("serve {fd}"));
    assert_eq!(ask_once(&place), Ok(now.pid));
    world.stop(&now);
}

#[test]
fn mode_and_owner_are_as_asked_and_cross() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let root = nix::unistd::geteuid().is_root();
    let owner = if root { "&owner=1234:4321" } else { "" };
    let now = world.zero();
    let place = Place::new(Kind::UnixPath, &world.folder, "p");
    now.ok(&format!("listen {}?mode=0620{owner}", place.address));
    now.ok("ready -1");
    let is = || {
        let status = std::fs::metadata(&place.path).unwrap();
        (status.permissions().mode() & 0o777, status.uid(), status.gid())
    };
    let asked = is();
    assert_eq!(asked.0, 0o620);
    if root {
        assert_eq!((asked.1, asked.2), (1234, 4321));
    }
    // Without mode= and owner= they stay as they are.
    let next = world.upgrade(&now, |next| _ = next.ok(&format!("listen {}", place.address)));
    assert_eq!(is(), asked);
    world.stop(&next);
}
