//! The command line. Called by `main`; the manual page and the completions are made from it.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Operates a server that replaces itself with libshellflip: asks it to upgrade, stop or detach, tells how that went,
/// and says what would go wrong.
#[derive(Debug, Parser)]
#[command(name = "flipctl", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Which server, and how.
    #[command(flatten)]
    pub options: Options,
}

const AFTER_HELP: &str = "The server is found by --socket or --pid-file, else by the environment variable \
    FLIPCTL_SOCKET, else by FLIPCTL_PID_FILE. Exit status: 0 done, 11 to 23 a failed upgrade by kind, others in \
    flipctl(1).";

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The server's control socket, a path or an address such as unix:///run/app.ctl or unix:@app [env:
    /// FLIPCTL_SOCKET]
    #[arg(long, global = true, value_name = "ADDRESS", conflicts_with = "pid_file")]
    pub socket: Option<String>,
    /// The server's pid file, for servers without a control socket: they are asked by signal [env: FLIPCTL_PID_FILE]
    #[arg(long, global = true, value_name = "PATH")]
    pub pid_file: Option<PathBuf>,
    /// How long to wait, in seconds. Without it: upgrade by socket as long as the server says that it is at it,
    /// upgrade by signal and stop 120, everything else 10. What was asked for goes on after that
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replace the running process by a new one, and wait until that serves
    ///
    /// On a terminal it shows what it waits for. It ends with one line: which process serves now, or why the upgrade
    /// failed and in which phase; then the old process serves on.
    ///
    /// With --pid-file alone it sends the signal (--signal), and waits until the pid file names another process
    /// that lives. A server writes it once the hand-over is complete. If that does not happen in time, the result is
    /// unknown. A process that merely got the number of a dead server is never signalled, nor one that would be ended by
    /// the signal.
    Upgrade(Signalled),
    /// Stop the server, and wait until its process is gone
    ///
    /// Connections that are open are finished first, up to the server's drain time-out. A second stop meanwhile, which has
    /// to come by signal, cuts those that are still open after 1.5 s.
    ///
    /// Older generations that still drain are not stopped, and not waited for: they go on, and are named where the
    /// server is asked by its control socket. A signal to each of them cuts its connections after 1.5 s, too.
    Stop(Signalled),
    /// Let the process serve on by itself: no more upgrades, its control socket is closed
    Detach(Signalled),
    /// Show generations, connections, listeners and the last upgrade
    Status,
    /// Say what would go wrong, what would happen then, and what to do
    ///
    /// Looks at the running server from outside: its program, directory, sockets, limits, signals, its parent and its
    /// systemd unit. Changes nothing. Most of it is seen by the server's own user and by root only; what could not be
    /// looked at is listed.
    Doctor(Doctor),
    /// Write a completion script for a shell to standard output
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual page to standard output
    #[command(hide = true)]
    Manual,
}

/// For commands that can be given by signal, too.
#[derive(Debug, Clone, Copy, Args)]
pub struct Signalled {
    /// With --pid-file, the signal that the server takes for this, as USR1 or 10. Without it: upgrade SIGUSR1, stop
    /// SIGTERM; detach has none
    #[arg(long, value_parser = signal)]
    pub signal: Option<Signal>,
}

/// What `doctor` takes besides.
#[derive(Debug, Clone, Args)]
pub struct Doctor {
    /// The signal that is to upgrade the server. Without it: what the server says, SIGUSR1 if it is not asked
    #[arg(long, value_parser = signal)]
    pub signal: Option<Signal>,
    /// The systemd unit to look at, instead of the one that the process is in
    #[arg(long)]
    pub unit: Option<String>,
    /// The program that is asked about the unit
    #[arg(long, value_name = "PROGRAM", default_value = "systemctl")]
    pub systemctl: PathBuf,
}

/// `1.5`; more than a century is for ever.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration.is_zero() => Err("has to be more than 0".into()),
        Ok(duration) => Ok(duration.min(Duration::from_secs(100 * 366 * 86_400))),
        Err(_) => Err("not a number of seconds that can be waited".into()),
    }
}

/// `USR1`, `SIGUSR1`, `usr1` or `10`.
pub fn signal(text: &str) -> Result<Signal, String> {
    let number = text.parse::<i32>().ok().and_then(|number| Signal::try_from(number).ok());
    let name = text.to_ascii_uppercase();
    let name = format!("SIG{}", name.strip_prefix("SIG").unwrap_or(&name));
    number.or_else(|| Signal::from_str(&name).ok()).ok_or_else(|| format!("there is no signal {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn signals_are_known_by_name_and_number() {
        for text in ["USR1", "SIGUSR1", "usr1", "10"] {
            assert_eq!(signal(text), Ok(Signal::SIGUSR1), "{text}");
        }
        assert!(signal("0").is_err());
        assert!(signal("NOPE").is_err());
    }

    #[test]
    fn a_timeout_is_a_positive_number_of_seconds() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert!(seconds("1e300").is_err());
        for text in ["0", "-1", "nan", "inf", "soon"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
