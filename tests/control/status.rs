//! The status: what is in it, and that it is true.

use crate::served::{LIMIT, Served};
use serde_json::{Value, json};
use shellflip::control::Request;
use testkit::deadline::wait_until;
use testkit::host::SOON;
use testkit::process::Proc;

#[test]
fn it_tells_what_the_next_upgrade_runs() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[]);
    for (calls, executable, directory) in [
        (&["/command/%2Fsrv%2Fapp/-v"][..], "/srv/app", None),
        (&["/command/app/-v"], "app", None),
        (&["/directory/%2Ftmp"], "app", Some("/tmp")),
        (&["/command/.%2Fapp/-v"], "/tmp/./app", Some("/tmp")),
    ] {
        calls.iter().for_each(|call| assert_eq!(served.host.call(call).rc, 0, "{call}"));
        let status = served.status();
        assert_eq!(status["executable"], executable, "{status}");
        assert_eq!(status["arguments"][1], "-v", "{status}");
        if let Some(directory) = directory {
            assert_eq!(status["directory"], directory, "{status}");
        }
    }
    served.stop();
}

#[test]
fn it_tells_what_this_process_is() {
    let _limit = testkit::limit(LIMIT);
    let address = "tcp://127.0.0.1:0?name=web&keep=stop";
    let served = Served::start(&[("HOST_ADDRESS", address), ("HOST_PID_FILE", "DIR/pid")]);
    let status = served.status();
    let first = served.first();
    let folder = served.folder.path().display();
    let executable = Proc(first).executable().unwrap();
    for (pointer, value) in [
        ("/version", json!(env!("CARGO_PKG_VERSION"))),
        ("/generation", json!(0)),
        ("/pid", json!(first)),
        ("/state", json!("ready")),
        ("/executable", json!(executable.to_str().unwrap())),
        ("/arguments", json!(Proc(first).command())),
        ("/directory", json!(std::env::current_dir().unwrap().to_str().unwrap())),
        ("/signals", json!({"upgrade": ["SIGUSR1"], "stop": ["SIGTERM", "SIGINT"], "detach": []})),
        ("/connections", json!(0)),
        ("/descriptors", json!([])),
        ("/pid_file", json!(format!("{folder}/pid"))),
        ("/pid_file_error", Value::Null),
        ("/control_socket", json!(format!("unix://{folder}/ctl"))),
        ("/predecessor", Value::Null),
        ("/draining", json!([])),
        ("/upgrade", Value::Null),
        ("/upgrade_remembered", json!(false)),
        ("/last_upgrade", Value::Null),
        ("/drain_ms_left", Value::Null),
        ("/notify", json!(false)),
    ] {
        assert_eq!(status.pointer(pointer), Some(&value), "{pointer} of {status}");
    }
    let listener = &status["listeners"][0];
    assert_eq!(listener["name"], "web");
    assert_eq!(listener["keep"], "stop");
    assert_eq!(listener["address"], served.host.address.to_string());
    let inode = format!("socket:[{}]", listener["inode"]);
    let links = std::fs::read_dir(format!("/proc/{first}/fd")).unwrap();
    let links = links.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    assert!(links.into_iter().any(|link| link.to_str() == Some(&inode)), "{inode}");
    let uptime = status["uptime_ms"].as_u64().unwrap();
    assert!(uptime < 60_000, "{uptime}");
    wait_until("a longer uptime", SOON, || served.status()["uptime_ms"].as_u64().unwrap() > uptime);
    served.stop();
}

#[test]
fn the_new_generation_knows_the_phases_of_the_upgrade_that_made_it() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    served.host.call("/env/HOST_BEFORE_READY/sleep:300");
    let second = served.upgrade();
    let last = served.status()["last_upgrade"].clone();
    assert_eq!(
        (&last["result"], &last["failure"], &last["kind"]),
        (&"released".into(), &Value::Null, &0.into())
    );
    assert_eq!(last["successor_pid"], second);
    assert!(
        last["text"].as_str().unwrap().starts_with(&format!("upgraded to process {second} after ")),
        "{last}"
    );
    assert!(last["ended_ms_ago"].as_u64().unwrap() < 60_000, "{last}");
    let phases = last["phases"].as_array().unwrap();
    let names: Vec<&str> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["spawning", "initialising", "committed", "announcing", "releasing"]);
    // Of the 300 ms a part may pass before the report of the spawn is read; each is rounded down.
    let spent = |phase: usize| phases[phase]["ms"].as_u64().unwrap();
    assert!(spent(0) + spent(1) >= 298, "{last}");
    // A failure is the newer one. The old process may answer until it is gone.
    served.wait_gone(first);
    served.host.call("/env/HOST_BEFORE_READY/exit:9");
    assert!(served.ask(Request::Upgrade).is_err());
    let last = served.status()["last_upgrade"].clone();
    assert_eq!(
        (&last["result"], &last["failure"], &last["kind"]),
        (&"failed".into(), &"exited".into(), &2.into())
    );
    assert_eq!(last["phases"][0]["phase"], "spawning");
    served.stop();
}

#[test]
fn an_upgrade_under_way_is_told_with_its_phase_and_what_is_left_of_its_time() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::part(&[("EVENTS", "1"), ("STARTING", "hold"), ("UPGRADE_TIMEOUT_MS", "20000")]);
    let upgrade = served.ask_meanwhile(Request::Upgrade);
    let status = served.wait_for_status("/upgrade/phase", "asking");
    assert_eq!(status["state"], "upgrading");
    let now = &status["upgrade"];
    assert_eq!(now["successor_pid"], Value::Null);
    let (left, elapsed) = (now["deadline_ms"].as_u64().unwrap(), now["elapsed_ms"].as_u64().unwrap());
    assert!(left <= 20_000 && left + elapsed >= 19_900, "{now}");
    assert!(now["phase_ms"].as_u64().unwrap() <= elapsed + 1, "{now}");
    served.stop();
    assert!(upgrade.join().unwrap().is_err());
}

#[test]
fn names_that_are_no_text_are_percent_encoded() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[("HOST_ADDRESS", "tcp://127.0.0.1:0?name=a%25%ff%22b")]);
    assert_eq!(served.status()["listeners"][0]["name"], "a%%FF\"b");
    served.stop();
}
