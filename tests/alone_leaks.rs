//! Nothing is left behind: not by a call that fails at any system call on its way, not by generations that follow
//! each other, not by upgrades that fail, whatever phase they were in. And no signal is raised by a peer that dies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::deadline::{try_for, wait_until};
use testkit::host::{Called, Host, SOON, c_program};
use testkit::process::{Family, MARK_VARIABLE, Output, Proc, temp_dir};

/// How many generations, how many failed upgrades.
fn rounds() -> usize {
    if std::env::var("SHELLFLIP_DEEP").as_deref() == Ok("1") { 1000 } else { 200 }
}

/// Every fault point of `src` that stands for one system call.
fn points() -> BTreeSet<String> {
    fn visit(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, found);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                found.extend(
                    text.split("fault::at(\"").skip(1).map(|rest| rest.split('"').next().unwrap().into()),
                );
            }
        }
    }
    let mut found = BTreeSet::new();
    visit(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() >= 30, "{found:?}");
    found
}

#[test]
fn a_first_start_that_fails_at_any_system_call_leaves_nothing_and_can_be_tried_again() {
    let _limit = testkit::limit(Duration::from_secs(240));
    let family = Family::new();
    let program = c_program("tests/c/nth.c", &[]);
    let folder = temp_dir();
    let (mut runs, mut refused) = (0, BTreeSet::new());
    let socket = folder.path().join("socket");
    let addresses =
        ["tcp://127.0.0.1:0".to_string(), format!("unix://{}?mode=0600&backlog=9", socket.display())];
    for point in points() {
        for address in &addresses {
            for n in 1.. {
                let log = folder.path().join(format!("log-{runs}"));
                runs += 1;
                let mut process = family.program(&program);
                process.command().env_clear().env(MARK_VARIABLE, family.mark());
                let mut process = process
                    .arg(address)
                    .env("SHELLFLIP_FAULT", format!("{point}#{n}=fail:{}", libc::ENOMEM))
                    .env("SHELLFLIP_FAULT_LOG", &log)
                    // Meant for another process: removed on success, and on success only.
                    .env("SHELLFLIP_CHANNEL", "1:3:0")
                    .output(Output::File)
                    .start();
                let status = process.wait(SOON);
                let output = process.output();
                assert!(status.success(), "{point}#{n} {address}: {status}\n{output}");
                assert!(output.ends_with("passed\n"), "{point}#{n} {address}: {output}");
                for line in output.lines().filter(|line| line.starts_with("failed ")) {
                    // `failed CALL ERRNO TEXT`
                    let mut words = line.splitn(4, ' ').skip(2);
                    let errno: i32 = words.next().unwrap().parse().unwrap();
                    let text = words.next().unwrap_or_default();
                    assert_eq!(errno, libc::ENOMEM, "{point}#{n} {address}: {line}");
                    assert!(text.contains(": out of memory (ENOMEM)"), "{point}#{n}: {line}");
                    refused.insert(point.clone());
                }
                if !log.exists() {
                    break;
                }
            }
        }
    }
    // Those that any start needs.
    for needed in ["socketpair", "eventfd", "dup", "thread", "sigaction", "socket", "bind", "listen"] {
        assert!(refused.contains(needed), "{needed} failed nothing; what did: {refused:?}");
    }
    family.assert_none_left(SOON);
}
