//! Line 8: no listener is ever shut down, and O_NONBLOCK never taken from one.

use crate::host::{Kind, Place, World};
use std::collections::BTreeSet;
use std::time::Duration;
use testkit::host::SOON;

#[test]
fn no_listener_is_ever_shut_down_or_made_blocking() {
    let _limit = testkit::limit(Duration::from_secs(120));
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        println!("SKIPPED: no_listener_is_ever_shut_down_or_made_blocking: there is no strace");
        return;
    }
    let trace = std::env::temp_dir().join(format!("passes-trace-{}", std::process::id()));
    let world = World::start_by(&[], |family, host| {
        let strace = family.program("strace");
        // -yy: the descriptor of each call with what it is, TCP and unix sockets by inode.
        let strace =
            strace.args(["-f", "-y", "-e", "trace=shutdown,fcntl,ioctl,exit_group", "-o"]).arg(&trace);
        strace.arg(host)
    });
    let now = world.zero();
    let kinds = [Kind::TcpV4, Kind::TcpV4, Kind::UnixPath, Kind::UnixPacket, Kind::Udp, Kind::UnixGram];
    let mut places: Vec<_> = kinds
        .iter()
        .enumerate()
        .map(|(i, kind)| Place::new(*kind, &world.folder, &format!("p{i}")))
        .collect();
    places[1].address += "&keep=always";
    let mut listeners = BTreeSet::new();
    for place in &mut places {
        let fd = place.listen(&now);
        let inode = now.text(&format!("inode {fd}"));
        listeners.insert(inode.split(':').nth(1).unwrap().to_string());
        now.ok(&format!("serve {fd}"));
    }
    let fd = now.ok("open tcp 0");
    now.ok(&format!("add mine {fd}"));
    listeners.insert(now.text(&format!("inode {fd}")).split(':').nth(1).unwrap().to_string());
    now.ok("ready -1");
    world.failing_upgrade(&now, |next| {
        places.iter_mut().for_each(|place| _ = place.listen(next));
    });
    let next = world.upgrade(&now, |next| {
        places.iter_mut().for_each(|place| _ = place.listen(next));
        next.ok("take mine");
    });
    let last = world.upgrade(&next, |last| {
        places[1..].iter_mut().for_each(|place| _ = place.listen(last));
    });
    world.stop(&last);
    testkit::wait_until("strace has ended", SOON, || {
        let text = std::fs::read_to_string(&trace).unwrap_or_default();
        text.matches("+++ exited with 0").count() >= 3
    });
    let text = std::fs::read_to_string(&trace).unwrap();
    let _ = std::fs::remove_file(&trace);
    let of_listener =
        |line: &&str| listeners.iter().any(|inode| line.contains(&format!("<socket:[{inode}]>")));
    let calls: Vec<_> = text.lines().filter(of_listener).collect();
    // The trace sees the listeners: they are duplicated, at least.
    assert!(calls.iter().any(|line| line.contains("F_DUPFD_CLOEXEC")), "{text}");
    // And shutdown(2), which fires the latches.
    assert!(text.lines().any(|line| line.contains("shutdown(")), "{text}");
    let bad = |line: &&&str| {
        line.contains("shutdown(")
            || line.contains("FIONBIO")
            || (line.contains("F_SETFL,") && !line.contains("O_NONBLOCK"))
    };
    let bad: Vec<_> = calls.iter().filter(bad).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let toggled: Vec<_> = calls.iter().filter(|line| line.contains("F_SETFL,")).collect();
    assert!(toggled.is_empty(), "they were made non-blocking: {toggled:#?}");
}
