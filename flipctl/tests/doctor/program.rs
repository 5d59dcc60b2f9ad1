//! Program, directory, and process 1.

use crate::kit::Stage;
use crate::patient::{Patient, by_pid_file, codes, sick};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;
use testkit::host::capable_copy;
use testkit::limit;
use testkit::process::{Family, Program, copy_program, temp_dir};

const LIMIT: Duration = Duration::from_secs(100);

fn copy(family: &Family, folder: &Path) -> Program {
    let program = folder.join("server");
    copy_program(sick(), &program);
    family.program(program)
}

#[test]
fn a_program_that_is_gone_is_found_and_one_that_was_replaced_is_not() {
    let _limit = limit(LIMIT);
    let patient = Patient::started("", copy);
    let program = patient.path("server");
    let new = patient.path("new");
    copy_program(sick(), &new);
    std::fs::rename(&new, &program).unwrap();
    assert_eq!(patient.findings(&[]), [] as [&str; 0]);
    std::fs::remove_file(&program).unwrap();
    assert_eq!(patient.findings(&[]), ["executable-gone"]);
    let by_pid = by_pid_file(&patient.family, &patient.path(""), patient.process.pid(), &[]).expect(7).json();
    assert_eq!(codes(&by_pid), ["executable-gone"]);
    std::fs::create_dir(&program).unwrap();
    let value = patient.json(&[]);
    assert_eq!(codes(&value), ["executable-gone"]);
    assert!(value["findings"][0]["what"].as_str().unwrap().contains("EISDIR"), "{value}");
}

#[test]
fn a_program_that_may_not_be_executed_is_found() {
    let _limit = limit(LIMIT);
    let patient = Patient::started("", copy);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(patient.path("server"), mode).unwrap();
    let value = patient.json(&[]);
    assert_eq!(codes(&value), ["executable-gone"]);
    assert!(value["findings"][0]["what"].as_str().unwrap().contains("EACCES"), "{value}");
}

#[test]
fn a_start_directory_that_is_gone_is_found_until_it_is_back() {
    let _limit = limit(LIMIT);
    let patient = Patient::started("", |family, folder| {
        let start = folder.join("start");
        std::fs::create_dir(&start).unwrap();
        family.program(sick()).directory(start)
    });
    assert_eq!(patient.findings(&[]), [] as [&str; 0]);
    std::fs::remove_dir(patient.path("start")).unwrap();
    assert_eq!(patient.findings(&[]), ["directory-gone"]);
    let by_pid = by_pid_file(&patient.family, &patient.path(""), patient.process.pid(), &[]).expect(7).json();
    assert_eq!(codes(&by_pid), ["directory-gone"]);
    std::fs::create_dir(patient.path("start")).unwrap();
    assert_eq!(patient.findings(&[]), [] as [&str; 0]);
}

#[test]
fn a_pid_file_that_could_not_be_written_is_found() {
    let _limit = limit(LIMIT);
    let folder = temp_dir();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let stage = Stage::new(&[("HOST_PID_FILE", run.join("a.pid").to_str().unwrap())]);
    stage.run(&["doctor"]).expect(0);
    std::fs::remove_dir_all(&run).unwrap();
    stage.run(&["upgrade"]).expect(0);
    let value = stage.run(&["doctor", "--json"]).expect(7).json();
    assert_eq!(codes(&value), ["pid-file"]);
    assert!(value["findings"][0]["what"].as_str().unwrap().contains("ENOENT"), "{value}");
}

#[test]
fn process_1_of_a_pid_namespace_is_found() {
    if !nix::unistd::geteuid().is_root() {
        println!(
            "SKIPPED: program::process_1_of_a_pid_namespace_is_found: only root may make a pid namespace"
        );
        return;
    }
    let _limit = limit(LIMIT);
    let patient = Patient::started("", |family, _| {
        family.program("unshare").args(["--pid", "--fork", "--kill-child"]).arg(sick())
    });
    assert_eq!(patient.server(), 1);
    let value = patient.json(&[]);
    assert_eq!(codes(&value), ["process-1"]);
    // Not the process 1 of this namespace, but the one that is called so in its own.
    let server = patient.process.proc().children()[0].0;
    assert_eq!(value["pid"], server);
    let by_pid = by_pid_file(&patient.family, &patient.path(""), server, &[]).expect(7).json();
    assert_eq!(codes(&by_pid), ["process-1"]);
}

#[test]
fn a_program_with_file_capabilities_is_found() {
    let _limit = limit(LIMIT);
    let folder = temp_dir();
    let program = match capable_copy("tests/c/sick.c", folder.path()) {
        Ok(program) => program,
        Err(why) => {
            println!("SKIPPED: program::a_program_with_file_capabilities_is_found: cannot give them: {why}");
            return;
        }
    };
    let patient = Patient::started("", |family, folder| {
        // Where its control socket will be.
        std::os::unix::fs::chown(folder, Some(65534), None).unwrap();
        let mut program = family.program(program);
        program.command().uid(65534).gid(65534);
        program
    });
    let value = patient.json(&[]);
    assert_eq!(codes(&value), ["secure-execution"]);
}
