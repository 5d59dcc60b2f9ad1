//! What a successor finds when the whole library has started it, and what becomes of an upgrade when the host has given
//! up rights since `flip_init`. The spawn alone is in `tests/spawn.rs`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;
use testkit::deadline::{wait_for, wait_until};
use testkit::host::{Host, SOON, c_program, library_folder};
use testkit::process::{Family, Output, Proc, copy_program, temp_dir};

const OURS: [&str; 5] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "SHELLFLIP_CHANNEL"];

fn look() -> String {
    let path = c_program("tests/c/look.c", &["-Wl,--as-needed"]);
    path.to_str().unwrap().replace('/', "%2F")
}

/// A path as one segment of a request.
fn segment(path: &Path) -> String {
    path.to_str().unwrap().replace('/', "%2F")
}

/// What `look.c` saw, by the first word of its lines.
fn first_look(host: &Host, folder: &Path) -> BTreeMap<String, Vec<String>> {
    let out = folder.join("look");
    host.call(&format!("/env/LOOK_OUT/{}", segment(&out)));
    host.call(&format!("/command/{}", look()));
    let called = host.upgrade();
    assert!(called.error.contains("exited with status 0 before it was ready"), "{called:?}");
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(text.ends_with("end\n"), "{text}");
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (word, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
        seen.entry(word.into()).or_default().push(rest.into());
    }
    seen
}

fn variable<'a>(seen: &'a BTreeMap<String, Vec<String>>, name: &str) -> Option<&'a str> {
    seen["env"].iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

fn mask(seen: &BTreeMap<String, Vec<String>>, name: &str) -> u64 {
    let line = seen["status"].iter().find_map(|line| line.strip_prefix(name)).unwrap();
    without_those_of_the_c_library(u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap())
}

/// posix_spawn of glibc leaves 32 and 33 ignored, so whoever started the tests may have.
fn without_those_of_the_c_library(mask: u64) -> u64 {
    mask & !(bit(32) | bit(33))
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[test]
fn a_new_program_has_0_to_2_its_sockets_and_the_channel_and_nothing_else() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let folder = temp_dir();
    let host = Host::start(&family, &[("HOST_BEFORE_READY", "leak")]);
    assert!(host.call("/listen/tcp:%2F%2F127.0.0.1:0%3Fname=second").rc >= 0);
    let parent = host.process.proc();
    let leaked = parent.descriptors().into_iter().filter(|one| one.number > 2 && !one.cloexec);
    assert!(leaked.count() >= 7, "the host has descriptors without CLOEXEC: {:?}", parent.descriptors());
    let seen = first_look(&host, folder.path());
    let numbers: Vec<i32> =
        seen["fd"].iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5], "{seen:#?}");
    // 0 to 2 are the host's; 3 and 4 are sockets that the host has; 5 the channel, which only the library has.
    let target = |number: usize| seen["fd"][number].split(' ').nth(1).unwrap().to_string();
    let of_host = || -> Vec<(i32, String)> {
        parent.descriptors().into_iter().map(|one| (one.number, one.target)).collect()
    };
    // The host's copy of the new program's end is closed once that runs.
    wait_until("only the new program has the channel", SOON, || {
        !of_host().iter().any(|(_, one)| *one == target(5))
    });
    let of_host = of_host();
    for number in 0..3 {
        assert!(of_host.contains(&(number as i32, target(number))), "{number}: {seen:#?}");
    }
    for number in 3..5 {
        assert!(of_host.iter().any(|(_, one)| *one == target(number)), "{number}: {seen:#?} {of_host:?}");
    }
    assert!(target(5).starts_with("socket:["), "{seen:#?}");
    let pid = seen["pid"][0].clone();
    assert_eq!(variable(&seen, "LISTEN_PID"), Some(pid.as_str()));
    assert_eq!(variable(&seen, "LISTEN_FDS"), Some("2"));
    let channel = variable(&seen, "SHELLFLIP_CHANNEL").unwrap();
    assert!(channel.starts_with(&format!("{pid}:5:")), "{channel}");
    assert_eq!(host.call("/request/2").rc, 0);
    family.assert_none_left(SOON);
}

#[test]
fn signals_are_those_of_the_first_start_whatever_the_host_has_done_since() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let folder = temp_dir();
    let mut program = family.program(c_program("tests/c/host.c", &[])).env("HOST_BEFORE_READY", "signals");
    // SAFETY: both are async-signal-safe, and the set is the child's own.
    unsafe {
        program.command().pre_exec(|| {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGWINCH);
            libc::pthread_sigmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            libc::signal(libc::SIGQUIT, libc::SIG_IGN);
            Ok(())
        })
    };
    let host = Host::run(program);
    let now = host.process.proc();
    let changed = bit(libc::SIGUSR2) | bit(libc::SIGWINCH) | bit(libc::SIGRTMIN() + 1);
    assert_eq!(now.blocked(), Some(changed));
    let ignored = now.ignored().map(without_those_of_the_c_library);
    assert_eq!(ignored, Some(bit(libc::SIGTSTP) | bit(libc::SIGQUIT)));
    let caught = bit(libc::SIGALRM) | bit(libc::SIGTERM) | bit(libc::SIGUSR1) | bit(libc::SIGINT);
    assert_eq!(now.caught().map(|all| all & caught), Some(caught));
    let seen = first_look(&host, folder.path());
    assert_eq!(mask(&seen, "SigBlk"), bit(libc::SIGWINCH), "{seen:#?}");
    assert_eq!(mask(&seen, "SigIgn"), bit(libc::SIGHUP) | bit(libc::SIGQUIT), "{seen:#?}");
    assert_eq!((mask(&seen, "SigCgt"), mask(&seen, "SigPnd"), mask(&seen, "ShdPnd")), (0, 0, 0));
    assert_eq!(host.call("/request/2").rc, 0);
    family.assert_none_left(SOON);
}

#[test]
fn a_third_generation_starts_with_the_signals_of_the_first() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let folder = temp_dir();
    let host = Host::start(&family, &[("HOST_BEFORE_READY", "signals,leak")]);
    let mut pid = host.who().pid;
    for _ in 0..2 {
        assert!(host.upgrade().rc > 0);
        pid = host.wait_for_other(pid).pid;
    }
    let seen = first_look(&host, folder.path());
    assert_eq!((mask(&seen, "SigBlk"), mask(&seen, "SigIgn")), (0, 0), "{seen:#?}");
    assert_eq!(seen["fd"].len(), 5, "{seen:#?}");
    assert_eq!(host.call("/request/2").rc, 0);
    family.assert_none_left(SOON);
}

#[test]
fn its_own_pid_is_in_its_environment_and_its_children_see_none_of_it() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let folder = temp_dir();
    let host = Host::start(&family, &[]);
    let mut pid = host.who().pid;
    for generation in 1..=2 {
        assert!(host.upgrade().rc > 0);
        pid = host.wait_for_other(pid).pid;
        let own = pid.to_string();
        let value = |name| String::from_utf8(Proc(pid).variable(name).unwrap()).unwrap();
        assert_eq!(value("LISTEN_PID"), own);
        assert_eq!(value("SHELLFLIP_CHANNEL").split(':').next(), Some(own.as_str()));
        let out = folder.path().join(generation.to_string());
        let command = format!("env > {0} && ls -l /proc/self/fd > {0}.fds", out.display());
        let command = command.replace('/', "%2F").replace(' ', "%20");
        assert_eq!(host.call(&format!("/system/{command}")).rc, 0);
        let seen = std::fs::read_to_string(&out).unwrap();
        assert!(seen.contains("PATH="), "{seen}");
        let left: Vec<&str> =
            seen.lines().filter(|line| OURS.iter().any(|name| line.starts_with(name))).collect();
        assert!(left.is_empty(), "{left:?}");
        // 0 to 2, and the folder that ls reads.
        let descriptors = std::fs::read_to_string(out.with_extension("fds")).unwrap();
        assert_eq!(descriptors.lines().filter(|line| line.contains("->")).count(), 4, "{descriptors}");
    }
    assert_eq!(host.call("/request/2").rc, 0);
    family.assert_none_left(SOON);
}

#[test]
fn an_upgrade_is_one_vfork_like_clone_and_no_fork() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let family = Family::new();
    let folder = temp_dir();
    let trace = folder.path().join("trace");
    let host = c_program("tests/c/host.c", &[]);
    let program = family
        .program("strace")
        .args(["-f", "-qq", "-e", "trace=clone,clone3,fork,vfork,execve", "-o"])
        .arg(&trace)
        .arg(&host);
    let host = Host::run(program);
    let mut pid = host.who().pid;
    for _ in 0..3 {
        let called = host.upgrade();
        assert!(called.rc > 0, "{called:?}");
        let next = host.wait_for_other(pid).pid;
        // The old one may answer a moment longer.
        testkit::wait_until("the end of the old process", SOON, || !testkit::process::Proc(pid).alive());
        pid = next;
    }
    assert_eq!(host.call("/request/2").rc, 0);
    family.assert_none_left(SOON);
    let text = std::fs::read_to_string(&trace).unwrap();
    let starts: Vec<&str> = text
        .lines()
        .filter(|line| ["fork(", "clone(", "clone3("].iter().any(|call| line.contains(call)))
        .filter(|line| !line.contains("CLONE_THREAD") && !line.contains("resumed"))
        .collect();
    assert_eq!(starts.len(), 3, "{text}");
    for start in starts {
        let flags = ["CLONE_VM", "CLONE_VFORK", "CLONE_PIDFD", "SIGCHLD"];
        assert!(flags.iter().all(|flag| start.contains(flag)), "{start}");
    }
    assert_eq!(text.lines().filter(|line| line.contains("execve(")).count(), 4, "{text}");
}

/// The host and the library where any user may read them.
fn public_copy(folder: &Path) -> std::path::PathBuf {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let host = folder.join("host");
    copy_program(c_program("tests/c/host.c", &[]), &host);
    std::fs::copy(library_folder().join("libshellflip.so"), folder.join("libshellflip.so.0")).unwrap();
    host
}

#[test]
fn a_host_that_has_become_another_user_since_goes_on_upgrading() {
    let _limit = testkit::limit(Duration::from_secs(60));
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        println!(
            "SKIPPED: a_host_that_has_become_another_user_since_goes_on_upgrading: only root may setuid"
        );
        return;
    }
    let family = Family::new();
    let folder = temp_dir();
    let program = family
        .program(public_copy(folder.path()))
        .directory(folder.path())
        .env("LD_LIBRARY_PATH", folder.path())
        .env("HOST_BEFORE_READY", "setuid:65534");
    let host = Host::run(program);
    host.process.wait_for_output("setuid 0", SOON);
    upgrades_go_on(&host, |pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    });
    family.assert_none_left(SOON);
}

#[test]
fn a_seccomp_filter_on_the_hosts_main_thread_does_not_reach_the_librarys() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let host = Host::start(&family, &[("HOST_BEFORE_READY", "seccomp")]);
    host.process.wait_for_output("seccomp 0", SOON);
    let filtered = |pid: i32, tid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap();
        status.lines().any(|line| line.starts_with("Seccomp:") && line.ends_with('2'))
    };
    let pid = host.process.pid();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = threads.map(|one| one.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let with_filter: Vec<i32> = threads.filter(|tid| filtered(pid, *tid)).collect();
    assert_eq!(with_filter, [pid]);
    upgrades_go_on(&host, |pid| {
        // Set by its own main thread, and not inherited from the one before.
        wait_for("a filter of its own", SOON, || filtered(pid, pid).then_some(()));
    });
    family.assert_none_left(SOON);
}

/// Root's alone: the owner of a path is set when a successor is ready, by the library.
#[test]
fn what_the_main_thread_has_given_up_before_flip_ready_does_not_matter_to_the_library() {
    let _limit = testkit::limit(Duration::from_secs(60));
    // SAFETY: asks for a number.
    let root = unsafe { libc::geteuid() } == 0;
    for how in ["filter", "capabilities"] {
        let (family, folder) = (Family::new(), temp_dir());
        let path = folder.path().join("server");
        let owner = if root { "?owner=65534" } else { "" };
        let program = family
            .program(c_program("tests/c/filtered.c", &[]))
            .args([how.to_string(), format!("unix:{}{owner}", path.display())]);
        let mut process = program.output(Output::File).env("SHELLFLIP_LOG", "error").start();
        assert!(process.wait(SOON * 2).success(), "{how}: {}", process.output());
        assert_eq!(process.output(), "upgraded\n", "{how}");
        family.assert_none_left(SOON);
    }
}

fn upgrades_go_on(host: &Host, check: impl Fn(i32)) {
    let mut pid = host.who().pid;
    for generation in 1..=3 {
        let called = host.upgrade();
        assert!(called.rc > 0, "{called:?}\n{}", host.process.output());
        let who = host.wait_for_other(pid);
        assert_eq!(who.generation, generation);
        pid = who.pid;
        check(pid);
    }
    assert_eq!(host.call("/request/2").rc, 0);
}

#[test]
fn flip_free_wakes_flip_ready() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let host = Host::start(&family, &[("SHELLFLIP_FAULT", "send:COMMIT=sleep:1500")]);
    let before = host.who();
    host.call("/env/HOST_BEFORE_READY/ready-free");
    let called = host.upgrade();
    assert_eq!(called.rc, -i64::from(libc::ECONNREFUSED), "{called:?}");
    host.process.wait_for_output(&format!("ready-free -{}", libc::ECANCELED), SOON);
    assert_eq!(host.who(), before);
    assert_eq!(host.call("/request/2").rc, 0);
    family.assert_none_left(SOON);
}
