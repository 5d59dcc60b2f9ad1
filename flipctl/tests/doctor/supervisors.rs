//! Real supervisors, each with the server as its child.

use crate::patient::{Patient, installed, sick};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::limit;
use testkit::process::write_script;

const LIMIT: Duration = Duration::from_secs(100);

fn skipped(test: &str, program: &str) -> bool {
    let missing = !installed(program);
    if missing {
        println!("SKIPPED: supervisors::{test}: {program} is not installed");
    }
    missing
}

/// A folder of a service as runsv and s6 have it; `exec`, so that the server is the supervisor's child.
fn service(folder: &Path) -> PathBuf {
    let service = folder.join("service");
    fs::create_dir(&service).unwrap();
    write_script(service.join("run"), &format!("#!/bin/sh\nexec {} 2>&1\n", sick().display()));
    service
}

#[test]
fn tini_is_found() {
    if skipped("tini_is_found", "tini") {
        return;
    }
    let _limit = limit(LIMIT);
    let patient = Patient::started("", |family, _| family.program("tini").args(["-s", "--"]).arg(sick()));
    assert_eq!(patient.findings(&[]), ["supervisor-ends"]);
}

#[test]
fn dumb_init_is_found_behind_a_shell() {
    if skipped("dumb_init_is_found_behind_a_shell", "dumb-init") {
        return;
    }
    let _limit = limit(LIMIT);
    let patient = Patient::started("", |family, _| {
        let script = r#""$0"; echo ended"#;
        family.program("dumb-init").args(["sh", "-c", script]).arg(sick())
    });
    assert_eq!(patient.findings(&[]), ["supervisor-ends"]);
    let value = patient.json(&[]);
    assert!(value["findings"][0]["what"].as_str().unwrap().contains("dumb-init"), "{value}");
}

#[test]
fn runsv_is_found() {
    if skipped("runsv_is_found", "runsv") {
        return;
    }
    let _limit = limit(LIMIT);
    let patient = Patient::started("", |family, folder| family.program("runsv").arg(service(folder)));
    assert_eq!(patient.findings(&[]), ["supervisor-restarts"]);
}

#[test]
fn s6_supervise_is_found() {
    if skipped("s6_supervise_is_found", "s6-supervise") {
        return;
    }
    let _limit = limit(LIMIT);
    let patient = Patient::started("", |family, folder| family.program("s6-supervise").arg(service(folder)));
    assert_eq!(patient.findings(&[]), ["supervisor-restarts"]);
}

#[test]
fn supervisord_which_is_a_script_is_found() {
    if skipped("supervisord_which_is_a_script_is_found", "supervisord") {
        return;
    }
    let _limit = limit(LIMIT);
    let patient = Patient::started("", |family, folder| {
        let configuration = folder.join("supervisord.conf");
        let at = folder.display();
        let text = format!(
            "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={at}/supervisord.pid\n\
             [program:server]\ncommand={}\nstdout_logfile=/dev/fd/1\nstdout_logfile_maxbytes=0\n",
            sick().display()
        );
        fs::write(&configuration, text).unwrap();
        family.program("supervisord").arg("-c").arg(configuration)
    });
    assert_eq!(patient.findings(&[]), ["supervisor-restarts"]);
}

#[test]
fn a_shell_that_is_process_1_of_a_container_is_found() {
    if !nix::unistd::geteuid().is_root() {
        println!(
            "SKIPPED: supervisors::a_shell_that_is_process_1_of_a_container_is_found: only root may make a pid namespace"
        );
        return;
    }
    let _limit = limit(LIMIT);
    let folder = testkit::process::temp_dir();
    let family = testkit::process::Family::new();
    let script = r#""$0"; echo ended"#;
    let unshare = family
        .program("unshare")
        .args(["--pid", "--fork", "--kill-child", "sh", "-c", script])
        .arg(sick())
        .start();
    unshare.wait_for_output("ready", testkit::host::SOON);
    let server = unshare.proc().children()[0].children()[0].0;
    let value = crate::patient::by_pid_file(&family, folder.path(), server, &[]).expect(7).json();
    assert_eq!(crate::patient::codes(&value), ["supervisor-ends"]);
}

#[test]
fn a_shell_that_somebody_works_in_is_none() {
    let _limit = limit(LIMIT);
    let patient = Patient::started("", |family, _| {
        family.program("sh").args(["-c", r#""$0"; echo ended"#]).arg(sick())
    });
    assert_eq!(patient.findings(&[]), [] as [&str; 0]);
}
