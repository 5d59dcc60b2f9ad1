//! Settings of a systemd unit. What systemd says is written by the test; how it behaves is not asked here.

use crate::patient::{Patient, codes};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use testkit::limit;
use testkit::process::write_script;

const LIMIT: Duration = Duration::from_secs(100);

/// A unit as it should be.
const GOOD: [(&str, &str); 7] = [
    ("LoadState", "loaded"),
    ("Type", "notify-reload"),
    ("NotifyAccess", "main"),
    ("KillMode", "control-group"),
    ("PIDFile", ""),
    ("ReloadSignal", "10"),
    ("MainPID", "SERVER"),
];

struct Unit {
    patient: Patient,
    systemctl: PathBuf,
}

impl Unit {
    /// A server that could tell systemd.
    fn new() -> Unit {
        Unit::ill("")
    }

    fn ill(illnesses: &str) -> Unit {
        let patient = Patient::started(illnesses, |family, _| {
            family.program(crate::patient::sick()).env("NOTIFY_SOCKET", "@flipctl-test-nobody")
        });
        Unit::of(patient)
    }

    fn of(patient: Patient) -> Unit {
        let systemctl = patient.path("systemctl");
        let text = format!("#!/bin/sh\necho \"$*\" >> '{0}.asked'\ncat '{0}.says'\n", systemctl.display());
        write_script(&systemctl, &text);
        Unit { patient, systemctl }
    }

    /// Which findings there are with that unit but for these settings.
    fn with(&self, changes: &[(&str, &str)]) -> Value {
        let known = |name: &str| GOOD.iter().any(|(one, _)| *one == name);
        let value = |name: &str| changes.iter().find(|(one, _)| *one == name).map(|(_, value)| *value);
        let mut text: String =
            GOOD.iter().map(|(name, good)| format!("{name}={}\n", value(name).unwrap_or(good))).collect();
        for (name, value) in changes.iter().filter(|(name, _)| !known(name)) {
            text += &format!("{name}={value}\n");
        }
        let text = text.replace("SERVER", &self.patient.server().to_string());
        fs::write(self.systemctl.with_extension("says"), text).unwrap();
        self.patient.json(&["--unit", "app.service", "--systemctl", self.systemctl.to_str().unwrap()])
    }
}

#[test]
fn a_good_unit_has_no_findings_and_each_bad_setting_has_one() {
    let _limit = limit(LIMIT);
    let unit = Unit::new();
    let none: [&str; 0] = [];
    assert_eq!(codes(&unit.with(&[])), none);
    let reload = ("ExecReload", "{ path=/bin/kill ; argv[]=/bin/kill -USR1 $MAINPID ; ignore_errors=no }");
    let notify = ("Type", "notify");
    assert_eq!(codes(&unit.with(&[notify, reload])), none);
    assert_eq!(codes(&unit.with(&[("NotifyAccess", "exec"), ("Unknown", "x=y")])), none);
    for kind in ["simple", "exec"] {
        assert_eq!(codes(&unit.with(&[("Type", kind)])), none, "with NotifyAccess=main");
        assert_eq!(codes(&unit.with(&[("Type", kind), ("NotifyAccess", "exec")])), none);
    }
    let kill =
        |signal| format!("{{ path=/bin/kill ; argv[]=/bin/kill -{signal} $MAINPID ; ignore_errors=no }}");
    let (hup, term) = (kill("HUP"), kill("TERM"));
    for (changes, code, what) in [
        (&[("Type", "simple"), ("NotifyAccess", "none")][..], "unit-type", "Type=simple"),
        (&[("Type", "exec"), ("NotifyAccess", "none")], "unit-type", "Type=exec"),
        (&[("Type", "simple"), ("NotifyAccess", "all")], "unit-notify-access", "NotifyAccess=all"),
        (&[("Type", "forking")], "unit-type", "Type=forking"),
        (&[("NotifyAccess", "none")], "unit-notify-access", "NotifyAccess=none"),
        (&[("NotifyAccess", "all")], "unit-notify-access", "NotifyAccess=all"),
        (&[("KillMode", "mixed")], "unit-kill-mode", "KillMode=mixed"),
        (&[("KillMode", "process")], "unit-kill-mode", "KillMode=process"),
        (&[("PIDFile", "/run/app.pid")], "unit-pid-file", "PIDFile=/run/app.pid"),
        (&[("ReloadSignal", "1")], "unit-reload-signal", "ReloadSignal=SIGHUP"),
        (&[("ReloadSignal", "15")], "unit-reload-signal", "ReloadSignal=SIGTERM"),
        (&[notify, ("ExecReload", &hup)], "unit-reload-signal", "kill -HUP"),
        (&[notify, ("ExecReload", &term)], "unit-reload-signal", "kill -TERM"),
        (&[("MainPID", "1")], "unit-main-process", "is 1, not the server"),
    ] {
        let value = unit.with(changes);
        assert_eq!(codes(&value), [code], "{changes:?}");
        let said = value["findings"][0]["what"].as_str().unwrap();
        assert!(said.contains(what) && said.contains("app.service"), "{said}");
    }
}

#[test]
fn a_server_that_cannot_tell_systemd_is_found() {
    let _limit = limit(LIMIT);
    let unit = Unit::of(Patient::new(""));
    assert_eq!(codes(&unit.with(&[])), ["unit-not-notified"]);
    assert_eq!(codes(&unit.with(&[("Type", "simple")])), ["unit-type"]);
}

#[test]
fn a_reload_that_the_server_handles_itself_is_no_finding_unless_systemd_waits_for_an_upgrade() {
    let _limit = limit(LIMIT);
    let unit = Unit::ill("hangup");
    let reload = ("ExecReload", "{ path=/bin/kill ; argv[]=/bin/kill -HUP $MAINPID ; ignore_errors=no }");
    assert_eq!(codes(&unit.with(&[("Type", "notify"), reload])), [] as [&str; 0]);
    let value = unit.with(&[("ReloadSignal", "1")]);
    assert_eq!(codes(&value), ["unit-reload-signal"]);
    assert!(value["findings"][0]["then"].as_str().unwrap().contains("waits in vain"), "{value}");
}

#[test]
fn a_unit_that_cannot_be_asked_about_is_said_and_is_no_finding() {
    let _limit = limit(LIMIT);
    let unit = Unit::new();
    let value = unit.with(&[("LoadState", "not-found")]);
    assert_eq!(value["not_examined"][0]["why"], "app.service is not-found");
    let value = unit.patient.json(&["--unit", "app.service", "--systemctl", "/no/such/systemctl"]);
    assert!(
        value["not_examined"][0]["why"].as_str().unwrap().contains("cannot run /no/such/systemctl"),
        "{value}"
    );
    let value = unit.patient.json(&["--unit", "app.service", "--systemctl", "/bin/true"]);
    assert!(value["not_examined"][0]["why"].as_str().unwrap().contains("says nothing"), "{value}");
}

#[test]
fn the_unit_is_found_by_the_cgroup_of_the_process() {
    let name = format!("flipctl-test-{}.service", std::process::id());
    let roots = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    let made = roots.iter().map(|root| root.join(&name)).find(|folder| {
        let parent = folder.parent().unwrap();
        parent.join("cgroup.procs").exists() && fs::create_dir(folder).is_ok()
    });
    let Some(cgroup) = made else {
        println!(
            "SKIPPED: units::the_unit_is_found_by_the_cgroup_of_the_process: no cgroup can be made here"
        );
        return;
    };
    let _limit = limit(LIMIT);
    let unit = Unit::of(Patient::started("", |family, _| {
        let script = format!(r#"echo $$ > {}/cgroup.procs && exec "$0""#, cgroup.display());
        family
            .program("sh")
            .args(["-c", &script])
            .arg(crate::patient::sick())
            .env("NOTIFY_SOCKET", "@flipctl-nobody")
    }));
    unit.with(&[("KillMode", "mixed")]);
    let asked = unit.systemctl.with_extension("asked");
    fs::remove_file(&asked).unwrap();
    let found = unit.patient.json(&["--systemctl", unit.systemctl.to_str().unwrap()]);
    assert_eq!(codes(&found), ["unit-kill-mode"]);
    let asked = fs::read_to_string(asked).unwrap();
    assert!(asked.starts_with("show ") && asked.trim_end().ends_with(&format!("-- {name}")), "{asked}");
    drop(unit);
    let gone = testkit::deadline::try_for(testkit::host::SOON, || fs::remove_dir(&cgroup).ok());
    assert!(gone.is_some(), "{} is not empty", cgroup.display());
}
