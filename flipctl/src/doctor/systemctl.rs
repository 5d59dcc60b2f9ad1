//! What systemd says of a unit: `systemctl show`, read as `Key=value` lines. The program can be another one, so that
//! units can be tried out where there is no systemd.

use crate::connect::ANSWER;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// What is asked for; an older systemd leaves out what it does not know.
const PROPERTIES: &str =
    "LoadState,Type,NotifyAccess,KillMode,PIDFile,ReloadSignal,MainPID,ExecReload,ExitType";

/// More than that is no answer.
const LONGEST: usize = 1 << 20;

/// The properties of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties(Vec<(String, String)>);

/// Which manager has the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manager {
    /// Process 1's.
    System,
    /// The one of this user.
    User(u32),
}

impl Properties {
    /// `systemctl show` of that unit, or why there is none.
    pub fn ask(program: &Path, manager: &Manager, unit: &str) -> Result<Properties, String> {
        let mut command = Command::new(program);
        if let Manager::User(user) = manager {
            command.arg("--user");
            if *user != nix::unistd::getuid().as_raw() {
                command.arg(format!("--machine={user}@.host"));
            }
        }
        command.args(["show", "--no-pager", "--property", PROPERTIES, "--", unit]).env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = program.display();
        let mut child = command.spawn().map_err(|error| format!("cannot run {shown}: {error}"))?;
        let read = output(&mut child);
        let _ = child.kill();
        let status = child.wait().map_err(|error| format!("cannot wait for {shown}: {error}"))?;
        let text = read.map_err(|why| format!("{shown} show {unit}: {why}"))?;
        if text.trim().is_empty() {
            let mut said = String::new();
            let _ = child.stderr.take().map(|stderr| stderr.take(500).read_to_string(&mut said));
            return Err(format!("{shown} show {unit} says nothing ({status}) {}", said.trim()));
        }
        Ok(Properties::parse(&text))
    }

    /// From lines; what is none is skipped.
    pub fn parse(text: &str) -> Properties {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        Properties(lines.map(|(name, value)| (name.trim().into(), value.trim().into())).collect())
    }

    /// The first value of that name that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of that name: a list comes as several lines.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(one, value)| one == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}

/// Until its end, or its time is over: a manager that is stuck does not answer.
fn output(child: &mut Child) -> Result<String, String> {
    let until = Instant::now() + ANSWER;
    let mut stdout = child.stdout.take().ok_or("no output")?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 8 * 1024];
    loop {
        let left = PollTimeout::try_from(until.saturating_duration_since(Instant::now()))
            .unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => return Err(format!("no answer within {} s", ANSWER.as_secs())),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.to_string()),
            Ok(_) => {}
        }
        match stdout.read(&mut chunk).map_err(|error| error.to_string())? {
            0 => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
        if bytes.len() > LONGEST {
            return Err("an answer without end".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_lines_and_anything_else_is_skipped() {
        let text = "Type=notify\n\nnoise\nPIDFile=\nExecReload={ path=/bin/a ; argv[]=/bin/a -x=1 ; }\n\
            ExecReload={ path=/bin/b ; }\r\n=\n";
        let properties = Properties::parse(text);
        assert_eq!(properties.get("Type"), Some("notify"));
        assert_eq!(properties.get("PIDFile"), None);
        assert_eq!(properties.get("Nothing"), None);
        let reloads: Vec<&str> = properties.all("ExecReload").collect();
        assert_eq!(reloads, ["{ path=/bin/a ; argv[]=/bin/a -x=1 ; }", "{ path=/bin/b ; }"]);
    }
}
