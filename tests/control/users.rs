//! Other users: the mode and owner of the path decide, and on an abstract name root and the server's own user.

use crate::served::{LIMIT, Served, rest};
use std::io::{self, Write};
use std::os::fd::FromRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use testkit::host::SOON;

/// Ids that belong to nobody.
const USER: u32 = 54321;
const GROUP: u32 = 23456;
const OTHER_GROUP: u32 = 23457;
/// What the kernel shows of users that a namespace does not know.
const OVERFLOW: u32 = 65534;

fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIPPED: {test}: only root can become another user");
    }
    root
}

/// What that user gets who connects to `address`, a sockaddr_un, and asks for the status.
fn ask_as(user: u32, group: u32, address: Vec<u8>) -> io::Result<String> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let out = std::os::fd::IntoRawFd::into_raw_fd(theirs);
    let mut command = Command::new("/bin/true");
    // SAFETY: system calls alone, on memory that was made before the fork.
    unsafe {
        command.pre_exec(move || {
            let mut raw: libc::sockaddr_un = std::mem::zeroed();
            raw.sun_family = libc::AF_UNIX as libc::sa_family_t;
            for (to, from) in raw.sun_path.iter_mut().zip(&address) {
                *to = *from as libc::c_char;
            }
            // A path ends with its NUL, an abstract name with the last byte.
            let extra = if address.first() == Some(&0) { 0 } else { 1 };
            let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + address.len() + extra;
            let ok = |rc: i32| if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) };
            ok(libc::setgroups(0, std::ptr::null()))?;
            ok(libc::setgid(group))?;
            ok(libc::setuid(user))?;
            let socket = ok(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
            ok(libc::connect(socket, (&raw const raw).cast(), length as libc::socklen_t))?;
            ok(libc::write(socket, b"status\n".as_ptr().cast(), 7) as i32)?;
            let mut buffer = [0u8; 512];
            let got = ok(libc::read(socket, buffer.as_mut_ptr().cast(), buffer.len()) as i32)?;
            ok(libc::write(out, buffer.as_ptr().cast(), got as usize) as i32)?;
            Ok(())
        })
    };
    let spawned = command.spawn();
    // SAFETY: from into_raw_fd, and used by the child alone until now.
    drop(unsafe { UnixStream::from_raw_fd(out) });
    spawned?.wait()?;
    ours.set_read_timeout(Some(SOON)).unwrap();
    Ok(rest(ours))
}

#[test]
fn the_sockets_group_may_ask_and_nobody_else() {
    let _limit = testkit::limit(LIMIT);
    if !is_root("users::the_sockets_group_may_ask_and_nobody_else") {
        return;
    }
    let query = format!("unix://DIR/ctl?mode=0660&owner=:{GROUP}");
    let served = Served::at(&query, &[]);
    std::fs::set_permissions(served.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = || served.socket.as_os_str().as_encoded_bytes().to_vec();
    for _ in 0..2 {
        let told = ask_as(USER, GROUP, path()).expect("in the group");
        assert!(told.starts_with('{'), "{told}");
        let refused = ask_as(USER, OTHER_GROUP, path()).expect_err("not in the group");
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        // The next generation, too.
        served.upgrade();
    }
    served.stop();
    let served = Served::start(&[]);
    std::fs::set_permissions(served.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = served.socket.as_os_str().as_encoded_bytes().to_vec();
    let refused = ask_as(USER, GROUP, path).expect_err("mode 0600");
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    served.stop();
}

#[test]
fn an_abstract_name_answers_root_and_the_servers_own_user() {
    let _limit = testkit::limit(LIMIT);
    if !is_root("users::an_abstract_name_answers_root_and_the_servers_own_user") {
        return;
    }
    // The server's user, those who may ask, those who may not.
    let cases = [
        (0, vec![0], vec![USER, OVERFLOW]),
        (USER, vec![0, USER], vec![USER + 1, OVERFLOW]),
        // Somebody of another user namespace looks like this one.
        (OVERFLOW, vec![0], vec![USER, OVERFLOW]),
    ];
    for (server, may, may_not) in cases {
        let name = format!("shellflip-test-{}-{server}", std::process::id());
        let steps = format!("setuid:{server}");
        let environment: &[(&str, &str)] =
            if server == 0 { &[] } else { &[("HOST_BEFORE_READY", &steps), ("SHELLFLIP_LOG", "error")] };
        let mut served = Served::at(&format!("unix:@{name}"), environment);
        if server != 0 {
            served.host.process.wait_for_output("setuid 0", SOON);
        }
        let address = || [b"\0", name.as_bytes()].concat();
        for user in may {
            let told = ask_as(user, GROUP, address()).expect("a connection");
            assert!(told.starts_with('{'), "{user} asks {server}: {told}");
        }
        for user in may_not {
            let told = ask_as(user, GROUP, address()).expect("a connection");
            let refused = format!("failed 0 {} only root and the user", libc::EACCES);
            assert!(told.starts_with(&refused), "{user} asks {server}: {told}");
        }
        // By the client of the library, as root.
        let at = shellflip::control::parse_address(format!("unix:@{name}").as_bytes()).unwrap();
        let stopped = shellflip::control::request(&at, shellflip::control::Request::Stop, Some(SOON));
        assert_eq!(stopped, Ok(None));
        served.wait_gone(served.first());
    }
}

#[test]
fn a_client_that_may_not_ask_cannot_stay_either() {
    let _limit = testkit::limit(LIMIT);
    if !is_root("users::a_client_that_may_not_ask_cannot_stay_either") {
        return;
    }
    let name = format!("shellflip-test-{}-stay", std::process::id());
    let mut served = Served::at(&format!("unix:@{name}"), &[]);
    let address = [b"\0", name.as_bytes()].concat();
    for _ in 0..100 {
        assert!(ask_as(USER, GROUP, address.clone()).unwrap().starts_with("failed 0 13 "));
    }
    let _ = std::io::stdout().flush();
    served.host.process.signal(testkit::process::Signal::SIGTERM);
    served.wait_gone(served.first());
}
