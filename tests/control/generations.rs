//! The socket on its way from generation to generation: never missing, read by one at a time, given back by an
//! upgrade that fails.

use crate::served::{GoOn, LIMIT, Served, assert_failed, at, rest};
use shellflip::control::{self, Request};
use shellflip::error::Failure;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use testkit::deadline::{scaled, wait_until};
use testkit::host::SOON;
use testkit::process::{Proc, Signal, signal};

#[test]
fn it_is_never_missing_in_twenty_upgrades() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::at("unix://DIR/ctl?mode=0640", &[]);
    let inode = std::fs::metadata(&served.socket).unwrap().ino();
    let (going, goes_on) = GoOn::new();
    let (connected, told) = std::thread::scope(|scope| {
        let connects = scope.spawn(|| {
            let mut connected = 0u32;
            while goes_on() {
                // No retry here: not one may be refused.
                let mut stream = UnixStream::connect(&served.socket).expect("a connection");
                stream.set_read_timeout(Some(scaled(SOON * 3))).unwrap();
                // Closed unanswered by one that hands over: that is what it says.
                let _ = stream.write_all(b"status\n");
                rest(stream);
                connected += 1;
            }
            connected
        });
        let asks = scope.spawn(|| {
            let (mut told, mut last) = (0u32, 0);
            while goes_on() {
                let generation = served.status()["generation"].as_i64().expect("a generation");
                assert!(generation >= last, "generation {generation} after {last}");
                last = generation;
                told += 1;
            }
            told
        });
        for generation in 1..=20 {
            served.upgrade();
            let status = std::fs::metadata(&served.socket).expect("the socket");
            assert_eq!((status.ino(), status.mode() & 0o777), (inode, 0o640));
            assert!(served.status()["generation"].as_i64().unwrap() >= generation);
        }
        drop(going);
        (connects.join().unwrap(), asks.join().unwrap())
    });
    assert!(connected > 100 && told > 20, "{connected} connections, {told} answers");
    served.wait_gone(served.first());
    served.stop();
}

#[test]
fn the_old_generation_answers_until_it_has_released_the_new_one() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::part(&[("PROBATION_MS", "4000")]);
    let first = served.first();
    // Holds the old one until it has been looked at.
    let address = served.host.address.to_string();
    let held = std::net::TcpStream::connect(address.trim_start_matches("tcp://")).unwrap();
    wait_until("a counted connection", SOON, || served.status()["connections"] == 1);
    let upgrade = served.ask_meanwhile(Request::Upgrade);
    let status = served.wait_for_status("/upgrade/phase", "probation");
    assert_eq!((&status["pid"], &status["state"]), (&first.into(), &"upgrading".into()));
    served.host.process.wait_for_output("ready 0 generation=1", SOON);
    assert_eq!(served.status()["pid"], first, "both serve");
    assert_failed(&served.ask(Request::Upgrade), Failure::InProgress, libc::EALREADY);
    let second = upgrade.join().unwrap().unwrap().unwrap();
    let status = served.status();
    assert_eq!((&status["pid"], &status["state"]), (&second.into(), &"ready".into()));
    assert_eq!(status["predecessor"]["pid"], first);
    assert_eq!(status["predecessor"]["alive"], true);
    assert_eq!(status["draining"][0]["pid"], first);
    assert_eq!(status["draining"][0]["generation"], 0);
    drop(held);
    served.wait_gone(first);
    assert_eq!(served.wait_for_status("/draining", serde_json::json!([]))["predecessor"]["alive"], false);
    served.stop();
}

/// Everybody but the requester is closed unanswered at RELEASED, and the client asks again by itself.
#[test]
fn connections_that_the_old_generation_has_accepted_end_with_it() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    let mut half = served.connect();
    half.write_all(b"stat").unwrap();
    // One who was told who will end, and has not acknowledged.
    let mut stopping = served.connect();
    stopping.write_all(b"stop\n").unwrap();
    let second = served.upgrade();
    half.set_read_timeout(Some(scaled(SOON))).unwrap();
    assert_eq!(rest(half), "");
    assert_eq!(rest(stopping), format!("pid {first}\n"), "not stopped");
    assert_eq!(served.status()["pid"], second);
    served.wait_gone(first);
    served.stop();
}

#[test]
fn a_client_in_time_with_the_hand_over_is_served_by_whoever_comes() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[]);
    let (going, goes_on) = GoOn::new();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while goes_on() {
                    served.status();
                }
            });
        }
        for _ in 0..20 {
            served.upgrade();
        }
        drop(going);
    });
    served.stop();
}

/// Dead before RELEASED could be sent: the old one has not stopped answering for longer than that took.
#[test]
fn an_upgrade_that_fails_at_the_very_end_gives_it_back() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[("SHELLFLIP_FAULT", "send:RELEASED#1=stop")]);
    let first = served.first();
    let upgrade = served.ask_meanwhile(Request::Upgrade);
    Proc(first).wait_stopped(SOON);
    let second = served
        .family
        .leftovers()
        .into_iter()
        .map(|proc| proc.0)
        .find(|pid| *pid != first)
        .expect("a successor");
    let queued = {
        let address = served.address();
        std::thread::spawn(move || control::status(&address, Some(scaled(SOON * 2))))
    };
    signal(second, Signal::SIGKILL);
    // Its main thread may be dead before the others, who hold the channel.
    wait_until("its end", SOON, || Proc(second).state() == Some('Z') && Proc(second).threads() == Some(1));
    signal(first, Signal::SIGCONT);
    let text = assert_failed(&upgrade.join().unwrap(), Failure::Signalled, libc::ECONNABORTED);
    assert!(text.contains("right after it began to serve"), "{text}");
    let status: serde_json::Value = serde_json::from_str(&queued.join().unwrap().expect("a status")).unwrap();
    assert_eq!(status["pid"], first);
    let third = served.upgrade();
    assert_eq!(served.status()["pid"], third);
    served.stop();
}

#[test]
fn a_successor_that_takes_over_from_a_dead_predecessor_answers() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    served.next_waits();
    let upgrade = served.ask_meanwhile(Request::Upgrade);
    let second = served.wait_for_status("/upgrade/phase", "initialising")["upgrade"]["successor_pid"].clone();
    signal(first, Signal::SIGKILL);
    served.wait_gone(first);
    // Not asked for twice: the first one may have been under way.
    assert_failed(&upgrade.join().unwrap(), Failure::None, libc::ECONNRESET);
    let address = served.address();
    let queued = std::thread::spawn(move || control::status(&address, Some(scaled(SOON * 2))));
    served.go();
    let status: serde_json::Value = serde_json::from_str(&queued.join().unwrap().expect("a status")).unwrap();
    assert_eq!((&status["pid"], &status["state"]), (&second, &"ready".into()));
    assert_eq!(status["predecessor"]["alive"], false);
    served.stop();
}

#[test]
fn another_address_in_the_next_generation_takes_the_place_of_the_first() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    let other = served.folder.path().join("other");
    let to = |path: &std::path::Path| {
        format!("/env/HOST_CONTROL_SOCKET/unix:{}", path.display().to_string().replace('/', "%2F"))
    };
    served.host.call(&to(&other));
    // One that fails leaves everything as it is.
    served.host.call("/env/HOST_BEFORE_READY/free");
    assert_failed(&served.ask(Request::Upgrade), Failure::Refused, libc::ECONNREFUSED);
    wait_until("no new path", SOON, || !other.exists());
    assert_eq!(served.status()["pid"], first);
    served.host.call("/env/HOST_BEFORE_READY");
    let second = served.upgrade();
    let status = control::status(&at(&other), Some(scaled(SOON))).expect("a status");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["pid"], second);
    wait_until("no old path", SOON, || !served.socket.exists());
    served.wait_gone(first);
    served.socket = other;
    served.stop();
}

#[test]
fn a_generation_without_one_closes_it_and_a_later_one_has_it_again() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    served.host.call("/env/HOST_CONTROL_SOCKET");
    let queued = {
        served.next_waits();
        let upgrade = served.ask_meanwhile(Request::Upgrade);
        served.wait_for_status("/upgrade/phase", "initialising");
        served.go();
        upgrade
    };
    let second = queued.join().unwrap().unwrap().unwrap();
    served.wait_gone(first);
    wait_until("no path", SOON, || !served.socket.exists());
    assert_eq!(served.host.who().pid, second);
    let path = served.socket.display().to_string().replace('/', "%2F");
    served.host.call(&format!("/env/HOST_CONTROL_SOCKET/unix:{path}"));
    let called = served.host.upgrade();
    assert!(called.rc > 0, "{called:?}");
    assert_eq!(served.wait_for_status("/generation", 2)["pid"], called.rc);
    served.family.wait_gone(second, SOON);
    served.stop();
}

#[test]
fn mode_and_owner_change_with_the_generation_that_asks_for_it_once_it_serves() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    let mode = |served: &Served| std::fs::metadata(&served.socket).unwrap().mode() & 0o777;
    assert_eq!(mode(&served), 0o600);
    let path = served.socket.display().to_string().replace('/', "%2F");
    served.host.call(&format!("/env/HOST_CONTROL_SOCKET/unix:{path}?mode=0660"));
    served.host.call("/env/HOST_BEFORE_READY/exit:1");
    assert_failed(&served.ask(Request::Upgrade), Failure::Exited, libc::ECONNABORTED);
    assert_eq!(mode(&served), 0o600);
    served.host.call("/env/HOST_BEFORE_READY");
    served.upgrade();
    served.status();
    assert_eq!(mode(&served), 0o660);
    served.wait_gone(first);
    served.stop();
}

#[test]
fn the_hosts_own_names_do_not_clash_with_it() {
    let _limit = testkit::limit(LIMIT);
    let served = Served::start(&[("HOST_ADDRESS", "tcp://127.0.0.1:0?name=shellflip-control")]);
    for generation in 1..=3 {
        served.upgrade();
        let status = served.status();
        assert_eq!(status["generation"], generation);
        assert_eq!(status["listeners"].as_array().unwrap().len(), 1, "{status}");
        assert_eq!(status["listeners"][0]["name"], "shellflip-control");
    }
    served.stop();
}

#[test]
fn a_forked_worker_does_not_keep_it() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[("HOST_BEFORE_READY", "fork")]);
    let first = served.first();
    signal(first, Signal::SIGKILL);
    served.wait_gone(first);
    let refused = control::status(&served.address(), Some(Duration::from_secs(5)));
    assert_eq!(refused.unwrap_err().errno() as i32, libc::ECONNREFUSED);
}

/// To a release that knows nothing of control sockets it is one more listener that nobody claims.
#[test]
fn an_older_release_closes_it_and_unlinks_its_path() {
    let _limit = testkit::limit(LIMIT);
    let faults = [("SHELLFLIP_FAULT_NEXT", "control-mark=fail:1"), ("SHELLFLIP_LOG", "info")];
    let mut served = Served::start(&faults);
    let first = served.first();
    served.host.call("/env/HOST_CONTROL_SOCKET");
    let second = served.upgrade();
    served.host.process.wait_for_output("closed \"shellflip-control\": inherited, and not claimed", SOON);
    wait_until("no path", SOON, || !served.socket.exists());
    served.wait_gone(first);
    assert_eq!(served.host.who().pid, second);
    // And back to one that knows them.
    let path = served.socket.display().to_string().replace('/', "%2F");
    served.host.call(&format!("/env/HOST_CONTROL_SOCKET/unix:{path}"));
    served.host.call("/env/SHELLFLIP_FAULT_NEXT");
    let called = served.host.upgrade();
    assert!(called.rc > 0, "{called:?}");
    assert_eq!(served.wait_for_status("/generation", 2)["pid"], called.rc);
    served.family.wait_gone(second, SOON);
    served.stop();
}

#[test]
fn later_generations_hold_no_more_descriptors_than_the_first() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let mut counts = Vec::new();
    for _ in 0..6 {
        let before = served.status()["pid"].as_i64().unwrap() as i32;
        let pid = served.upgrade();
        served.wait_gone(before);
        served.wait_for_status("/draining", serde_json::json!([]));
        let idle = || served.status()["connections"] == 0;
        wait_until("nobody connected", SOON, idle);
        // The client of the last status may not be gone yet.
        counts.push((0..50).map(|_| Proc(pid).descriptors().len()).min().unwrap());
    }
    assert!(counts[1..].iter().all(|count| *count == counts[1]), "{counts:?}");
    served.stop();
}

#[test]
fn another_way_to_the_same_path_is_the_same_socket() {
    let _limit = testkit::limit(LIMIT);
    let mut served = Served::start(&[]);
    let first = served.first();
    let inode = std::fs::metadata(&served.socket).unwrap().ino();
    let link = served.folder.path().join("link");
    std::os::unix::fs::symlink(served.folder.path(), &link).unwrap();
    let path = link.join("ctl").display().to_string().replace('/', "%2F");
    served.host.call(&format!("/env/HOST_CONTROL_SOCKET/unix:{path}?mode=0640"));
    let second = served.upgrade();
    assert_eq!(served.status()["pid"], second);
    let status = std::fs::metadata(&served.socket).unwrap();
    assert_eq!((status.ino(), status.mode() & 0o777), (inode, 0o640));
    served.wait_gone(first);
    served.stop();
}
