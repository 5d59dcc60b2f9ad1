//! Program, directory, and process 1.

use crate::kit::{Ran, Stage, flipctl};
use crate::patient::{
    MOUNTS, Patient, by_pid_file, codes, copy, may_mount, on_its_own_file_system, sick, system,
};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;
use testkit::host::{capable_copy, library_folder};
use testkit::limit;
use testkit::process::{Family, copy_program, temp_dir};

const LIMIT: Duration = Duration::from_secs(100);

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
fn the_remedy_for_a_pid_file_is_for_what_stands_in_its_way() {
    if let Err(why) = may_mount() {
        println!("SKIPPED: program::the_remedy_for_a_pid_file_is_for_what_stands_in_its_way: {why}");
        return;
    }
    let _limit = limit(LIMIT);
    for (command, errno, remedy) in [
        ("mount -o remount,bind,ro", "EROFS", "make that file system writable"),
        ("head -c 524288 /dev/zero > full; true", "ENOSPC", "make room on that file system"),
    ] {
        let folder = temp_dir();
        let (program, run) = on_its_own_file_system(folder.path());
        let stage = Stage::of(&program, &[("HOST_PID_FILE", run.join("a.pid").to_str().unwrap())]);
        stage.run(&["doctor"]).expect(0);
        system(&stage, &format!("cd {0} && {command} {0}", run.display()));
        stage.run(&["upgrade"]).expect(0);
        let value = stage.run(&["doctor", "--json"]).expect(7).json();
        assert_eq!(codes(&value), ["pid-file"]);
        let finding = &value["findings"][0];
        assert!(finding["what"].as_str().unwrap().ends_with(&format!("({errno})")), "{value}");
        assert!(finding["remedy"].as_str().unwrap().starts_with(remedy), "{value}");
        let shown = stage.run(&["status"]).expect(0).out;
        assert!(shown.contains("\ncannot write the pid file ") && shown.contains(errno), "{shown}");
    }
}

#[test]
fn program_and_directory_of_a_server_below_another_root_are_found() {
    if let Err(why) = may_mount() {
        println!("SKIPPED: program::program_and_directory_of_a_server_below_another_root_are_found: {why}");
        return;
    }
    let _limit = limit(LIMIT);
    let jail = temp_dir();
    let patient = Patient::started("", |family, folder| {
        copy_program(sick(), folder.join("server"));
        let script = "for dir in /bin /lib /lib64 /usr /proc \"$1\" \"$2\"; do \
            test ! -e $dir || { mkdir -p $0$dir && mount --rbind $dir $0$dir; } || exit; done; \
            exec chroot $0 sh -c 'cd $0 && exec ./server' $1";
        let unshare = family.program("unshare").args(MOUNTS).args(["sh", "-c", script]);
        unshare.arg(jail.path()).arg(folder).arg(library_folder())
    });
    let (program, server) = (patient.path("server"), patient.process.pid());
    let by_pid = |status| by_pid_file(&patient.family, &patient.path(""), server, &[]).expect(status).json();
    assert_eq!(patient.findings(&[]), [] as [&str; 0]);
    assert_eq!(codes(&by_pid(0)), [] as [&str; 0]);
    std::fs::rename(&program, patient.path("other")).unwrap();
    assert_eq!(patient.findings(&[]), ["executable-gone"]);
    // The kernel has followed the rename.
    assert_eq!(codes(&by_pid(0)), [] as [&str; 0]);
    std::fs::remove_file(patient.path("other")).unwrap();
    let value = by_pid(7);
    assert_eq!(codes(&value), ["executable-gone"]);
    let what = format!("the program {}, which", patient.path("other").display());
    assert!(value["findings"][0]["what"].as_str().unwrap().starts_with(&what), "{value}");
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
fn another_users_process_with_the_number_of_a_server_in_a_container_is_not_taken_for_it() {
    if !nix::unistd::geteuid().is_root() {
        println!(
            "SKIPPED: program::another_users_process_with_the_number_of_a_server_in_a_container_is_not_taken_for_it: \
             only root may make a pid namespace"
        );
        return;
    }
    let _limit = limit(LIMIT);
    let patient = Patient::started("", |family, folder| {
        std::os::unix::fs::chown(folder, Some(65534), None).unwrap();
        copy_program(env!("CARGO_BIN_EXE_flipctl"), folder.join("flipctl"));
        // Where the tests were built, that user may not be let in.
        std::fs::copy(library_folder().join("libshellflip.so"), folder.join("libshellflip.so.0")).unwrap();
        let server = folder.join("server");
        copy_program(sick(), &server);
        let namespace = ["--pid", "--mount-proc", "--fork", "--kill-child"];
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        family.program("unshare").args(namespace).args(user).arg(server).env("LD_LIBRARY_PATH", folder)
    });
    let mut command = Command::new(patient.path("flipctl"));
    command.args(["doctor", "--json", "--socket"]).arg(patient.path("ctl"));
    let value = Ran::from(command.uid(65534).gid(65534).current_dir("/").output().unwrap()).expect(7).json();
    // This user may not look at the descriptors of our process 1.
    assert_eq!(value["pid"], patient.process.proc().children()[0].0, "{value}");
    assert_eq!(codes(&value), ["process-1"]);
}

#[test]
fn a_process_whose_sockets_tell_nothing_has_to_be_as_old_as_the_server_says() {
    let _limit = limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let control = folder.path().join("ctl");
    let listener = UnixListener::bind(&control).unwrap();
    let other = family.program("sleep").arg("1000").start();
    let pid = other.pid();
    let server = std::thread::spawn(move || {
        for uptime in [3_600_000, 0] {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            writeln!(stream, r#"{{"pid":{pid},"uptime_ms":{uptime}}}"#).unwrap();
        }
    });
    let doctor = || -> Ran {
        let mut command = flipctl(&family);
        command.args(["doctor", "--json", "--socket"]).arg(&control).output().unwrap().into()
    };
    doctor().expect(3);
    assert_eq!(doctor().json()["pid"], pid);
    server.join().unwrap();
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
