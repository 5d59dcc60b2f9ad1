//! What is around a process and not as usual: a name service that hangs, a log that nobody reads, no /proc, and being the first
//! process of a container. None of it may hold up an upgrade or a stop.

#[path = "lifecycle/part.rs"]
#[allow(dead_code)]
mod part;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use part::{LIMIT, Part};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;
use testkit::deadline::{wait_for, wait_until};
use testkit::host::{Host, SOON, c_program};
use testkit::process::{Family, Output, Signal, TempDir, signal, temp_dir};

/// A name service that answers when it is told to (`tests/c/slow_names.c`).
struct Names {
    folder: TempDir,
    library: PathBuf,
}

impl Names {
    fn new() -> Names {
        let library = c_program("tests/c/slow_names.c", &["-fPIC", "-shared"]);
        Names { folder: temp_dir(), library }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn environment(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library.to_string_lossy().into_owned()), ("SLOW_NAMES", self.path("answer"))]
    }

    fn answer(&self) {
        File::create(self.path("answer")).expect("a file");
    }

    fn stop_answering(&self) {
        std::fs::remove_file(self.path("answer")).expect("it was there");
        let _ = std::fs::remove_file(self.path("answer.asked"));
    }

    fn wait_until_asked(&self) {
        wait_until("a question to the name service", SOON, || {
            self.folder.path().join("answer.asked").exists()
        });
    }
}

fn start(family: &Family, environment: &[(&str, String)]) -> Host {
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Host::start(family, &environment)
}

#[test]
fn a_name_service_that_hangs_holds_up_neither_an_upgrade_nor_a_stop() {
    let _limit = testkit::limit(LIMIT);
    let (family, names) = (Family::new(), Names::new());
    let control = temp_dir();
    let mut environment = names.environment().to_vec();
    environment.push(("HOST_CONTROL", control.path().to_string_lossy().into_owned()));
    let host = start(&family, &environment);
    let first = host.who().pid;
    let other = names.path("other.sock");
    let own = format!("unix://{}/{first}", control.path().display()).parse().expect("an address");
    let path = format!("/listen/unix:{}%3Fowner=somebody", format!("//{other}").replace('/', "%2F"));
    let listening = std::thread::spawn(move || testkit::host::call(&own, &path));
    names.wait_until_asked();

    assert!(host.call("/upgrade").rc > 0);
    let second = host.wait_for_other(first);
    host.process.wait_for_output("drain 0", SOON);
    names.answer();
    let listened = listening.join().unwrap();
    assert_eq!(listened.rc, -i64::from(libc::ESHUTDOWN), "{listened:?}");
    assert!(!PathBuf::from(&other).exists());
    family.wait_gone(first, SOON);

    names.stop_answering();
    let path = format!("/listen/unix:{}%3Fowner=somebody", format!("//{other}").replace('/', "%2F"));
    let own = format!("unix://{}/{}", control.path().display(), second.pid).parse().expect("an address");
    let listening = std::thread::spawn(move || testkit::host::call(&own, &path));
    names.wait_until_asked();
    signal(second.pid, Signal::SIGTERM);
    wait_until("shutdown, and a drain", SOON, || host.process.output().matches("drain 0").count() == 2);
    names.answer();
    let _ = listening.join();
    family.wait_gone(second.pid, SOON);
    family.assert_none_left(SOON);
}

/// LIVE is the last that a successor says, and from then on nothing may keep it from serving.
#[test]
fn a_successor_whose_name_service_hangs_is_waited_for_before_it_is_live() {
    let _limit = testkit::limit(LIMIT);
    let (family, names) = (Family::new(), Names::new());
    let mut environment = names.environment().to_vec();
    environment.push(("HOST_ADDRESS", format!("unix://{}?owner=somebody", names.path("sock"))));
    names.answer();
    let host = start(&family, &environment);
    let first = host.who();
    names.stop_answering();
    let upgrade = host.call_meanwhile("/upgrade");
    names.wait_until_asked();
    for _ in 0..3 {
        assert_eq!(host.who(), first);
    }
    assert!(!host.process.output().contains("shutdown"), "{}", host.process.output());
    names.answer();
    assert!(upgrade.join().unwrap().rc > 0);
    let second = host.wait_for_other(first.pid);
    signal(second.pid, Signal::SIGTERM);
    family.assert_none_left(SOON);
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing_and_says_later_what_was_lost() {
    let _limit = testkit::limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let fifo = folder.path().join("log");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("a fifo");
    let both = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mut log = File::from(nix::fcntl::open(&fifo, both, Mode::empty()).expect("opens at once"));
    fill(&mut log);
    let program = family.program("/bin/sh").args(["-c", "exec \"$0\" 2>\"$LOG\""]);
    let program =
        program.arg(c_program("tests/c/host.c", &[])).env("LOG", &fifo).env("SHELLFLIP_LOG", "debug");
    let host = Host::run(program);
    let first = host.who().pid;
    assert!(host.call("/upgrade").rc > 0);
    let second = host.wait_for_other(first);
    family.wait_gone(first, SOON);

    empty(&mut log);
    host.call("/env/HOST_BEFORE_READY/exit:3");
    assert!(host.upgrade().rc < 0);
    let mark = format!("shellflip[{}]: ", second.pid);
    let lost = wait_for("a line about those that were lost", SOON, || {
        let text = String::from_utf8_lossy(&empty(&mut log)).into_owned();
        text.lines().find(|line| line.contains("lines before this one were lost")).map(String::from)
    });
    assert!(lost.starts_with(&mark), "{lost}");

    fill(&mut log);
    signal(second.pid, Signal::SIGTERM);
    family.wait_gone(second.pid, SOON);
    family.assert_none_left(SOON);
}

fn fill(pipe: &mut File) {
    for size in [4096, 1] {
        while pipe.write(&vec![b'.'; size]).is_ok() {}
    }
}

fn empty(pipe: &mut File) -> Vec<u8> {
    let (mut all, mut some) = (Vec::new(), [0; 4096]);
    loop {
        match pipe.read(&mut some) {
            Ok(length) => all.extend(&some[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_process_without_proc_is_upgraded() {
    let _limit = testkit::limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let control = folder.path().join("control");
    let program = family.program("unshare").args(["--user", "--map-root-user", "--mount", "/bin/sh", "-c"]);
    let program =
        program.arg("mount -t tmpfs none /proc && exec \"$0\"").arg(c_program("tests/c/host.c", &[]));
    let program = match has_fchmodat2() {
        true => program.env("HOST_CONTROL_SOCKET", format!("unix://{}", control.display())),
        false => {
            println!("SKIPPED: a control socket without /proc: this kernel has no fchmodat2 (Linux 6.6)");
            program
        }
    };
    let host = Host::run(program);
    let mut last = host.who();
    for generation in 1..=2 {
        let called = host.upgrade();
        assert!(called.rc > 0, "{called:?}");
        let who = host.wait_for_other(last.pid);
        assert_eq!(who.generation, generation);
        family.wait_gone(last.pid, SOON);
        last = who;
    }
    if has_fchmodat2() {
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&control).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    signal(last.pid, Signal::SIGTERM);
    family.assert_none_left(SOON);
}

fn has_fchmodat2() -> bool {
    let name = nix::sys::utsname::uname().expect("a name");
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|digit: char| !digit.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}

/// The kernel spares it even a SIGKILL of its own.
#[test]
fn the_first_process_of_a_container_is_ended_by_the_hard_stop() {
    let _limit = testkit::limit(LIMIT);
    let wrapper = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    let environment = [("DRAIN_TIMEOUT_MS", "300"), ("HARD_STOP_MS", "300"), ("STAY", "1")];
    let mut part = Part::start_in(&wrapper, &environment);
    let _connection = TcpStream::connect(part.public()).expect("a connection");
    wait_until("a counted connection", SOON, || part.call(1, "/count").rc == 1);
    assert_eq!(part.call(1, "/request/2").rc, 0);
    part.wait_for_line("shutdown 2");
    let status = part.host.process.wait(SOON);
    assert_eq!(status.code(), Some(128 + libc::SIGKILL), "{status}");
    part.family.assert_none_left(Duration::from_secs(5));
}

#[test]
fn a_process_whose_main_thread_has_ended_is_upgraded_with_its_state() {
    let _limit = testkit::limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let program = family.program(c_program("tests/c/main_gone.c", &[])).arg(folder.path().join("sock"));
    let mut process = program.output(Output::File).start();
    let status = process.wait(SOON);
    assert_eq!(status.code(), Some(0), "{}", process.output());
    family.assert_none_left(SOON);
    let output = process.output();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!((lines[0], lines[2], lines.len()), ("mode 755", "the state begins with B", 3), "{output}");
    assert!(lines[1].contains("mapped"), "{output}");
}
