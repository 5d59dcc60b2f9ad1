//! `flip_status`, `flip_control` and `flip_control_status`, as a C program sees them: `tests/c/asks.c`.

use crate::served::{LIMIT, Served};
use serde_json::Value;
use testkit::host::{SOON, c_program};
use testkit::process::{Family, Output, temp_dir};

fn asks(family: &Family, arguments: &[&str]) -> String {
    let mut process =
        family.program(c_program("tests/c/asks.c", &[])).args(arguments).output(Output::File).start();
    let status = process.wait(SOON * 2);
    assert!(status.success(), "{arguments:?}: {status}\n{}", process.output());
    process.output()
}

#[test]
fn flip_status_tells_any_thread_in_every_state() {
    let _limit = testkit::limit(LIMIT);
    let (family, folder) = (Family::new(), temp_dir());
    let address = format!("unix://{}/ctl", folder.path().display());
    let output = asks(&family, &["own", &address]);
    let states: Vec<String> = output
        .lines()
        .filter_map(|line| line.strip_prefix("status "))
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["state"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(states, ["starting", "ready", "ready", "ready", "ready", "detached", "draining"], "{output}");
    family.assert_none_left(SOON);
}

#[test]
fn flip_control_gives_pids_errnos_failures_and_sentences() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[]);
    let at = format!("unix://{}", served.socket.display());
    let ask = |request: &str, timeout: &str| asks(&served.family, &["control", &at, request, timeout]);
    served.host.call("/env/HOST_BEFORE_READY/exit:7");
    let output = ask("1", "-1");
    let failed = format!("control -{} 2 new process ", libc::ECONNABORTED);
    assert!(output.starts_with(&failed) && output.contains("exited with status 7"), "{output}");
    served.next_waits();
    assert!(ask("1", "50").starts_with(&format!("control -{} 0 ", libc::ETIMEDOUT)));
    assert!(ask("1", "-1").starts_with(&format!("control -{} 9 ", libc::EALREADY)));
    served.go();
    let status = served.wait_for_status("/generation", 1);
    let output = asks(&served.family, &["status", &at, "-1", "100000"]);
    let (length, line) = output.strip_prefix("status ").unwrap().trim_end().split_once(' ').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), line.len());
    assert_eq!(serde_json::from_str::<Value>(line).unwrap()["pid"], status["pid"]);
    // Cut like snprintf's.
    let output = asks(&served.family, &["status", &at, "-1", "11"]);
    let (length, cut) =
        output.strip_prefix("status ").unwrap().trim_end_matches('\n').split_once(' ').unwrap();
    assert!(length.parse::<usize>().unwrap() > 100 && cut.len() == 10, "{output}");
    assert!(asks(&served.family, &["status", &at, "-1", "0"]).starts_with("status "));
    for (address, request, errno) in [
        (at.as_str(), "0", libc::EINVAL),
        (at.as_str(), "4", libc::EINVAL),
        ("tcp://127.0.0.1:1", "1", libc::EINVAL),
        ("unix:///not/there", "1", libc::ENOENT),
    ] {
        let output = asks(&served.family, &["control", address, request, "-1"]);
        assert!(output.starts_with(&format!("control -{errno} 0 ")), "{address} {request}: {output}");
    }
    served.host.call("/env/HOST_BEFORE_READY");
    let output = ask("1", "-1");
    assert_eq!(output, format!("control {} 0 \n", served.status()["pid"]));
    assert_eq!(ask("2", "-1"), "control 0 0 \n");
    assert!(!served.socket.exists());
    let output = ask("1", "-1");
    assert!(output.starts_with(&format!("control -{} 0 ", libc::ENOENT)), "{output}");
}

#[test]
fn flip_control_detaches() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let at = format!("unix://{}", served.socket.display());
    assert_eq!(asks(&served.family, &["control", &at, "3", "-1"]), "control 0 0 \n");
    assert!(!served.socket.exists());
    served.host.process.signal(testkit::process::Signal::SIGTERM);
    served.wait_gone(served.first());
}
