//! The settings of the server's systemd unit that lose the service with an upgrade, a reload or a stop.

use super::signals::unhandled;
use super::systemctl::{Manager, Properties};
use super::{Examination, Subject};
use crate::args::signal;
use crate::report::Report;
use nix::sys::signal::Signal;
use procfs::process::Process;

/// The unit of a process and who manages it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unit {
    name: String,
    manager: Manager,
}

pub fn examine(subject: &Subject, examination: &mut Examination) {
    const WHAT: &str = "systemd unit";
    let unit = match (&subject.told.unit, unit_of(&subject.process)) {
        (Some(name), _) => Unit { name: name.clone(), manager: Manager::System },
        (None, Ok(Some(unit))) => unit,
        (None, Ok(None)) => return,
        (None, Err(error)) => return examination.unseen(WHAT, error),
    };
    let properties = match Properties::ask(&subject.told.systemctl, &unit.manager, &unit.name) {
        Ok(properties) => properties,
        Err(why) => return examination.unseen(WHAT, why),
    };
    match properties.get("LoadState") {
        Some("loaded") | None => settings(subject, &unit.name, &properties, examination),
        Some(other) => examination.unseen(WHAT, format!("{} is {other}", unit.name)),
    }
}

fn settings(subject: &Subject, unit: &str, properties: &Properties, examination: &mut Examination) {
    if !is_main_process(subject, unit, properties, examination) {
        // The unit is somebody else's, and so are its settings.
        return;
    }
    let kind = properties.get("Type").unwrap_or_default();
    let unheard = subject.report.as_ref().is_some_and(|report| report.notify == Some(false));
    let notifies = matches!(kind, "notify" | "notify-reload");
    // systemd listens there too, once it is told to.
    let listens = matches!(kind, "simple" | "exec")
        && matches!(properties.get("NotifyAccess"), Some("main" | "exec" | "all"))
        && !unheard;
    if notifies || listens {
        notify_access(unit, properties, examination);
        if unheard {
            examination.found(
                "unit-not-notified",
                format!("{unit} has Type={kind}, and the server has no NOTIFY_SOCKET"),
                "systemd is not told about the new process: it takes the old one's end for the end of the service, and \
                 kills the new one",
                "let the variable reach the server: no env -i, no sudo, no wrapper that removes it, before flip_init",
            );
        }
    } else {
        examination.found(
            "unit-type",
            format!("{unit} has Type={kind}"),
            "systemd does not listen for the new process: when the old one ends after an upgrade, the unit ends, and \
             systemd kills the new one (the library refuses such an upgrade where it can tell)",
            "Type=notify-reload from systemd 253 on, Type=notify with ExecReload= before; or NotifyAccess=main with \
             Type=simple",
        );
    }
    kill_mode(unit, properties, examination);
    if let Some(path) = properties.get("PIDFile") {
        examination.found(
            "unit-pid-file",
            format!("{unit} has PIDFile={path}"),
            "after a reload systemd reads it, and where it still names the old process, takes that for the main process \
             again: with its end the unit ends, and the new process is killed",
            "remove PIDFile=: a server with Type=notify says which process is the main one",
        );
    }
    for (signal, from) in reload_signals(kind, properties) {
        reload_signal(subject, (unit, kind), signal, &from, examination);
    }
}

fn is_main_process(
    subject: &Subject,
    unit: &str,
    properties: &Properties,
    examination: &mut Examination,
) -> bool {
    let main = properties.get("MainPID").and_then(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0);
    let other = main.filter(|main| *main != subject.pid());
    if let Some(main) = other {
        examination.found(
            "unit-main-process",
            format!("the main process of {unit} is {main}, not the server, which is {}", subject.pid()),
            "the unit lives as long as that process: a wrapper that waits for the server ends with the old generation, \
             and systemd kills the new one; systemd does not listen to others than the main process either",
            "start the server itself in ExecStart=, or let the wrapper exec it",
        );
    }
    other.is_none()
}

fn notify_access(unit: &str, properties: &Properties, examination: &mut Examination) {
    match properties.get("NotifyAccess") {
        Some("none") => examination.found(
            "unit-notify-access",
            format!("{unit} has NotifyAccess=none"),
            "systemd ignores what the server says: when the old process ends after an upgrade, the unit ends, and \
             systemd kills the new one",
            "NotifyAccess=main",
        ),
        Some("all") => examination.found(
            "unit-notify-access",
            format!("{unit} has NotifyAccess=all"),
            "every process of the unit is believed: an old generation, or a worker, that says STOPPING=1 as it ends \
             stops the whole unit, the new process too",
            "NotifyAccess=main",
        ),
        _ => {}
    }
}

fn kill_mode(unit: &str, properties: &Properties, examination: &mut Examination) {
    let (mode, then) = match properties.get("KillMode") {
        Some("mixed") => (
            "mixed",
            "a stop of the unit kills at once (SIGKILL) every process but the main one: the connections of an older \
             generation that still drains are cut",
        ),
        Some("process") => (
            "process",
            "a stop of the unit reaches the main process only: older generations that drain, and a new one that is just \
             starting, are left behind with the sockets",
        ),
        Some("none") => {
            ("none", "a stop of the unit ends nothing: its processes are left behind with the sockets")
        }
        _ => return,
    };
    examination.found(
        "unit-kill-mode",
        format!("{unit} has KillMode={mode}"),
        then,
        "KillMode=control-group, the default",
    );
}

/// The signals that a reload of the unit sends to the main process, and the setting that says so.
fn reload_signals(kind: &str, properties: &Properties) -> Vec<(Signal, String)> {
    let mut signals = Vec::new();
    if kind == "notify-reload" {
        let text = properties.get("ReloadSignal").unwrap_or("HUP");
        signals.extend(signal(text).ok().map(|signal| (signal, format!("ReloadSignal={}", signal.as_str()))));
    }
    for command in properties.all("ExecReload") {
        let arguments =
            command.split("argv[]=").nth(1).and_then(|rest| rest.split(" ;").next()).unwrap_or_default();
        if let Some(signal) = killed_with(arguments) {
            signals.push((signal, format!("ExecReload={arguments}")));
        }
    }
    signals
}

/// `kill -HUP $MAINPID` and its kind.
fn killed_with(arguments: &str) -> Option<Signal> {
    let mut words = arguments.split_whitespace();
    let program = words.find(|word| matches!(word.rsplit('/').next(), Some("kill" | "pkill" | "killall")))?;
    debug_assert!(!program.is_empty());
    let first = words.next()?;
    let name = match first {
        "-s" | "--signal" | "-n" => words.next()?,
        _ => first
            .strip_prefix("--signal=")
            .or(first.strip_prefix("-s"))
            .or(first.strip_prefix('-'))
            .unwrap_or("TERM"),
    };
    signal(name).ok()
}

fn reload_signal(
    subject: &Subject,
    (unit, kind): (&str, &str),
    signal: Signal,
    from: &str,
    examination: &mut Examination,
) {
    let (upgrades, said) = subject.upgrade_signals();
    let Ok(status) = subject.process.status() else { return };
    let stops = |report: &Report| report.signals.stop.iter().any(|name| name == signal.as_str());
    let then = match unhandled(&subject.process, &status, signal) {
        Some(then) => then,
        None if upgrades.contains(&signal) => return,
        None if subject.report.as_ref().is_some_and(stops) => {
            format!("systemctl reload {unit} stops the server")
        }
        // A host whose runtime owns signals has none of the library's, and handles this one itself.
        None if said && upgrades.is_empty() => return,
        None if !said && subject.told.signal.is_none() => return,
        None if kind == "notify-reload" => {
            format!("systemctl reload {unit} starts no upgrade, and with Type=notify-reload waits in vain")
        }
        // The host reads its settings again, or the like.
        None => return,
    };
    let names: Vec<&str> = upgrades.iter().map(|signal| signal.as_str()).collect();
    let better = if names.is_empty() { "the signal that it handles".into() } else { names.join(" or ") };
    examination.found(
        "unit-reload-signal",
        format!("{unit} has {from}, and the server does not upgrade on {signal}"),
        then,
        format!("ReloadSignal= (or ExecReload=) with {better}, or flip_config_set_signal in the server"),
    );
}

/// From the cgroup: v1 has a hierarchy of systemd's own.
fn unit_of(process: &Process) -> procfs::ProcResult<Option<Unit>> {
    let groups = process.cgroups()?.into_iter();
    let systemds = groups.filter(|group| {
        let controllers: Vec<&str> = group.controllers.iter().map(String::as_str).collect();
        matches!(controllers[..], [] | [""] | ["name=systemd"])
    });
    Ok(systemds.into_iter().find_map(|group| unit_in(&group.pathname)))
}

/// The innermost unit of the path, if that is a service: in a scope (a login session, most containers) there is nothing
/// to set. Below `user@1000.service` it is that user's manager that knows it.
fn unit_in(path: &str) -> Option<Unit> {
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    let units: Vec<&str> = path.split('/').filter(is_unit).collect();
    let (name, above) = units.split_last()?;
    let user_of = |unit: &str| unit.strip_prefix("user@")?.strip_suffix(".service")?.parse::<u32>().ok();
    if name.ends_with(".scope") || user_of(name).is_some() {
        return None;
    }
    let user = above.iter().rev().find_map(|one| user_of(one));
    Some(Unit { name: (*name).into(), manager: user.map_or(Manager::System, Manager::User) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_innermost_service_of_the_cgroup() {
        let unit = |name: &str, manager| Some(Unit { name: name.into(), manager });
        for (path, expected) in [
            ("/system.slice/app.service", unit("app.service", Manager::System)),
            ("/system.slice/app.service/workers", unit("app.service", Manager::System)),
            ("/system.slice/system-app.slice/app@1.service", unit("app@1.service", Manager::System)),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app.service",
                unit("app.service", Manager::User(1000)),
            ),
            ("/user.slice/user-1000.slice/session-3.scope", None),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-terminal-4711.scope", None),
            ("/user.slice/user-1000.slice/user@1000.service", None),
            ("/system.slice/docker-0123.scope", None),
            ("/", None),
        ] {
            assert_eq!(unit_in(path), expected, "{path}");
        }
    }

    #[test]
    fn the_signal_of_a_reload_command_is_read() {
        for (command, expected) in [
            ("/bin/kill -HUP $MAINPID", Some(Signal::SIGHUP)),
            ("/usr/bin/kill -s USR1 $MAINPID", Some(Signal::SIGUSR1)),
            ("kill --signal=SIGUSR2 $MAINPID", Some(Signal::SIGUSR2)),
            ("/bin/sh -c kill -10 $MAINPID", Some(Signal::SIGUSR1)),
            ("/bin/kill $MAINPID", Some(Signal::SIGTERM)),
            ("/usr/bin/flipctl upgrade", None),
            ("", None),
        ] {
            assert_eq!(killed_with(command), expected, "{command}");
        }
        let properties =
            Properties::parse("ExecReload={ path=/bin/kill ; argv[]=/bin/kill -HUP $MAINPID ; pid=0 }");
        assert_eq!(
            reload_signals("notify", &properties),
            [(Signal::SIGHUP, "ExecReload=/bin/kill -HUP $MAINPID".into())]
        );
        assert_eq!(reload_signals("notify-reload", &Properties::default())[0].0, Signal::SIGHUP);
        let number = Properties::parse("ReloadSignal=10");
        assert_eq!(reload_signals("notify-reload", &number)[0].0, Signal::SIGUSR1);
    }
}
