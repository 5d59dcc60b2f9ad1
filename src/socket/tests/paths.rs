//! Unix paths: stale and live ones, races, permissions, removal.

use super::*;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;

const SCHEMES: [&str; 3] = ["unix", "unixgram", "unixpacket"];

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

fn leave_stale(address: &Address) {
    drop(bind_and_listen(address).unwrap_or_else(|error| panic!("{error}")));
}

#[test]
fn a_stale_path_is_replaced_whatever_kind_it_was() {
    let folder = Folder::new();
    for (n, left) in SCHEMES.iter().enumerate() {
        for scheme in SCHEMES {
            let name = format!("{n}{scheme}");
            leave_stale(&folder.address(left, &name));
            let old = folder.path(&name).symlink_metadata().unwrap();
            assert!(old.file_type().is_socket());
            let bound = bind_and_listen(&folder.address(scheme, &name)).unwrap();
            let now = folder.path(&name).symlink_metadata().unwrap();
            let owner = bound.path.unwrap();
            assert_eq!((owner.dev, owner.ino), (now.dev(), now.ino()));
        }
    }
    assert!(!folder.names().iter().any(|name| name.ends_with(".lock")), "{:?}", folder.names());
}

#[test]
fn a_live_path_is_in_use_and_its_server_sees_nothing_of_the_question() {
    let folder = Folder::new();
    for live in SCHEMES {
        let text = folder.address(live, live).to_string();
        let bound = open(&text);
        for scheme in SCHEMES {
            let wanted = folder.address(scheme, live);
            let error = bind_and_listen(&wanted).unwrap_err();
            let verb = if scheme == "unixgram" { "bind" } else { "listen on" };
            assert_eq!(
                error.to_string(),
                format!("cannot {verb} {wanted}: address already in use (EADDRINUSE)")
            );
        }
        let mut poll = [nix::poll::PollFd::new(bound.fd.as_fd(), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut poll, 0u8), Ok(0), "{live}: something reached the server");
        assert_eq!(folder.path(live).symlink_metadata().unwrap().ino(), bound.path.unwrap().ino);
    }
}

#[test]
fn a_socket_that_is_bound_and_does_not_listen_yet_is_not_stale() {
    let folder = Folder::new();
    let address = folder.address("unix", "a");
    let bound = bind(&address).unwrap();
    assert_eq!(bind(&address).map_err(|error| error.errno()).unwrap_err(), Errno::EADDRINUSE);
    listen(bound.fd.as_fd(), &address).unwrap();
    assert_serves(UnixStream::connect(folder.path("a")).unwrap(), &bound.fd);
}

#[test]
fn a_datagram_socket_that_talks_to_one_peer_is_not_stale() {
    let folder = Folder::new();
    let _peer = UnixDatagram::bind(folder.path("peer")).unwrap();
    let live = UnixDatagram::bind(folder.path("a")).unwrap();
    live.connect(folder.path("peer")).unwrap();
    let error = bind(&folder.address("unixgram", "a")).unwrap_err();
    assert_eq!(error.errno(), Errno::EADDRINUSE);
}

#[test]
fn what_is_not_a_socket_is_named_and_left_alone() {
    let folder = Folder::new();
    std::fs::write(folder.path("file"), "precious").unwrap();
    std::fs::create_dir(folder.path("dir")).unwrap();
    leave_stale(&folder.address("unix", "stale"));
    std::os::unix::fs::symlink(folder.path("stale"), folder.path("link")).unwrap();
    nix::unistd::mkfifo(&folder.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (name, kind) in
        [("file", "a regular file"), ("dir", "a directory"), ("link", "a symbolic link"), ("fifo", "a FIFO")]
    {
        let before = folder.path(name).symlink_metadata().unwrap().ino();
        let address = folder.address("unix", name);
        let error = bind_and_listen(&address).unwrap_err();
        let expected = format!(
            "cannot listen on {address}: there is {kind} in its place, which is left alone: \
             address already in use (EADDRINUSE)"
        );
        assert_eq!(error.to_string(), expected);
        assert_eq!(folder.path(name).symlink_metadata().unwrap().ino(), before);
    }
    assert_eq!(std::fs::read_to_string(folder.path("file")).unwrap(), "precious");
    let error = bind_and_listen(&folder.address("unix", "no/such")).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOENT);
}

#[test]
fn of_many_who_race_for_one_stale_path_exactly_one_wins() {
    const RACERS: usize = 6;
    let folder = Folder::new();
    let rounds = if std::env::var_os("SHELLFLIP_FAULT").is_some() { 15 } else { 150 };
    for round in 0..rounds {
        let address = folder.address(SCHEMES[round % 3], &format!("a{round}"));
        leave_stale(&address);
        let start = Barrier::new(RACERS);
        let results: Vec<_> = std::thread::scope(|scope| {
            let race = || {
                start.wait();
                bind_and_listen(&address)
            };
            let racers: Vec<_> = (0..RACERS).map(|_| scope.spawn(race)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let mut winners = Vec::new();
        for result in results {
            match result {
                Ok(bound) => winners.push(bound),
                Err(error) => assert_eq!(error.errno(), Errno::EADDRINUSE, "{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let owner = winners[0].path.as_ref().unwrap();
        let now = folder.path(&format!("a{round}")).symlink_metadata().unwrap();
        assert_eq!((owner.dev, owner.ino), (now.dev(), now.ino()), "the path leads to the winner");
    }
    assert!(!folder.names().iter().any(|name| name.ends_with(".lock")), "{:?}", folder.names());
}

#[test]
fn two_never_hold_one_lock_although_its_file_comes_and_goes() {
    let folder = Folder::new();
    let path = folder.path("a").to_str().unwrap().as_bytes().to_vec();
    let inside = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let lock = path::Lock::acquire(&"cannot test", &path).unwrap();
                    assert!(!inside.swap(true, Ordering::SeqCst), "two inside");
                    std::thread::sleep(std::time::Duration::from_micros(300)); // Long enough to be caught inside.
                    inside.store(false, Ordering::SeqCst);
                    drop(lock);
                }
            });
        }
    });
    assert!(folder.names().is_empty());
}

#[test]
fn a_lock_that_a_killed_process_left_behind_is_free() {
    let folder = Folder::new();
    let address = folder.address("unix", "a");
    leave_stale(&address);
    std::fs::write(folder.path("a.lock"), "").unwrap();
    let _bound = bind_and_listen(&address).unwrap();
    assert_eq!(folder.names(), ["a"]);
}

#[test]
fn a_lock_that_is_never_given_free_ends_at_the_deadline() {
    let folder = Folder::new();
    let address = folder.address("unix", "a");
    leave_stale(&address);
    let _held =
        net::try_lock(net::open_lock(folder.path("a.lock").to_str().unwrap().as_bytes()).unwrap()).unwrap();
    let error = bind_and_listen(&address).unwrap_err();
    assert_eq!(error.errno(), Errno::ETIME);
    let expected =
        format!("another process has held the lock \"{}\" for 5 s", folder.path("a.lock").display());
    assert!(error.to_string().ends_with(&expected), "{error}");
}

#[test]
fn mode_and_owner_are_those_that_were_asked() {
    let folder = Folder::new();
    let root = nix::unistd::geteuid().is_root();
    for scheme in SCHEMES {
        for wanted in [0o600, 0o666, 0o777, 0o000, 0o421] {
            let name = format!("{scheme}{wanted}");
            let text = format!("{}?mode={wanted:o}", folder.address(scheme, &name));
            let _bound = open(&text);
            assert_eq!(mode(&folder.path(&name)), wanted, "{text}");
        }
        if !root {
            eprintln!("SKIPPED: owner= needs root");
            continue;
        }
        for (wanted, uid, gid) in
            [("4711:4712", 4711, 4712), (":4712", 0, 4712), ("4711", 4711, 0), ("root:root", 0, 0)]
        {
            let path = folder.path(scheme);
            let text = format!("{}?owner={wanted}", folder.address(scheme, scheme));
            let plain = open(&folder.address(scheme, scheme).to_string());
            let by_umask = mode(&path);
            drop(plain);
            let bound = open(&text);
            let status = path.symlink_metadata().unwrap();
            assert_eq!((status.uid(), status.gid()), (uid, gid), "{text}");
            assert_eq!(mode(&path), by_umask, "without mode= the umask decides");
            drop(bound);
        }
    }
}

#[test]
fn an_owner_that_does_not_exist_leaves_no_socket_behind() {
    let folder = Folder::new();
    for (owner, why) in [
        ("no-such-user-here", r#"there is no user "no-such-user-here""#),
        (":no-such-group-here", r#"there is no group "no-such-group-here""#),
        ("%FF", r#"there is no user "\xff""#),
        ("4294967295", r#"there is no user "4294967295""#),
        ("99999999999", r#"there is no user "99999999999""#),
    ] {
        let address = parse(&format!("{}?owner={owner}", folder.address("unix", "a")));
        let error = bind_and_listen(&address).unwrap_err();
        let expected = format!("cannot listen on {}: {why}", folder.address("unix", "a"));
        assert_eq!(error.to_string(), expected);
        assert!(folder.names().is_empty());
    }
}

/// A datagram socket can be sent to as soon as it is bound, so the path must be closed until it is right.
#[test]
fn nobody_ever_sees_a_mode_that_lets_in_more_than_was_asked() {
    let folder = Folder::new();
    let path = folder.path("a");
    let stop = AtomicBool::new(false);
    let (mut closed, mut open_for_some) = (0u32, 0u32);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut closed, mut right) = (0u32, 0u32);
            while !stop.load(Ordering::Relaxed) {
                match path.symlink_metadata().map(|status| status.permissions().mode() & 0o777) {
                    Ok(0o200) => closed += 1,
                    Ok(0o620) => right += 1,
                    Ok(other) => return Err(other),
                    Err(_) => {}
                }
            }
            Ok((closed, right))
        });
        for round in 0..3_000 {
            let address = parse(&format!("{}?mode=0620", folder.address(SCHEMES[round % 3], "a")));
            let bound = bind_and_listen(&address).unwrap();
            assert_eq!(bound.path.unwrap().unlink_if_ours(), Ok(true));
        }
        stop.store(true, Ordering::Relaxed);
        match watcher.join().unwrap() {
            Ok(seen) => (closed, open_for_some) = seen,
            Err(other) => panic!("the path was seen with mode {other:04o}"),
        }
    });
    assert!(closed > 0 && open_for_some > 0, "the watcher saw nothing: {closed}, {open_for_some}");
}

#[test]
fn a_path_is_removed_by_its_owner_only() {
    let folder = Folder::new();
    let address = folder.address("unix", "a");
    let first = bind_and_listen(&address).unwrap();
    let mine = first.path.clone().unwrap();
    std::fs::rename(folder.path("a"), folder.path("b")).unwrap();
    assert_eq!(mine.unlink_if_ours(), Ok(false), "there is nothing");
    let second = bind_and_listen(&address).unwrap();
    assert_eq!(mine.unlink_if_ours(), Ok(false), "another one's socket");
    assert_serves(UnixStream::connect(folder.path("a")).unwrap(), &second.fd);
    assert_eq!(second.path.unwrap().unlink_if_ours(), Ok(true));
    std::fs::write(folder.path("a"), "precious").unwrap();
    let file = folder.path("a").symlink_metadata().unwrap();
    let forged = PathOwner { path: mine.path.clone(), dev: file.dev(), ino: file.ino() };
    assert_eq!(forged.unlink_if_ours(), Ok(false), "not a socket");
    let under_a_file = PathOwner { path: [&mine.path, &b"/x"[..]].concat(), ..mine.clone() };
    assert_eq!(under_a_file.unlink_if_ours(), Ok(false));
    assert_eq!(std::fs::read_to_string(folder.path("a")).unwrap(), "precious");
}

#[test]
fn mode_and_owner_of_a_live_socket_are_changed_in_place() {
    let folder = Folder::new();
    let address = folder.address("unix", "a");
    let bound = open(&format!("{address}?mode=0600"));
    apply_live(bound.fd.as_fd(), &address, None).unwrap();
    assert_eq!(mode(&folder.path("a")), 0o600);
    apply_live(bound.fd.as_fd(), &parse(&format!("{address}?mode=0666&backlog=5")), None).unwrap();
    assert_eq!(mode(&folder.path("a")), 0o666);
    if nix::unistd::geteuid().is_root() {
        apply_live(bound.fd.as_fd(), &parse(&format!("{address}?owner=:4712")), None).unwrap();
        assert_eq!(folder.path("a").symlink_metadata().unwrap().gid(), 4712);
        assert_eq!(mode(&folder.path("a")), 0o666);
    }
    assert_serves(UnixStream::connect(folder.path("a")).unwrap(), &bound.fd);
    std::fs::remove_file(folder.path("a")).unwrap();
    let error = apply_live(bound.fd.as_fd(), &parse(&format!("{address}?mode=0666")), None).unwrap_err();
    let expected = format!("cannot change {address}: no such file or directory (ENOENT)");
    assert_eq!(error.to_string(), expected);
}
