//! Programs that are there and that the kernel would not run.

use crate::kit::{Ran, Stage, flipctl};
use crate::patient::{Patient, by_pid_file, codes, copy, may_mount, on_its_own_file_system, sick, system};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testkit::host::c_program;
use testkit::limit;
use testkit::process::{temp_dir, write_script};

const LIMIT: Duration = Duration::from_secs(100);

/// Another file under that name, which may be executed.
fn put(program: &Path, bytes: &[u8]) {
    let new = program.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(new, program).unwrap();
}

/// What doctor says of it, which the next upgrade proves right.
#[track_caller]
fn finding(patient: &Patient) -> (String, String) {
    let mut upgrade = flipctl(&patient.family);
    let ran = Ran::from(upgrade.args(["upgrade", "--socket"]).arg(patient.path("ctl")).output().unwrap());
    assert!((11..=13).contains(&ran.status), "{ran:?}");
    let value = patient.json(&[]);
    assert_eq!(codes(&value), ["executable-gone"], "{value}");
    let text = |key: &str| value["findings"][0][key].as_str().unwrap().to_string();
    (text("what"), text("remedy"))
}

#[test]
fn what_the_kernel_would_not_run_is_found_with_what_to_do() {
    let _limit = limit(LIMIT);
    let patient = Patient::started("", copy);
    let program = patient.path("server");
    let whole = std::fs::read(sick()).unwrap();
    let mut foreign = whole.clone();
    // Its e_machine: nobody's.
    foreign[18..20].copy_from_slice(&[0x27, 0x27]);
    let flags = ["-Wl,--dynamic-linker=/no/such/ld.so"];
    let without_linker = std::fs::read(c_program("tests/c/sick.c", &flags)).unwrap();
    for (bytes, what, remedy) in [
        (&b""[..], "the file is empty: ", "put the program there"),
        (b"serve\n", "neither an ELF program nor a script: ", "put a program there"),
        (b"#!\n", "neither an ELF program nor a script: ", "put a program there"),
        (&foreign, "for another machine (number 10023", "put the program there that was built for"),
        (&whole[..4096], "only a part of it is there", "put the program there"),
        (&whole[..40], "only a part of it is there", "put the program there"),
        (&without_linker, "its interpreter /no/such/ld.so: no such file or directory", "install the interp"),
        (b"#!/no/such/shell -e\n", "its interpreter /no/such/shell: no such file", "install the interpreter"),
        (b"#! /etc/passwd\n", "its interpreter /etc/passwd: nobody may execute it", "give the server's user"),
        (b"#!/bin/sh\r\nexit 0\r\n", "its first line ends with CR LF", "end the script's lines with LF"),
        (
            b"#!/usr/bin/env sh\r\nexit 0\r\n",
            "its first line ends with CR LF",
            "end the script's lines with LF",
        ),
    ] {
        put(&program, bytes);
        let (said, advice) = finding(&patient);
        assert!(said.contains(what), "{said:?} instead of {what:?}");
        assert!(advice.starts_with(remedy), "{advice:?} instead of {remedy:?}");
    }
    std::fs::remove_file(&program).unwrap();
    mkfifo(&program, Mode::from_bits_truncate(0o755)).unwrap();
    assert!(finding(&patient).0.contains("it is a FIFO: permission denied (EACCES)"));
}

#[test]
fn scripts_that_run_are_not_found() {
    let _limit = limit(LIMIT);
    let patient = Patient::started("", copy);
    let program = patient.path("server");
    let script = patient.path("script");
    let by_script = format!("#!{} with arguments\n", script.display());
    for line in ["#!/bin/sh", "#! /bin/sh -e\n", "#!/usr/bin/env sh\n# kept by an editor\r\n", &by_script] {
        // Nobody can write to a program that runs.
        std::fs::remove_file(&program).unwrap();
        write_script(&script, "#!/bin/sh\nexit 0\n");
        write_script(&program, line);
        assert!(Command::new(&program).status().unwrap().success(), "{line:?}");
        assert_eq!(patient.findings(&[]), [] as [&str; 0], "{line:?}");
    }
}

#[test]
fn a_program_that_may_not_be_executed_is_found() {
    let _limit = limit(LIMIT);
    let patient = Patient::started("", copy);
    std::fs::set_permissions(patient.path("server"), Permissions::from_mode(0o644)).unwrap();
    let (what, remedy) = finding(&patient);
    assert!(what.ends_with("nobody may execute it: permission denied (EACCES)"), "{what}");
    assert!(remedy.contains("chmod +x"), "{remedy}");
}

#[test]
fn a_file_system_on_which_nothing_is_executed_is_found() {
    if let Err(why) = may_mount() {
        println!("SKIPPED: executable::a_file_system_on_which_nothing_is_executed_is_found: {why}");
        return;
    }
    let _limit = limit(LIMIT);
    let folder = temp_dir();
    let (program, mounted) = on_its_own_file_system(folder.path());
    let stage = Stage::of(&program, &[]);
    stage.run(&["doctor"]).expect(0);
    system(&stage, &format!("mount -o remount,bind,noexec {}", mounted.display()));
    let value = stage.run(&["doctor", "--json"]).expect(7).json();
    assert_eq!(codes(&value), ["executable-gone"]);
    assert!(value["findings"][0]["what"].as_str().unwrap().contains("is mounted noexec"), "{value}");
    assert!(value["findings"][0]["remedy"].as_str().unwrap().contains("noexec"), "{value}");
    stage.run(&["upgrade"]).expect(11);
}

#[test]
fn a_program_that_was_started_from_memory_is_found_to_have_no_path() {
    let _limit = limit(LIMIT);
    let mut memory = File::from(memfd_create(c"server", MFdFlags::MFD_CLOEXEC).unwrap());
    memory.write_all(&std::fs::read(sick()).unwrap()).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
    let patient = Patient::started("", |family, _| family.program(path));
    let by_pid = by_pid_file(&patient.family, &patient.path(""), patient.process.pid(), &[]).expect(7).json();
    for value in [patient.json(&[]), by_pid] {
        assert_eq!(codes(&value), ["executable-gone"]);
        assert!(value["findings"][0]["what"].as_str().unwrap().contains("from memory"), "{value}");
        assert!(value["findings"][0]["remedy"].as_str().unwrap().contains("flip_set_command"), "{value}");
    }
}
