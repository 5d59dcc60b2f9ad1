//! The first server of the README.

use graceflip::{Error, Flip};
use std::io::Write;
use std::time::Duration;

fn main() -> Result<(), Error> {
    let flip = Flip::builder().build()?;
    let listener = flip.listen_tcp("127.0.0.1:8080")?;
    flip.ready()?;
    for connection in flip.incoming(&listener) {
        let (mut client, _guard) = connection?;
        let _ = writeln!(client, "hello from pid {}", std::process::id());
    }
    drop(listener); // what is still queued on it belongs to the successor
    flip.drain(Duration::from_secs(30))
}
