//! Loads a server and reports, as JSON, what failed. For people, and for the test suites of other languages.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use testkit::load::{Address, Config, Load};

/// Load a server with clients that never retry, and report every failure as JSON.
///
/// Exit status: 0 nothing failed, 1 something failed or nothing was answered, 2 wrong usage.
#[derive(Debug, Parser)]
struct Options {
    /// tcp://127.0.0.1:8080, unix:///run/a.sock or unix:@name
    address: Address,
    /// Keep-alive connections, each sending its next request when the last answer is complete
    #[arg(short, long, default_value_t = 32)]
    connections: usize,
    /// Streams of new connections with one request each
    #[arg(short, long, default_value_t = 1)]
    streams: usize,
    /// How long; without it until SIGINT or SIGTERM
    #[arg(long)]
    seconds: Option<f64>,
    /// A request without a complete answer after so many seconds has failed
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// What to GET
    #[arg(long, default_value = "/")]
    path: String,
    /// What every body has to begin with
    #[arg(long, default_value = "")]
    prefix: String,
    /// The server says one line and closes; there are no requests
    #[arg(long)]
    hello: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seconds = |value: f64| Duration::try_from_secs_f64(value).ok();
    let (Some(timeout), Some(end)) = (
        seconds(options.timeout),
        options.seconds.map_or(Some(None), |value| seconds(value).map(|after| Some(Instant::now() + after))),
    ) else {
        eprintln!("flipload: a time is not a number of seconds");
        return ExitCode::from(2);
    };
    let config = if options.hello { Config::hello(options.address) } else { Config::http(options.address) }
        .connections(options.connections)
        .streams(options.streams)
        .timeout(timeout)
        .path(options.path)
        .prefix(options.prefix);
    match run(config, end) {
        Ok(clean) => ExitCode::from(u8::from(!clean)),
        Err(error) => {
            eprintln!("flipload: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(config: Config, end: Option<Instant>) -> Result<bool, Box<dyn std::error::Error>> {
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let load = Load::start(config)?;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let report = load.stop();
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(report.totals.failed == 0 && report.totals.answered > 0)
}
