//! What a started process makes of its descriptors and its environment, with real processes: this test program runs
//! itself as the successor (`role`), and the scripted peers of the kit, which know `docs/protocol.md` and not the
//! library, are the other side. So each side of the library meets a peer that is not the library.

use shellflip::channel::{
    FromPredecessor, FromSuccessor, Hello, Keep, Nonce, Process, Received, Sent, TableEntry, pair,
};
use shellflip::inherit::{Environment, Inheritance, encode_names, find};
use shellflip::socket::PathOwner;
use shellflip::sys::{fd, memfd};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use testkit::peer::{Field, ScriptedPredecessor, ScriptedSuccessor, entry, start_with, tag};

const ROLE: &str = "SHELLFLIP_TEST_ROLE";
const PATIENCE: Duration = Duration::from_secs(20);

/// What this program does when a test started it.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("report") => report(false),
        Ok("report secure") => report(true),
        Ok("scripted successor") => scripted_successor(),
        _ => {}
    }
}

/// Prints what `find` found; as a successor it then goes through the hand-over.
fn report(secure: bool) {
    let environment = Environment::of(&shellflip::startup::environment());
    // SAFETY: the environment that this process was started with, and it is the only call.
    let found = match unsafe { find(&environment, std::process::id(), secure) } {
        Ok(found) => found,
        Err(error) => return say(format!("error {error}")),
    };
    say(format!("remove {}", found.remove.join(" ")));
    match found.inheritance {
        Inheritance::Fresh { listen_fds } => {
            say("fresh".into());
            for one in listen_fds {
                let (name, cloexec) = (one.name.escape_ascii(), is_cloexec(one.number));
                say(format!("{} {name} named={} cloexec={cloexec}", one.number, one.named));
            }
        }
        Inheritance::Upgrade(upgrade) => {
            say(format!("generation {}", upgrade.hello.generation));
            assert!(is_cloexec(upgrade.channel.as_fd().as_raw_fd()));
            for (entry, fd) in &upgrade.descriptors {
                let (name, cloexec) = (entry.name.escape_ascii(), is_cloexec(fd.as_raw_fd()));
                say(format!("{} {name} inode={} cloexec={cloexec}", fd.as_raw_fd(), inode(fd)));
            }
            if upgrade.channel.send(&FromSuccessor::Ready).unwrap() != Sent::Taken {
                return say("nobody takes READY".into());
            }
            let deadline = Instant::now() + PATIENCE;
            let message = loop {
                match upgrade.channel.receive() {
                    Received::Nothing => assert!(Instant::now() < deadline),
                    other => break other,
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            say(format!("{message:?}"));
            _ = upgrade.channel.send(&FromSuccessor::Live);
        }
    }
}

fn scripted_successor() {
    let me = ScriptedSuccessor::from_env().unwrap();
    for (entry, fd) in me.table.iter().zip(&me.descriptors) {
        let keep = entry.iter().find(|field| field.tag == tag::KEEP).unwrap().value[0];
        let path = entry
            .iter()
            .find(|field| field.tag == tag::OWNER_PATH)
            .map(|f| f.value.escape_ascii().to_string());
        say(format!("{} inode={} keep={keep} path={path:?}", fd.as_raw_fd(), inode(fd)));
    }
    say(format!("drainers {}", me.hello.fields.iter().filter(|field| field.tag == tag::DRAINER).count()));
    me.peer.say("READY");
    me.peer.expect("COMMIT", PATIENCE);
    me.peer.say("LIVE");
    me.peer.say_with("EXTEND", &[Field::new(tag::MS, 5u64.to_le_bytes())], &[]);
    me.peer.say_raw(b"garbage", &[]).unwrap();
    let state = me.peer.expect("STATE", PATIENCE);
    let state = fd::read_from_start(state.descriptors[0].as_fd(), 99).unwrap();
    let abort = me.peer.expect("ABORT", PATIENCE);
    say(format!("state {} abort {}", state.escape_ascii(), abort.reason()));
}

fn say(line: String) {
    println!("SAID {line}");
}

fn is_cloexec(number: i32) -> bool {
    // SAFETY: F_GETFD touches no memory.
    unsafe { libc::fcntl(number, libc::F_GETFD) & libc::FD_CLOEXEC != 0 }
}

fn inode(fd: impl AsFd) -> u64 {
    nix::sys::stat::fstat(fd).unwrap().st_ino
}

/// What the started program said, in lines.
fn said(mut child: Child) -> Vec<String> {
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{output}");
    // The harness of a test prints its own words before ours on one line.
    output.lines().filter_map(|line| line.split_once("SAID ")).map(|(_, said)| said.to_string()).collect()
}

fn as_role(role: &'static str) -> impl FnOnce(&mut Command) {
    move |command| {
        command.env(ROLE, role).stdout(Stdio::piped());
    }
}

const ARGUMENTS: [&str; 4] = ["role", "--exact", "--nocapture", "--test-threads=1"];

fn start(predecessor: &mut ScriptedPredecessor) -> Child {
    predecessor.start(std::env::current_exe().unwrap(), ARGUMENTS, as_role("report"))
}

fn files(n: usize) -> Vec<OwnedFd> {
    (0..n).map(|_| memfd::create(c"stands for a socket").unwrap()).collect()
}

/// A predecessor that passes on two descriptors, http and tls, and has queued a good HELLO.
fn good() -> ScriptedPredecessor {
    let predecessor = ScriptedPredecessor::new(files(2));
    predecessor.queue_hello(1, vec![entry("http", true, 0), entry("t%l:s", true, 2)]);
    predecessor
}

/// The one line in which a successor of this predecessor says why it cannot start.
fn refusal(mut predecessor: ScriptedPredecessor) -> String {
    let lines = said(start(&mut predecessor));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    line.strip_prefix("error ").unwrap_or_else(|| panic!("{line}")).to_string()
}

const MEANT: &str = "SHELLFLIP_CHANNEL says that this process was started by an upgrade, but ";

#[test]
fn a_successor_finds_what_its_predecessor_handed_over() {
    let mut predecessor = good();
    predecessor.listen_fdnames = Some("http:t%25l%3as".into());
    let inodes: Vec<u64> = predecessor.descriptors.iter().map(inode).collect();
    let child = start(&mut predecessor);
    predecessor.peer.expect("READY", PATIENCE);
    predecessor.peer.say("COMMIT");
    predecessor.peer.expect("LIVE", PATIENCE);
    assert!(predecessor.peer.hear(PATIENCE).is_none());
    assert_eq!(
        said(child),
        [
            "remove LISTEN_PID LISTEN_FDS LISTEN_FDNAMES LISTEN_PIDFDID SHELLFLIP_CHANNEL".to_string(),
            "generation 1".into(),
            format!("3 http inode={} cloexec=true", inodes[0]),
            format!("4 t%l:s inode={} cloexec=true", inodes[1]),
            "Message(Commit)".into(),
        ]
    );
}

#[test]
fn an_upgrade_without_descriptors_needs_no_listen_variables() {
    let mut predecessor = ScriptedPredecessor::new(vec![]);
    predecessor.queue_hello(7, vec![]);
    (predecessor.listen_fds, predecessor.listen_pid) = (None, None);
    let child = start(&mut predecessor);
    predecessor.peer.expect("READY", PATIENCE);
    predecessor.peer.close();
    assert_eq!(said(child)[1..], ["generation 7", "Eof"]);
}

#[test]
fn a_hello_that_is_late_is_waited_for_but_not_for_ever() {
    let mut late = ScriptedPredecessor::new(vec![]);
    let child = start(&mut late);
    let deadline = Instant::now() + PATIENCE;
    while !has_taken_its_channel(&child) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    late.queue_hello(1, vec![]);
    late.peer.expect("READY", PATIENCE);
    late.peer.close();
    said(child);

    let before = Instant::now();
    assert_eq!(refusal(ScriptedPredecessor::new(vec![])), format!("{MEANT}no HELLO came in 5 s"));
    assert!(before.elapsed() >= Duration::from_secs(5));
}

/// Whether the successor has set CLOEXEC on descriptor 3, the first thing it does and before it waits for HELLO.
fn has_taken_its_channel(child: &Child) -> bool {
    let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/3", child.id())).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim).unwrap_or("0");
    i32::from_str_radix(flags, 8).unwrap() & libc::O_CLOEXEC != 0
}

#[test]
fn a_hand_over_that_is_wrong_is_refused_with_a_line() {
    let mut other_nonce = good();
    other_nonce.channel_variable = Some(format!("$$:5:{}", "0".repeat(32)));
    assert_eq!(refusal(other_nonce), format!("{MEANT}HELLO has another nonce, so it is of another upgrade"));

    for value in ["$$", "$$:", "$$:5", "$$:5:00", "$$:x:", "$$:-1:", "$$:2:00000000000000000000000000000000"]
    {
        let mut malformed = good();
        malformed.channel_variable = Some(value.into());
        assert_eq!(refusal(malformed), format!("{MEANT}its value is not <pid>:<fd>:<nonce>"), "{value}");
    }

    let mut closed = good();
    closed.channel_variable = Some(format!("$$:77:{}", "0".repeat(32)));
    assert_eq!(refusal(closed), format!("{MEANT}its descriptor 77 is not open: bad file number (EBADF)"));

    let mut no_socket = ScriptedPredecessor::new(files(1));
    no_socket.channel_variable = Some(format!("$$:3:{}", "0".repeat(32)));
    no_socket.listen_fds = None;
    assert_eq!(
        refusal(no_socket),
        format!("{MEANT}its descriptor is not a unix socket of type SOCK_SEQPACKET")
    );

    let mut within = good();
    within.listen_fds = Some("3".into());
    assert_eq!(refusal(within), format!("{MEANT}its descriptor 5 is one of the 3 in LISTEN_FDS"));

    let mut fewer = good();
    fewer.listen_fds = Some("1".into());
    assert_eq!(refusal(fewer), format!("{MEANT}HELLO names 2 descriptors, LISTEN_FDS says 1"));
    let mut none = good();
    none.listen_fds = None;
    assert_eq!(refusal(none), format!("{MEANT}HELLO names 2 descriptors, LISTEN_FDS says 0"));

    for value in ["x", "-1", "+1", "", "4294967295", "2147483647"] {
        let mut no_number = good();
        no_number.listen_fds = Some(value.into());
        assert_eq!(
            refusal(no_number),
            format!("LISTEN_FDS is \"{value}\", which is no number of descriptors")
        );
    }

    let mut other_pid = good();
    other_pid.listen_pid = Some("1".into());
    assert_eq!(refusal(other_pid), format!("{MEANT}LISTEN_PID is not this process"));

    for names in ["http", "http:x", "http:t%25l%3as:more", "http:t%l%3as", ""] {
        let mut other_names = good();
        other_names.listen_fdnames = Some(names.into());
        let line = "HELLO and LISTEN_FDNAMES disagree about the names of the descriptors";
        assert_eq!(refusal(other_names), format!("{MEANT}{line}"), "{names}");
    }

    let commit_first = ScriptedPredecessor::new(vec![]);
    commit_first.peer.say("COMMIT");
    assert_eq!(refusal(commit_first), format!("{MEANT}the first message is not HELLO"));

    let garbage = ScriptedPredecessor::new(vec![]);
    garbage.peer.say_raw(b"garbage", &[]).unwrap();
    assert!(refusal(garbage).starts_with("the predecessor sent what is no message of this protocol"));

    let without_pidfd = ScriptedPredecessor::new(vec![]);
    without_pidfd.peer.say_with("HELLO", &without_pidfd.hello(1).0, &[]);
    assert_eq!(refusal(without_pidfd), "the predecessor sent HELLO: the pidfd of the predecessor is missing");

    let mut gone = ScriptedPredecessor::new(vec![]);
    let child = start(&mut gone);
    gone.peer.close();
    assert_eq!(said(child), [format!("error {MEANT}the channel was closed before HELLO came")]);
}

#[test]
fn a_descriptor_that_is_missing_is_not_taken_for_the_one_that_hello_brings() {
    let mut predecessor = good();
    // The shell that becomes the successor closes it; the pidfd in HELLO would be the next to get this number.
    predecessor.channel_variable = predecessor.channel_variable.map(|value| format!("{value}; exec 4>&-"));
    assert_eq!(
        refusal(predecessor),
        "LISTEN_FDS says that 2 descriptors were passed on, but descriptor 4 is not open"
    );
}

#[test]
fn a_predecessor_that_died_is_still_found() {
    let mut predecessor = good();
    // So the successor meets a channel that is closed, with HELLO queued on it.
    predecessor.channel_variable = predecessor.channel_variable.map(|value| format!("{value}; read go"));
    let mut child = predecessor.start(std::env::current_exe().unwrap(), ARGUMENTS, |command| {
        as_role("report")(command);
        command.stdin(Stdio::piped());
    });
    predecessor.peer.close();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let lines = said(child);
    assert_eq!(lines[1], "generation 1");
    // A process that another test forks meanwhile may hold a copy of our end for a moment.
    assert!(["nobody takes READY", "Eof"].contains(&lines.last().unwrap().as_str()), "{lines:?}");
}

#[test]
fn what_is_meant_for_another_process_is_not_touched() {
    for value in ["1:5:00000000000000000000000000000000", "", "garbage", "1"] {
        let mut predecessor = good();
        predecessor.channel_variable = Some(format!("'{value}'"));
        predecessor.listen_pid = Some("1".into());
        let child = start(&mut predecessor);
        assert!(predecessor.peer.hear(PATIENCE).is_none(), "nothing is said");
        assert_eq!(said(child), ["remove SHELLFLIP_CHANNEL", "fresh"], "{value}");
    }
}

#[test]
fn under_at_secure_nothing_is_inherited() {
    let mut predecessor = good();
    let child = predecessor.start(std::env::current_exe().unwrap(), ARGUMENTS, as_role("report secure"));
    assert!(predecessor.peer.hear(PATIENCE).is_none());
    assert_eq!(said(child), ["remove SHELLFLIP_CHANNEL", "fresh"]);
}

fn activated(count: &str, names: Option<&str>, pid: &str, stale: bool) -> Vec<String> {
    let files = files(3);
    let exports = format!("export LISTEN_PID={pid}; ");
    let files: Vec<&OwnedFd> = files.iter().collect();
    let child = start_with(&files, &exports, std::env::current_exe().unwrap(), ARGUMENTS, |command| {
        as_role("report")(command);
        command.env("LISTEN_FDS", count);
        names.map(|names| command.env("LISTEN_FDNAMES", names));
        stale.then(|| command.env("SHELLFLIP_CHANNEL", "1:9:00"));
    });
    said(child)
}

#[test]
fn sockets_from_systemd_are_found_and_left_as_they_are() {
    assert_eq!(
        activated("3", Some("http:http:unknown"), "$$", false),
        [
            "remove ",
            "fresh",
            "3 http named=true cloexec=false",
            "4 http#2 named=true cloexec=false",
            "5 unknown named=false cloexec=false"
        ]
    );
    assert_eq!(
        activated("1", None, "$$", true),
        ["remove SHELLFLIP_CHANNEL", "fresh", "3 unknown named=false cloexec=false"]
    );
    assert_eq!(activated("3", None, "1", false), ["remove ", "fresh"]);
    assert_eq!(activated("0", Some(""), "$$", false), ["remove ", "fresh"]);
    assert_eq!(
        activated("200", None, "$$", false),
        ["error LISTEN_FDS says that 200 descriptors were passed on, but descriptor 6 is not open"]
    );
    assert_eq!(
        activated("3", Some("http"), "$$", false),
        ["error LISTEN_FDNAMES has 1 names for 3 descriptors in LISTEN_FDS"]
    );
}

/// What the library sends is what `docs/protocol.md` says, with a table in HELLO and with one in a memfd.
#[test]
fn a_successor_without_the_library_understands_the_librarys_predecessor() {
    for further in [0, 300] {
        let (channel, theirs) = pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let files = files(2 + further);
        let owner = PathOwner { path: "/run/a b".into(), dev: 1, ino: 2 };
        let (owner, keep) = (Some(owner), Keep::Stop);
        let unix = TableEntry { listener: true, owner, keep, ..TableEntry::named(b"unix") };
        let plain = |name: &str| TableEntry::named(name.as_bytes());
        let mut table = vec![unix, plain("b:\n")];
        table.extend((0..further).map(|n| plain(&format!("{n:0250}"))));
        let pidfd = || File::open("/dev/null").unwrap().into();
        let process = |pid| Process { pid, start: 1, pidfd: pidfd(), generation: None };
        let names = encode_names(table.iter().map(|entry| &entry.name[..])).unwrap();
        let nonce = Nonce::generate().unwrap();
        let hello = Hello {
            nonce,
            generation: 1,
            predecessor: process(std::process::id()),
            commit_deadline: fd::monotonic_ns(),
            state_promised: true,
            table,
            drainers: vec![process(1), process(2)],
        };
        assert_eq!(channel.send(&FromPredecessor::Hello(Box::new(hello))).unwrap(), Sent::Taken);
        let mut placed: Vec<&OwnedFd> = files.iter().collect();
        placed.push(&theirs);
        let number = 3 + files.len();
        let exports = format!("export LISTEN_PID=$$ SHELLFLIP_CHANNEL=$$:{number}:{nonce}; ");
        let child = start_with(&placed, &exports, std::env::current_exe().unwrap(), ARGUMENTS, |command| {
            as_role("scripted successor")(command);
            command.env("LISTEN_FDS", files.len().to_string());
            command.env("LISTEN_FDNAMES", std::ffi::OsStr::from_bytes(&names));
        });
        drop(theirs);
        let hear = || {
            let deadline = Instant::now() + PATIENCE;
            loop {
                match channel.receive() {
                    Received::Nothing if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    other => return format!("{other:?}"),
                }
            }
        };
        assert_eq!(hear(), "Message(Ready)");
        assert_eq!(channel.send(&FromPredecessor::Commit).unwrap(), Sent::Taken);
        assert_eq!(hear(), "Message(Live)");
        assert_eq!(hear(), "Message(Extend { ms: 5 })");
        assert!(hear().contains("the successor sent what is no message of this protocol: it has 7 bytes"));
        let state = memfd::create(c"state").unwrap();
        fd::write_all(state.as_fd(), b"all there is").unwrap();
        memfd::seal(state.as_fd()).unwrap();
        assert_eq!(channel.send(&FromPredecessor::State(state)).unwrap(), Sent::Taken);
        assert_eq!(channel.send(&FromPredecessor::Abort("no more".into())).unwrap(), Sent::Taken);
        let lines = said(child);
        assert_eq!(lines[0], format!("3 inode={} keep=1 path=Some(\"/run/a b\")", inode(&files[0])));
        assert_eq!(lines[1], format!("4 inode={} keep=0 path=None", inode(&files[1])));
        assert_eq!(lines[2 + further..], ["drainers 2", "state all there is abort no more"]);
        assert_eq!(hear(), "Eof");
    }
}
