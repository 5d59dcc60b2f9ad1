//! A host in C replaces itself: the plain cases.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::time::Duration;
use testkit::host::{Host, SOON, c_program, capable_copy};
use testkit::process::{Family, temp_dir};

#[test]
fn a_host_upgrades_itself_three_times_and_stops() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let host = Host::start(&family, &[]);
    let mut last = host.who();
    for generation in 1..=3 {
        let called = host.call("/upgrade");
        assert!(called.rc > 0, "{called:?}");
        let who = host.wait_for_other(last.pid);
        assert_eq!((who.generation, i64::from(who.pid)), (generation, called.rc));
        family.wait_gone(last.pid, SOON);
        last = who;
    }
    assert_eq!(host.call("/request/2").rc, 0);
    family.wait_gone(last.pid, SOON);
    family.assert_none_left(SOON);
}

#[test]
fn a_new_program_that_exits_leaves_the_old_one_serving_and_the_next_upgrade_works() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let host = Host::start(&family, &[]);
    let first = host.who();
    host.call("/env/HOST_BEFORE_READY/exit:3");
    let called = host.call("/upgrade");
    assert_eq!((called.rc, called.failure), (-i64::from(libc::ECONNABORTED), 2));
    assert!(called.error.contains("exited with status 3 before it was ready"), "{called:?}");
    assert_eq!(host.who(), first);
    host.call("/env/HOST_BEFORE_READY");
    assert!(host.call("/upgrade").rc > 0);
    assert_eq!(host.wait_for_other(first.pid).generation, 1);
}

/// The second thread of the library is started when the process is ready, and by an upgrade where that failed.
#[test]
fn a_spawner_that_cannot_be_started_fails_upgrades_until_it_can() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let fail: Vec<String> = (2..=6).map(|time| format!("thread#{time}=fail:{}", libc::EAGAIN)).collect();
    let host = Host::start(&family, &[("SHELLFLIP_FAULT", &fail.join(","))]);
    let first = host.who();
    host.call("/env/SHELLFLIP_FAULT");
    let mut failed = 0;
    loop {
        let called = host.call("/upgrade");
        if called.rc > 0 {
            break;
        }
        // EAGAIN would say that this process is not ready yet.
        assert_eq!((called.rc, called.failure), (-i64::from(libc::ENOEXEC), 1), "{called:?}");
        assert!(called.error.contains("cannot start a thread of the library"), "{called:?}");
        assert_eq!(host.who(), first);
        failed += 1;
        assert!(failed < 6, "each try is one time less to fail");
    }
    assert!(failed > 0);
    assert_eq!(host.wait_for_other(first.pid).generation, 1);
}

/// Set-user-id is the same to the kernel, and a folder may be mounted without it.
#[test]
fn a_program_with_file_capabilities_is_refused_an_upgrade_and_serves_on() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (family, folder) = (Family::new(), temp_dir());
    let host = match capable_copy("tests/c/host.c", folder.path()) {
        Ok(host) => host,
        Err(why) => {
            println!(
                "SKIPPED: a_program_with_file_capabilities_is_refused_an_upgrade_and_serves_on: cannot give them: {why}"
            );
            return;
        }
    };
    // Nor is a listener given to who starts it.
    let path = folder.path().join("notify");
    let notify = UnixDatagram::bind(&path).expect("a socket");
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("its mode");
    let program = family.program(host).directory(folder.path());
    let mut program = program.env("NOTIFY_SOCKET", path).env("HOST_FD_STORE", "1");
    program.command().uid(65534).gid(65534);
    let host = Host::run(program);
    let called = host.call("/upgrade");
    assert_eq!((called.rc, called.failure), (-i64::from(libc::EOPNOTSUPP), 13));
    assert!(called.error.contains("file capabilities"), "{called:?}");
    assert_eq!(host.who().generation, 0);
    drop(host);
    family.assert_none_left(SOON);
    notify.set_nonblocking(true).expect("not blocking");
    let mut heard = String::new();
    let mut chunk = [0; 1024];
    while let Ok(length) = notify.recv(&mut chunk) {
        heard += &String::from_utf8_lossy(&chunk[..length]);
    }
    assert!(heard.contains("READY=1") && !heard.contains("FDSTORE=1"), "{heard}");
}

#[test]
fn process_1_is_refused_an_upgrade_and_serves_on() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let unshare =
        family.program("unshare").args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]);
    let host = Host::run(unshare.arg(c_program("tests/c/host.c", &[])));
    assert_eq!(host.who().pid, 1);
    let called = host.call("/upgrade");
    assert_eq!((called.rc, called.failure), (-i64::from(libc::EOPNOTSUPP), 13));
    assert!(called.error.contains("process 1"), "{called:?}");
    assert_eq!(host.who().generation, 0);
    drop(host);
    family.assert_none_left(SOON);
}
