//! What the environment says about the unit that this process runs in: sd_notify(3), sd_watchdog_enabled(3),
//! systemd.exec(5). Read once, from the environment as it was at `flip_init`.

use crate::startup::variable;
use std::ffi::CString;
use std::time::Duration;

/// The unit, as far as it is known here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    /// NOTIFY_SOCKET.
    pub socket: Option<Vec<u8>>,
    /// How often the watchdog has to be pinged: half of what the manager allows.
    pub watchdog: Option<Duration>,
    /// systemd itself executed this process (SYSTEMD_EXEC_PID, systemd 248): it is the main process of a unit, and a
    /// child of systemd.
    pub direct: bool,
}

impl Unit {
    /// Out of the environment of the process `pid`, this one.
    pub fn of(environment: &[CString], pid: u32) -> Unit {
        let get = |name: &[u8]| variable(environment, name).filter(|value| !value.is_empty());
        let number = |name: &[u8]| std::str::from_utf8(get(name)?).ok()?.parse::<u64>().ok();
        let for_us = get(b"WATCHDOG_PID").is_none() || number(b"WATCHDOG_PID") == Some(pid.into());
        let allowed = number(b"WATCHDOG_USEC").filter(|usec| *usec > 0 && for_us);
        Unit {
            socket: get(b"NOTIFY_SOCKET").map(<[u8]>::to_vec),
            watchdog: allowed.map(|usec| Duration::from_micros((usec / 2).max(1))),
            direct: number(b"SYSTEMD_EXEC_PID") == Some(pid.into()),
        }
    }

    /// Why upgrades cannot work in such a unit. `heard`: the notify socket is there.
    pub fn unsupported(&self, heard: bool) -> Option<String> {
        let what = match (self.direct, heard, &self.socket) {
            (false, ..) | (_, true, _) => return None,
            (true, false, None) => "has no NOTIFY_SOCKET",
            (true, false, Some(_)) => "has a NOTIFY_SOCKET on which nobody listens",
        };
        Some(format!(
            "this is the main process of a systemd unit that {what}: systemd would not learn of the new process, and end \
             it together with this one; the unit needs Type=notify or Type=notify-reload"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(environment: &[&str]) -> Unit {
        let environment: Vec<CString> = environment.iter().map(|one| CString::new(*one).unwrap()).collect();
        Unit::of(&environment, 4711)
    }

    #[test]
    fn the_watchdog_is_ours_where_no_other_process_is_named() {
        let half = Some(Duration::from_millis(500));
        assert_eq!(unit(&["WATCHDOG_USEC=1000000"]).watchdog, half);
        assert_eq!(unit(&["WATCHDOG_USEC=1000000", "WATCHDOG_PID=4711"]).watchdog, half);
        for other in ["WATCHDOG_PID=4712", "WATCHDOG_PID=x"] {
            assert_eq!(unit(&["WATCHDOG_USEC=1000000", other]).watchdog, None);
        }
        for nothing in ["WATCHDOG_USEC=0", "WATCHDOG_USEC=", "WATCHDOG_USEC=-1"] {
            assert_eq!(unit(&[nothing]).watchdog, None);
        }
    }

    #[test]
    fn a_main_process_that_systemd_does_not_hear_cannot_be_replaced() {
        assert_eq!(unit(&[]).unsupported(false), None);
        assert_eq!(unit(&["SYSTEMD_EXEC_PID=4712"]).unsupported(false), None);
        let simple = unit(&["SYSTEMD_EXEC_PID=4711", "NOTIFY_SOCKET="]);
        assert!(simple.direct && simple.unsupported(false).unwrap().contains("has no NOTIFY_SOCKET"));
        let notify = unit(&["SYSTEMD_EXEC_PID=4711", "NOTIFY_SOCKET=/run/n"]);
        assert_eq!(notify.unsupported(true), None);
        assert!(notify.unsupported(false).unwrap().contains("nobody listens"));
    }
}
