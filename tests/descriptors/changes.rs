//! Line 3: the new program asks for other addresses, options, names, counts, in another order.

use crate::host::{Kind, Place, World, ask_once, free_port};
use std::time::Duration;

fn world_with(addresses: &[&str]) -> (World, crate::host::Generation) {
    let world = World::start(&[]);
    let now = world.zero();
    for address in addresses {
        now.ok(&format!("listen {address}"));
    }
    now.ok("ready -1");
    (world, now)
}

#[test]
fn other_names_order_and_count_find_the_same_sockets() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (a, b, c, d) = (free_port(), free_port(), free_port(), free_port());
    let world = World::start(&[]);
    let now = world.zero();
    let tcp = |port: u16, name: &str| format!("tcp://127.0.0.1:{port}?name={name}");
    let at = |generation: &crate::host::Generation, command: String| {
        let fd = generation.ok(&command);
        generation.text(&format!("inode {fd}"))
    };
    let first = at(&now, format!("listen {}", tcp(a, "a")));
    let second = at(&now, format!("listen {}", tcp(b, "b")));
    now.ok(&format!("listen {}", tcp(c, "c")));
    now.ok("ready -1");
    let next = world.upgrade(&now, |next| {
        // Names exchanged: what the socket is decides. c is dropped, d is new.
        assert_eq!(at(next, format!("inherit {}", tcp(b, "a"))), second);
        assert_eq!(at(next, format!("listen {}", tcp(a, "x"))), first);
        next.fails(&format!("inherit {}", tcp(d, "c")), libc::ENOENT);
        next.ok(&format!("listen {}", tcp(d, "c")));
        next.fails(&format!("listen {}", tcp(d, "c")), libc::EEXIST);
        assert_eq!(next.text("inherited"), "c");
    });
    world.first.wait_for_output("closed \"c\": inherited, and not claimed", Duration::from_secs(10));
    world.family.wait_gone(now.pid, Duration::from_secs(10));
    assert!(Place::tcp(c).connect().is_err());
    assert!(Place::tcp(d).connect().is_ok());
    world.stop(&next);
}

#[test]
fn an_inherited_socket_in_the_way_is_named() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (port, other) = (free_port(), free_port());
    let world = World::start(&[]);
    let path = world.folder.path("p");
    let now = world.zero();
    let fd = now.ok(&format!("listen tcp://127.0.0.1:{port}?name=http"));
    now.ok(&format!("listen unix://{}?name=u", path.display()));
    now.ok("ready -1");
    now.ok(&format!("serve {fd}"));
    world.failing_upgrade(&now, |next| {
        for host in ["0.0.0.0", "", "[::]"] {
            let text = next.fails(&format!("listen tcp://{host}:{port}?name=http"), libc::EADDRINUSE);
            assert!(text.contains(&format!("tcp://127.0.0.1:{port}")), "{text}");
            assert!(text.contains("\"http\""), "{text}");
        }
        // Held by somebody else: the inherited one is not to blame.
        let _held = std::net::TcpListener::bind(("127.0.0.2", port)).unwrap();
        let text = next.fails(&format!("listen tcp://127.0.0.2:{port}"), libc::EADDRINUSE);
        assert!(!text.contains("http"), "{text}");
        let text = next.fails(&format!("listen unixpacket://{}", path.display()), libc::EADDRINUSE);
        assert!(text.contains("\"u\""), "{text}");
        next.ok(&format!("listen tcp://127.0.0.1:{other}?name=http"));
    });
    assert_eq!(ask_once(&Place::tcp(port)), Ok(now.pid));
    let next = world.upgrade(&now, |next| {
        let fd = next.ok(&format!("listen tcp://127.0.0.1:{port}?name=other"));
        next.ok(&format!("serve {fd}"));
    });
    assert_eq!(ask_once(&Place::tcp(port)), Ok(next.pid));
    world.stop(&next);
}

#[test]
fn an_option_that_cannot_be_changed_and_differs_is_no_match() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (a, b, c) = (free_port(), free_port(), free_port());
    let (world, now) = world_with(&[
        &format!("tcp://[::1]:{a}?v6only=1"),
        &format!("tcp://127.0.0.1:{b}?reuseport=1"),
        &format!("tcp://127.0.0.1:{c}?device=lo"),
    ]);
    world.failing_upgrade(&now, |next| {
        for (address, same) in [
            (format!("tcp://[::1]:{a}?v6only=0"), format!("tcp://[::1]:{a}?v6only=1")),
            (format!("tcp://127.0.0.1:{b}"), format!("tcp://127.0.0.1:{b}?reuseport=1")),
            (format!("tcp://127.0.0.1:{c}"), format!("tcp://127.0.0.1:{c}?device=lo")),
        ] {
            next.fails(&format!("inherit {address}"), libc::ENOENT);
            let text = next.fails(&format!("listen {address}"), libc::EADDRINUSE);
            assert!(text.contains("is in the way"), "{text}");
            next.ok(&format!("inherit {same}"));
        }
    });
    world.stop(&now);
}

#[test]
fn what_can_be_changed_is_changed_after_ready_and_not_before() {
    let _limit = testkit::limit(Duration::from_secs(60));
    use std::os::unix::fs::PermissionsExt;
    let world = World::start(&[]);
    let now = world.zero();
    let path = world.folder.path("p");
    let unix = format!("unix://{}", path.display());
    let mut place = Place::new(Kind::TcpV4, &world.folder, "a");
    place.address += "&backlog=10";
    let fd = place.listen(&now);
    now.ok(&format!("listen {unix}?mode=0600"));
    now.ok("ready -1");
    assert_eq!(now.ok(&format!("backlog {fd}")), 10);
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let upgrading = now.begin_upgrade();
    let failed = world.generation(1);
    failed.ok(&format!("listen {unix}?mode=0660"));
    failed.ok("listen tcp://127.0.0.1:0?name=a&backlog=20");
    assert_eq!((now.ok(&format!("backlog {fd}")), mode()), (10, 0o600));
    failed.send("exit 1");
    assert!(upgrading.join().unwrap().rc < 0);
    assert_eq!((now.ok(&format!("backlog {fd}")), mode()), (10, 0o600));
    let mut new_fd = 0;
    let next = world.upgrade(&now, |next| {
        next.ok(&format!("listen {unix}?mode=0660"));
        new_fd = next.ok("listen tcp://127.0.0.1:0?name=a&backlog=20");
        assert_eq!((next.ok(&format!("backlog {new_fd}")), mode()), (10, 0o600));
    });
    assert_eq!((next.ok(&format!("backlog {new_fd}")), mode()), (20, 0o660));
    world.stop(&next);
}

#[test]
fn a_path_that_somebody_else_has_taken_keeps_its_mode() {
    let _limit = testkit::limit(Duration::from_secs(60));
    use std::os::unix::fs::PermissionsExt;
    let world = World::start(&[]);
    let now = world.zero();
    let path = world.folder.path("p");
    now.ok(&format!("listen unix://{}", path.display()));
    now.ok("ready -1");
    std::fs::remove_file(&path).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let before = mode();
    assert_ne!(before, 0o666);
    let next = world.upgrade(&now, |next| {
        next.ok(&format!("listen unix://{}?mode=0666", path.display()));
    });
    assert_eq!(mode(), before);
    world.stop(&next);
    assert!(path.exists(), "a path of somebody else is left alone");
}

#[test]
fn a_blocking_listener_of_the_host_is_claimed_by_address_and_its_flags_wait_for_ready() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let now = world.zero();
    let fd = now.ok("open tcp 0");
    let port = now.ok(&format!("port {fd}")) as u16;
    now.ok(&format!("add mine {fd}"));
    now.ok("ready -1");
    let claim = format!("listen tcp://127.0.0.1:{port}");
    world.failing_upgrade(&now, |next| {
        next.ok(&claim);
    });
    // The old process may sit in accept(2) on it.
    assert_eq!(now.text(&format!("flags {fd}")), "0 0");
    let queued = Place::tcp(port).connect().unwrap();
    queued.send().unwrap();
    let mut claimed = 0;
    let next = world.upgrade(&now, |next| claimed = next.ok(&claim));
    assert_eq!(next.text(&format!("flags {claimed}")), "1 1");
    next.ok(&format!("serve {claimed}"));
    assert_eq!(queued.answer(), Ok(next.pid));
    drop(queued);
    world.stop(&next);
}

#[test]
fn a_socket_that_was_only_bound_listens_once_it_is_claimed_and_ready() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let now = world.zero();
    let fd = now.ok("open bound 0");
    let port = now.ok(&format!("port {fd}")) as u16;
    now.ok(&format!("add mine {fd}"));
    now.ok("ready -1");
    let next = world.upgrade(&now, |next| {
        let fd = next.ok(&format!("listen tcp://127.0.0.1:{port}"));
        assert!(Place::tcp(port).connect().is_err(), "it listens before COMMIT");
        next.ok(&format!("serve {fd}"));
    });
    assert_eq!(ask_once(&Place::tcp(port)), Ok(next.pid));
    world.stop(&next);
}
