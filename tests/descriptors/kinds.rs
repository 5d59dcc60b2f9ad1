//! Line 1: each kind crosses, three times, under traffic, with what is queued.

use crate::host::{Kind, Place, Traffic, World, ask_once};
use std::time::Duration;
use testkit::host::SOON;

fn crosses(kind: Kind) {
    let _limit = testkit::limit(Duration::from_secs(90));
    let world = World::start(&[]);
    let mut now = world.zero();
    let mut served = Place::new(kind, &world.folder, "served");
    let mut queued = Place::new(kind, &world.folder, "queued");
    let mut dropped = Place::new(kind, &world.folder, "dropped");
    let (fd, _, gone) = (served.listen(&now), queued.listen(&now), dropped.listen(&now));
    let dropped_path = dropped.path.clone();
    now.ok("ready -1");
    now.ok(&format!("serve {fd}"));
    now.ok(&format!("close {gone}"));
    let inode = now.text(&format!("inode {fd}"));
    let traffic = Traffic::start(&served);
    for round in 0..3 {
        // Nobody accepts or receives these before the upgrade.
        let clients: Vec<_> = (0..5)
            .map(|_| {
                let client = queued.connect().unwrap();
                client.send().unwrap();
                client
            })
            .collect();
        traffic.flows();
        let mut fds = (0, 0);
        let next = world.upgrade(&now, |next| fds = (served.listen(next), queued.listen(next)));
        next.ok(&format!("serve {}", fds.0));
        assert_eq!(next.text(&format!("inode {}", fds.0)), inode, "another socket");
        traffic.flows();
        for client in &clients {
            assert!(client.waits(), "answered before anybody served");
        }
        next.ok(&format!("serve {}", fds.1));
        for client in &clients {
            assert_eq!(client.answer(), Ok(next.pid));
        }
        world.family.wait_gone(now.pid, SOON);
        assert_eq!(ask_once(&served), Ok(next.pid));
        assert_eq!(served.has_path(), served.path.exists());
        assert!(!dropped_path.exists(), "the path of an unclaimed socket is left");
        assert!(dropped.is_datagram() || dropped.connect().is_err());
        if round == 0 {
            let line = "shellflip[".to_string() + &next.pid.to_string() + "]: closed ";
            world.first.wait_for_output(&line, SOON);
            let log = world.log();
            assert_eq!(log.matches("inherited, and not claimed").count(), 1, "{log}");
        }
        // A queue of its own for the next round.
        queued = Place::new(kind, &world.folder, &format!("queued{round}"));
        queued.listen(&next);
        now = next;
    }
    traffic.end();
    world.stop(&now);
    assert!(!served.path.exists(), "the path is left after a stop");
}

#[test]
fn tcp_over_ipv4_crosses() {
    crosses(Kind::TcpV4);
}

#[test]
fn tcp_over_ipv6_crosses() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("SKIPPED: tcp_over_ipv6_crosses: no IPv6 here");
        return;
    }
    crosses(Kind::TcpV6);
}

#[test]
fn a_unix_path_crosses() {
    crosses(Kind::UnixPath);
}

#[test]
fn an_abstract_unix_name_crosses() {
    crosses(Kind::UnixAbstract);
}

#[test]
fn unixpacket_crosses() {
    crosses(Kind::UnixPacket);
}

#[test]
fn udp_crosses() {
    crosses(Kind::Udp);
}

#[test]
fn unixgram_crosses() {
    crosses(Kind::UnixGram);
}

#[test]
fn any_descriptor_crosses_three_times_by_add_and_take() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let mut now = world.zero();
    let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = world.folder.path("file");
    let mut opened = Vec::new();
    for kind in ["file", "pipe", "memfd", "timerfd", "connected", "tcp", "alg", "opath"] {
        let argument = match kind {
            "file" => file.display().to_string(),
            "connected" => peer.local_addr().unwrap().port().to_string(),
            _ => "0".into(),
        };
        let answer = now.call(&format!("open {kind} {argument}"));
        if kind == "alg" && answer.rc == -i64::from(libc::EAFNOSUPPORT) {
            continue;
        }
        assert!(answer.rc > 0, "open {kind}: {answer:?}");
        now.ok(&format!("add {kind} {}", answer.rc));
        opened.push((kind, answer.rc));
        if kind == "pipe" {
            now.ok(&format!("add writer {}", answer.text));
            opened.push(("writer", answer.text.parse().unwrap()));
        }
    }
    let fd = |opened: &[(&str, i64)], kind| opened.iter().find(|(is, _)| *is == kind).unwrap().1;
    now.ok(&format!("write {} kept", fd(&opened, "memfd")));
    now.ok(&format!("write {} kept", fd(&opened, "file")));
    let place = Place::tcp(now.ok(&format!("port {}", fd(&opened, "tcp"))) as u16);
    let identity = |generation: &crate::host::Generation, opened: &[(&str, i64)]| -> Vec<String> {
        opened
            .iter()
            .map(|(kind, fd)| format!("{kind} {}", generation.text(&format!("inode {fd}"))))
            .collect()
    };
    let first = identity(&now, &opened);
    let (mut far_end, _) = peer.accept().unwrap();
    now.ok("ready -1");
    for _ in 0..3 {
        let mut taken = Vec::new();
        let queued = place.connect().unwrap();
        queued.send().unwrap();
        let next = world.upgrade(&now, |next| {
            let inherited = next.text("inherited");
            for (kind, _) in &opened {
                assert!(inherited.split(' ').any(|name| name == *kind), "{inherited}");
                let fd = next.ok(&format!("take {kind}"));
                assert!(fd >= 3);
                // Flags as they are, but for CLOEXEC, which is each descriptor's own.
                assert_eq!(next.text(&format!("flags {fd}")), "0 1", "{kind}");
                next.fails(&format!("take {kind}"), libc::ENOENT);
                taken.push((*kind, fd));
            }
            assert_eq!(next.ok("inherited"), 0);
        });
        assert_eq!(identity(&next, &taken), first);
        assert_eq!(next.text(&format!("read {}", fd(&taken, "memfd"))), "kept");
        assert_eq!(next.text(&format!("read {}", fd(&taken, "file"))), "kept");
        let left = next.ok(&format!("expires {}", fd(&taken, "timerfd")));
        assert!((3000..3600).contains(&left), "{left}");
        next.ok(&format!("write {} x", fd(&taken, "writer")));
        assert_eq!(next.text(&format!("read {}", fd(&taken, "pipe"))), "x");
        next.ok(&format!("write {} hello", fd(&taken, "connected")));
        let mut hello = [0; 5];
        std::io::Read::read_exact(&mut far_end, &mut hello).unwrap();
        assert_eq!(&hello, b"hello");
        // The listener that the host made blocks, and flip_accept says so; the connection waits on.
        next.fails(&format!("accept {} 0", fd(&taken, "tcp")), libc::EINVAL);
        assert!(queued.waits());
        opened = taken;
        now = next;
    }
    world.stop(&now);
}

#[test]
fn what_is_forgotten_or_replaced_does_not_cross() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let world = World::start(&[]);
    let now = world.zero();
    let one = now.ok("open memfd");
    let other = now.ok("open memfd");
    now.ok(&format!("write {other} second"));
    now.ok(&format!("add same {one}"));
    now.ok(&format!("add same {other}"));
    now.ok(&format!("add gone {one}"));
    now.ok("forget gone");
    now.fails("forget gone", libc::ENOENT);
    now.fails("add bad 999", libc::EBADF);
    now.ok("ready -1");
    let next = world.upgrade(&now, |next| {
        assert_eq!(next.text("inherited"), "same");
        let fd = next.ok("take same");
        assert_eq!(next.text(&format!("read {fd}")), "second");
        // From the spawn on, what crosses is decided.
        now.fails(&format!("add late {one}"), libc::EALREADY);
        now.fails("forget same", libc::EALREADY);
        now.fails("listen tcp://127.0.0.1:0?name=late", libc::EALREADY);
    });
    world.stop(&next);
}
