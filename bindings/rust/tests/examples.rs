//! The examples of examples/rust, replaced under load: no request fails.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;
use support::{SOON, example, serving, ten_upgrades};
use testkit::deadline::scaled;
use testkit::load::{Address, Config, Load, get};
use testkit::process::{Family, Output, Signal, free_port, signal, temp_dir};
use testkit::wait_until;

fn free_address() -> Address {
    format!("tcp://127.0.0.1:{}", free_port()).parse().expect("an address")
}

#[test]
fn a_thread_per_connection_loses_nothing_in_ten_upgrades() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let (family, address) = (Family::new(), free_address());
    let mut server = family.program(example("hello")).arg(address.to_string()).start();
    let port = address.to_string().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    server.wait_until("it answers", SOON, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    ten_upgrades(&family, Load::start(Config::hello(address)).expect("a load"), 20);
}

#[test]
fn keep_alive_connections_lose_nothing_in_ten_upgrades() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let (family, address) = (Family::new(), free_address());
    let mut server = family.program(example("http")).arg(address.to_string()).start();
    server.wait_until("it answers", SOON, || get(&address, "/", SOON).is_ok());
    let load = Config::http(address).connections(16).streams(2).prefix("{\"version\":");
    ten_upgrades(&family, Load::start(load).expect("a load"), 200);
}

#[test]
fn the_first_server_of_the_readme_replaces_itself() {
    // It builds all of it: ten times as long as that takes.
    let _limit = testkit::limit(Duration::from_secs(300));
    let (family, folder, port) = (Family::new(), temp_dir(), free_port());
    // Its port is in its text.
    let source =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/rust/first.rs")).expect("it");
    assert_eq!(source.matches("127.0.0.1:8080").count(), 1);
    let package = format!(
        "[package]\nname = \"first\"\nedition = \"2024\"\n[dependencies]\ngraceflip = {{ path = {:?} }}\n[workspace]\n",
        env!("CARGO_MANIFEST_DIR")
    );
    fs::create_dir(folder.path().join("src")).expect("a folder");
    fs::write(folder.path().join("Cargo.toml"), package).expect("a package");
    fs::write(folder.path().join("src/main.rs"), source.replace("8080", &port.to_string()))
        .expect("its source");
    // The versions that the workspace has: they are on this machine.
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
    fs::copy(lock, folder.path().join("Cargo.lock")).expect("a copy");
    let mut build = std::process::Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    build.args(["build", "--quiet", "--offline"]).current_dir(folder.path());
    let target = std::env::current_exe().expect("a path").with_file_name("first-package");
    build.env("CARGO_TARGET_DIR", &target);
    assert!(build.status().expect("cargo").success());
    let server = family.program(target.join("debug/first")).output(Output::File).start();
    let ask = || {
        let mut line = String::new();
        BufReader::new(TcpStream::connect(("127.0.0.1", port)).ok()?).read_line(&mut line).ok()?;
        line.trim().strip_prefix("hello from pid ")?.parse::<i32>().ok()
    };
    wait_until("it answers", SOON, || ask() == Some(server.pid()));
    signal(server.pid(), Signal::SIGUSR1);
    wait_until("another answers", SOON, || ask().is_some_and(|pid| pid != server.pid()));
    let second = ask().expect("an answer");
    signal(second, Signal::SIGTERM);
    family.wait_gone(second, SOON);
    drop(server);
    family.assert_none_left(SOON);
}

/// What one request to `stateful` was answered: count, pid, generation. One that is not answered is a failure.
fn count(port: u16, name: &str) -> (u64, i32, u64) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.set_read_timeout(Some(scaled(SOON))).expect("a time-out");
    stream.write_all(format!("{name}\n").as_bytes()).expect("a request");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!((words.len(), words.first().copied()), (6, Some(name)), "{line:?}");
    (words[1].parse().unwrap(), words[3].parse().unwrap(), words[5].parse().unwrap())
}

/// A client that counts on and never retries: every answer is one more than the last one.
fn client(port: u16, name: String, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut expected = 0;
        while !stop.load(SeqCst) {
            expected += 1;
            assert_eq!(count(port, &name).0, expected, "{name}");
        }
        expected
    })
}

#[test]
fn a_counter_per_client_survives_ten_upgrades_a_refused_one_and_a_failed_one() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let (family, folder, port) = (Family::new(), temp_dir(), free_port());
    let (program, refuse) = (folder.path().join("stateful"), folder.path().join("refuse"));
    let built = example("stateful");
    let replace = |by: &Path| {
        let new = program.with_extension("new");
        fs::copy(by, &new).expect("a copy");
        fs::rename(new, &program).expect("the new program in its place");
    };
    replace(&built);
    let server =
        family.program(&program).arg(format!("tcp://127.0.0.1:{port}")).env("REFUSE", &refuse).start();
    let mut pid = serving(&server, 0);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4).map(|n| client(port, format!("client{n}"), Arc::clone(&stop))).collect();
    for generation in 1..=10 {
        if generation == 4 {
            fs::write(&refuse, "").expect("a file");
            signal(pid, Signal::SIGUSR1);
            server.wait_for_output("the operator asked for no upgrades (REFUSE)", SOON);
            fs::remove_file(&refuse).expect("no file");
        }
        if generation == 7 {
            replace(Path::new("/bin/false"));
            signal(pid, Signal::SIGUSR1);
            server.wait_for_output("exited with status 1 before it was ready", SOON);
            assert_eq!(count(port, "witness").1, pid);
            replace(&built);
        }
        signal(pid, Signal::SIGUSR1);
        let next = serving(&server, generation);
        family.wait_gone(pid, SOON);
        pid = next;
    }
    stop.store(true, SeqCst);
    for (n, client) in clients.into_iter().enumerate() {
        let counted = client.join().expect("no request was lost or counted twice");
        assert_eq!(count(port, &format!("client{n}")), (counted + 1, pid, 10));
        assert!(counted > 10, "{counted} requests in 10 upgrades are no test");
    }
    signal(pid, Signal::SIGTERM);
    family.wait_gone(pid, SOON);
    family.assert_none_left(SOON);
}
