//! Nothing is left behind: not by a call that fails at any system call on its way, not by generations that follow
//! each other, not by upgrades that fail, whatever phase they were in. And no signal is raised by a peer that dies.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::deadline::{try_for, wait_for, wait_until};
use testkit::host::{Host, SOON, c_program};
use testkit::process::{Family, MARK_VARIABLE, Output, Proc, temp_dir};

/// How many generations, how many failed upgrades.
fn rounds() -> usize {
    if std::env::var("SHELLFLIP_DEEP").as_deref() == Ok("1") { 1000 } else { 200 }
}

/// Every fault point of `src` that stands for one system call.
fn points() -> BTreeSet<String> {
    fn visit(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, found);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                found.extend(
                    text.split("fault::at(\"").skip(1).map(|rest| rest.split('"').next().unwrap().into()),
                );
            }
        }
    }
    let mut found = BTreeSet::new();
    visit(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() >= 30, "{found:?}");
    found
}

/// What a process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holds {
    descriptors: usize,
    threads: usize,
    children: usize,
    mappings: usize,
    resident_kib: u64,
}

impl Holds {
    fn of(process: Proc) -> Holds {
        Holds {
            descriptors: process.descriptors().len(),
            threads: process.threads().unwrap_or_default(),
            children: process.children().len(),
            mappings: process.mappings().unwrap_or_default(),
            resident_kib: process.resident().unwrap_or_default() / 1024,
        }
    }

    /// Descriptors, threads and children to the last one; memory as far as an allocator lets one say.
    fn is_no_more_than(&self, before: &Holds) -> bool {
        let exact = |holds: &Holds| (holds.descriptors, holds.threads, holds.children);
        exact(self) == exact(before)
            && self.mappings <= before.mappings + 16
            && self.resident_kib <= before.resident_kib + 2048
    }
}

/// Once the connections of the test are over, `process` holds no more than before.
#[track_caller]
fn assert_no_more(process: Proc, before: &Holds) {
    if try_for(SOON, || Holds::of(process).is_no_more_than(before).then_some(())).is_none() {
        let (after, descriptors) = (Holds::of(process), process.descriptors());
        panic!("before {before:?}\nafter  {after:?}\n{descriptors:#?}");
    }
}

/// What it holds at rest: the same twice, 50 ms apart.
fn at_rest(process: Proc) -> Holds {
    let mut last = None;
    wait_for("a process at rest", SOON, || {
        std::thread::sleep(Duration::from_millis(50));
        let now = Holds::of(process);
        let same = last.as_ref() == Some(&now);
        last = Some(now.clone());
        same.then_some(now)
    })
}

#[test]
fn late_generations_hold_no_more_than_early_ones() {
    let _limit = testkit::limit(Duration::from_secs(1200));
    let family = Family::new();
    let host = Host::start(&family, &[]);
    let mut pid = host.who().pid;
    let mut early = None;
    for generation in 1..=rounds() as i64 {
        let called = host.upgrade();
        assert!(called.rc > 0, "{generation}: {called:?}");
        let who = host.wait_for_other(pid);
        assert_eq!(who.generation, generation);
        family.wait_gone(pid, SOON);
        pid = who.pid;
        if generation == 5 {
            early = Some(at_rest(Proc(pid)));
        }
    }
    assert_no_more(Proc(pid), &early.expect("a fifth generation"));
    assert_eq!(host.call("/request/2").rc, 0);
    family.assert_none_left(SOON);
}

/// One way for an upgrade to fail: requests that bring it about, the result, a part of the text.
struct Way {
    prepare: Vec<String>,
    errno: i32,
    text: &'static str,
}

fn way(prepare: &[&str], errno: i32, text: &'static str) -> Way {
    Way { prepare: prepare.iter().map(|one| one.to_string()).collect(), errno, text }
}

fn ways(folder: &Path) -> Vec<Way> {
    // Execution itself fails: no format that the kernel knows, found out in the child.
    let nothing = folder.join("nothing");
    std::fs::write(&nothing, [0; 64]).unwrap();
    std::fs::set_permissions(&nothing, PermissionsExt::from_mode(0o755)).unwrap();
    let nothing = format!("/command/{}", nothing.to_str().unwrap().replace('/', "%2F"));
    let rogue = c_program("tests/c/rogue.c", &["-Wl,--as-needed"]).to_str().unwrap().replace('/', "%2F");
    let rogue = format!("/command/{rogue}");
    let next = |fault: &str| format!("/env/SHELLFLIP_FAULT_NEXT/{fault}");
    let aborted = libc::ECONNABORTED;
    vec![
        way(&["/command/%2Fnonexistent%2Fserver"], libc::ENOENT, "no such file"),
        way(&["/command/no-such-program-in-path"], libc::ENOENT, "no-such-program-in-path"),
        way(&["/command/%2Fetc%2Fpasswd"], libc::EACCES, "permission denied"),
        way(&[&nothing], libc::ENOEXEC, "exec format error"),
        way(&["/directory/%2Fnonexistent"], libc::ENOENT, "nonexistent"),
        way(&["/env/HOST_BEFORE_READY/exit:3"], aborted, "exited with status 3"),
        way(&["/env/HOST_BEFORE_READY/exit:0"], aborted, "exited with status 0"),
        way(&["/env/HOST_BEFORE_READY/kill"], aborted, "signal 9"),
        way(&["/env/HOST_BEFORE_READY/free"], libc::ECONNREFUSED, ""),
        way(&[&next("received:HELLO=kill")], aborted, "signal 9"),
        way(&[&next("received:HELLO=fail:5")], aborted, "exited with status 2"),
        way(&[&next("send:READY=exit")], aborted, "exited with status 0"),
        way(&[&next("sent:READY=kill")], aborted, "signal 9"),
        way(&[&next("received:COMMIT=kill")], aborted, "signal 9"),
        way(&[&next("send:LIVE=kill")], aborted, "signal 9"),
        way(&[&next("socketpair=fail:24")], aborted, "exited with status 2"),
        way(&["/env/HOST_ADDRESS/nonsense"], aborted, "exited with status 3"),
        way(&["/command/sleep/1000"], libc::ETIME, "was not ready"),
        way(&[&rogue], libc::EPROTO, ""),
    ]
}

const CLEAN: [&str; 5] = [
    "/env/HOST_BEFORE_READY",
    "/env/SHELLFLIP_FAULT_NEXT",
    "/env/HOST_ADDRESS",
    "/directory/.",
    "/command/PROGRAM",
];

#[test]
fn a_process_that_survives_upgrades_that_fail_in_every_phase_holds_no_more_than_before() {
    let _limit = testkit::limit(Duration::from_secs(1200));
    let family = Family::new();
    let program = c_program("tests/c/host.c", &[]);
    let own = program.to_str().unwrap().replace('/', "%2F");
    // One way has to wait for it, all others must not meet it on a busy machine.
    let host = Host::start(&family, &[("UPGRADE_TIMEOUT_MS", "3000")]);
    let me = host.who();
    let folder = temp_dir();
    let ways = ways(folder.path());
    let mut before = None;
    let mut failed = 0;
    while failed < rounds() {
        for way in &ways {
            for clean in CLEAN {
                assert_eq!(host.call(&clean.replace("PROGRAM", &own)).rc.min(0), 0);
            }
            for request in &way.prepare {
                assert_eq!(host.call(request).rc, 0, "{request}");
            }
            // The one that waits for its deadline: in the first rounds, then now and then.
            if way.errno == libc::ETIME
                && failed > 2 * ways.len()
                && !(failed / ways.len()).is_multiple_of(10)
            {
                continue;
            }
            let called = host.upgrade();
            failed += 1;
            assert_eq!(called.rc, -i64::from(way.errno), "{:?}: {called:?}", way.prepare);
            assert!(called.error.to_lowercase().contains(way.text), "{:?}: {called:?}", way.prepare);
            assert_eq!(family.zombies(), [], "{:?}", way.prepare);
        }
        if before.is_none() {
            before = Some(at_rest(host.process.proc()));
        }
    }
    assert_eq!(host.who(), me);
    assert_no_more(host.process.proc(), &before.expect("a first round"));
    for clean in CLEAN {
        host.call(&clean.replace("PROGRAM", &own));
    }
    assert!(host.upgrade().rc > 0);
    assert_eq!(host.wait_for_other(me.pid).generation, 1);
    assert_eq!(host.call("/request/2").rc, 0);
    family.assert_none_left(SOON);
}

/// How often each point was met, from a log.
fn met(log: &Path) -> BTreeMap<String, usize> {
    let mut met = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap_or_default().lines() {
        let point = line.split(' ').nth(1).unwrap();
        *met.entry(point.to_string()).or_default() += 1;
    }
    met
}

/// Not failed: waits that a busy machine makes as many of as it likes; what cannot fail for a child of one's own; and
/// a channel that cannot be read, which the tests of the handshake have.
const NOT_FAILED: [&str; 7] =
    ["poll", "accept", "eventfd-drain", "eventfd-write", "reap", "reap_ending", "recvmsg"];

/// Done once before an upgrade is asked for; where that fails the upgrade tries again.
const BEFORE_ASKED: [&str; 2] = ["mmap_stack", "mmap_shared"];

#[test]
fn an_upgrade_that_fails_at_any_system_call_of_the_predecessor_leaves_nothing_and_the_next_one_works() {
    let _limit = testkit::limit(Duration::from_secs(1200));
    let points: Vec<String> =
        points().into_iter().filter(|one| !NOT_FAILED.contains(&one.as_str())).collect();
    let failed = fail_each(&points, "");
    for needed in ["socketpair", "sendmsg", "eventfd", "clone", "mmap_stack", "mmap_shared", "pidfd_open"] {
        assert!(failed.contains(needed), "{needed} failed nothing; what did: {failed:?}");
    }
    // With so many listeners that a memfd has their names.
    let more = ["memfd_create", "seal", "write"].map(String::from);
    assert_eq!(fail_each(&more, "many:140").into_iter().collect::<Vec<_>>(), more);
}

/// Fails each of these calls of an upgrade, one after the other; those that made it fail.
fn fail_each(points: &[String], steps: &str) -> BTreeSet<String> {
    let family = Family::new();
    let folder = temp_dir();
    let log = folder.path().join("log");
    // An action of no name is logged and does nothing.
    let seen: Vec<String> = points.iter().map(|point| format!("{point}=seen")).collect();
    let (seen, log_path) = (seen.join(","), log.to_str().unwrap());
    let environment =
        [("SHELLFLIP_FAULT", seen.as_str()), ("SHELLFLIP_FAULT_LOG", log_path), ("HOST_BEFORE_READY", steps)];
    let host = Host::start(&family, &environment);
    let pid = host.who().pid;
    let at_start = met(&log);
    assert!(host.upgrade().rc > 0);
    host.wait_for_other(pid);
    let at_end = met(&log);
    host.call("/request/2");
    family.assert_none_left(SOON);

    let mut failed = BTreeSet::new();
    for (point, times) in &at_end {
        let first = at_start.get(point).copied().unwrap_or_default() + 1;
        let twice = BEFORE_ASKED.contains(&point.as_str());
        for n in if twice { 2..=2 } else { first..=*times } {
            let fail = |n| format!("{point}#{n}=fail:{}", libc::ENOBUFS);
            let fault = if twice { format!("{},{}", fail(n - 1), fail(n)) } else { fail(n) };
            let host = Host::start(&family, &[("SHELLFLIP_FAULT", &fault), ("HOST_BEFORE_READY", steps)]);
            let me = host.who();
            let before = at_rest(host.process.proc());
            let called = host.upgrade();
            if called.rc < 0 {
                failed.insert(point.clone());
                assert!(called.error.contains(' '), "{fault}: {called:?}");
                assert_eq!(host.who(), me, "{fault}");
                assert_no_more(host.process.proc(), &before);
                assert!(host.upgrade().rc > 0, "{fault}");
            }
            let who = host.wait_for_other(me.pid);
            assert_eq!(who.generation, 1, "{fault}");
            host.call("/request/2");
            family.assert_none_left(SOON);
        }
    }
    failed
}

#[test]
fn a_successor_whose_start_fails_at_any_system_call_is_an_upgrade_that_failed() {
    let _limit = testkit::limit(Duration::from_secs(1200));
    let family = Family::new();
    let folder = temp_dir();
    let mut host = Host::start(&family, &[]);
    let mut who = host.who();
    for (number, point) in points().iter().filter(|one| !NOT_FAILED.contains(&one.as_str())).enumerate() {
        for n in 1.. {
            let log = folder.path().join(format!("{number}-{n}"));
            host.call(&format!("/env/SHELLFLIP_FAULT_LOG/{}", log.to_str().unwrap().replace('/', "%2F")));
            let fault = format!("{point}%23{n}=fail:{}", libc::ENOBUFS);
            host.call(&format!("/env/SHELLFLIP_FAULT_NEXT/{fault}"));
            let called = host.upgrade();
            if called.rc > 0 {
                let next = host.wait_for_other(who.pid);
                assert_eq!(next.generation, who.generation + 1, "{fault}");
                who = next;
            } else {
                assert!(called.error.contains(' '), "{fault}: {called:?}");
                assert_eq!(host.who(), who, "{fault}: {called:?}");
                // The generation before may have ended just now.
                wait_until("no zombie", SOON, || family.zombies().is_empty());
            }
            if !log.exists() {
                break;
            }
        }
    }
    host.call("/request/2");
    host.process.exit_status();
    family.assert_none_left(SOON);
}

/// No thread has met SIGPIPE: the library's block it, so there it would be pending and do no harm, yet.
#[track_caller]
fn assert_no_sigpipe(process: Proc) {
    for task in std::fs::read_dir(format!("/proc/{}/task", process.0)).unwrap().flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:")).unwrap_or("0").trim();
        let pending = u64::from_str_radix(pending, 16).unwrap();
        assert_eq!(pending & (1 << (libc::SIGPIPE - 1)), 0, "{status}");
    }
}

#[test]
fn a_peer_that_dies_raises_no_signal_in_the_one_that_speaks_to_it() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let family = Family::new();
    let sigpipe = 1 << (libc::SIGPIPE - 1);
    // The old one speaks to a new one that is dead by then.
    for (old, new) in [
        ("send:HELLO=sleep:1", "received:HELLO=kill"),
        ("send:COMMIT=sleep:300", "sent:READY=kill"),
        ("send:RELEASED=sleep:300", "sent:LIVE=kill"),
        ("send:ABORT=sleep:300", "send:READY=kill"),
    ] {
        let host = Host::start(&family, &[("SHELLFLIP_FAULT", old)]);
        let me = host.who();
        host.call(&format!("/env/SHELLFLIP_FAULT_NEXT/{new}"));
        let called = host.upgrade();
        assert_eq!(called.rc, -i64::from(libc::ECONNABORTED), "{old} {new}: {called:?}");
        assert_eq!(host.who(), me);
        let process = host.process.proc();
        assert_eq!(
            process.ignored().map(|all| all & sigpipe),
            Some(0),
            "the host has SIGPIPE at its default"
        );
        assert_eq!(process.caught().map(|all| all & sigpipe), Some(0));
        assert_no_sigpipe(process);
        host.call("/env/SHELLFLIP_FAULT_NEXT");
        assert!(host.upgrade().rc > 0);
        host.wait_for_other(me.pid);
        host.call("/request/2");
        family.assert_none_left(SOON);
    }
    // The new one speaks to an old one that is dead by then, and takes over.
    for (old, new) in [
        ("send:COMMIT=kill", "send:READY=sleep:1"),
        ("received:READY=kill", "sent:READY=sleep:1"),
        ("sent:COMMIT=kill", "send:LIVE=sleep:300"),
    ] {
        let host = Host::start(&family, &[("SHELLFLIP_FAULT", old)]);
        let me = host.who();
        host.call(&format!("/env/SHELLFLIP_FAULT_NEXT/{new}"));
        assert_eq!(host.call("/request/1").rc, 0);
        let who = wait_for("the new one to take over", SOON, || {
            let answer = testkit::load::get(&host.address, "/", SOON).ok()?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let pid: i32 = text.split("\"pid\":").nth(1)?.split(',').next()?.parse().ok()?;
            (pid != me.pid).then_some(pid)
        });
        let process = Proc(who);
        assert_eq!(process.ignored().map(|all| all & sigpipe), Some(0));
        assert_no_sigpipe(process);
        assert!(host.upgrade().rc > 0, "{old} {new}");
        host.wait_for_other(who);
        host.call("/request/2");
        family.assert_none_left(SOON);
    }
}

#[test]
fn a_first_start_that_fails_at_any_system_call_leaves_nothing_and_can_be_tried_again() {
    let _limit = testkit::limit(Duration::from_secs(240));
    let family = Family::new();
    let program = c_program("tests/c/nth.c", &[]);
    let folder = temp_dir();
    let (mut runs, mut refused) = (0, BTreeSet::new());
    let socket = folder.path().join("socket");
    let addresses =
        ["tcp://127.0.0.1:0".to_string(), format!("unix://{}?mode=0600&backlog=9", socket.display())];
    for point in points() {
        for address in &addresses {
            for n in 1.. {
                let log = folder.path().join(format!("log-{runs}"));
                runs += 1;
                let mut process = family.program(&program);
                process.command().env_clear().env(MARK_VARIABLE, family.mark());
                let mut process = process
                    .arg(address)
                    .env("SHELLFLIP_FAULT", format!("{point}#{n}=fail:{}", libc::ENOMEM))
                    .env("SHELLFLIP_FAULT_LOG", &log)
                    // Meant for another process: removed on success, and on success only.
                    .env("SHELLFLIP_CHANNEL", "1:3:0")
                    .output(Output::File)
                    .start();
                let status = process.wait(SOON);
                let output = process.output();
                assert!(status.success(), "{point}#{n} {address}: {status}\n{output}");
                assert!(output.ends_with("passed\n"), "{point}#{n} {address}: {output}");
                for line in output.lines().filter(|line| line.starts_with("failed ")) {
                    // `failed CALL ERRNO TEXT`
                    let mut words = line.splitn(4, ' ').skip(2);
                    let errno: i32 = words.next().unwrap().parse().unwrap();
                    let text = words.next().unwrap_or_default();
                    assert_eq!(errno, libc::ENOMEM, "{point}#{n} {address}: {line}");
                    assert!(text.contains(": out of memory (ENOMEM)"), "{point}#{n}: {line}");
                    refused.insert(point.clone());
                }
                if !log.exists() {
                    break;
                }
            }
        }
    }
    // Those that any start needs.
    for needed in ["socketpair", "eventfd", "dup", "thread", "sigaction", "socket", "bind", "listen"] {
        assert!(refused.contains(needed), "{needed} failed nothing; what did: {refused:?}");
    }
    family.assert_none_left(SOON);
}
