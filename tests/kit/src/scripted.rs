//! Hosts and scripted peers on one stage: who says what when, and who serves afterwards.

use crate::deadline::{scaled, wait_for, wait_until};
use crate::host::{Called, Host, SOON, Who, c_program};
use crate::load::{Address, Config, Load, get};
use crate::process::{Family, Proc, Process, build_kit_program, temp_dir};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// The program `scripted` of the kit.
pub fn program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build_kit_program("scripted")).clone()
}

/// `/command/…` for the next upgrade of a host.
fn command(words: &[&str]) -> String {
    let mut path = String::from("/command");
    for word in words {
        path.push('/');
        for byte in word.bytes() {
            match byte {
                b'/' | b'%' | b' ' | 0..=31 | 127.. => path.push_str(&format!("%{byte:02X}")),
                _ => path.push(byte as char),
            }
        }
    }
    path
}

/// A host, and where it and the generations after it can be asked in every state.
pub struct Stage {
    /// Its processes.
    pub family: Family,
    /// The first generation.
    pub host: Host,
    folder: tempfile::TempDir,
}

/// A folder for control sockets and for files that say "go on".
fn folder() -> (tempfile::TempDir, String) {
    let folder = temp_dir();
    let path = folder.path().to_str().expect("UTF-8").to_string();
    (folder, path)
}

impl Stage {
    /// Starts a host with these variables; `DIR` in a value is the folder of the files that [`Stage::go`] makes.
    pub fn new(environment: &[(&str, &str)]) -> Stage {
        Stage::until("ready 0", environment)
    }

    /// The same with a host that listens and may not be ready yet.
    pub fn starting(environment: &[(&str, &str)]) -> Stage {
        Stage::until("listening ", environment)
    }

    fn until(line: &str, environment: &[(&str, &str)]) -> Stage {
        let family = Family::new();
        let (folder, path) = folder();
        let environment = with_folder(environment, &path);
        let environment: Vec<_> = environment.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let host = Host::start_until(&family, &c_program("tests/c/host.c", &[]), &environment, line);
        Stage { family, host, folder }
    }

    /// Asks this generation, whatever its state.
    #[track_caller]
    pub fn ask(&self, pid: i32, path: &str) -> Called {
        ask(&self.folder, pid, path)
    }

    /// The same from a thread: an upgrade is under way meanwhile.
    pub fn ask_meanwhile(&self, pid: i32, path: &str) -> std::thread::JoinHandle<Called> {
        let (address, path) = (control(&self.folder, pid), path.to_string());
        std::thread::spawn(move || called(&address, &path))
    }

    /// Asks for something after which it may exit before it has answered.
    pub fn tell(&self, pid: i32, path: &str) {
        tell(&self.folder, pid, path);
    }

    /// The next upgrade of this generation starts a scripted successor.
    #[track_caller]
    pub fn script(&self, pid: i32, steps: &str) {
        let program = program();
        let path = command(&[program.to_str().expect("UTF-8"), "successor", steps]);
        assert_eq!(self.ask(pid, &path).rc, 0);
    }

    /// The next upgrade of this generation starts the host again.
    #[track_caller]
    pub fn unscript(&self, pid: i32) {
        let host = c_program("tests/c/host.c", &[]);
        assert_eq!(self.ask(pid, &command(&[host.to_str().expect("UTF-8")])).rc, 0);
    }

    /// Lets go on who waits for this.
    pub fn go(&self, name: &str) {
        std::fs::write(self.file(name), "").expect("a file");
    }

    /// The file that [`Stage::go`] makes.
    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").into()
    }

    /// What everybody has written.
    pub fn output(&self) -> String {
        self.host.process.output()
    }

    /// Waits for a piece of output.
    #[track_caller]
    pub fn wait(&self, text: &str) {
        self.host.process.wait_for_output(text, SOON);
    }

    /// Two connections that always have one request under way, each of which takes the server 2 ms. It has begun.
    pub fn load(&self) -> Load {
        let config = Config::http(self.host.address.clone()).connections(1).streams(1).path("/slow/2");
        let load = Load::start(config).expect("a load");
        wait_until("the first answers", SOON, || load.snapshot().answered > 1);
        load
    }

    /// The load has met that process, and nothing of it has failed.
    #[track_caller]
    pub fn assert_unbroken(&self, load: Load, pid: i32) {
        let met = || load.seen().iter().any(|seen| seen.identity.pid == pid);
        wait_until(&format!("the load has met process {pid}"), SOON, met);
        load.stop().assert_clean();
    }

    /// No child is left, and none that is dead and unreaped.
    #[track_caller]
    pub fn assert_childless(&self, pid: i32) {
        let children = || Proc(pid).children();
        let what = format!("process {pid} has no child");
        wait_until(&what, SOON, || children().is_empty());
        assert!(self.family.zombies().is_empty(), "{:?}", self.family.zombies());
    }

    /// `pid` replaces itself by a host, which serves.
    #[track_caller]
    pub fn assert_upgrades(&self, pid: i32) -> Who {
        self.ask(pid, "/env/HOST_BEFORE_READY");
        self.unscript(pid);
        let called = upgrade(&self.folder, pid);
        assert!(called.rc > 0, "the next upgrade: {called:?}\n{}", self.output());
        let who = self.host.wait_for_other(pid);
        assert_eq!(i64::from(who.pid), called.rc);
        who
    }

    /// Stops the server; nothing is left.
    #[track_caller]
    pub fn end(&self, pid: i32) {
        self.tell(pid, "/request/2");
        self.family.wait_gone(pid, SOON);
        self.family.assert_none_left(SOON);
    }
}

/// A host whose predecessor is scripted.
pub struct Successor {
    /// Both.
    pub family: Family,
    /// The scripted predecessor.
    pub predecessor: Process,
    folder: tempfile::TempDir,
}

impl Successor {
    /// Starts the scripted predecessor, which starts the host at its step `start`.
    pub fn new(environment: &[(&str, &str)], steps: &str) -> Successor {
        Successor::of(&c_program("tests/c/host.c", &[]), environment, steps)
    }

    /// The same with another program than the host itself.
    pub fn of(program: &std::path::Path, environment: &[(&str, &str)], steps: &str) -> Successor {
        let family = Family::new();
        let (folder, path) = folder();
        let mut predecessor = family.program(self::program()).arg("predecessor").arg(steps).arg(program);
        for (name, value) in with_folder(environment, &path) {
            predecessor = predecessor.env(name, value);
        }
        Successor { family, predecessor: predecessor.start(), folder }
    }

    /// What both have written.
    pub fn output(&self) -> String {
        self.predecessor.output()
    }

    /// Waits for a piece of output.
    #[track_caller]
    pub fn wait(&self, text: &str) {
        self.predecessor.wait_for_output(text, SOON);
    }

    /// Lets go on who waits for this.
    pub fn go(&self, name: &str) {
        std::fs::write(self.folder.path().join(name), "").expect("a file");
    }

    /// Asks a generation, whatever its state.
    #[track_caller]
    pub fn ask(&self, pid: i32, path: &str) -> Called {
        ask(&self.folder, pid, path)
    }

    /// Asks for something after which it may exit before it has answered.
    pub fn tell(&self, pid: i32, path: &str) {
        tell(&self.folder, pid, path);
    }

    /// Upgrades a generation as soon as its predecessor has released it.
    #[track_caller]
    pub fn upgrade(&self, pid: i32) -> Called {
        upgrade(&self.folder, pid)
    }

    /// The pid of the host, once it has started.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.wait("scripted started ");
        let output = self.output();
        let line = output.lines().find_map(|line| line.strip_prefix("scripted started ")).expect("a line");
        line.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a pid")
    }

    /// Who answers at the listener now.
    #[track_caller]
    pub fn who(&self) -> Who {
        self.wait("listening ");
        let output = self.output();
        let line = output.lines().find_map(|line| line.strip_prefix("listening ")).expect("listening");
        let address: Address =
            line.split_whitespace().next().expect("an address").parse().expect("an address");
        let answer = get(&address, "/", scaled(SOON)).expect("an answer");
        let value: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        Who {
            version: value["version"].as_str().unwrap_or_default().into(),
            pid: value["pid"].as_i64().unwrap_or_default() as i32,
            generation: value["generation"].as_i64().unwrap_or(-1),
        }
    }
}

fn with_folder(environment: &[(&str, &str)], folder: &str) -> Vec<(String, String)> {
    let given = environment.iter().map(|(name, value)| (name.to_string(), value.replace("DIR", folder)));
    let ours = [("HOST_CONTROL", folder), ("SCRIPTED_DIR", folder)];
    given.chain(ours.map(|(name, value)| (name.into(), value.into()))).collect()
}

fn control(folder: &tempfile::TempDir, pid: i32) -> Address {
    Address::Unix(folder.path().join(pid.to_string()).to_str().expect("UTF-8").into())
}

#[track_caller]
fn ask(folder: &tempfile::TempDir, pid: i32, path: &str) -> Called {
    let socket = folder.path().join(pid.to_string());
    wait_until(&format!("process {pid} can be asked"), SOON, || socket.exists());
    called(&control(folder, pid), path)
}

/// Whoever serves may still have RELEASED to read, or its predecessor's death to see.
#[track_caller]
fn upgrade(folder: &tempfile::TempDir, pid: i32) -> Called {
    wait_for(&format!("process {pid} was released"), SOON, || {
        Some(ask(folder, pid, "/upgrade")).filter(|called| called.rc != -i64::from(libc::EAGAIN))
    })
}

fn tell(folder: &tempfile::TempDir, pid: i32, path: &str) {
    let socket = folder.path().join(pid.to_string());
    wait_until(&format!("process {pid} can be asked"), SOON, || socket.exists());
    let _ = get(&control(folder, pid), path, scaled(SOON));
}

fn called(address: &Address, path: &str) -> Called {
    let answer = get(address, path, scaled(Duration::from_secs(60)));
    let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
    let value: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    Called {
        rc: value["rc"].as_i64().expect("rc"),
        failure: value["failure"].as_i64().expect("failure"),
        error: value["error"].as_str().expect("error").into(),
    }
}
