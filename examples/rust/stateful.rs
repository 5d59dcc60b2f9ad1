//! A server whose state survives its own replacement: it counts per client, one request a connection.
//!
//!   echo alice | nc 127.0.0.1 8080        alice 1 pid 4711 generation 0
//!
//! The state is written when the library asks for it. From then on this process accepts nothing: what it counted after that
//! would be lost. Clients wait in the kernel's queue, for the successor, or for this process if the upgrade fails.
//! While the file named by REFUSE exists, upgrades are refused.

use graceflip::{Error, ErrorKind, Event, EventMask, Flip, StateWriter};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

type Clients = BTreeMap<String, u64>;

/// How long to wait for a connection before looking for events.
const TURN: Duration = Duration::from_millis(20);

fn write_state(clients: &Clients, state: &mut StateWriter) -> io::Result<()> {
    clients.iter().try_for_each(|(name, count)| writeln!(state, "{name} {count}"))
}

fn read_state(flip: &Flip) -> Result<Clients, Error> {
    let state = match flip.state() {
        // We may serve all the same: ready() lets us once we have been told.
        Err(error) if error.kind() == ErrorKind::StateLost => {
            eprintln!("stateful: {error}; starting with none");
            None
        }
        state => state?,
    };
    let lines = state.into_iter().flat_map(|state| BufReader::new(state).lines()).map_while(Result::ok);
    Ok(lines
        .filter_map(|line| line.split_once(' ').map(|(name, n)| (name.into(), n.parse().unwrap_or(0))))
        .collect())
}

fn serve(client: TcpStream, clients: &mut Clients, generation: u32) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut request = String::new();
    BufReader::new((&client).take(32)).read_line(&mut request)?;
    let Some(name) = request.split_whitespace().next() else { return Ok(()) };
    let count = clients.entry(name.into()).or_default();
    *count += 1;
    (&client)
        .write_all(format!("{name} {count} pid {} generation {generation}\n", std::process::id()).as_bytes())
}

/// Answers one event if there is one: whether to go on accepting.
fn take_part(flip: &Flip, clients: &Clients, accepting: bool) -> Result<bool, Error> {
    let refused = || std::env::var_os("REFUSE").is_some_and(|path| Path::new(&path).exists());
    // An answer that comes too late (nobody waits for it any more) is no error here: FAILED has come, or will.
    let timeout = if accepting { Duration::ZERO } else { TURN };
    match flip.next_event_timeout(timeout) {
        Ok(Event::Starting(starting)) if refused() => {
            let _ = starting.refuse("the operator asked for no upgrades (REFUSE)");
        }
        Ok(Event::Starting(starting)) => _ = starting.accept(),
        Ok(Event::State(mut state)) => {
            let _ = match write_state(clients, &mut state) {
                Ok(()) => state.done(),
                Err(error) => state.refuse(error.to_string()),
            };
            return Ok(false);
        }
        Ok(Event::Failed(_, why)) => {
            eprintln!("stateful: upgrade failed: {why}");
            return Ok(true);
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::TimedOut => {}
        Err(error) => return Err(error),
    }
    Ok(accepting)
}

fn run() -> Result<(), Error> {
    let timeout =
        std::env::var("UPGRADE_TIMEOUT_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(60_000);
    let flip = Flip::builder()
        .events(EventMask::STARTING | EventMask::STATE | EventMask::FAILED)
        .upgrade_timeout(Duration::from_millis(timeout))
        .build()?;
    let address = std::env::args().nth(1).unwrap_or("tcp://127.0.0.1:8080".into());
    let listener: TcpListener = flip.listen_tcp(address)?;
    let mut clients = read_state(&flip)?;
    if std::env::var_os("FAIL").is_some() && flip.generation() > 0 {
        std::process::exit(1);
    }
    flip.ready()?;
    println!("stateful: pid {}, generation {}: serving", std::process::id(), flip.generation());

    let mut accepting = true;
    while !flip.is_shutting_down() {
        accepting = take_part(&flip, &clients, accepting)?;
        if !accepting {
            continue;
        }
        match flip.accept_timeout(&listener, TURN) {
            // A client that says nothing, or is gone, is no reason to end.
            Ok((client, _guard)) => _ = serve(client, &mut clients, flip.generation()),
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            Err(error) if error.kind() == ErrorKind::Canceled => break,
            Err(error) => return Err(error),
        }
    }
    drop(listener);
    flip.drain(Duration::MAX)
}

fn main() {
    if let Err(error) = run() {
        eprintln!("stateful: {error}");
        std::process::exit(1);
    }
}
