//! A host that is started by socket activation, as systemd does it, and then upgrades itself.

#[allow(dead_code, reason = "shared with descriptors.rs, which uses all of it")]
#[path = "descriptors/host.rs"]
mod host;

use host::{Kind, Place, World, ask_once};
use nix::fcntl::{FcntlArg, fcntl};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::time::Duration;
use testkit::host::SOON;
use testkit::process::Proc;

/// Starts the host with these from descriptor 3 on, and LISTEN_PID its own pid.
fn activate(sockets: Vec<OwnedFd>, names: Option<&str>) -> World {
    World::start_by(&[], |family, host| {
        let mut program = family.program("/bin/sh");
        program = program.args(["-c", "export LISTEN_PID=$$; exec \"$0\""]).arg(host);
        program = program.env("LISTEN_FDS", sockets.len().to_string());
        if let Some(names) = names {
            program = program.env("LISTEN_FDNAMES", names);
        }
        // Above all the places, so that none is overwritten before its turn.
        let high: Vec<i32> =
            sockets.iter().map(|fd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(200)).unwrap()).collect();
        // SAFETY: dup2 is async-signal-safe and allocates nothing.
        unsafe {
            program.command().pre_exec(move || {
                for (number, fd) in (3..).zip(&high) {
                    if libc::dup2(*fd, number) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        program
    })
}

fn inode(fd: &impl AsFd) -> u64 {
    nix::sys::stat::fstat(fd.as_fd()).unwrap().st_ino
}

/// Blocking, as systemd passes them.
fn tcp(host: &str) -> (OwnedFd, u16) {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener.into(), port)
}

#[test]
fn sockets_are_found_by_name_and_by_address_and_the_rest_is_left_alone() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (one, _) = tcp("127.0.0.1");
    let (second, port) = tcp("127.0.0.1");
    let (third, third_port) = tcp("127.0.0.1");
    let (unknown, _) = tcp("127.0.0.1");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp_port = udp.local_addr().unwrap().port();
    let inodes: Vec<u64> = [&one, &second, &third, &unknown].map(inode).to_vec();
    let sockets = vec![one, second, third, udp.into(), unknown];
    let world = activate(sockets, Some("http:http:http:unknown:other.socket"));
    let now = world.zero();
    assert_eq!(now.text("inherited"), "http http#2 http#3 unknown other.socket");
    let found = |command: &str| {
        let fd = now.ok(command);
        assert_eq!(now.text(&format!("flags {fd}")), "1 1", "{command}");
        now.text(&format!("inode {fd}")).split(':').nth(1).unwrap().parse::<u64>().unwrap()
    };
    // By the name alone, by a further one of that name, by the address alone under a name of the host's choice.
    assert_eq!(found("inherit tcp://127.0.0.1:0?name=http"), inodes[0]);
    assert_eq!(found("inherit tcp://127.0.0.1:0?name=http%232"), inodes[1]);
    assert_eq!(found(&format!("listen tcp://127.0.0.1:{third_port}?name=mine")), inodes[2]);
    found(&format!("listen udp://127.0.0.1:{udp_port}"));
    // A stand-in for a name tells nothing.
    now.fails("inherit udp://127.0.0.1:0?name=unknown", libc::ENOENT);
    now.ok("ready -1");
    assert_eq!(now.text("inherited"), "other.socket");
    let left = Proc(now.pid).descriptors().into_iter().find(|fd| fd.number == 7).expect("it is open");
    assert_eq!((left.inode, left.cloexec), (Some(inodes[3]), false));
    assert_eq!(now.text("flags 7"), "0 0");
    assert_eq!(now.text("getenv LISTEN_FDS"), "5");
    assert_eq!(now.text("getenv LISTEN_PID"), now.pid.to_string());
    assert_eq!(now.text("getenv LISTEN_FDNAMES"), "http:http:http:unknown:other.socket");

    let place = Place { kind: Kind::TcpV4, ..Place::tcp(port) };
    let queued = place.connect().unwrap();
    queued.send().unwrap();
    let next = world.upgrade(&now, |next| {
        let inherited = next.text("inherited");
        assert_eq!(inherited, format!("http http#2 mine udp://127.0.0.1:{udp_port}"));
        for variable in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "SHELLFLIP_CHANNEL"] {
            next.fails(&format!("getenv {variable}"), libc::ENOENT);
        }
        assert!(!Proc(next.pid).descriptors().iter().any(|fd| fd.inode == Some(inodes[3])));
        let fd = next.ok("listen tcp://127.0.0.1:0?name=http%232");
        next.ok(&format!("serve {fd}"));
    });
    assert_eq!(queued.answer(), Ok(next.pid));
    drop(queued);
    world.family.wait_gone(now.pid, SOON);
    assert_eq!(ask_once(&place), Ok(next.pid));
    world.stop(&next);
}

/// It is not in the table that the successor has: only the manager would hold it, and nobody accept.
#[test]
fn what_is_not_claimed_before_an_upgrade_can_not_be_claimed_during_one() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let ((one, _), (other, port)) = (tcp("127.0.0.1"), tcp("127.0.0.1"));
    let world = activate(vec![one, other], Some("one:other"));
    let now = world.zero();
    now.ok("inherit tcp://127.0.0.1:0?name=one");
    now.ok("ready -1");
    world.failing_upgrade(&now, |_| {
        now.fails(&format!("listen tcp://127.0.0.1:{port}"), libc::EALREADY);
        now.fails("inherit tcp://127.0.0.1:0?name=other", libc::EALREADY);
        now.fails("take other", libc::EALREADY);
    });
    assert_eq!(now.text("inherited"), "other");
    now.ok("take other");
    world.stop(&now);
}

#[test]
fn the_path_of_a_socket_from_systemd_is_never_unlinked() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let folder = host::Folder::new();
    let place = Place::new(Kind::UnixPath, &folder, "p");
    let listener = UnixListener::bind(&place.path).unwrap();
    let world = activate(vec![listener.try_clone().unwrap().into()], None);
    let now = world.zero();
    now.ok(&format!("inherit {}", place.address));
    now.ok("ready -1");
    let next = world.upgrade(&now, |next| _ = next.ok(&format!("inherit {}", place.address)));
    world.stop(&next);
    assert!(place.path.exists());
}

#[test]
fn a_second_handle_does_not_take_for_a_socket_what_has_its_number_now() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (one, port) = tcp("127.0.0.1");
    let (other, _) = tcp("127.0.0.1");
    let world = activate(vec![one, other], Some("a:b"));
    let now = world.zero();
    let fd = now.ok(&format!("listen tcp://127.0.0.1:{port}"));
    now.ok("ready -1");
    now.ok(&format!("close {fd}"));
    assert_eq!(now.ok("again"), 0);
    // 3 may be anything by now; 4 was never claimed.
    assert_eq!(now.text("inherited"), "b");
    now.ok("inherit tcp://127.0.0.1:0?name=b");
    now.ok("ready -1");
    now.send("free");
    world.family.assert_none_left(SOON);
}

#[test]
fn what_is_listed_and_not_open_is_an_error() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = testkit::process::Family::new();
    let host = testkit::host::c_program("tests/c/passes.c", &[]);
    let mut program = family.program("/bin/sh").args(["-c", "export LISTEN_PID=$$; exec \"$0\""]).arg(host);
    program = program.env("LISTEN_FDS", "1").env("PASSES_DIR", "/nonexistent");
    // SAFETY: close_range is one system call.
    unsafe {
        program.command().pre_exec(|| {
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
    let mut process = program.start();
    assert_eq!(process.wait(SOON).code(), Some(2));
    assert!(process.output().contains("descriptor 3 is not open"), "{}", process.output());
}
