//! An operator's program: the control socket, the pid file and the status.

mod support;

use graceflip::{Control, ErrorKind, Failure};
use std::time::Duration;
use support::{SOON, example};
use testkit::process::{Family, free_port, temp_dir};
use testkit::wait_until;

#[test]
fn an_operator_upgrades_is_refused_looks_and_stops() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (family, folder, port) = (Family::new(), temp_dir(), free_port());
    let (socket, pid_file) = (folder.path().join("a control socket"), folder.path().join("pid"));
    let refuse = folder.path().join("refuse");
    let program = family.program(example("takes_part")).arg(format!("tcp://127.0.0.1:{port}"));
    let program = program.env("CONTROL", &socket).env("PID_FILE", &pid_file).env("REFUSE", &refuse);
    let server = program.start();
    server.wait_for_output("SERVING", SOON);
    let pid = || std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    assert_eq!(pid(), Some(server.pid()));

    let control = Control::new(&socket).expect("an address").timeout(testkit::deadline::scaled(SOON));
    std::fs::write(&refuse, "").expect("a file");
    let error = control.upgrade().expect_err("refused");
    assert_eq!(
        (error.kind(), error.failure()),
        (ErrorKind::Upgrade(Failure::Refused), Some(Failure::Refused))
    );
    assert!(error.to_string().contains("not today"), "{error}");
    std::fs::remove_file(&refuse).expect("no file");
    let second = control.upgrade().expect("upgraded") as i32;
    assert_ne!(second, server.pid());
    wait_until("the pid file is the successor's", SOON, || pid() == Some(second));
    let status: serde_json::Value = serde_json::from_str(&control.status().expect("a status")).expect("JSON");
    assert_eq!(
        (status["pid"].as_i64(), status["generation"].as_i64()),
        (Some(second.into()), Some(1)),
        "{status}"
    );
    control.stop().expect("stopped");
    family.wait_gone(second, SOON);
    family.assert_none_left(SOON);
    assert!(!socket.exists() && !pid_file.exists());
    let error = control.status().expect_err("nobody");
    assert_eq!((error.kind(), error.failure()), (ErrorKind::System, None), "{error}");
    assert_eq!(Control::new("tcp://127.0.0.1:80").expect_err("no unix address").kind(), ErrorKind::Invalid);
}

#[test]
fn a_time_out_that_is_too_long_for_the_clock_is_none() {
    let folder = temp_dir();
    let control = Control::new(folder.path().join("nobody")).expect("an address").timeout(Duration::MAX);
    assert!(control.status().is_err());
    assert!(control.upgrade().is_err());
}
