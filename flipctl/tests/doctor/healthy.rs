//! A healthy server has no findings, before and after upgrades.

use crate::kit::Stage;
use crate::patient::{Patient, codes};
use std::time::Duration;
use testkit::host::SOON;
use testkit::process::copy_program;
use testkit::{limit, wait_until};

#[test]
fn a_healthy_server_has_none_in_any_generation() {
    let _limit = limit(Duration::from_secs(100));
    let stage = Stage::new(&[]);
    for generation in 0..3 {
        let value = stage.run(&["doctor", "--json"]).expect(0).json();
        assert_eq!(value["findings"], serde_json::json!([]), "generation {generation}");
        assert_eq!(value["not_examined"], serde_json::json!([]), "generation {generation}");
        assert_eq!(value["pid"], stage.status()["pid"]);
        let text = stage.run(&["doctor"]).expect(0).out;
        assert!(text.ends_with(": nothing found\n") && text.lines().count() == 1, "{text}");
        let ran = stage.run_with_pid_file(stage.path("pid"), &["doctor"]).expect(0);
        assert!(
            ran.out.contains("not examined: listening sockets") && ran.out.contains("nothing found"),
            "{ran:?}"
        );
        stage.run(&["upgrade"]).expect(0);
        wait_until("a pid file of the new one", SOON, || {
            let written = std::fs::read_to_string(stage.path("pid")).unwrap_or_default();
            written.trim().parse::<i64>().ok() == stage.status()["pid"].as_i64()
        });
    }
}

#[test]
fn it_is_healthy_while_an_upgrade_waits_and_a_generation_drains() {
    let _limit = limit(Duration::from_secs(100));
    let stage = Stage::new(&[]);
    let go = stage.path("go");
    stage.successors(&format!("wait:{}", go.display()));
    let upgrade = stage.run_meanwhile(&["upgrade"]);
    wait_until("an upgrade", SOON, || stage.status()["upgrade"]["successor_pid"].is_i64());
    assert_eq!(codes(&stage.run(&["doctor", "--json"]).expect(0).json()), [] as [String; 0]);
    std::fs::write(&go, "").unwrap();
    upgrade.join().unwrap().expect(0);
}

#[test]
fn a_relative_start_and_a_path_search_are_found_again() {
    let _limit = limit(Duration::from_secs(100));
    for start in ["./server", "server"] {
        let patient = Patient::started("", |family, folder| {
            copy_program(crate::patient::sick(), folder.join("server"));
            let path = format!("{}:/usr/bin:/bin", folder.display());
            let script = format!("cd {} && exec {start}", folder.display());
            family.program("sh").args(["-c", &script]).env("PATH", path)
        });
        assert_eq!(patient.findings(&[]), [] as [&str; 0], "{start}");
        std::fs::rename(patient.path("server"), patient.path("other")).unwrap();
        assert_eq!(patient.findings(&[]), ["executable-gone"], "{start}");
    }
}

#[test]
fn findings_are_told_with_their_consequence_and_a_remedy() {
    let _limit = limit(Duration::from_secs(100));
    let patient = Patient::new("unhandled");
    let ran = patient.doctor(&[]).expect(7);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("signal-without-handler: SIGUSR1"), "{ran:?}");
    assert!(lines[1].starts_with("  then: ") && lines[2].starts_with("  do:   "), "{ran:?}");
    assert_eq!(lines.last().copied(), Some(format!("process {}: 1 finding", patient.process.pid()).as_str()));
}
