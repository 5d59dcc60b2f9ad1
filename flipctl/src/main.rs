//! flipctl, the operator's tool. One file per command; each talks to a server and prints what came of it. This one
//! picks the command, and turns a failure into a line on standard error and an exit status.

mod args;
mod by_signal;
mod connect;
mod doctor;
mod exit;
mod manual;
mod pid_file;
mod process;
mod progress;
mod report;
mod status;
mod stop;
mod upgrade;
mod words;

use args::{Arguments, Command, Options};
use clap::Parser;
use connect::{ANSWER, Server};
use exit::{Exit, Failed};
use nix::sys::signal::Signal;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    // `flipctl status | head` is no failure: end as other tools do when nobody reads on.
    // SAFETY: no thread of this process handles a signal yet.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) };
    let Arguments { command, options } = Arguments::parse();
    let exit = match run(command, &options) {
        Ok(exit) => exit,
        Err(failed) => {
            if options.json && !failed.told {
                anstream::println!("{}", failed.as_json());
            }
            anstream::eprintln!("flipctl: {}", failed.text);
            failed.exit
        }
    };
    ExitCode::from(exit.code())
}

fn run(command: Command, options: &Options) -> Result<Exit, Failed> {
    let server = || Server::find(options, |name| std::env::var_os(name));
    match command {
        Command::Upgrade(by) => match server()? {
            Server::Socket(address) => upgrade::run(&address, options)?,
            Server::PidFile(path) => {
                by_signal::upgrade(&path, by.signal.unwrap_or(Signal::SIGUSR1), options)?
            }
        },
        Command::Stop(by) => match server()? {
            Server::Socket(address) => stop::stop(&address, options)?,
            Server::PidFile(path) => by_signal::stop(&path, by.signal.unwrap_or(Signal::SIGTERM), options)?,
        },
        Command::Detach(by) => match server()? {
            Server::Socket(address) => stop::detach(&address, options)?,
            Server::PidFile(path) => by_signal::detach(&path, by.signal)?,
        },
        Command::Status => match server()? {
            Server::Socket(address) => {
                let (text, report) = connect::status(&address, options.timeout.unwrap_or(ANSWER))?;
                if options.json {
                    anstream::println!("{}", text.trim_end());
                } else {
                    anstream::print!("{}", status::render(&report));
                }
            }
            Server::PidFile(_) => {
                let text =
                    "a status comes over the control socket: give --socket (doctor works with --pid-file)";
                return Err(Failed::new(Exit::Usage, text));
            }
        },
        Command::Doctor(what) => return doctor::run(&server()?, &what, options),
        Command::Completions { shell } => manual::completions(shell, &mut std::io::stdout()),
        Command::Manual => {
            let failed = |error| Failed::new(Exit::Error, format!("cannot write the manual page: {error}"));
            manual::manual(&mut std::io::stdout())
                .and_then(|()| std::io::stdout().flush())
                .map_err(failed)?;
        }
    }
    Ok(Exit::Done)
}
