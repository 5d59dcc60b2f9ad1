//! A thread per connection. Replace it while it runs: build a new one over the file, then kill -USR1 the pid.

use graceflip::{ConnectionGuard, Error, Flip};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

fn serve(mut client: TcpStream, generation: u32, guard: ConnectionGuard) {
    let mut discarded = [0; 256];
    let _ = client
        .write_all(format!("hello from pid {} generation {generation}\n", std::process::id()).as_bytes());
    // Closing with unread input resets the connection, and a reset can destroy the answer: read the input away.
    let _ = client.shutdown(Shutdown::Write);
    let _ = client.set_read_timeout(Some(Duration::from_secs(2)));
    for _ in 0..64 {
        if !matches!(client.read(&mut discarded), Ok(1..)) {
            break;
        }
    }
    drop(client);
    drop(guard);
}

fn main() -> Result<(), Error> {
    let flip = Flip::builder().build()?;
    let address = std::env::args().nth(1).unwrap_or("tcp://127.0.0.1:8080".into());
    let listener = flip.listen_tcp(address)?;
    flip.ready()?;
    for connection in flip.incoming(&listener) {
        let (client, guard) = connection?;
        let generation = flip.generation();
        // Where no thread can be had, the closure is dropped and the connection with it.
        let thread = std::thread::Builder::new().spawn(move || serve(client, generation, guard));
        if let Err(error) = thread {
            eprintln!("cannot serve a connection: {error}");
        }
    }
    drop(listener);
    flip.drain(Duration::MAX)
}
