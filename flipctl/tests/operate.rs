//! flipctl upgrade, stop, detach and status, against real servers.

#[path = "operate/access.rs"]
mod access;
#[path = "operate/by_signal.rs"]
mod by_signal;
#[path = "operate/command_line.rs"]
mod command_line;
mod kit;
#[path = "operate/output.rs"]
mod output;
#[path = "operate/status.rs"]
mod status;
#[path = "operate/stop.rs"]
mod stop;
#[path = "operate/terminal.rs"]
mod terminal;
#[path = "operate/upgrade.rs"]
mod upgrade;
