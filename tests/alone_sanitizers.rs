//! The C programs under AddressSanitizer, UndefinedBehaviorSanitizer and valgrind, through an upgrade under load: no
//! report. With a nightly toolchain the library itself under AddressSanitizer too.

use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use testkit::deadline::{scaled, wait_for};
use testkit::host::{Host, SOON, c_compiler, c_program, library_folder};
use testkit::process::{Family, Output, Process, Program, Signal, free_port, signal, temp_dir};

/// Everything here is several times slower than without.
const LATER: Duration = Duration::from_secs(60);

const SANITIZERS: [&str; 3] =
    ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];

/// Connects, reads what is answered, and again, until it is told to stop: the load, and how many were answered.
struct Load {
    stop: std::sync::Arc<AtomicBool>,
    answered: std::sync::Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    fn on(address: &str) -> Load {
        let (stop, answered) =
            (std::sync::Arc::<AtomicBool>::default(), std::sync::Arc::<AtomicUsize>::default());
        let (stopping, counting, address) = (stop.clone(), answered.clone(), address.to_string());
        let thread = std::thread::spawn(move || {
            while !stopping.load(SeqCst) {
                if !ask(&address).is_empty() {
                    counting.fetch_add(1, SeqCst);
                }
            }
        });
        Load { stop, answered, thread: Some(thread) }
    }

    fn wait_for(&self, more: usize) {
        let goal = self.answered.load(SeqCst) + more;
        wait_for("answers", LATER, || (self.answered.load(SeqCst) >= goal).then_some(()));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// One request and the whole answer; empty if there is none.
fn ask(address: &str) -> String {
    let mut text = String::new();
    let Ok(mut stream) = TcpStream::connect(address) else { return text };
    let _ = stream.set_read_timeout(Some(scaled(Duration::from_secs(5))));
    let _ = std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\nConnection: close\r\n\r\n");
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_string(&mut text);
    text
}

/// Upgrades it twice by signal under load and stops it; returns what all three generations wrote.
fn two_upgrades_under_load(family: &Family, program: Program, address: &str) -> String {
    let mut process: Process = program.output(Output::File).start();
    wait_for("an answer", LATER, || (!ask(address).is_empty()).then_some(()));
    let load = Load::on(address);
    let mut pid = process.pid();
    for _ in 0..2 {
        load.wait_for(5);
        signal(pid, Signal::SIGUSR1);
        pid = wait_for("a successor alone", LATER, || {
            process.exit_status();
            let left = family.leftovers();
            (left.len() == 1 && left[0].0 != pid).then(|| left[0].0)
        });
    }
    load.wait_for(5);
    drop(load);
    signal(pid, Signal::SIGTERM);
    let status = family.wait_gone(pid, LATER);
    let output = process.output();
    assert!(matches!(status, None | Some(nix::sys::wait::WaitStatus::Exited(_, 0))), "{status:?}\n{output}");
    assert!(process.wait(LATER).success(), "{output}");
    output
}

#[track_caller]
fn assert_no_report(text: &str) {
    let signs = ["Sanitizer", "runtime error", "SUMMARY:"];
    assert!(!signs.iter().any(|sign| text.contains(sign)), "{text}");
}

#[test]
fn the_sanitizers_find_nothing_in_the_examples() {
    let _limit = testkit::limit(Duration::from_secs(300));
    let family = Family::new();
    let mut flags = SANITIZERS.to_vec();
    flags.push("-DVERSION=1");
    flags.push("-Wno-error");
    for name in ["hello_threads", "http_epoll"] {
        let program = c_program(&format!("examples/c/{name}.c"), &flags);
        let address = format!("127.0.0.1:{}", free_port());
        let program = family.program(program).arg(format!("tcp://{address}"));
        assert_no_report(&two_upgrades_under_load(&family, program, &address));
    }
    family.assert_none_left(SOON);
}

#[test]
fn the_sanitizers_find_nothing_in_the_host_of_the_tests() {
    let _limit = testkit::limit(Duration::from_secs(300));
    let family = Family::new();
    let host = Host::start_program(&family, &c_program("tests/c/host.c", &SANITIZERS), &[]);
    survive(&host);
    family.assert_none_left(SOON);
}

/// Failed upgrades and good ones, to the end, without a report.
fn survive(host: &Host) {
    let mut pid = host.who().pid;
    for steps in ["exit:3", "kill", "free"] {
        host.call(&format!("/env/HOST_BEFORE_READY/{steps}"));
        assert!(host.upgrade().rc < 0);
        assert_eq!(host.who().pid, pid);
    }
    host.call("/env/HOST_BEFORE_READY");
    for _ in 0..2 {
        let called = host.upgrade();
        assert!(called.rc > 0, "{called:?}\n{}", host.process.output());
        pid = host.wait_for_other(pid).pid;
    }
    host.call("/request/2");
    host.process.wait_for_output(&format!("end 0 pid={pid}"), LATER);
    assert_no_report(&host.process.output());
}

/// Opens pidfds for those who ask on `socket`, as long as the test runs.
fn serve_pidfds(socket: &Path) {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut pid = [0; 4];
            if stream.read_exact(&mut pid).is_ok()
                && let Ok(pidfd) =
                    shellflip::sys::process::pidfd_open(nix::unistd::Pid::from_raw(i32::from_ne_bytes(pid)))
            {
                let fds = [pidfd.as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&fds)];
                let data = [std::io::IoSlice::new(b"x")];
                let _ = sendmsg::<()>(stream.as_raw_fd(), &data, &rights, MsgFlags::MSG_NOSIGNAL, None);
            }
        }
    });
}

#[test]
fn valgrind_finds_nothing_in_an_upgrade() {
    let _limit = testkit::limit(Duration::from_secs(300));
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIPPED: valgrind_finds_nothing_in_an_upgrade: there is no valgrind");
        return;
    }
    let family = Family::new();
    let folder = temp_dir();
    let shim = shim();
    let socket = folder.path().join("pidfds");
    serve_pidfds(&socket);
    let address = format!("127.0.0.1:{}", free_port());
    let program = family
        .program("valgrind")
        .args(["-q", "--error-exitcode=66", "--leak-check=full", "--show-leak-kinds=definite,indirect"])
        .args(["--errors-for-leak-kinds=definite", "--track-fds=yes", "--trace-children=yes"])
        .arg(format!("--log-file={}/log.%p", folder.path().display()))
        .arg(c_program("examples/c/hello_threads.c", &[]))
        .arg(format!("tcp://{address}"))
        .env("LD_PRELOAD", &shim)
        .env("PIDFD_SERVER", &socket);
    two_upgrades_under_load(&family, program, &address);
    let mut logs = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with("log.") {
            continue;
        }
        logs += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        // valgrind's own, and 0 to 2, came from its parent; whatever this process opened or was handed is closed.
        for one in text.split("== Open ").skip(1) {
            assert!(one.starts_with("file descriptor") && one.contains("<inherited from parent>"), "{text}");
        }
        let harmless = |line: &&str| {
            let said = line.rsplit("==").next().unwrap_or_default().trim();
            said.is_empty()
                || said.starts_with("FILE DESC")
                || said.starts_with("Open file")
                || said.starts_with('<')
        };
        let reports: Vec<&str> = text.lines().filter(|line| !harmless(line)).collect();
        assert!(reports.is_empty(), "{text}");
    }
    assert!(logs >= 3, "{logs} logs");
    family.assert_none_left(SOON);
}

/// `tests/c/pidfd_shim.c` as a shared library.
fn shim() -> PathBuf {
    c_program("tests/c/pidfd_shim.c", &["-fPIC", "-shared", "-Wl,--as-needed"])
}

/// The static library as a nightly compiler instruments it; none without one.
fn instrumented_library(test: &str) -> Option<PathBuf> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        // Those of the cargo that runs this test name its own toolchain.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let own = name.starts_with("CARGO") || name.starts_with("RUST");
            if own && !["CARGO_HOME", "RUSTUP_HOME"].contains(&name.as_str()) {
                command.env_remove(name);
            }
        }
        command.arg("+nightly").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    };
    if !cargo(&["--version"]).output().is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED: {test}: NO NIGHTLY TOOLCHAIN, so nothing has looked into the library's own memory"
        );
        return None;
    }
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = library_folder().join("asan");
    let status = cargo(&["rustc", "--quiet", "--lib", "--features", "faults", "--crate-type", "staticlib"])
        .args(["--target", &target, "--target-dir"])
        .arg(&folder)
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .status()
        .unwrap();
    assert!(status.success());
    Some(folder.join(target).join("debug/libshellflip.a"))
}

/// That program of the tests, whole under AddressSanitizer.
fn instrumented(source: &str, archive: &Path) -> PathBuf {
    let program = archive.with_file_name(Path::new(source).file_stem().unwrap());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = c_compiler()
        .args(["-std=c11", "-g", "-O1", "-pthread", "-fsanitize=address", "-I"])
        .arg(root.join("include"))
        .arg(root.join(source))
        .arg(archive)
        .args(["-lgcc_s", "-lutil", "-lrt", "-lm", "-ldl", "-o"])
        .arg(&program)
        .status()
        .unwrap();
    assert!(status.success());
    program
}

#[test]
fn address_sanitizer_finds_nothing_in_the_library() {
    let _limit = testkit::limit(Duration::from_secs(1500));
    let test = "address_sanitizer_finds_nothing_in_the_library";
    let Some(archive) = instrumented_library(test) else { return };
    let family = Family::new();
    survive(&Host::start_program(&family, &instrumented("tests/c/host.c", &archive), &[]));
    // Every call against every other one and against the end of the handle.
    let seed = std::process::id().to_string();
    let storm = family.program(instrumented("tests/c/storm.c", &archive));
    let deep = std::env::var("SHELLFLIP_DEEP").as_deref() == Ok("1");
    let rounds = if deep { "2000" } else { "300" };
    let mut storm = storm.args([rounds, &seed]).env("STORM_LIMIT_S", "900").start();
    let status = storm.wait(LATER * if deep { 10 } else { 2 });
    assert!(status.success(), "seed {seed}: {status:?}\n{}", storm.output());
    assert_no_report(&storm.output());
    family.assert_none_left(SOON);
}
