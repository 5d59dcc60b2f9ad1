//! A real systemd as process 1 of private namespaces, with a root of its own, and nothing in it but what a test asks
//! for. It ends with the value, and everything in it does.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::host::{SOON, c_program, library_folder};
use testkit::process::{Family, Output, Proc, Process, TempDir, temp_dir};
use testkit::{wait_for, wait_until};

/// Which systemd.
#[derive(Debug, Clone)]
pub struct Release {
    /// `252`
    pub version: u32,
    /// Where its /usr is.
    pub system: PathBuf,
}

impl Release {
    /// This machine's own; the error says why it cannot be used.
    pub fn own() -> Result<Release, String> {
        Release::at(Path::new("/"))
    }

    /// The one below a root.
    pub fn at(system: &Path) -> Result<Release, String> {
        let program = system.join("usr/lib/systemd/systemd");
        if !program.exists() {
            return Err(format!("there is no {}", program.display()));
        }
        // The private library has the version in its name, and needs no run of a foreign program.
        let folders = std::fs::read_dir(system.join("usr/lib")).map_err(|error| error.to_string())?;
        let folders = folders.flatten().map(|entry| entry.path().join("systemd"));
        let files =
            folders.chain([system.join("usr/lib/systemd")]).filter_map(|folder| folder.read_dir().ok());
        let names = files.flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let version = names.filter_map(|name| {
            let rest = name.strip_prefix("libsystemd-shared-")?;
            rest.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok()
        });
        let version = version.max().ok_or("its version cannot be told")?;
        Ok(Release { version, system: system.to_path_buf() })
    }
}

/// Why no systemd can be booted here, if so.
pub fn impossible() -> Option<String> {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        return Some("not root".into());
    }
    let tried = std::process::Command::new("unshare").args(["--mount", "--pid", "--fork", "true"]).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_string()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// A booted one.
pub struct Machine {
    init: i32,
    unshare: Process,
    /// Of its systemd.
    pub version: u32,
    cgroup: String,
    shared: TempDir,
    _family: Family,
    _folder: TempDir,
}

impl Machine {
    /// Boots it, with `http_epoll` as `/usr/local/bin/server`, and waits until systemd answers.
    pub fn boot(release: &Release) -> Machine {
        let family = Family::new();
        let (folder, shared) = (temp_dir(), temp_dir());
        let cgroup = format!("shellflip-test-{}", folder.path().file_name().unwrap().to_string_lossy());
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = family.program("unshare");
        let unshare = program
            .args(["--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--kill-child", "sh"])
            .arg(manifest.join("tests/systemd/boot.sh"))
            .env("ROOT", folder.path())
            .env("SYSTEM", &release.system)
            .env("CGROUP", &cgroup)
            .env("SHARED", shared.path())
            .env("LIBRARY", library_folder().join("libshellflip.so"))
            .output(Output::File)
            .start();
        let init = wait_for("process 1", SOON, || unshare.proc().children().first().map(|child| child.0));
        let version = release.version;
        let machine = Machine { init, unshare, version, cgroup, shared, _family: family, _folder: folder };
        wait_until("systemd answers", Duration::from_secs(20), || {
            assert!(Proc(init).alive(), "systemd did not start:\n{}", machine.console());
            let (code, _) = machine.run(&["systemctl", "is-active", "test.target"]);
            code == 0
        });
        println!("RAN: systemd {}", release.version);
        machine.install(&c_program("examples/c/http_epoll.c", &[]), "server");
        machine
    }

    /// What systemd has said to its console.
    pub fn console(&self) -> String {
        self.unshare.output()
    }

    /// A copy of the program in `/usr/local/bin`, by rename, as an installation does it.
    pub fn install(&self, program: &Path, name: &str) {
        std::fs::copy(program, self.shared.path().join("new")).expect("a copy");
        let script =
            format!("cp /shared/new /usr/local/bin/.new && mv /usr/local/bin/.new /usr/local/bin/{name}");
        self.must(&["sh", "-c", &script]);
    }

    /// A unit, or part of one: `name` is a path in /etc/systemd/system.
    pub fn unit(&self, name: &str, text: &str) {
        std::fs::write(self.shared.path().join("unit"), text).expect("a unit");
        let folder = Path::new(name).parent().unwrap_or(Path::new("")).display().to_string();
        let script = format!(
            "cd /etc/systemd/system && mkdir -p ./{folder} && cp /shared/unit ./{name} && systemctl daemon-reload"
        );
        self.must(&["sh", "-c", &script]);
    }

    /// A unit of `examples/systemd`, as it is.
    pub fn example(&self, name: &str) {
        self.unit(name, &example(name));
    }

    /// Runs a command inside; its exit status and output.
    pub fn run(&self, command: &[&str]) -> (i32, String) {
        let target = self.init.to_string();
        let output = std::process::Command::new("nsenter")
            .args(["--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["env", "-i", "PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin", "SYSTEMD_COLORS=0"])
            .args(command)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("nsenter");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text += &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap_or(-1), text)
    }

    /// The same, and it succeeds.
    #[track_caller]
    pub fn must(&self, command: &[&str]) -> String {
        let (code, text) = self.run(command);
        assert_eq!(code, 0, "{command:?}: {text}\n{}", self.console());
        text
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.must(&["systemctl", "show", "--value", "-p", name, unit]).trim().to_string()
    }

    /// What the unit's processes have written.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--sync"]);
        self.run(&["journalctl", "--no-pager", "-o", "cat", "-u", unit]).1
    }

    /// The processes of a unit, as numbered inside.
    pub fn processes(&self, unit: &str) -> Vec<i32> {
        let path = format!("/sys/fs/cgroup{}/cgroup.procs", self.property(unit, "ControlGroup"));
        let (code, text) = self.run(&["cat", &path]);
        let pids = text.lines().filter_map(|line| line.parse().ok());
        if code == 0 { pids.collect() } else { Vec::new() }
    }

    /// Runs it on a thread whose network is the machine's.
    pub fn inside<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.init)).expect("the network of process 1");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(network, CloneFlags::CLONE_NEWNET).expect("to enter the network");
                run()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.run(&["journalctl", "--no-pager", "-o", "short-precise", "-n", "200"]).1;
            println!("the machine's journal:\n{journal}\nits console:\n{}", self.console());
        }
        // Process 1 of its namespace: the kernel ends everything with it.
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.init), nix::sys::signal::Signal::SIGKILL);
        let _ = self.unshare.wait(SOON);
        let script = "mount -t cgroup2 cgroup2 /mnt && find \"/mnt/$1\" -depth -type d -exec rmdir {} +";
        let removed = std::process::Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh", &self.cgroup])
            .output();
        if let Ok(output) = removed
            && !output.status.success()
        {
            println!("the cgroup {} is left: {}", self.cgroup, String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// What a unit of `examples/systemd` says.
pub fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
