//! The demo: a server is replaced again and again under load, and a table shows what its clients felt.
//!
//! It knows nothing of the library. Any server will do that answers HTTP with `{"version":"1","pid":123,
//! "generation":0}`, or (--hello) says as much in a line and closes, upgrades itself on SIGUSR1 to what lies at the path it was started from, and ends on SIGTERM.

mod run;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use testkit::load::Address;

/// Replace a server under load, again and again, and show what its clients felt.
///
/// Exit status: 0 every upgrade went as expected and no request failed, 1 not so, 2 it could not be run.
#[derive(Debug, Parser)]
pub struct Options {
    /// How the server is started; {live} is the file that gets replaced, {address} where to listen
    #[arg(long, default_value = "{live} {address}")]
    server_cmd: String,
    /// The version that starts, and every second one after it
    #[arg(long)]
    v1: PathBuf,
    /// The version in between
    #[arg(long)]
    v2: PathBuf,
    /// A version that exits before it is ready
    #[arg(long)]
    crash: Option<PathBuf>,
    /// A version that is never ready
    #[arg(long)]
    hang: Option<PathBuf>,
    /// Where the server listens; port 0 is replaced by a free one
    #[arg(long, default_value = "tcp://127.0.0.1:0")]
    address: Address,
    /// How many upgrades, the failing ones included
    #[arg(long, default_value_t = 20)]
    upgrades: usize,
    /// Keep-alive connections, each sending its next request when the last answer is complete
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Streams of new connections with one request each
    #[arg(long, default_value_t = 2)]
    streams: usize,
    /// The server says one line and closes; there are no requests
    #[arg(long)]
    hello: bool,
    /// Load without an upgrade, before each of them
    #[arg(long, default_value_t = 250)]
    pause_ms: u64,
    /// Given to the server as UPGRADE_TIMEOUT_MS
    #[arg(long, default_value_t = 2000)]
    upgrade_timeout_ms: u64,
    /// The whole demo is over by then, or has failed
    #[arg(long, default_value_t = 50.0)]
    limit_seconds: f64,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if let Address::Tcp(address) = &mut options.address
        && address.port() == 0
    {
        address.set_port(testkit::process::free_port());
    }
    match run::run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            anstream::eprintln!("flipdemo: {error}");
            ExitCode::from(2)
        }
    }
}
