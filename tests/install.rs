//! The library as another project gets it: installed under `DESTDIR`, found with pkg-config, linked in both ways; and
//! flipctl as an operator gets it. And the README's program is what it says.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::deadline::wait_for;
use testkit::host::{SOON, c_program};
use testkit::process::{Family, Output, Signal, free_port, signal, temp_dir};

/// `cargo tree` of the library says why each further one is needed.
const MOST_CRATES: usize = 25;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs it to its good end; its standard output.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What `make install` runs besides cargo: what everybody has, and what links.
const TOOLS: &[&str] = &[
    "ar", "bash", "cc", "chmod", "head", "id", "install", "ld", "ln", "make", "mkdir", "objcopy", "rm", "sed",
];

/// A PATH with these programs and no other: not with those that only the tests need.
fn only(folder: PathBuf, tools: &[&str]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::fs::create_dir(&folder).unwrap();
    for tool in tools {
        let mut found = std::env::split_paths(&path).map(|one| one.join(tool));
        let found = found.find(|file| file.exists()).unwrap_or_else(|| panic!("no {tool} in {path:?}"));
        std::os::unix::fs::symlink(found, folder.join(tool)).unwrap();
    }
    folder
}

/// make in this project, with the programs of that PATH. Of cargo's variables, those of the one that runs this test are
/// not meant for the one that make starts.
fn make(path: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new("make");
    command.args(arguments).env("PATH", path).current_dir(root());
    for (name, _) in std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_") && name != "CARGO_HOME" && name != "CARGO_TARGET_DIR"
    }) {
        command.env_remove(name);
    }
    command
}

/// What pkg-config says of what is installed there, and of nothing else.
fn pkg_config(destination: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command
        .args(arguments)
        .arg("shellflip")
        .env("PKG_CONFIG_LIBDIR", destination.join("usr/lib/pkgconfig"))
        .env("PKG_CONFIG_SYSROOT_DIR", destination)
        .env_remove("PKG_CONFIG_PATH");
    output(&mut command).split_whitespace().map(String::from).collect()
}

#[test]
fn a_program_is_built_with_pkg_config_from_an_installation_and_runs() {
    let _limit = testkit::limit(Duration::from_secs(600));
    let family = Family::new();
    let folder = temp_dir();
    let destination = folder.path().join("destination");
    let tools = only(folder.path().join("tools"), TOOLS);
    let cargo = only(folder.path().join("cargo"), &["cargo", "rustc"]);
    let with_cargo = std::env::join_paths([&tools, &cargo]).unwrap();
    let make = |path: &OsStr, target: &str, destination: &Path| {
        let destination = format!("DESTDIR={}", destination.display());
        make(path, &["-s", target, "PREFIX=/usr", &destination])
    };
    output(&mut make(&with_cargo, "install", &destination));
    // As root, who has no cargo, once everything is there.
    let by_root = folder.path().join("by-root");
    output(make(tools.as_os_str(), "install", &by_root).env("CARGO_HOME", "/nowhere"));
    assert_eq!(files(&by_root).len(), files(&destination).len());
    assert_eq!(pkg_config(&destination, &["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let library = destination.join("usr/lib");
    let (source, address) = first(folder.path());
    let with_archive = &["--static", "--cflags", "--libs"][..];
    for (how, arguments) in
        [("shared", &["--cflags", "--libs"][..]), ("static", with_archive), ("alone", with_archive)]
    {
        let program = folder.path().join(how);
        let mut flags = pkg_config(&destination, arguments);
        if how == "static" {
            // Else the linker takes the shared library that lies beside it.
            let archive = library.join("libshellflip.a").display().to_string();
            flags.iter_mut().filter(|flag| *flag == "-lshellflip").for_each(|flag| *flag = archive.clone());
        }
        if how == "alone" {
            // The C library too: there is nothing for a loader to do.
            flags.push("-static".into());
        }
        compile(&source, &program, &flags);
        let counts = folder.path().join(format!("counts-{how}"));
        compile(&root().join("tests/c/counts.c"), &counts, &flags);
        output(Command::new(&counts).env("LD_LIBRARY_PATH", &library));
        let dynamic = output(Command::new("readelf").arg("-d").arg(&program));
        assert_eq!(dynamic.contains("[libshellflip.so.0]"), how == "shared", "{dynamic}");
        upgrades_once(&family, &program, &address, &[("LD_LIBRARY_PATH", &library)]);
    }
    the_tool_is_installed(&destination.join("usr"));
    output(&mut make(&with_cargo, "uninstall", &destination));
    let left: Vec<PathBuf> = files(&destination);
    assert_eq!(left, [] as [PathBuf; 0]);
    family.assert_none_left(SOON);
}

#[test]
fn what_only_the_tests_need_is_asked_for_where_it_is_used() {
    let folder = temp_dir();
    let setup = |name: &str, tools: &[&str], arguments: &[&str]| {
        let path = only(folder.path().join(name), tools);
        let mut command = Command::new("bash");
        command.arg("tools/setup").args(arguments).current_dir(root());
        // There is no apt-get either, which would install it.
        let output = command.env("PATH", path).env("CARGO_HOME", "/nowhere").output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let tools = [TOOLS, &["cargo"]].concat();
    assert_eq!(setup("build", &tools, &["--build"]), (true, String::new()));
    let (complete, text) = setup("all", &tools, &[]);
    assert!(
        !complete && text.contains("setup: missing: patch pkg-config python3 strace valgrind go"),
        "{text}"
    );
    for missing in ["cc", "make", "cargo"] {
        let others: Vec<&str> = tools.iter().copied().filter(|one| *one != missing).collect();
        let (complete, text) = setup(&format!("without-{missing}"), &others, &["--build"]);
        assert!(!complete && text.contains(missing), "{text}");
    }
    // What needs more than the build asks for it first, where nothing has been built.
    for target in [
        "examples-go",
        "check-go",
        "demo-go",
        "wheel",
        "demo-python",
        "check",
        "test",
        "deep",
        "bench-programs",
    ] {
        let mut command = make(std::env::var_os("PATH").unwrap(), &["-n", target]);
        let script = output(command.env("CARGO_TARGET_DIR", folder.path().join("target")));
        let line = |is: &dyn Fn(&str) -> bool| script.lines().position(is);
        let asked = line(&|line| matches!(line.trim(), "tools/setup" | "tools/setup --tests"));
        let used = line(&|line| [" go build", " go vet", "-m venv"].iter().any(|one| line.contains(one)));
        assert!(asked.is_some() && used.is_some() && asked < used, "{target}: {asked:?} {used:?}\n{script}");
    }
}

fn compile(source: &Path, program: &Path, flags: &[String]) {
    output(
        Command::new("cc")
            .args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"])
            .arg(source)
            .arg("-o")
            .arg(program)
            .args(flags),
    );
}

/// flipctl runs, and what belongs to it lies where man and the shells look.
fn the_tool_is_installed(prefix: &Path) {
    let flipctl = prefix.join("bin/flipctl");
    assert_eq!(
        output(Command::new(&flipctl).arg("--version")),
        format!("flipctl {}\n", env!("CARGO_PKG_VERSION"))
    );
    for (file, text) in [
        ("share/man/man1/flipctl.1", ".SH \"EXIT STATUS\""),
        ("share/bash-completion/completions/flipctl", "complete -F _flipctl"),
        ("share/zsh/site-functions/_flipctl", "#compdef flipctl"),
        ("share/fish/vendor_completions.d/flipctl.fish", "complete -c flipctl"),
    ] {
        let path = prefix.join(file);
        let installed =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(installed.contains(text), "{text:?} in {}:\n{installed}", path.display());
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// `examples/c/first.c` with a port that is free: the file, the address.
fn first(folder: &Path) -> (PathBuf, String) {
    let text = std::fs::read_to_string(root().join("examples/c/first.c")).unwrap();
    assert_eq!(text.matches("127.0.0.1:8080").count(), 1);
    let address = format!("127.0.0.1:{}", free_port());
    let path = folder.join("first.c");
    std::fs::write(&path, text.replace("127.0.0.1:8080", &address)).unwrap();
    (path, address)
}

/// The program answers, replaces itself on SIGUSR1, answers, and ends on SIGTERM.
fn upgrades_once(family: &Family, program: &Path, address: &str, environment: &[(&str, &Path)]) {
    let mut command = family.program(program).output(Output::File);
    for (name, value) in environment {
        command = command.env(name, value);
    }
    let mut process = command.start();
    let first = process.pid();
    let answered_by = || {
        let mut text = String::new();
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.read_to_string(&mut text).ok()?;
        text.strip_prefix("hello from pid ")?.trim().parse::<i32>().ok()
    };
    assert_eq!(wait_for("an answer", SOON, answered_by), first);
    process.signal(Signal::SIGUSR1);
    let second = wait_for("another one's answer", SOON, || answered_by().filter(|pid| *pid != first));
    assert!(process.wait(SOON).success(), "{}", process.output());
    signal(second, Signal::SIGTERM);
    family.wait_gone(second, SOON);
    assert_eq!(process.output(), "");
}

#[test]
fn the_library_needs_few_crates() {
    let tree = output(
        Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "--locked",
                "-p",
                "libshellflip",
                "-e",
                "normal,build",
                "--prefix",
                "none",
            ])
            .args(["--format", "{p}"])
            .current_dir(root()),
    );
    let crates: BTreeSet<&str> =
        tree.lines().filter_map(|line| line.split(" (").next()).filter(|one| !one.is_empty()).collect();
    assert!(crates.len() > 3, "{tree}");
    assert!(crates.len() <= MOST_CRATES, "{} crates: {crates:#?}", crates.len());
}

#[test]
fn the_program_in_the_readme_is_the_example_and_upgrades_itself() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let block =
        readme.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of C");
    let example = std::fs::read_to_string(root().join("examples/c/first.c")).unwrap();
    assert_eq!(block, example);
    let family = Family::new();
    let folder = temp_dir();
    let (source, address) = first(folder.path());
    upgrades_once(&family, &c_program(source.to_str().unwrap(), &[]), &address, &[]);
    family.assert_none_left(SOON);
}
