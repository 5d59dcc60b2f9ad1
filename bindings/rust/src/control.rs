//! Asking another process, on its control socket.

use crate::address::Address;
use crate::error::{Error, Result};
use crate::flip::Request;
use shellflip::control;
use std::time::Duration;

/// The control socket of a running server, as an operator's program uses it. Nothing is connected before something is
/// asked; each question is a connection of its own.
///
/// A request that fails has the kind ([`Error::failure`]) and the sentence that the server gave; an error without a kind is of the
/// connection.
///
/// ```no_run
/// # fn main() -> Result<(), graceflip::Error> {
/// let pid = graceflip::Control::new("/run/server.ctl")?.upgrade()?;
/// println!("upgraded to process {pid}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Control {
    address: shellflip::address::Address,
    timeout: Option<Duration>,
}

impl Control {
    /// A unix path, or `@name`.
    pub fn new(address: impl Into<Address>) -> Result<Control> {
        let address = address.into().with_scheme("unix")?;
        Ok(Control { address: control::parse_address(address.as_bytes())?, timeout: None })
    }

    /// How long each question may take; [`crate::ErrorKind::TimedOut`] after that, and what was asked for goes on. Default: no limit of its own,
    /// those of the server hold.
    pub fn timeout(self, timeout: Duration) -> Control {
        Control { timeout: Some(timeout), ..self }
    }

    /// Replaces the server: the pid of the new process, once it serves.
    pub fn upgrade(&self) -> Result<u32> {
        let pid = self.ask(Request::Upgrade)?;
        pid.map(i32::unsigned_abs)
            .ok_or_else(|| Error::invalid("the server did not say which process serves now"))
    }

    /// Stops the server, and waits until it is gone.
    pub fn stop(&self) -> Result<()> {
        self.ask(Request::Stop).map(drop)
    }

    /// Detaches the server: it goes on, and is on its own.
    pub fn detach(&self) -> Result<()> {
        self.ask(Request::Detach).map(drop)
    }

    /// What the server is and does, as one line of JSON; the keys are in `docs/control.md`.
    pub fn status(&self) -> Result<String> {
        Ok(control::status(&self.address, self.timeout)?)
    }

    fn ask(&self, request: Request) -> Result<Option<i32>> {
        Ok(control::request(&self.address, request.into(), self.timeout)?)
    }
}
