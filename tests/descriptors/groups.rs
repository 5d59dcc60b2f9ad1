//! Line 4: a `reuseport` group is claimed whole, and grows without a client noticing.

use crate::host::{Client, Generation, Place, World, ask_once, free_port};
use std::time::Duration;
use testkit::host::SOON;

/// Three members that listen and are not served, and enough queued clients that each member has some.
fn group(port: u16) -> (World, Generation, Vec<i64>) {
    let world = World::start(&[]);
    let now = world.zero();
    let members = (0..3).map(|_| now.ok(&format!("listen {}", address(port)))).collect();
    now.ok("ready -1");
    (world, now, members)
}

fn address(port: u16) -> String {
    format!("tcp://127.0.0.1:{port}?name=g&reuseport=1")
}

fn queue(port: u16, count: usize) -> Vec<Client> {
    let one = |_| {
        let client = Place::tcp(port).connect().unwrap();
        client.send().unwrap();
        client
    };
    (0..count).map(one).collect()
}

#[test]
fn a_group_is_claimed_whole_or_ready_names_who_is_missing() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let port = free_port();
    let (world, now, _) = group(port);
    let queued = queue(port, 40);
    let next = world.upgrade(&now, |next| {
        let mut members = vec![next.ok(&format!("listen {}", address(port)))];
        let text = next.fails("ready -1", libc::ENOENT);
        assert!(text.contains("\"g#2\", \"g#3\""), "{text}");
        assert!(queued.iter().all(Client::waits));
        members.push(next.ok(&format!("listen {}", address(port))));
        let text = next.fails("ready -1", libc::ENOENT);
        assert!(text.contains("\"g#3\"") && !text.contains("g#2"), "{text}");
        members.push(next.ok(&format!("listen {}", address(port))));
        for member in members {
            next.ok(&format!("serve {member}"));
        }
    });
    for client in &queued {
        assert_eq!(client.answer(), Ok(next.pid));
    }
    drop(queued);
    world.stop(&next);
}

#[test]
fn forget_accepts_the_loss_of_a_member() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let port = free_port();
    let (world, now, _) = group(port);
    let queued = queue(port, 40);
    let next = world.upgrade(&now, |next| {
        let fd = next.ok(&format!("listen {}", address(port)));
        next.ok("forget g#2");
        next.ok("forget g#3");
        next.ok(&format!("serve {fd}"));
    });
    // Some were reset, since that is what was accepted; the rest is served.
    world.family.wait_gone(now.pid, SOON);
    let answers: Vec<_> = queued.iter().map(Client::answer).collect();
    assert!(answers.contains(&Ok(next.pid)), "{answers:?}");
    assert!(answers.iter().any(Result::is_err), "all on one member? {answers:?}");
    assert_eq!(ask_once(&Place::tcp(port)), Ok(next.pid));
    drop(queued);
    world.stop(&next);
}

/// Nothing of the running address may be queued on a process that may yet fail.
fn does_not_listen_before_commit(further: &str, before: &str) {
    let _limit = testkit::limit(Duration::from_secs(60));
    let port = free_port();
    let (world, now, members) = group(port);
    let further = further.replace("PORT", &port.to_string());
    let prepare = |next: &Generation| {
        for _ in 0..members.len() {
            if before == "claim" {
                next.ok(&format!("listen {}", address(port)));
            }
        }
        if before == "forget" {
            ["g", "g#2", "g#3"].iter().for_each(|name| _ = next.ok(&format!("forget {name}")));
        }
        next.ok(&format!("listen {further}"))
    };
    let mut queued = Vec::new();
    world.failing_upgrade(&now, |next| {
        let fd = prepare(next);
        assert_eq!(next.ok(&format!("backlog {fd}")), 0, "it listens before COMMIT");
        queued = queue(port, 40);
    });
    for member in &members {
        now.ok(&format!("serve {member}"));
    }
    // Not one is on the process that is gone.
    for client in &queued {
        assert_eq!(client.answer(), Ok(now.pid));
    }
    if before == "claim" {
        let mut fd = 0;
        let next = world.upgrade(&now, |next| {
            fd = prepare(next);
        });
        // Its turn comes with the others': only it is served, and it answers.
        next.ok(&format!("serve {fd}"));
        let answered = (0..200).any(|_| {
            let client = Place::tcp(port).connect().unwrap();
            client.send().unwrap();
            std::thread::sleep(Duration::from_millis(2));
            !client.waits()
        });
        assert!(answered, "the further member does not listen after LIVE");
        // Later it is a group like any other.
        let fifth = next.ok(&format!("listen {}", address(port)));
        assert!(
            next.ok(&format!("backlog {fifth}")) > 0,
            "a member added to a running process does not listen"
        );
        drop(queued);
        return world.stop(&next);
    }
    drop(queued);
    world.stop(&now);
}

#[test]
fn a_further_member_listens_after_live_and_not_before_commit() {
    does_not_listen_before_commit("tcp://127.0.0.1:PORT?name=g&reuseport=1", "claim");
}

#[test]
fn neither_does_a_new_group_in_place_of_one_that_was_forgotten() {
    does_not_listen_before_commit("tcp://127.0.0.1:PORT?name=new&reuseport=1", "forget");
}

#[test]
fn neither_does_a_group_that_differs_in_its_device() {
    does_not_listen_before_commit("tcp://127.0.0.1:PORT?name=new&reuseport=1&device=lo", "");
}

#[test]
fn names_of_255_bytes_have_further_members() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let port = free_port();
    let long = "n".repeat(255);
    let address = format!("tcp://127.0.0.1:{port}?name={long}&reuseport=1");
    let world = World::start(&[]);
    let now = world.zero();
    for _ in 0..3 {
        now.ok(&format!("listen {address}"));
    }
    now.ok("ready -1");
    let next = world.upgrade(&now, |next| {
        for _ in 0..3 {
            next.ok(&format!("inherit {address}"));
        }
    });
    world.stop(&next);
}
