//! Kinds of units: what works, and what is refused.

use super::machine::{Machine, example};
use super::server::{Server, flipctl};
use std::time::Duration;
use testkit::deadline::scaled;
use testkit::host::{SOON, c_program};
use testkit::wait_until;

pub fn a_unit_of_type_simple_is_refused_the_upgrade(machine: &Machine) {
    machine.unit(
        "simple.service",
        "[Service]\nType=simple\nExecStart=/usr/local/bin/server tcp://127.0.0.1:8080\nEnvironment=SHELLFLIP_LOG=info\n",
    );
    let server = Server { machine, unit: "simple.service" };
    machine.must(&["systemctl", "start", "simple"]);
    wait_until("it serves", SOON, || server.get("/").is_ok());
    let pid = server.main_pid();
    server.kill(pid, "USR1");
    wait_until("a line", SOON, || server.journal().contains("the unit needs Type=notify"));
    assert_eq!((server.who(), server.main_pid()), (pid, pid));
    server.assert_always_active();
}

/// systemd looks into PIDFile= once, when the main process ends.
pub fn a_forking_unit_finds_the_new_process_by_its_pid_file(machine: &Machine) {
    machine.install(&c_program("tests/c/host.c", &[]), "server");
    let starts = "/usr/local/bin/server & while ! [ -e /run/server/pid ]; do sleep 0.02; done";
    machine.unit(
        "forking.service",
        &format!(
            "[Service]\nType=forking\nPIDFile=/run/server/pid\nRuntimeDirectory=server\nExecStart=/bin/sh -c '{starts}'\n\
             Environment=HOST_ADDRESS=tcp://127.0.0.1:8080 HOST_PID_FILE=/run/server/pid\n"
        ),
    );
    let server = Server { machine, unit: "forking.service" };
    machine.must(&["systemctl", "start", "forking"]);
    for _ in 0..20 {
        let before = server.main_pid();
        assert_eq!(server.who(), before);
        server.kill(before, "USR1");
        wait_until("another main process", SOON, || server.main_pid() != before);
        assert_ne!(server.main_pid(), 0, "{}", server.journal());
    }
    server.assert_always_active();
    machine.must(&["systemctl", "stop", "forking"]);
}

pub fn the_watchdog_outlives_five_upgrades(machine: &Machine) {
    let server = Server::start(machine, "WatchdogSec=700ms\nEnvironment=WATCHDOG=1");
    for _ in 0..5 {
        server.reload();
        // Longer than the watchdog waits.
        std::thread::sleep(Duration::from_millis(1000));
        assert_eq!(server.who(), server.main_pid());
    }
    server.assert_always_active();
    // And without a ping it is ended, or this test would show nothing.
    machine.must(&["systemctl", "stop", server.unit]);
    server.settings("WatchdogSec=700ms\nRestart=no");
    machine.must(&["systemctl", "start", server.unit]);
    wait_until("the watchdog bites", scaled(SOON), || {
        machine.property(server.unit, "Result") == "watchdog" && server.state() == "failed"
    });
}

/// What the head of the socket's service says: Type=notify, and lines of another unit by how they begin.
fn for_older_systemd() -> String {
    let (service, other) = (example("server-socket.service"), example("server-flipctl.service"));
    let head: Vec<&str> = service.lines().take_while(|line| line.starts_with('#')).collect();
    let head = head.join(" ");
    let names: Vec<&str> = head.split([' ', ',', ':']).filter(|word| word.ends_with('=')).collect();
    let named = other.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
    ["Type=notify"].into_iter().chain(named).collect::<Vec<_>>().join("\n")
}

pub fn socket_activation_starts_and_upgrades(machine: &Machine) {
    machine.example("server-socket.socket");
    machine.example("server-socket.service");
    let server = Server { machine, unit: "server-socket.service" };
    if machine.version < 253 {
        machine.install(flipctl(), "flipctl");
        server.settings(&for_older_systemd());
    }
    machine.must(&["systemctl", "start", "server-socket.socket"]);
    assert_eq!(server.state(), "inactive");
    // The first connection starts it, and is served.
    assert_eq!(server.who(), server.main_pid());
    let load = server.load();
    for _ in 0..5 {
        let before = server.main_pid();
        assert_eq!(server.try_reload(), 0);
        wait_until("another main process", SOON, || server.main_pid() != before);
        wait_until("the end of the reload", SOON, || server.state() == "active");
    }
    load.stop().assert_clean();
    server.assert_always_active();
    // systemd holds the socket: a stop of the service is not the end of it.
    machine.must(&["systemctl", "stop", server.unit]);
    assert_eq!(server.who(), server.main_pid());
    machine.must(&["systemctl", "stop", "server-socket.socket", server.unit]);
    assert!(server.get("/").is_err());
}

pub fn an_unprivileged_server_is_replaced(machine: &Machine) {
    let server =
        Server::start(machine, "User=nobody\nNoNewPrivileges=yes\nProtectSystem=strict\nPrivateTmp=yes");
    for _ in 0..3 {
        server.reload();
    }
    assert_eq!(server.who(), server.main_pid());
    server.assert_always_active();
}

/// The unit that a peer's README documents: nothing but its type, so that systemd sends SIGHUP and believes the main
/// process alone.
pub fn the_shortest_notify_reload_unit_works(machine: &Machine) {
    if machine.version < 253 {
        let unit = "[Service]\nType=notify-reload\nExecStart=/bin/true\n";
        machine.unit("short.service", unit);
        // An old systemd ignores what it does not know, and takes the unit for Type=simple.
        assert_eq!(machine.property("short.service", "Type"), "simple");
        return;
    }
    let exec = "ExecStart=/usr/local/bin/server tcp://127.0.0.1:8080";
    machine.unit(
        "short.service",
        &format!("[Service]\nType=notify-reload\n{exec}\nEnvironment=RELOAD_SIGNAL=1\n"),
    );
    let server = Server { machine, unit: "short.service" };
    machine.must(&["systemctl", "start", "short"]);
    let load = server.load();
    for _ in 0..5 {
        let now = server.reload();
        assert_eq!(server.who(), now);
    }
    load.stop().assert_clean();
    server.assert_always_active();
}

/// What `flipctl doctor` finds, by its codes.
fn findings(machine: &Machine) -> Vec<String> {
    let (_, text) = machine.run(&["flipctl", "doctor", "--json", "--socket", "/run/server/ctl"]);
    let value: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let all = value["findings"].as_array().unwrap_or_else(|| panic!("{text}"));
    all.iter().map(|one| one["code"].as_str().expect("a code").to_string()).collect()
}

pub fn the_doctor_finds_each_setting_that_loses_the_service_and_nothing_in_the_recommended_unit(
    machine: &Machine,
) {
    let control = "Environment=CONTROL_SOCKET=unix:///run/server/ctl\nRuntimeDirectory=server";
    let server = Server::start(machine, control);
    assert_eq!(findings(machine), [""; 0]);
    server.reload();
    assert_eq!(findings(machine), [""; 0]);
    let hup = match machine.version {
        253.. => "ReloadSignal=SIGHUP",
        _ => "ExecReload=\nExecReload=/bin/kill -HUP $MAINPID",
    };
    let wrapped =
        "Type=simple\nExecStart=\nExecStart=/bin/sh -c '/usr/local/bin/server tcp://127.0.0.1:8080; true'";
    let deaf =
        "ExecStart=\nExecStart=/usr/bin/env -u NOTIFY_SOCKET /usr/local/bin/server tcp://127.0.0.1:8080";
    for (settings, code) in [
        ("Type=simple\nNotifyAccess=none\nWatchdogSec=0\nFileDescriptorStoreMax=0", "unit-type"),
        ("NotifyAccess=all", "unit-notify-access"),
        ("KillMode=mixed", "unit-kill-mode"),
        ("PIDFile=/run/server/pid", "unit-pid-file"),
        (hup, "unit-reload-signal"),
        (wrapped, "unit-main-process"),
        (deaf, "unit-not-notified"),
    ] {
        machine.must(&["systemctl", "stop", server.unit]);
        server.settings(&format!("{control}\n{settings}"));
        // Two of them would never be started, as systemd sees it.
        machine.must(&["systemctl", "start", "--no-block", server.unit]);
        wait_until("it serves", SOON, || server.get("/").is_ok());
        let found = findings(machine);
        assert!(found.iter().any(|one| one == code), "{settings}: {found:?}");
    }
}
