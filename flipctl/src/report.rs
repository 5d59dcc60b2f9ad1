//! What a server says of itself (`flip_status`), as far as flipctl reads it. The server may link another release of the
//! library: what is missing has a default, what is unknown is skipped.

use serde::Deserialize;

/// The whole answer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The library's.
    pub version: String,
    /// 0: not started by an upgrade.
    pub generation: u64,
    /// Who answers.
    pub pid: i32,
    /// `ready`, `upgrading` …
    pub state: String,
    /// Since its start.
    pub uptime_ms: u64,
    /// What the next upgrade runs.
    pub executable: Option<String>,
    /// With its name.
    pub arguments: Vec<String>,
    /// Where the next upgrade starts.
    pub directory: Option<String>,
    /// Which signals ask for what.
    pub signals: Signals,
    /// Open and counted.
    pub connections: Option<u64>,
    /// What is passed on and listens.
    pub listeners: Vec<Listener>,
    /// What is passed on besides.
    pub descriptors: Vec<Descriptor>,
    /// As configured.
    pub pid_file: Option<String>,
    /// Why that is not what it should be.
    pub pid_file_error: Option<String>,
    /// As configured.
    pub control_socket: Option<String>,
    /// The generation before, where there was one.
    pub predecessor: Option<Predecessor>,
    /// Older generations that finish their connections.
    pub draining: Vec<Drainer>,
    /// The one under way.
    pub upgrade: Option<Upgrade>,
    /// A signal asked for one that cannot start yet.
    pub upgrade_remembered: bool,
    /// The last one that ended.
    pub last_upgrade: Option<LastUpgrade>,
    /// It was given a socket to tell systemd.
    pub notify: Option<bool>,
    /// That socket is full: the new process cannot be announced.
    pub notify_stuck: bool,
}

impl Report {
    /// It has been released and is the one that serves.
    pub fn serves(&self) -> bool {
        matches!(self.state.as_str(), "ready" | "upgrading")
    }
}

/// Names such as `SIGUSR1`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Signals {
    /// Ask for an upgrade.
    pub upgrade: Vec<String>,
    /// Stop it.
    pub stop: Vec<String>,
    /// Detach it.
    pub detach: Vec<String>,
}

/// A socket that is passed on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// Under which it is passed on.
    pub name: String,
    /// What it is bound to.
    pub address: Option<String>,
    /// Of the socket, as in /proc.
    pub inode: Option<u64>,
    /// `stop`, `always`, or nothing.
    pub keep: Option<String>,
}

/// Anything else that is passed on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Descriptor {
    /// Under which it is passed on.
    pub name: String,
}

/// The generation before.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Predecessor {
    /// Its number.
    pub pid: i32,
    /// It has not exited yet.
    pub alive: bool,
}

/// An older generation.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Drainer {
    /// Which.
    pub generation: Option<u64>,
    /// Its number.
    pub pid: i32,
    /// Since its start.
    pub age_ms: Option<u64>,
}

/// An upgrade under way.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Upgrade {
    /// As [`crate::words::phase`] knows it.
    pub phase: String,
    /// For how long it has been in it.
    pub phase_ms: u64,
    /// Since the request.
    pub elapsed_ms: Option<u64>,
    /// How much is left of the upgrade's time; nothing once the new process was told to serve.
    pub deadline_ms: Option<u64>,
    /// Once it was started.
    pub successor_pid: Option<i32>,
}

/// An upgrade that ended.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LastUpgrade {
    /// `released`, `failed`.
    pub result: String,
    /// FLIP_FAILURE_*, 0 for none.
    pub kind: i32,
    /// Why it failed.
    pub text: Option<String>,
    /// Where one was started.
    pub successor_pid: Option<i32>,
    /// How long ago.
    pub ended_ms_ago: u64,
    /// In their order.
    pub phases: Vec<Phase>,
}

/// One phase of an upgrade.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Phase {
    /// As [`crate::words::phase`] knows it.
    pub phase: String,
    /// How long it took.
    pub ms: u64,
}

impl LastUpgrade {
    /// The phase in which it failed: what follows is the end of the new process.
    pub fn failed_in(&self) -> Option<&Phase> {
        self.phases.iter().rev().find(|one| one.phase != "ending")
    }
}
