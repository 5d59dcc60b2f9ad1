//! flipctl, the operator's tool. One file per command; each talks to a server and prints what came of it. This one
//! picks the command, and turns a failure into a line on standard error and an exit status.

mod args;
mod by_signal;
mod connect;
mod doctor;
mod exit;
mod manual;
mod output;
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
use std::process::ExitCode;

fn main() -> ExitCode {
    // `flipctl status | head` is no failure: end as other tools do when nobody reads on.
    // SAFETY: no thread of this process handles a signal yet.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) };
    let (ran, json) = match Arguments::try_parse() {
        Ok(Arguments { command, options }) => (run(command, &options), options.json),
        Err(wrong) if wrong.use_stderr() => wrong.exit(),
        // --help or --version.
        Err(asked) => (output::print(&asked.render().ansi().to_string()).map(|()| Exit::Done), false),
    };
    let exit = ran.unwrap_or_else(|failed| {
        if json && !failed.told {
            output::tell(&failed.as_json().to_string());
        }
        output::complain(&failed.text);
        failed.exit
    });
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
                    output::print(&format!("{}\n", text.trim_end()))?;
                } else {
                    output::print(&status::render(&report))?;
                }
            }
            Server::PidFile(_) => {
                let text =
                    "a status comes over the control socket: give --socket (doctor works with --pid-file)";
                return Err(Failed::new(Exit::Usage, text));
            }
        },
        Command::Doctor(what) => return doctor::run(&server()?, &what, options),
        Command::Completions { shell } => output::print(&manual::completions(shell))?,
        Command::Manual => output::print(&manual::manual())?,
    }
    Ok(Exit::Done)
}
