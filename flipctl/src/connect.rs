//! Which server is meant, and the way to it: its control socket, or its pid file. Called by every command.

use crate::args::Options;
use crate::exit::{Exit, Failed};
use crate::report::Report;
use shellflip::address::{Address, Endpoint, UnixKind, UnixName};
use shellflip::control;
use shellflip::error::Error;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// Its control socket.
    Socket(Address),
    /// All there is to it is a pid.
    PidFile(PathBuf),
}

/// How long an answer may take that needs no waiting on the server's side.
pub const ANSWER: Duration = Duration::from_secs(10);

impl Server {
    /// The command line counts first, and of the environment the socket.
    pub fn find(options: &Options, variable: impl Fn(&str) -> Option<OsString>) -> Result<Server, Failed> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let socket = |text: &OsStr| Ok(Server::Socket(address(text)?));
        match (&options.socket, &options.pid_file) {
            (Some(address), _) => return socket(address.as_ref()),
            (None, Some(path)) => return Ok(Server::PidFile(path.clone())),
            (None, None) => {}
        }
        if let Some(address) = variable("FLIPCTL_SOCKET") {
            return socket(&address);
        }
        match variable("FLIPCTL_PID_FILE") {
            Some(path) => Ok(Server::PidFile(path.into())),
            None => Err(Failed::new(
                Exit::Usage,
                "which server? Give --socket ADDRESS or --pid-file PATH, or set FLIPCTL_SOCKET or FLIPCTL_PID_FILE",
            )),
        }
    }
}

/// An address of the library's, or a bare path, which may have any letters from its first `/` or `.` on.
fn address(text: &OsStr) -> Result<Address, Failed> {
    let bytes = text.as_encoded_bytes();
    if bytes.contains(&b':') && !bytes.starts_with(b"/") && !bytes.starts_with(b".") {
        return Ok(control::parse_address(bytes)?);
    }
    let path = std::path::absolute(text).map_err(|error| {
        Failed::new(Exit::Usage, format!("\"{}\" is no path of a control socket: {error}", text.display()))
    })?;
    let name = UnixName::Path(path.into_os_string().into_encoded_bytes());
    Ok(Address { endpoint: Endpoint::Unix { kind: UnixKind::Stream, name }, options: Default::default() })
}

/// What the server says of itself: as it came, and read.
pub fn status(address: &Address, timeout: Duration) -> Result<(String, Report), Failed> {
    let text = control::status(address, Some(timeout)).map_err(|error| match error {
        Error::TimedOut => Failed::new(
            Exit::TimedOut,
            format!(
                "no answer from {} in {:.0} s: the process that holds it is stopped, or is a new one that is not ready yet",
                address.endpoint,
                timeout.as_secs_f64().ceil()
            ),
        ),
        error => error.into(),
    })?;
    let report = serde_json::from_str(&text).map_err(|error| {
        Failed::new(Exit::Error, format!("the status from {} cannot be read: {error}", address.endpoint))
    })?;
    Ok((text, report))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(socket: Option<&str>, pid_file: Option<&str>) -> Options {
        Options {
            socket: socket.map(Into::into),
            pid_file: pid_file.map(Into::into),
            timeout: None,
            json: false,
        }
    }

    fn environment(name: &str) -> Option<OsString> {
        ["FLIPCTL_SOCKET", "FLIPCTL_PID_FILE"].contains(&name).then(|| format!("/{name}").into())
    }

    fn endpoint(server: Result<Server, Failed>) -> String {
        match server {
            Ok(Server::Socket(address)) => address.endpoint.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_comes_before_the_environment_and_the_socket_before_the_pid_file() {
        let pid_file = |path: &str| Ok(Server::PidFile(path.into()));
        assert_eq!(endpoint(Server::find(&options(Some("/a"), None), environment)), "unix:///a");
        assert_eq!(Server::find(&options(None, Some("/p")), environment), pid_file("/p"));
        assert_eq!(endpoint(Server::find(&options(None, None), environment)), "unix:///FLIPCTL_SOCKET");
        let only = |name: &str| environment(name).filter(|_| name == "FLIPCTL_PID_FILE");
        assert_eq!(Server::find(&options(None, None), only), pid_file("/FLIPCTL_PID_FILE"));
        let found = Server::find(&options(None, None), |_| Some("".into()));
        assert_eq!(found.map_err(|failed| failed.exit), Err(Exit::Usage));
    }

    #[test]
    fn a_path_needs_no_scheme() {
        let here = std::env::current_dir().unwrap();
        for (given, meant) in [
            ("unix:///run/a.ctl?mode=0600", "unix:///run/a.ctl"),
            ("unix:@app", "unix:@app"),
            ("/run/50%:a?", "unix:///run/50%25:a%3F"),
            ("./a:b", &format!("unix://{}/a:b", here.display())),
            ("a.ctl", &format!("unix://{}/a.ctl", here.display())),
        ] {
            assert_eq!(endpoint(Server::find(&options(Some(given), None), |_| None)), meant);
        }
        let wrong = Server::find(&options(Some("tcp://127.0.0.1:1"), None), |_| None);
        assert_eq!(wrong.map_err(|failed| failed.exit), Err(Exit::Usage));
    }
}
