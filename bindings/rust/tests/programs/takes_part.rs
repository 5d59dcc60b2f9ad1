//! A host with hooks and, where there is one, a logger: it writes what it is told to standard error. `REFUSE`, `PANIC` and
//! `STATE_FAILS` name files: while one exists, the hook does that.

use graceflip::{ErrorKind, Flip};
use std::io::{Read, Write};
use std::time::Duration;

fn exists(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|path| std::path::Path::new(&path).exists())
}

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        let thread = std::thread::current();
        let line = format!("{} {} {}", record.level(), record.target(), record.args());
        println!("LOG {} on {}: {line}", std::process::id(), thread.name().unwrap_or("?"));
    }

    fn flush(&self) {}
}

fn main() {
    log::set_logger(&Lines).expect("the first logger");
    log::set_max_level(log::LevelFilter::Trace);
    let pid = std::process::id();
    let mut builder = Flip::builder();
    if let (Some(socket), Some(pid_file)) = (std::env::var_os("CONTROL"), std::env::var_os("PID_FILE")) {
        builder = builder.control_socket(std::path::Path::new(&socket)).pid_file(pid_file);
    }
    let flip = builder
        .on_starting(move |who| {
            assert!(!exists("PANIC"), "as the test asked");
            println!("STARTING {pid}: {who}");
            if exists("REFUSE") { Err("not today") } else { Ok(()) }
        })
        .on_state(move |state| {
            if exists("STATE_FAILS") {
                return Err(std::io::Error::other("no words for it"));
            }
            writeln!(state, "from {pid}")?;
            state.write_all(&vec![b'x'; 100_000])
        })
        .on_failed(move |failure, why| println!("FAILED {pid}: {failure:?}: {why}"))
        .on_shutdown(move |why| println!("SHUTDOWN {pid}: {why}"))
        .build()
        .expect("a handle");
    let mut text = String::new();
    match flip.state() {
        Ok(Some(mut state)) => _ = state.read_to_string(&mut text).expect("the state"),
        Ok(None) => {}
        // The predecessor's hook has refused, and this is known here before its SIGTERM comes, or not.
        Err(error) if error.kind() == ErrorKind::Canceled => return,
        Err(error) => assert_eq!(error.kind(), ErrorKind::StateLost, "{error}"),
    }
    let first = text.lines().next().unwrap_or("none").to_string();
    println!("STATE {pid}: {first}, {} bytes", text.len());
    let listener = flip.listen_tcp(std::env::args().nth(1).expect("an address")).expect("a listener");
    let error = flip.listen_udp("tcp://127.0.0.1:0").expect_err("no UDP address");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(Flip::builder().build().expect_err("one at a time").kind(), ErrorKind::Busy);
    flip.ready().expect("ready");
    let waits = flip.clone();
    let waits = std::thread::spawn(move || waits.wait_shutdown().expect("shutdown"));
    println!("SERVING {pid} generation {}", flip.generation());
    for connection in flip.incoming(&listener) {
        let (mut client, _guard) = connection.expect("a connection");
        assert_eq!(flip.connections(), 1);
        let _ = client.write_all(format!("{pid}\n").as_bytes());
    }
    drop(listener);
    println!("ENDS {pid}: {:?}", waits.join().expect("a thread"));
    flip.drain(Duration::from_secs(10)).expect("drained");
    flip.close();
    assert_eq!(flip.ready().expect_err("closed").kind(), ErrorKind::Closed);
    println!("CLOSED {pid}");
}
