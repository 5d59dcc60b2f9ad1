//! The control socket and the pid file: what operators are told, by whom, and what clients cannot do to a server.

#[path = "control/asked.rs"]
mod asked;
#[path = "control/c_interface.rs"]
mod c_interface;
#[path = "control/client.rs"]
mod client;
#[path = "control/clients.rs"]
mod clients;
#[path = "control/generations.rs"]
mod generations;
#[path = "control/path.rs"]
mod path;
#[path = "control/pid_file.rs"]
mod pid_file;
#[path = "control/served.rs"]
mod served;
#[path = "control/status.rs"]
mod status;
#[path = "control/stopped.rs"]
mod stopped;
#[path = "control/users.rs"]
mod users;
