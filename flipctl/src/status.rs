//! `flipctl status`: what the server says of itself, as tables for people.

use crate::report::{LastUpgrade, Report};
use crate::upgrade::describe;
use crate::words::{count, harmless, milliseconds, phase, phase_time};
use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use std::fmt::Write;

const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// A generation's line.
type Row = [String; 5];

/// All of it, with colours, which whoever prints it strips where they are not wanted.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    head(&mut text, report);
    text.push('\n');
    table(&mut text, ["generation", "pid", "role", "age", "connections"], generations(report), &[0, 1, 3, 4]);
    let listeners: Vec<[String; 3]> = report
        .listeners
        .iter()
        .map(|one| [one.name.clone(), one.address.clone().unwrap_or_default(), kept(one.keep.as_deref())])
        .collect();
    if listeners.is_empty() {
        text.push_str("\nno listeners are passed on\n");
    } else {
        text.push('\n');
        table(&mut text, ["listener", "address", "stays open"], listeners, &[]);
    }
    if !report.descriptors.is_empty() {
        let names: Vec<String> = report.descriptors.iter().map(|one| harmless(&one.name)).collect();
        let _ = writeln!(text, "\nalso passed on: {}", names.join(", "));
    }
    if let Some(upgrade) = &report.upgrade {
        let _ = writeln!(text, "\n{HEADING}upgrade under way{HEADING:#}: {}", describe(upgrade));
        if report.notify_stuck {
            text.push_str("  the service manager takes no messages: both processes serve until it does\n");
        }
    }
    if let Some(last) = &report.last_upgrade {
        text.push('\n');
        last_upgrade(&mut text, last);
    }
    text
}

fn head(text: &mut String, report: &Report) {
    let (generation, pid) = (report.generation, report.pid);
    let state = harmless(&report.state);
    let _ = writeln!(
        text,
        "{HEADING}generation {generation}, pid {pid}{HEADING:#}: {state}, {}, up {}, libshellflip {}",
        count(report.connections.unwrap_or(0), "connection"),
        milliseconds(report.uptime_ms),
        harmless(&report.version)
    );
    if let Some(executable) = &report.executable {
        let arguments: Vec<&str> = report.arguments.iter().skip(1).map(String::as_str).collect();
        let command = harmless(&[&[executable.as_str()][..], &arguments].concat().join(" "));
        let place =
            report.directory.as_ref().map_or(String::new(), |path| format!("  in {}", harmless(path)));
        let _ = writeln!(text, "program: {command}{place}");
    }
    if !report.signals.upgrade.is_empty() {
        let _ = writeln!(text, "upgraded by: {}", harmless(&report.signals.upgrade.join(", ")));
    }
    if let Some(problem) = &report.pid_file_error {
        let _ = writeln!(text, "{BAD}{}{BAD:#}", harmless(problem));
    }
    if report.upgrade_remembered {
        let _ = writeln!(text, "upgrade remembered: a signal asked for one that cannot start yet");
    }
}

/// The newest first.
fn generations(report: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row =
        |generation: Option<u64>, pid: i32, role: String, age: Option<u64>, connections: Option<u64>| {
            rows.push([
                generation.map_or("–".into(), |number| number.to_string()),
                pid.to_string(),
                role,
                age.map_or("–".into(), milliseconds),
                connections.map_or("–".into(), |number| number.to_string()),
            ]);
        };
    if let Some(pid) = report.upgrade.as_ref().and_then(|one| one.successor_pid) {
        row(Some(report.generation + 1), pid, "successor".into(), None, None);
    }
    row(
        Some(report.generation),
        report.pid,
        role(&report.state).into(),
        Some(report.uptime_ms),
        report.connections,
    );
    for one in &report.draining {
        row(one.generation, one.pid, "draining".into(), one.age_ms, None);
    }
    let drains = |pid| report.draining.iter().any(|one| one.pid == pid);
    if let Some(predecessor) = report.predecessor.as_ref().filter(|one| one.alive && !drains(one.pid)) {
        row(report.generation.checked_sub(1), predecessor.pid, "predecessor".into(), None, None);
    }
    rows
}

fn role(state: &str) -> &str {
    match state {
        "ready" | "upgrading" | "live" => "serving",
        other => other,
    }
}

fn kept(keep: Option<&str>) -> String {
    match keep {
        Some("stop") => "after a stop".into(),
        Some("always") => "always".into(),
        None | Some("" | "none" | "no") => String::new(),
        Some(other) => other.into(),
    }
}

fn last_upgrade(text: &mut String, last: &LastUpgrade) {
    let ago = milliseconds(last.ended_ms_ago);
    let failed = last.kind != 0 || last.result == "failed";
    let style = if failed { BAD } else { GOOD };
    let _ = write!(text, "{HEADING}last upgrade{HEADING:#}: {style}{}{style:#}", harmless(&last.result));
    let _ = match last.successor_pid {
        Some(pid) if !failed => writeln!(text, " {ago} ago, pid {pid}"),
        _ => writeln!(text, " {ago} ago"),
    };
    if let Some(why) = last.text.as_ref().filter(|why| !why.is_empty()) {
        let _ = writeln!(text, "  {}", harmless(why));
    }
    if !last.phases.is_empty() {
        let rows = last.phases.iter().map(|one| [phase(&one.phase), phase_time(one.ms)]).collect();
        table(text, ["phase", "took"], rows, &[1]);
    }
}

/// Nothing but blanks between columns: easy on the eyes, and `awk` can read it.
fn table<const N: usize>(text: &mut String, heads: [&str; N], rows: Vec<[String; N]>, right: &[usize]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads);
    for row in rows {
        table.add_row(row.map(|cell| harmless(&cell)));
    }
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_constraint(ColumnConstraint::ContentWidth);
        column.set_padding((if number == 0 { 1 } else { 2 }, 0));
        if right.contains(&number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (number, line) in table.lines().enumerate() {
        let line = line.trim_end();
        let _ = match number {
            0 => writeln!(text, "{HEADING}{line}{HEADING:#}"),
            _ => writeln!(text, "{line}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plain(value: serde_json::Value) -> String {
        let report = serde_json::from_value(value).unwrap();
        anstream::adapter::strip_str(&render(&report)).to_string()
    }

    #[test]
    fn a_busy_server_is_shown_whole() {
        let text = plain(json!({
            "version": "0.1.0", "generation": 3, "pid": 4711, "state": "upgrading", "uptime_ms": 7_380_000,
            "executable": "/srv/app", "arguments": ["app", "-v"], "directory": "/srv", "connections": 17,
            "signals": { "upgrade": ["SIGUSR1"], "stop": ["SIGTERM"], "detach": [] },
            "listeners": [
                { "name": "http", "address": "tcp://0.0.0.0:80", "inode": 1, "keep": null },
                { "name": "health", "address": "tcp://127.0.0.1:81", "inode": 2, "keep": "always" },
            ],
            "descriptors": [{ "name": "log" }], "pid_file": "/a.pid", "upgrade_remembered": true,
            "pid_file_error": "cannot write the pid file /a.pid: permission denied (EACCES)", "control_socket": "unix:///run/a.ctl",
            "predecessor": { "pid": 4700, "alive": true },
            "draining": [{ "generation": 2, "pid": 4700, "age_ms": 12_000 }],
            "upgrade": {
                "phase": "initialising", "phase_ms": 3_200, "elapsed_ms": 3_210, "deadline_ms": 56_800,
                "successor_pid": 4722,
            },
            "last_upgrade": {
                "result": "failed", "failure": "exited", "kind": 2, "text": "new process 4720 exited with status 1",
                "successor_pid": 4720, "ended_ms_ago": 62_000,
                "phases": [{ "phase": "spawning", "ms": 0 }, { "phase": "initialising", "ms": 800 }],
            },
            "notify": true, "something_new": 1,
        }));
        let expected = "\
generation 3, pid 4711: upgrading, 17 connections, up 2 h 3 min, libshellflip 0.1.0
program: /srv/app -v  in /srv
upgraded by: SIGUSR1
cannot write the pid file /a.pid: permission denied (EACCES)
upgrade remembered: a signal asked for one that cannot start yet

 generation   pid  role             age  connections
          4  4722  successor          –            –
          3  4711  serving    2 h 3 min           17
          2  4700  draining        12 s            –

 listener  address             stays open
 http      tcp://0.0.0.0:80
 health    tcp://127.0.0.1:81  always

also passed on: log

upgrade under way: waiting until the new process is ready (pid 4722), for 3.2 s, deadline in 56 s

last upgrade: failed 1 min 2 s ago
  new process 4720 exited with status 1
 phase                                     took
 starting the new program                < 1 ms
 waiting until the new process is ready  800 ms
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_server_of_another_release_is_shown_with_what_it_says() {
        let text = plain(json!({ "pid": 7, "generation": 0 }));
        assert!(text.starts_with("generation 0, pid 7: "), "{text}");
        assert!(text.ends_with("\nno listeners are passed on\n"), "{text}");
    }
}
