//! A host in C replaces itself: the plain cases.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::time::Duration;
use testkit::host::{Host, SOON, c_program, library_folder};
use testkit::process::{Family, copy_program, temp_dir};

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
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let host = folder.path().join("host");
    let rpath = format!("-Wl,-rpath,{}", folder.path().display());
    copy_program(c_program("tests/c/host.c", &[&rpath]), &host);
    std::fs::copy(library_folder().join("libshellflip.so"), folder.path().join("libshellflip.so.0")).unwrap();
    // CAP_NET_BIND_SERVICE, permitted and effective: linux/capability.h, struct vfs_cap_data of revision 2.
    let capabilities = [0x0200_0001u32, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
    // SAFETY: strings and bytes that outlive the call.
    let failed = unsafe {
        let path = CString::new(host.as_os_str().as_bytes()).unwrap();
        libc::setxattr(
            path.as_ptr(),
            c"security.capability".as_ptr(),
            capabilities.as_ptr().cast(),
            capabilities.len(),
            0,
        )
    };
    if failed != 0 {
        println!(
            "SKIPPED: a_program_with_file_capabilities_is_refused_an_upgrade_and_serves_on: setxattr: {}",
            std::io::Error::last_os_error()
        );
        return;
    }
    let mut program = family.program(host).directory(folder.path());
    program.command().uid(65534).gid(65534);
    let host = Host::run(program);
    let called = host.call("/upgrade");
    assert_eq!((called.rc, called.failure), (-i64::from(libc::EOPNOTSUPP), 13));
    assert!(called.error.contains("file capabilities"), "{called:?}");
    assert_eq!(host.who().generation, 0);
    drop(host);
    family.assert_none_left(SOON);
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
