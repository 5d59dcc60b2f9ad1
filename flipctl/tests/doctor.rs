//! flipctl doctor: each finding is set up for real and seen, and a healthy server has none.

#[path = "doctor/executable.rs"]
mod executable;
#[path = "doctor/healthy.rs"]
mod healthy;
mod kit;
#[path = "doctor/limits.rs"]
mod limits;
#[path = "doctor/patient.rs"]
mod patient;
#[path = "doctor/program.rs"]
mod program;
#[path = "doctor/signals.rs"]
mod signals;
#[path = "doctor/sockets.rs"]
mod sockets;
#[path = "doctor/supervisors.rs"]
mod supervisors;
#[path = "doctor/units.rs"]
mod units;
