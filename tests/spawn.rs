//! What a spawned program finds, by what the kernel says of it in /proc, and what a spawn leaves behind here.

use libc::{c_int, c_long};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shellflip::error::{Error, Result};
use shellflip::program::{Overrides, Program};
use shellflip::spawn::{Job, Prepared, Spawned, Step, Watch, spawn};
use shellflip::startup::{StartSignals, Startup, environment};
use shellflip::sys::process::{self, Exit};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use testkit::process::{copy_program, write_script};

const PATIENCE: Duration = Duration::from_secs(20);

/// Descriptors, children and limits belong to the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A successor that is ended and reaped with the test.
struct Running(Spawned);

impl Running {
    fn proc(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.0.pid))
    }

    fn status(&self, key: &str) -> String {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t")).unwrap().to_string()
    }

    fn mask(&self, key: &str) -> u64 {
        u64::from_str_radix(&self.status(key), 16).unwrap()
    }

    fn descriptors(&self) -> BTreeMap<i32, PathBuf> {
        self.loaded();
        descriptors_of(&self.0.pid.to_string())
    }

    fn environment(&self) -> Vec<String> {
        // The kernel lets go of our thread just before it sets up what environ shows.
        self.loaded();
        let bytes = fs::read(self.proc("environ")).unwrap();
        bytes
            .split(|b| *b == 0)
            .filter(|e| !e.is_empty())
            .map(|e| String::from_utf8_lossy(e).into())
            .collect()
    }

    /// Waits until the program's own code runs: the loader, which opens files, is done.
    fn loaded(&self) {
        until("the program sleeps", || {
            assert_eq!(process::reap(self.0.pidfd.as_fd()), Ok(None), "it has ended");
            let state = fs::read_to_string(self.proc("syscall")).unwrap();
            // clock_nanosleep, or nanosleep.
            let number = state.split(' ').next()?.parse().ok()?;
            [libc::SYS_clock_nanosleep, libc::SYS_nanosleep].contains(&number).then_some(())
        })
    }

    fn exit(self) -> Exit {
        until("the program ends", || process::reap(self.0.pidfd.as_fd()).unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = process::pidfd_send_signal(self.0.pidfd.as_fd(), libc::SIGKILL);
        let _ = process::reap_ending(self.0.pidfd.as_fd());
    }
}

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn descriptors_of(pid: &str) -> BTreeMap<i32, PathBuf> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let listed = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let numbers: Vec<i32> = listed.map(|name| name.to_str().unwrap().parse().unwrap()).collect();
    // The folder's own descriptor is gone by now.
    numbers.into_iter().filter_map(|n| Some((n, fs::read_link(folder.join(n.to_string())).ok()?))).collect()
}

fn open(path: &str) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// A memfd called `name`, to be recognised in /proc.
fn named(name: &str) -> OwnedFd {
    let name = CString::new(name).unwrap();
    // SAFETY: a new descriptor of our own.
    unsafe { OwnedFd::from_raw_fd(libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC)) }
}

fn is_named(path: &Path, name: &str) -> bool {
    path.to_str().unwrap().starts_with(&format!("/memfd:{name} "))
}

fn program(arguments: &[&str]) -> Program {
    let arguments: Vec<CString> = arguments.iter().map(|one| CString::new(*one).unwrap()).collect();
    Program { executable: arguments[0].clone(), arguments, directory: Some(c"/".into()) }
}

const SLEEP: &[&str] = &["/bin/sleep", "1000"];

fn job(arguments: &[&str]) -> Job<OwnedFd> {
    Job {
        program: program(arguments),
        environment: vec![c"PATH=/usr/bin:/bin".into()],
        stdio: [None, None, None],
        descriptors: Vec::new(),
        channel: named("channel"),
        listen_fdnames: None,
        nonce: "nonce".into(),
        signals: StartSignals { mask: 0, ignored: 0 },
        soft_limit: getrlimit(Resource::RLIMIT_NOFILE).unwrap().0,
        sibling: false,
    }
}

fn start(job: Job<OwnedFd>) -> Result<Running> {
    spawn(Prepared::new(job)?, &Watch::new()?).map(Running)
}

/// Runs the rest of the test `name` in a process of its own, for what cannot be undone. True in that process.
fn isolated(name: &str, prepare: impl FnOnce(&mut Command)) -> bool {
    if std::env::var_os("ISOLATED").is_some() {
        return true;
    }
    let _alone = alone();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env("ISOLATED", "1");
    prepare(&mut command);
    let output = command.output().unwrap();
    until("a sibling that it started and ended is reaped", || {
        // SAFETY: no other test runs, so that no other child is taken.
        unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
        has_no_child().then_some(())
    });
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    false
}

#[test]
fn exactly_the_named_descriptors_cross() {
    let _alone = alone();
    let host = named("host");
    // SAFETY: plain duplicates of our own, without CLOEXEC, closed below.
    let leaky: Vec<OwnedFd> = (0..50)
        .map(|_| unsafe { OwnedFd::from_raw_fd(libc::fcntl(host.as_raw_fd(), libc::F_DUPFD, 3)) })
        .collect();
    let mut job = job(SLEEP);
    job.stdio = [Some(named("in")), None, Some(named("err"))];
    job.descriptors = vec![named("first"), named("second")];
    let running = start(job).unwrap();
    let found = running.descriptors();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5], "{found:?}");
    assert_eq!(found[&1], Path::new("/dev/null"));
    for (number, name) in [(0, "in"), (2, "err"), (3, "first"), (4, "second"), (5, "channel")] {
        assert!(is_named(&found[&number], name), "{found:?}");
    }
    drop(leaky);
}

#[test]
fn a_descriptor_may_be_in_its_place_already_or_be_passed_twice() {
    let _alone = alone();
    let spare: Vec<_> = (0..40).map(|i| named(&format!("n{i}"))).collect();
    let same = named("same");
    let mut job = Job {
        descriptors: Vec::new(),
        channel: spare[0].as_fd(),
        stdio: [None, Some(same.as_fd()), Some(same.as_fd())],
        program: program(SLEEP),
        environment: Vec::new(),
        listen_fdnames: None,
        nonce: String::new(),
        signals: StartSignals { mask: 0, ignored: 0 },
        soft_limit: 1024,
        sibling: false,
    };
    // In reverse order, as many in cycles as possible; the highest of them in its own place by chance or not.
    job.descriptors = spare.iter().skip(1).rev().map(|fd| fd.as_fd()).collect();
    let running = Running(spawn(Prepared::new(job).unwrap(), &Watch::new().unwrap()).unwrap());
    let found = running.descriptors();
    assert_eq!(found.len(), 3 + 40);
    assert!(is_named(&found[&1], "same") && is_named(&found[&2], "same"));
    for i in 1..40 {
        assert!(is_named(&found[&(3 + 39 - i)], &format!("n{i}")), "{found:?}");
    }
    assert!(is_named(&found[&42], "n0"));
}

fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

#[test]
fn signals_are_those_of_the_first_start() {
    extern "C" fn caught(_: c_int) {}
    let _alone = alone();
    // SAFETY: handlers that do nothing.
    unsafe {
        libc::signal(libc::SIGUSR1, caught as extern "C" fn(c_int) as usize);
        libc::signal(libc::SIGUSR2, libc::SIG_IGN);
    }
    let running = std::thread::spawn(|| {
        let mut job = job(SLEEP);
        let ignored = bit(libc::SIGHUP) | bit(libc::SIGUSR1) | bit(33) | bit(40);
        job.signals = StartSignals { mask: bit(libc::SIGWINCH) | bit(32), ignored };
        // As the library's own threads do; `spawn` leaves them so.
        process::swap_signal_mask(Some(u64::MAX)).unwrap();
        let running = start(job).unwrap();
        let kept = process::swap_signal_mask(None).unwrap();
        assert_eq!(kept, !(bit(libc::SIGKILL) | bit(libc::SIGSTOP)));
        running
    });
    let running = running.join().unwrap();
    assert_eq!(running.mask("SigBlk"), bit(libc::SIGWINCH) | bit(32));
    assert_eq!(running.mask("SigIgn"), bit(libc::SIGHUP) | bit(libc::SIGUSR1) | bit(33) | bit(40));
    assert_eq!(running.mask("SigCgt"), 0);
    // SAFETY: back to the defaults.
    unsafe {
        // This process kept its own.
        assert_eq!(libc::signal(libc::SIGUSR1, libc::SIG_DFL), caught as extern "C" fn(c_int) as usize);
        assert_eq!(libc::signal(libc::SIGUSR2, libc::SIG_DFL), libc::SIG_IGN);
    }
}

#[test]
fn the_environment_names_the_successors_pid_from_the_start() {
    let _alone = alone();
    let own = std::process::id();
    let mut job = job(SLEEP);
    job.environment.push(CString::new(format!("WATCHDOG_PID={own}")).unwrap());
    job.environment.push(c"SYSTEMD_EXEC_PID=1".into());
    job.environment.push(c"LISTEN_PIDFDID=5".into());
    job.descriptors = vec![named("a"), named("b")];
    job.listen_fdnames = Some(c"x:y".into());
    let running = start(job).unwrap();
    let pid = running.0.pid;
    assert_eq!(
        running.environment(),
        [
            "PATH=/usr/bin:/bin".to_string(),
            format!("WATCHDOG_PID={pid}"),
            "SYSTEMD_EXEC_PID=1".into(),
            format!("LISTEN_PID={pid}"),
            "LISTEN_FDS=2".into(),
            "LISTEN_FDNAMES=x:y".into(),
            format!("SHELLFLIP_CHANNEL={pid}:5:nonce"),
        ]
    );
}

#[test]
fn a_directory_that_is_a_link_is_followed_when_it_is_used() {
    let _alone = alone();
    let folder = std::env::temp_dir().join(format!("spawn-link-{}", std::process::id()));
    fs::create_dir_all(folder.join("one")).unwrap();
    fs::create_dir_all(folder.join("two")).unwrap();
    let link = folder.join("current");
    for release in ["one", "two"] {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(release, &link).unwrap();
        copy_program("/bin/sleep", folder.join(release).join("app"));
        let mut job = job(&["./app", "1000"]);
        job.program.directory = Some(CString::new(link.to_str().unwrap()).unwrap());
        let running = start(job).unwrap();
        assert_eq!(fs::read_link(running.proc("cwd")).unwrap(), folder.join(release));
        assert_eq!(fs::read_link(running.proc("exe")).unwrap(), folder.join(release).join("app"));
    }
    fs::remove_dir_all(folder).unwrap();
}

fn has_no_child() -> bool {
    // SAFETY: only asks; the tests run one at a time and each reaps its own.
    let answer = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    answer == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD)
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let _alone = alone();
    let folder = std::env::temp_dir().join(format!("spawn-fails-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let script = folder.join("script");
    write_script(&script, "#!/no/such/interpreter\n");
    let script = script.to_str().unwrap();
    let before = descriptors_of("self");

    let gone = start(job(&["/no/such/program"])).map(drop).unwrap_err();
    assert_eq!(gone.to_string(), "cannot start /no/such/program: no such file or directory (ENOENT)");
    let denied = start(job(&["/etc/passwd"])).map(drop).unwrap_err();
    assert_eq!(denied.to_string(), "cannot start /etc/passwd: permission denied (EACCES)");
    let mut nowhere = job(SLEEP);
    nowhere.program.directory = Some(c"/no/such/directory".into());
    let nowhere = start(nowhere).map(drop).unwrap_err().to_string();
    assert_eq!(nowhere, "cannot start in directory /no/such/directory: no such file or directory (ENOENT)");
    let loader = start(job(&[script])).map(drop).unwrap_err().to_string();
    assert!(loader.contains("whose interpreter or loader is missing"), "{loader}");

    assert!(has_no_child());
    assert_eq!(descriptors_of("self"), before);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_hundred_spawns_leak_nothing() {
    let _alone = alone();
    let before = descriptors_of("self");
    let maps = || fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    drop(start(job(SLEEP)).unwrap());
    let maps_before = maps();
    for _ in 0..100 {
        assert_eq!(start(job(&["/bin/true"])).unwrap().exit(), Exit::Status(0));
    }
    assert_eq!(descriptors_of("self"), before);
    assert!(maps() <= maps_before + 3, "{} {maps_before}", maps());
    assert!(has_no_child());
}

#[test]
fn the_end_of_a_successor_is_told_as_status_or_signal() {
    let _alone = alone();
    let exited = start(job(&["/bin/sh", "-c", "exit 7"])).unwrap();
    assert_eq!(exited.exit(), Exit::Status(7));
    for signal in [libc::SIGTERM, 40] {
        let running = start(job(SLEEP)).unwrap();
        assert_eq!(process::reap(running.0.pidfd.as_fd()), Ok(None));
        process::pidfd_send_signal(running.0.pidfd.as_fd(), signal).unwrap();
        assert_eq!(running.exit(), Exit::Signal(signal));
    }
}

#[test]
fn six_hundred_descriptors_fit_under_a_soft_limit_of_1024() {
    let name = "six_hundred_descriptors_fit_under_a_soft_limit_of_1024";
    if isolated(name, |_| ()) {
        let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
        setrlimit(Resource::RLIMIT_NOFILE, 1024, hard).unwrap();
        // The soft limit of the start, not the one the host has set since; unless the program could not even load.
        for (at_start, expected) in [(900, "900"), (512, "1116")] {
            let mut job = job(SLEEP);
            job.soft_limit = at_start;
            job.descriptors = (0..600).map(|i| named(&format!("d{i}"))).collect();
            job.descriptors.reverse();
            let running = start(job).unwrap();
            let found = running.descriptors();
            assert_eq!(found.len(), 604);
            for i in 0..600 {
                assert!(is_named(&found[&(3 + 599 - i)], &format!("d{i}")), "{found:?}");
            }
            let limits = fs::read_to_string(running.proc("limits")).unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
            assert_eq!(line.split_whitespace().nth(3), Some(expected));
        }
    }
}

#[test]
fn a_full_table_at_the_hard_limit_is_enough() {
    if isolated("a_full_table_at_the_hard_limit_is_enough", |_| ()) {
        let mut job = job(SLEEP);
        setrlimit(Resource::RLIMIT_NOFILE, 200, 200).unwrap();
        let null = open("/dev/null");
        while let Ok(fd) = process::duplicate(null.as_fd()) {
            job.descriptors.push(fd);
        }
        // One number for the pidfd; and the channel's place is the highest number there is, if all others are passed.
        job.descriptors.pop();
        job.descriptors.reverse();
        let passed = job.descriptors.len() as i32;
        let running = start(job).unwrap();
        assert_eq!(
            running.descriptors().into_keys().collect::<Vec<_>>(),
            (0..passed + 4).collect::<Vec<_>>()
        );
        assert!(passed > 180);
    }
}

#[test]
fn more_than_the_hard_limit_is_an_error_before_the_spawn() {
    if isolated("more_than_the_hard_limit_is_an_error_before_the_spawn", |_| ()) {
        let mut job = job(SLEEP);
        job.descriptors = (0..40).map(|_| open("/dev/null")).collect();
        setrlimit(Resource::RLIMIT_NOFILE, 30, 30).unwrap();
        let error = start(job).map(drop).unwrap_err();
        assert_eq!(error.errno(), Errno::EMFILE, "{error}");
    }
}

/// What a seccomp profile may do to a system call: `(number, in place of which second flag word, action)`.
fn filter(rules: &[(c_long, Option<u32>, u32)], flags: u64) -> c_int {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let unless = |k: u32, jf: u8| libc::sock_filter { code: 0x15, jt: 0, jf, k };
    let mut code = Vec::new();
    for (number, third_argument, action) in rules {
        code.push(statement(0x20, 0));
        code.push(unless(*number as u32, if third_argument.is_some() { 3 } else { 1 }));
        if let Some(value) = third_argument {
            code.push(statement(0x20, 32));
            code.push(unless(*value, 1));
        }
        code.push(statement(0x06, *action));
    }
    code.push(statement(0x06, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: a filter for this thread and its children alone.
    let fd = unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program)
    };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    fd as c_int
}

fn refuse(errno: c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

#[test]
fn nothing_leaks_where_close_range_is_old_or_forbidden() {
    let _alone = alone();
    let close_range = libc::SYS_close_range;
    let cases = [
        // Linux 5.10. Without fcntl(F_SETFD, FD_CLOEXEC) the other ways do not work.
        vec![
            (close_range, Some(libc::CLOSE_RANGE_CLOEXEC), refuse(libc::EINVAL)),
            (libc::SYS_fcntl, Some(libc::FD_CLOEXEC as u32), refuse(libc::EPERM)),
        ],
        vec![(close_range, None, refuse(libc::ENOSYS))],
        vec![(close_range, None, refuse(libc::EPERM)), (libc::SYS_getdents64, None, refuse(libc::EPERM))],
    ];
    let host = named("host");
    for rules in cases {
        // SAFETY: plain duplicates of our own, without CLOEXEC, closed with this round.
        let leaky: Vec<OwnedFd> = [3, 700, 999, 5000]
            .map(|least| unsafe { OwnedFd::from_raw_fd(libc::fcntl(host.as_raw_fd(), libc::F_DUPFD, least)) })
            .into();
        // The filter stays with the thread.
        let spawned = std::thread::spawn(move || {
            filter(&rules, 0);
            let mut job = job(SLEEP);
            job.descriptors = vec![named("a")];
            start(job).unwrap()
        });
        let running = spawned.join().unwrap();
        assert_eq!(running.descriptors().into_keys().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        drop(leaky);
    }
}

/// The pids of this process's children.
fn children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let listed = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    listed.flat_map(|line| line.split_whitespace().map(String::from).collect::<Vec<_>>()).collect()
}

#[test]
fn a_child_that_hangs_before_or_in_exec_is_ended_from_another_thread() {
    let _alone = alone();
    for (call, step) in [(libc::SYS_chdir, Step::Directory), (libc::SYS_execve, Step::Exec)] {
        let before = descriptors_of("self");
        let watch = Watch::new().unwrap();
        assert!(!watch.kill().unwrap(), "nothing to kill yet");
        let (sender, receiver) = std::sync::mpsc::channel();
        let spawning = std::thread::spawn({
            let watch = watch.clone();
            move || {
                // The call waits until the listener answers, which it never does.
                let rules = [(call, None, libc::SECCOMP_RET_USER_NOTIF)];
                sender.send(filter(&rules, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)).unwrap();
                let mask = process::swap_signal_mask(None).unwrap();
                let result = spawn(Prepared::new(job(SLEEP)).unwrap(), &watch).map(Running).map(drop);
                assert_eq!(process::swap_signal_mask(None), Ok(mask));
                result
            }
        });
        // SAFETY: made for this test.
        let listener = unsafe { OwnedFd::from_raw_fd(receiver.recv().unwrap()) };
        until("the child makes the call", || {
            let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry.
            (unsafe { libc::poll(&mut poll, 1, 0) } == 1).then_some(())
        });
        assert_eq!(watch.step(), step);
        let [child] = &children()[..] else { panic!("{:?}", children()) };
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
        let expected = match step {
            // No handler of the host's can run in the child, at no time.
            Step::Directory => "SigBlk:\tfffffffffffbfeff",
            _ => "SigBlk:\t0000000000000000",
        };
        assert!(status.contains(expected) && status.contains("SigCgt:\t0000000000000000"), "{status}");

        assert!(!spawning.is_finished());
        assert!(watch.kill().unwrap());
        let error = spawning.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Deadline(_)), "{error}");
        assert!(!watch.kill().unwrap(), "over");
        let again = spawn(Prepared::new(job(SLEEP)).unwrap(), &watch).map(Running).map(drop);
        assert_eq!(again.unwrap_err().errno(), Errno::EINVAL);
        drop(listener);
        assert!(has_no_child());
        assert_eq!(descriptors_of("self"), before);
    }
}

#[test]
fn numbers_above_a_soft_limit_that_the_host_lowered_are_reached() {
    if isolated("numbers_above_a_soft_limit_that_the_host_lowered_are_reached", |_| ()) {
        let mut job = job(SLEEP);
        job.descriptors = (0..45).map(|_| open("/dev/null")).collect();
        // Numbers for the pidfd and for what the test reads.
        job.descriptors.drain(..5);
        setrlimit(Resource::RLIMIT_NOFILE, 30, 400).unwrap();
        let running = start(job).unwrap();
        assert_eq!(running.descriptors().len(), 44);
    }
}

#[test]
fn a_host_that_ignores_sigchld_is_told_why_a_start_failed() {
    if isolated("a_host_that_ignores_sigchld_is_told_why_a_start_failed", |_| ()) {
        // SAFETY: this process has one test.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        let error = start(job(&["/no/such/program"])).map(drop).unwrap_err();
        assert_eq!(error.errno(), Errno::ENOENT);
        let running = start(job(&["/bin/true"])).unwrap();
        until("nobody knows how it ended", || {
            (process::reap(running.0.pidfd.as_fd()) == Err(Errno::ECHILD)).then_some(())
        });
    }
}

#[test]
fn a_sibling_is_our_parents_child() {
    if isolated("a_sibling_is_our_parents_child", |_| ()) {
        let mut job = job(SLEEP);
        job.sibling = true;
        let running = start(job).unwrap();
        running
            .status("PPid")
            .parse()
            .map(|pid: u32| assert_eq!(pid, std::os::unix::process::parent_id()))
            .unwrap();
        assert_eq!(process::reap(running.0.pidfd.as_fd()), Err(Errno::ECHILD));
    }
}

#[test]
fn the_start_is_seen_as_it_was_before_main() {
    let name = "the_start_is_seen_as_it_was_before_main";
    let prepare = |command: &mut Command| {
        // SAFETY: system calls alone.
        unsafe {
            command.arg0("a name of its own").env("PWD", "/proc/self/cwd").pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                // A shell without job control starts what is in its background with SIGINT and SIGQUIT ignored.
                for default in [libc::SIGPIPE, libc::SIGINT, libc::SIGQUIT] {
                    libc::signal(default, libc::SIG_DFL);
                }
                let hard = getrlimit(Resource::RLIMIT_NOFILE)?.1;
                setrlimit(Resource::RLIMIT_NOFILE, 333, hard)?;
                libc::close(0);
                process::swap_signal_mask(Some(bit(libc::SIGUSR2) | bit(33)))?;
                Ok(())
            });
        }
    };
    if isolated(name, prepare) {
        let start = std::env::current_dir().unwrap();
        // What hosts do before they call the library.
        process::swap_signal_mask(Some(u64::MAX)).unwrap();
        let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        std::env::set_current_dir("/").unwrap();
        // SAFETY: this process has one test.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };

        let startup = Startup::capture(environment()).unwrap();
        // std's own main ignores SIGPIPE, and opened /dev/null for 0.
        // glibc's posix_spawn, by which the tests may have been started, leaves 32 and 33 ignored.
        assert_eq!(startup.signals.ignored & !(bit(32) | bit(33)), bit(libc::SIGHUP));
        assert_eq!(startup.signals.mask, bit(libc::SIGUSR2) | bit(33));
        assert_eq!(startup.soft_limit, 333);
        let directory = startup.directory.clone().unwrap();
        assert_eq!(directory.to_str().unwrap(), start.to_str().unwrap());
        let original = startup.original.clone().unwrap();
        assert_eq!(original.arguments[0].as_c_str(), c"a name of its own");
        let path: &CStr = &original.executable;
        assert_eq!(path.to_str().unwrap(), std::env::current_exe().unwrap().to_str().unwrap());
        let program = Overrides::default().resolve(&startup).unwrap();
        assert_eq!(program.directory, Some(directory));
        assert!(startup.stdio[1].as_ref().is_some_and(|fd| fd.as_raw_fd() > 2));
    }
}

/// What a process makes of its own start; only run by the tests below.
#[test]
fn tell_how_this_was_started() {
    let Ok(file) = std::env::var("TELL") else { return };
    let startup = Startup::capture(environment()).unwrap();
    let original = startup.original.clone().unwrap();
    fs::write(&file, format!("{original:?}")).unwrap();
    let program = Overrides::default().resolve(&startup).unwrap();
    // Once more from here, telling the other file.
    if let Ok(next) = std::env::var("TELL_NEXT") {
        let mut job = job(SLEEP);
        job.program = program;
        job.environment = vec![CString::new(format!("TELL={next}")).unwrap()];
        assert_eq!(start(job).unwrap().exit(), Exit::Status(0));
    }
}

#[test]
fn a_program_started_through_its_loader_is_started_so_again() {
    let _alone = alone();
    let loader = "/lib64/ld-linux-x86-64.so.2";
    if !Path::new(loader).exists() {
        return println!("SKIPPED: a_program_started_through_its_loader_is_started_so_again: no {loader}");
    }
    let file = std::env::temp_dir().join(format!("spawn-loader-{}", std::process::id()));
    let app = std::env::current_exe().unwrap();
    let mut command = Command::new(loader);
    command.args(["--argv0", "a name"]).arg(&app).args(["--exact", "tell_how_this_was_started"]);
    let next = file.with_extension("next");
    let output = command.env("TELL", &file).env("TELL_NEXT", &next).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = fs::read_to_string(&file).unwrap();
    assert_eq!(told, fs::read_to_string(&next).unwrap());
    assert!(
        told.contains(&format!(r#"executable: "{loader}", arguments: ["{loader}", "--argv0", "a name""#)),
        "{told}"
    );
    fs::remove_file(file).unwrap();
    fs::remove_file(next).unwrap();
}

#[test]
fn a_script_is_started_again_with_the_same_arguments() {
    let _alone = alone();
    let folder = std::env::temp_dir().join(format!("spawn-script-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let script = folder.join("script");
    let interpreter = std::env::current_exe().unwrap();
    write_script(&script, &format!("#!{} --nocapture\n", interpreter.display()));
    let (first, second) = (folder.join("first"), folder.join("second"));
    let mut command = Command::new("./script");
    command.current_dir(&folder).args(["--exact", "tell_how_this_was_started"]);
    let output = command.env("TELL", &first).env("TELL_NEXT", &second).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = fs::read_to_string(&first).unwrap();
    assert_eq!(told, fs::read_to_string(&second).unwrap());
    let arguments = r#"arguments: ["./script", "--exact", "tell_how_this_was_started"]"#;
    assert!(told.contains(r#"executable: "./script""#) && told.contains(arguments), "{told}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn there_is_one_vfork_like_clone_and_no_fork() {
    let _alone = alone();
    let name = "a_start_under_strace";
    let trace = std::env::temp_dir().join(format!("spawn-strace-{}", std::process::id()));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=clone,clone3,fork,vfork,execve", "-o"]).arg(&trace);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--test-threads=1"]);
    let status = match command.env("TRACED", "1").stdout(std::process::Stdio::null()).status() {
        Ok(status) => status,
        Err(error) => return println!("SKIPPED: there_is_one_vfork_like_clone_and_no_fork: strace: {error}"),
    };
    assert!(status.success());
    let text = fs::read_to_string(&trace).unwrap();
    fs::remove_file(&trace).unwrap();
    let starts = |line: &&str| ["fork(", "clone(", "clone3("].iter().any(|call| line.contains(call));
    let processes: Vec<&str> = text
        .lines()
        .filter(starts)
        .filter(|line| !line.contains("CLONE_THREAD") && !line.contains("resumed"))
        .collect();
    assert_eq!(processes.len(), 1, "{text}");
    let flags = ["CLONE_VM", "CLONE_VFORK", "CLONE_PIDFD", "SIGCHLD"];
    assert!(flags.iter().all(|flag| processes[0].contains(flag)), "{text}");
}

/// Only run by the test above.
#[test]
fn a_start_under_strace() {
    if std::env::var_os("TRACED").is_some() {
        assert_eq!(start(job(&["/bin/true"])).unwrap().exit(), Exit::Status(0));
    }
}
