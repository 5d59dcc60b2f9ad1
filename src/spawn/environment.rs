//! The environment of the successor: what the caller gives, minus what was meant for this process, plus the
//! hand-over. Where the successor's own pid belongs the child fills it in ([`Entry::Pid`]), since nobody knows it
//! before the clone.

use std::ffi::{CStr, CString};

/// Written by the hand-over alone; whatever the host's environment says is dropped.
pub const RESERVED: &[&[u8]] =
    &[b"LISTEN_PID", b"LISTEN_FDS", b"LISTEN_FDNAMES", b"LISTEN_PIDFDID", b"SHELLFLIP_CHANNEL"];

/// The kernel's limit for one string, its NUL included (MAX_ARG_STRLEN).
const STRING_LIMIT: usize = 128 * 1024;

/// One string of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// As it is.
    Text(CString),
    /// The successor's pid in decimal between these two.
    Pid {
        /// `NAME=`
        before: Vec<u8>,
        /// What follows the pid.
        after: Vec<u8>,
    },
}

/// What is handed over.
#[derive(Debug)]
pub struct Handover<'a> {
    /// How many descriptors, from 3 on.
    pub descriptors: usize,
    /// LISTEN_FDNAMES.
    pub names: Option<&'a CStr>,
    /// The channel's number in the successor.
    pub channel: i32,
    /// What the successor shows to prove that it is the one.
    pub nonce: &'a str,
}

/// The successor's environment; `pid` is this process's own.
pub fn environment(base: Vec<CString>, pid: u32, handover: &Handover<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = base.into_iter().filter_map(|entry| passed_on(entry, pid)).collect();
    if handover.descriptors > 0 {
        entries.push(Entry::Pid { before: b"LISTEN_PID=".to_vec(), after: Vec::new() });
        entries.push(text(format!("LISTEN_FDS={}", handover.descriptors).into_bytes()));
        if let Some(names) = handover.names {
            let names = [b"LISTEN_FDNAMES=", names.to_bytes()].concat();
            if names.len() < STRING_LIMIT {
                entries.push(text(names));
            }
        }
    }
    let after = format!(":{}:{}", handover.channel, handover.nonce).into_bytes();
    entries.push(Entry::Pid { before: b"SHELLFLIP_CHANNEL=".to_vec(), after });
    entries
}

fn passed_on(entry: CString, pid: u32) -> Option<Entry> {
    let bytes = entry.as_bytes();
    let Some(equals) = bytes.iter().position(|byte| *byte == b'=') else {
        return Some(Entry::Text(entry));
    };
    let (name, value) = (&bytes[..equals], &bytes[equals + 1..]);
    if RESERVED.contains(&name) {
        return None;
    }
    // A pidfd's inode, of this process or of another: never of the successor (systemd 258).
    if name == b"MAINPIDFDID" {
        return None;
    }
    // systemd names the process that is meant; the successor takes its place.
    if [&b"WATCHDOG_PID"[..], b"SYSTEMD_EXEC_PID"].contains(&name) && value == pid.to_string().as_bytes() {
        return Some(Entry::Pid { before: bytes[..=equals].to_vec(), after: Vec::new() });
    }
    #[cfg(feature = "faults")]
    match name {
        b"SHELLFLIP_FAULT" => return None,
        b"SHELLFLIP_FAULT_NEXT" => return Some(text([b"SHELLFLIP_FAULT=", value].concat())),
        _ => {}
    }
    Some(Entry::Text(entry))
}

/// From parts without NUL.
fn text(bytes: Vec<u8>) -> Entry {
    Entry::Text(CString::new(bytes).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(base: &[&str], handover: &Handover<'_>) -> Vec<String> {
        let base: Vec<_> = base.iter().map(|entry| CString::new(*entry).unwrap()).collect();
        let show = |entry| match entry {
            Entry::Text(text) => text.into_string().unwrap(),
            Entry::Pid { before, after } => {
                format!("{}<pid>{}", String::from_utf8(before).unwrap(), String::from_utf8(after).unwrap())
            }
        };
        environment(base, 4711, handover).into_iter().map(show).collect()
    }

    const NOTHING: Handover<'static> = Handover { descriptors: 0, names: None, channel: 3, nonce: "n0" };

    #[test]
    fn what_was_meant_for_this_process_stays_behind() {
        let base = [
            "A=1",
            "LISTEN_PID=4711",
            "LISTEN_FDS=3",
            "LISTEN_FDNAMES=a:b:c",
            "LISTEN_PIDFDID=77",
            "MAINPIDFDID=78",
            "SHELLFLIP_CHANNEL=4711:5:old",
            "LISTEN_ELSE=kept",
            "odd",
            "A=2",
        ];
        assert_eq!(
            shown(&base, &NOTHING),
            ["A=1", "LISTEN_ELSE=kept", "odd", "A=2", "SHELLFLIP_CHANNEL=<pid>:3:n0"]
        );
    }

    #[test]
    fn the_successors_pid_replaces_ours_and_no_other() {
        let ours = ["WATCHDOG_PID=4711", "SYSTEMD_EXEC_PID=4711", "WATCHDOG_USEC=5"];
        assert_eq!(
            shown(&ours, &NOTHING)[..3],
            ["WATCHDOG_PID=<pid>", "SYSTEMD_EXEC_PID=<pid>", "WATCHDOG_USEC=5"]
        );
        let others = ["WATCHDOG_PID=47", "SYSTEMD_EXEC_PID=1"];
        assert_eq!(shown(&others, &NOTHING)[..2], others);
    }

    #[test]
    fn descriptors_are_announced_and_names_left_out_where_exec_would_fail() {
        let handover = |names| Handover { descriptors: 2, names, channel: 5, nonce: "n" };
        assert_eq!(
            shown(&[], &handover(Some(c"a:b"))),
            ["LISTEN_PID=<pid>", "LISTEN_FDS=2", "LISTEN_FDNAMES=a:b", "SHELLFLIP_CHANNEL=<pid>:5:n"]
        );
        let room = STRING_LIMIT - 1 - "LISTEN_FDNAMES=".len();
        let longest = CString::new(vec![b'x'; room]).unwrap();
        assert_eq!(shown(&[], &handover(Some(&longest))).len(), 4);
        let too_long = CString::new(vec![b'x'; room + 1]).unwrap();
        assert_eq!(shown(&[], &handover(Some(&too_long))).len(), 3);
    }

    #[cfg(feature = "faults")]
    #[test]
    fn faults_of_the_next_generation_become_its_own() {
        let base = ["SHELLFLIP_FAULT=a=kill", "SHELLFLIP_FAULT_NEXT=b=exit"];
        assert_eq!(shown(&base, &NOTHING)[0], "SHELLFLIP_FAULT=b=exit");
        assert_eq!(shown(&base, &NOTHING).len(), 2);
    }
}
