//! The examples that take part: `stateful.c` counts on through upgrades, `prefork.c` replaces its workers with itself.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;
use testkit::deadline::{scaled, wait_for, wait_until};
use testkit::host::{SOON, c_program};
use testkit::load::{Config, Load};
use testkit::process::{Family, Proc, Process, Signal, copy_program, free_port, signal, temp_dir};

/// What one request to stateful.c was answered: count, pid, generation. A request that is not answered is a failure.
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

/// Clients that each count on and never retry; every answer is one more than the last one, or the thread panics.
struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Clients {
    fn start(port: u16) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..4).map(|index| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let (name, mut expected) = (format!("client{index}"), 0);
                while !stop.load(SeqCst) {
                    expected += 1;
                    assert_eq!(count(port, &name).0, expected, "{name}");
                }
                expected
            })
        });
        let threads = threads.collect();
        Clients { stop, threads }
    }

    fn stop(self) -> Vec<u64> {
        self.stop.store(true, SeqCst);
        self.threads
            .into_iter()
            .map(|thread| thread.join().expect("no request was lost or counted twice"))
            .collect()
    }
}

fn replace(program: &Path, by: &Path) {
    let new = program.with_extension("new");
    copy_program(by, &new);
    std::fs::rename(new, program).expect("the new program in its place");
}

fn serving(server: &Process, generation: u64) -> i32 {
    let line = format!("generation {generation}: serving");
    server.wait_for_output(&line, SOON);
    let output = server.output();
    let line = output.lines().rfind(|other| other.contains(&line)).expect("the line");
    let pid = line.split("pid ").nth(1).and_then(|rest| rest.split(',').next()).expect("its pid");
    pid.parse().expect("a pid")
}

#[test]
fn a_counter_per_client_survives_20_upgrades_a_refused_one_and_a_failed_one() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let (family, folder, port) = (Family::new(), temp_dir(), free_port());
    let (program, refuse) = (folder.path().join("stateful"), folder.path().join("refuse"));
    let built = c_program("examples/c/stateful.c", &[]);
    copy_program(&built, &program);
    let server =
        family.program(&program).arg(format!("tcp://127.0.0.1:{port}")).env("REFUSE", &refuse).start();
    let mut pid = serving(&server, 0);
    let clients = Clients::start(port);
    for generation in 1..=20 {
        if generation == 7 {
            std::fs::write(&refuse, "").expect("a file");
            signal(pid, Signal::SIGUSR1);
            server.wait_for_output(
                "upgrade failed: this host refused: the operator asked for no upgrades (REFUSE)",
                SOON,
            );
            std::fs::remove_file(&refuse).expect("no file");
        }
        if generation == 13 {
            replace(&program, Path::new("/bin/false"));
            signal(pid, Signal::SIGUSR1);
            server.wait_for_output("exited with status 1 before it was ready", SOON);
            assert_eq!(count(port, "witness").1, pid);
            replace(&program, &built);
        }
        signal(pid, Signal::SIGUSR1);
        let next = serving(&server, generation);
        assert_ne!(next, pid);
        if generation > 1 {
            family.wait_gone(pid, SOON);
        }
        // The one that was asked before its release would remember the request; this one has been released.
        pid = next;
    }
    let counted = clients.stop();
    for (index, counted) in counted.iter().enumerate() {
        let (now, by, generation) = count(port, &format!("client{index}"));
        assert_eq!((now, by, generation), (counted + 1, pid, 20));
        assert!(*counted > 20, "{counted} requests in 20 upgrades are no test");
    }
    assert_eq!(count(port, "witness").0, 2);
    signal(pid, Signal::SIGTERM);
    family.wait_gone(pid, SOON);
    family.assert_none_left(SOON);
}

/// The workers of a master that serve, by pid.
fn workers(master: i32) -> Vec<i32> {
    Proc(master).children().into_iter().map(|worker| worker.0).collect()
}

#[test]
fn a_prefork_master_is_replaced_under_load_and_its_workers_go_with_it() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (family, port) = (Family::new(), free_port());
    let address = format!("tcp://127.0.0.1:{port}");
    let server = family.program(c_program("examples/c/prefork.c", &[])).arg(&address).start();
    let mut master = serving(&server, 0);
    let load = Load::start(Config::hello(address.parse().expect("an address"))).expect("load");
    for generation in 1..=5 {
        wait_until("four workers", SOON, || workers(master).len() == 4);
        let old = workers(master);
        signal(master, Signal::SIGUSR1);
        let next = serving(&server, generation);
        for pid in old.into_iter().filter(|pid| *pid != next) {
            wait_until("the end of a worker", SOON, || !Proc(pid).alive());
        }
        wait_until("the end of the old master", SOON, || !Proc(master).alive());
        master = next;
    }
    let report = load.stop();
    assert!(report.totals.failures.is_empty(), "{report:?}");
    signal(master, Signal::SIGTERM);
    family.wait_gone(master, SOON);
    family.assert_none_left(SOON);
}

#[test]
fn a_prefork_worker_outlives_a_killed_master_and_ends() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (family, port) = (Family::new(), free_port());
    let server =
        family.program(c_program("examples/c/prefork.c", &[])).arg(format!("tcp://127.0.0.1:{port}")).start();
    let master = serving(&server, 0);
    let four = wait_for("four workers", SOON, || Some(workers(master)).filter(|four| four.len() == 4));
    // Each waits for connections: one that is stopped inside fork still holds what its siblings watch.
    wait_until("workers that wait", SOON, || four.iter().all(|worker| Proc(*worker).state() == Some('S')));
    // What stops the whole group ends no worker amid a connection.
    let stops = [libc::SIGTERM, libc::SIGINT].map(|signal| 1u64 << (signal - 1)).iter().sum::<u64>();
    assert!(
        four.iter().all(|worker| Proc(*worker).ignored().is_some_and(|ignored| ignored & stops == stops))
    );
    // A worker that is stopped when its master dies sees it afterwards.
    signal(four[0], Signal::SIGSTOP);
    Proc(four[0]).wait_stopped(SOON);
    server.signal(Signal::SIGKILL);
    for worker in &four[1..] {
        wait_until("the end of a worker", SOON, || !Proc(*worker).alive());
    }
    assert!(Proc(four[0]).alive());
    signal(four[0], Signal::SIGCONT);
    wait_until("the end of the last worker", SOON, || !Proc(four[0]).alive());
    family.assert_none_left(SOON);
}
