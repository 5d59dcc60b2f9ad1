//! Line 2: what was named crosses, all of it, and nothing else; many, long names; limits.

use crate::host::{Generation, Kind, Place, World, ask_once};
use std::collections::BTreeSet;
use std::time::Duration;
use testkit::host::SOON;
use testkit::process::Proc;

/// The sockets that a generation has open, by inode.
fn sockets(generation: &Generation) -> BTreeSet<u64> {
    let all = Proc(generation.pid).descriptors().into_iter();
    all.filter(|descriptor| descriptor.target.starts_with("socket:")).filter_map(|fd| fd.inode).collect()
}

fn inode_of(generation: &Generation, fd: i64) -> u64 {
    let all = Proc(generation.pid).descriptors();
    all.iter().find(|one| i64::from(one.number) == fd).and_then(|one| one.inode).expect("a socket or pipe")
}

#[test]
fn what_was_named_crosses_and_nothing_else() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let now = world.zero();
    let kinds =
        [Kind::TcpV4, Kind::UnixPath, Kind::UnixAbstract, Kind::UnixPacket, Kind::Udp, Kind::UnixGram];
    let mut places: Vec<_> = kinds
        .iter()
        .enumerate()
        .map(|(i, kind)| Place::new(*kind, &world.folder, &format!("p{i}")))
        .collect();
    let mut named: BTreeSet<u64> =
        places.iter_mut().map(|place| place.listen(&now)).map(|fd| inode_of(&now, fd)).collect();
    let pipe = now.ok("open pipe");
    named.insert(inode_of(&now, pipe));
    now.ok(&format!("add pipe {pipe}"));
    // The host's own, all of which would survive a plain exec.
    let mut foreign = BTreeSet::new();
    for kind in ["tcp 0", "bound 0", "pipe", "tcp 0"] {
        let fd = now.ok(&format!("open {kind}"));
        foreign.insert(inode_of(&now, fd));
    }
    now.ok("open memfd");
    let file = world.folder.path("foreign");
    now.ok(&format!("open file {}", file.display()));
    now.ok("ready -1");
    let descriptors = |generation: &Generation| Proc(generation.pid).descriptors();
    assert!(descriptors(&now).iter().filter(|fd| fd.number > 2 && !fd.cloexec).count() >= 7);

    let upgrading = now.begin_upgrade();
    let next = world.generation(1);
    let theirs = descriptors(&next);
    let inodes: BTreeSet<u64> = theirs.iter().filter_map(|fd| fd.inode).collect();
    let missing: Vec<_> = named.difference(&inodes).collect();
    assert!(missing.is_empty(), "dropped: {missing:?}\n{theirs:#?}");
    let passed: Vec<_> = foreign.intersection(&inodes).collect();
    assert!(passed.is_empty(), "passed though nobody named them: {passed:?}");
    assert!(!theirs.iter().any(|fd| fd.target.contains("memfd:test")), "{theirs:#?}");
    assert!(!theirs.iter().any(|fd| fd.target.ends_with("/foreign")), "{theirs:#?}");
    // Whatever both have is named, or is the one control socket of each side that has no copy in the other. That of the
    // spawn is closed once the new program runs.
    testkit::wait_until("nothing is shared that nobody named", SOON, || {
        let shared: BTreeSet<u64> = sockets(&next).intersection(&sockets(&now)).copied().collect();
        shared.is_subset(&named)
    });
    // Nothing that the library has in the new process survives an exec of the new process.
    let open: Vec<_> = theirs.iter().filter(|fd| fd.number > 2 && !fd.cloexec).collect();
    assert!(open.is_empty(), "{open:?}");

    for place in &mut places {
        place.listen(&next);
    }
    next.ok("take pipe");
    next.ok("ready -1");
    assert_eq!(upgrading.join().unwrap().rc, i64::from(next.pid));
    world.stop(&next);
}

#[test]
fn a_thousand_names_of_255_bytes_cross_twice() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let world = World::start(&[]);
    let now = world.zero();
    // A soft limit that leaves next to nothing free, below the hard one; the new program gets room of its own.
    now.ok("limit 1040");
    assert_eq!(now.ok("names 1000"), 1000);
    now.ok("ready -1");
    let next = world.upgrade(&now, |next| {
        assert_eq!(next.fails("getenv LISTEN_FDNAMES", libc::ENOENT), "");
        assert_eq!(next.ok("check 1000"), 1000);
        assert_eq!(next.ok("inherited"), 0);
    });
    let last = world.upgrade(&next, |last| assert_eq!(last.ok("check 1000"), 1000));
    world.stop(&last);
}

#[test]
fn without_a_descriptor_left_the_upgrade_fails_naming_the_limit_and_the_next_works() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let now = world.zero();
    let mut place = Place::new(Kind::TcpV4, &world.folder, "a");
    let fd = place.listen(&now);
    now.ok("ready -1");
    now.ok(&format!("serve {fd}"));
    assert_eq!(ask_once(&place), Ok(now.pid));
    // No hole is left but the one of the command's own connection, which the upgrade's takes in turn.
    testkit::wait_until("the library rests", SOON, || Proc(now.pid).library_rests());
    testkit::wait_until("the connection is closed", SOON, || now.ok("count") == 0);
    now.ok("limit 100");
    now.ok("fill");
    for failures in 0.. {
        let limit = 100 + failures;
        now.ok(&format!("limit {limit}"));
        let upgrading = now.begin_upgrade();
        let started = || (find_generation(&world).is_some() || upgrading.is_finished()).then_some(());
        testkit::wait_for("a new process or a failure", SOON, started);
        if !upgrading.is_finished() {
            let next = world.generation(1);
            place.listen(&next);
            next.ok("ready -1");
            assert_eq!(upgrading.join().unwrap().rc, i64::from(next.pid));
            assert!(failures > 3, "the limit was met {failures} times");
            return world.stop(&next);
        }
        let failed = upgrading.join().unwrap();
        assert_eq!(failed.rc, -i64::from(libc::EMFILE), "{failed:?}");
        assert!(failed.text.contains("(EMFILE)"), "{failed:?}");
        assert!(failed.text.contains(&format!("{limit} (RLIMIT_NOFILE)")), "{failed:?}");
        now.ok("limit 1024");
        assert_eq!(ask_once(&place), Ok(now.pid));
    }
}

fn find_generation(world: &World) -> Option<std::os::unix::net::UnixStream> {
    std::os::unix::net::UnixStream::connect(world.folder.path("1")).ok()
}

#[test]
fn who_does_not_wait_for_a_connection_is_told_that_no_descriptor_is_left() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let now = world.zero();
    let mut place = Place::new(Kind::TcpV4, &world.folder, "a");
    let fd = place.listen(&now);
    now.ok("ready -1");
    now.ok("limit 100");
    testkit::wait_until("the library rests", SOON, || Proc(now.pid).library_rests());
    let queued = place.connect().unwrap();
    queued.send().unwrap();
    let text = now.fails(&format!("full accept {fd} 0"), libc::EMFILE);
    assert!(text.contains("EMFILE"), "{text}");
    now.fails(&format!("full accept {fd} 300"), libc::ETIMEDOUT);
    now.ok("limit 1024");
    now.ok(&format!("accept {fd} 0"));
    assert_eq!(queued.answer(), Ok(now.pid));
    drop(queued);
    world.stop(&now);
}

#[test]
fn a_claim_that_finds_no_number_left_loses_nothing() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let now = world.zero();
    let mut place = Place::new(Kind::UnixPath, &world.folder, "a");
    place.listen(&now);
    let memfd = now.ok("open memfd");
    now.ok(&format!("add memfd {memfd}"));
    now.ok("ready -1");
    let queued = place.connect().unwrap();
    queued.send().unwrap();
    let next = world.upgrade(&now, |next| {
        next.ok("limit 100");
        let text = next.fails(&format!("full listen {}", place.address), libc::EMFILE);
        assert!(text.contains("EMFILE"), "{text}");
        next.fails("full take memfd", libc::EMFILE);
        next.ok("limit 1024");
        let fd = place.listen(next);
        next.ok("take memfd");
        next.ok(&format!("serve {fd}"));
    });
    assert_eq!(queued.answer(), Ok(next.pid));
    drop(queued);
    world.stop(&next);
    assert!(!place.path.exists());
}

#[test]
fn a_path_goes_again_where_the_last_number_went_to_its_socket() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let now = world.zero();
    now.ok("ready -1");
    now.ok("limit 100");
    testkit::wait_until("the library rests", SOON, || Proc(now.pid).library_rests());
    let path = world.folder.path("late");
    for options in ["", "?mode=0600", "?owner=0&mode=0600"] {
        now.fails(&format!("last listen unix://{}{options}", path.display()), libc::EMFILE);
        assert!(!path.exists(), "{options}");
    }
    now.ok("limit 1024");
    now.ok(&format!("listen unix://{}", path.display()));
    world.stop(&now);
    assert!(!path.exists());
}
