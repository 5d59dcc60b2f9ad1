//! Standard output and standard error: all that flipctl prints passes here. Neither can always be written (a full disk),
//! and by then something may have been done. Called by `main` and by every command.

use crate::exit::{Exit, Failed};
use crate::words::harmless;
use nix::errno::Errno;
use shellflip::error::explain;
use std::io::Write;

/// For a command that is there for what it prints: it has failed if that cannot be written.
pub fn print(text: &str) -> Result<(), Failed> {
    let mut out = anstream::stdout();
    // Flushed here: at the end of the process nobody would hear of a failure.
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        // There is nowhere to put an object for --json either.
        Failed::new(Exit::Error, format!("cannot write to standard output: {}", explain(errno))).told()
    })
}

/// A line about something that was done, or was not: of that the exit status tells, and scripts go by it.
pub fn tell(line: &str) {
    if let Err(failed) = print(&format!("{line}\n")) {
        complain(&failed.text);
    }
}

/// A sentence on standard error. Names of files and processes are in it, which others have chosen.
pub fn complain(text: &str) {
    let _ = writeln!(anstream::stderr(), "flipctl: {}", harmless(text));
}
