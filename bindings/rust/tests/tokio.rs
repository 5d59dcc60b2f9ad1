//! Servers on tokio that are replaced: the echo server under load, and a host that uses everything the feature has.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use support::{SOON, example, serving};
use testkit::deadline::scaled;
use testkit::process::{Family, Signal, free_port, signal, temp_dir};
use testkit::wait_for;

/// Connects, reads the generation, has ten lines returned, ends; again and again. What fails panics.
fn echoes<S: Read + Write>(
    connect: impl Fn() -> S,
    end: impl Fn(&S),
    stop: &AtomicBool,
    done: &AtomicU64,
) -> u32 {
    let mut newest = 0;
    while !stop.load(SeqCst) {
        let mut stream = connect();
        let mut generation = [0; 4];
        stream.read_exact(&mut generation).expect("the generation");
        newest = newest.max(u32::from_be_bytes(generation));
        for line in 0..10 {
            let sent = format!("line {line} of a client\n");
            stream.write_all(sent.as_bytes()).expect("sent");
            let mut back = vec![0; sent.len()];
            stream.read_exact(&mut back).expect("returned");
            assert_eq!(back, sent.as_bytes());
        }
        end(&stream);
        assert_eq!(stream.read(&mut generation).expect("its end"), 0);
        done.fetch_add(1, SeqCst);
    }
    newest
}

#[test]
fn the_echo_server_loses_no_connection_in_ten_upgrades_and_goes_on_when_it_is_detached() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let (family, folder, port) = (Family::new(), temp_dir(), free_port());
    let path = folder.path().join("echo");
    let program = family.program(example("tokio_echo")).arg(format!("tcp://127.0.0.1:{port}")).arg(&path);
    let server = program.start();
    let mut pid = serving(&server, 0);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let (stop, done, path) = (Arc::clone(&stop), Arc::clone(&done), path.clone());
            std::thread::spawn(move || match number {
                0..4 => {
                    let connect = || {
                        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
                        stream.set_read_timeout(Some(scaled(SOON))).expect("a time-out");
                        stream
                    };
                    echoes(connect, |stream| stream.shutdown(Shutdown::Write).expect("the end"), &stop, &done)
                }
                _ => {
                    let connect = || {
                        let stream = UnixStream::connect(&path).expect("a connection");
                        stream.set_read_timeout(Some(scaled(SOON))).expect("a time-out");
                        stream
                    };
                    echoes(connect, |stream| stream.shutdown(Shutdown::Write).expect("the end"), &stop, &done)
                }
            })
        })
        .collect();
    // One that stays open keeps its process for as long.
    let mut long = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    long.read_exact(&mut [0; 4]).expect("the generation");
    for generation in 1..=10 {
        let before = done.load(SeqCst);
        wait_for("connections", SOON, || (done.load(SeqCst) > before + 10).then_some(()));
        signal(pid, Signal::SIGUSR1);
        let next = serving(&server, generation);
        if generation == 1 {
            long.write_all(b"still there\n").expect("sent");
            long.read_exact(&mut [0; 12]).expect("returned by the old process");
            long.shutdown(Shutdown::Write).expect("the end");
        }
        family.wait_gone(pid, SOON);
        pid = next;
    }
    let newest = |clients: Vec<std::thread::JoinHandle<u32>>| -> Vec<u32> {
        stop.store(true, SeqCst);
        clients.into_iter().map(|client| client.join().expect("no connection was lost")).collect()
    };
    wait_for("connections to the last one", SOON, || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        let mut generation = [0; 4];
        stream.read_exact(&mut generation).ok()?;
        (u32::from_be_bytes(generation) == 10).then_some(())
    });
    assert!(newest(clients).iter().all(|newest| *newest >= 9));

    signal(pid, Signal::SIGUSR2);
    server.wait_for_output(&format!("pid {pid}: on its own"), SOON);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it still serves");
    stream.read_exact(&mut [0; 4]).expect("the generation");
    drop(stream);
    signal(pid, Signal::SIGTERM);
    family.wait_gone(pid, SOON);
    family.assert_none_left(SOON);
}

/// What it says to who connects.
fn line(port: u16) -> String {
    let mut text = String::new();
    TcpStream::connect(("127.0.0.1", port)).expect("a connection").read_to_string(&mut text).expect("a line");
    text.trim().to_string()
}

#[test]
fn async_hooks_state_tokens_trackers_and_sockets_that_stop_or_do_not() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (family, folder) = (Family::new(), temp_dir());
    let (tcp, udp, metrics) = (free_port(), free_port(), free_port());
    let (refuse, control) = (folder.path().join("refuse"), folder.path().join("control"));
    let program = family.program(example("tokio_part"));
    let program = program.arg(format!("127.0.0.1:{tcp}")).arg(format!("127.0.0.1:{udp}"));
    let server = program.arg(format!("127.0.0.1:{metrics}")).arg(&refuse).arg(&control).start();
    server.wait_for_output("SERVING", SOON);
    let first: i32 = line(tcp).parse().expect("a pid");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(scaled(SOON))).expect("a time-out");
    let datagram = || {
        socket.send_to(b"there", ("127.0.0.1", udp)).expect("sent");
        assert_eq!(socket.recv_from(&mut [0; 64]).expect("returned").0, 5);
    };
    datagram();

    std::fs::write(&refuse, "").expect("a file");
    signal(first, Signal::SIGUSR1);
    server.wait_for_output(&format!("FAILED {first}: State: "), SOON);
    assert!(server.output().contains("not now"), "{}", server.output());
    std::fs::remove_file(&refuse).expect("no file");

    signal(first, Signal::SIGUSR1);
    server.wait_for_output("generation 1", SOON);
    let second: i32 = wait_for("the successor", SOON, || line(tcp).parse().ok().filter(|pid| *pid != first));
    server.wait_for_output(&format!("STATE {second}: {first}"), SOON);
    for ended in ["TCP ENDS", "UDP ENDS", "CLOSED"] {
        server.wait_for_output(&format!("{ended} {first}"), SOON);
    }
    datagram();
    family.wait_gone(first, SOON);
    assert_eq!(line(metrics), format!("metrics of {second}"));
    graceflip::Control::new(&control).and_then(|control| control.detach()).expect("detached");
    datagram();
    assert_eq!(line(tcp), second.to_string());
    signal(second, Signal::SIGTERM);
    server.wait_for_output(&format!("CLOSED {second}: Stop"), SOON);
    family.wait_gone(second, SOON);
    assert!(!server.output().contains("panicked"), "{}", server.output());
    family.assert_none_left(SOON);
}
