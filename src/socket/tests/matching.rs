//! `matches` as a table: what is there, what is wanted, whether that is the same by name and by address alone.

use super::*;

fn check(fd: &OwnedFd, wanted: &str, by_name: bool, by_address: bool) {
    let address = parse(wanted);
    let is = describe(fd.as_fd()).unwrap();
    assert_eq!(
        matching(fd.as_fd(), &address, true).unwrap().is_some(),
        by_name,
        "{is} for {wanted}, by name"
    );
    assert_eq!(
        matching(fd.as_fd(), &address, false).unwrap().is_some(),
        by_address,
        "{is} for {wanted}, by address"
    );
}

#[test]
fn tcp_and_udp_match_by_protocol_address_and_port() {
    for (scheme, other) in [("tcp", "udp"), ("udp", "tcp")] {
        let bound = open(&format!("{scheme}://127.0.0.1:0"));
        let port = local(&bound.fd).port();
        let next = port.wrapping_add(1).max(1);
        for (wanted, by_name, by_address) in [
            (format!("{scheme}://127.0.0.1:{port}"), true, true),
            (format!("{scheme}://localhost:{port}"), true, true),
            (format!("{scheme}://127.0.0.1:0"), true, false),
            (format!("{scheme}://127.0.0.1:{port}?reuseport=0"), true, true),
            (format!("{scheme}://127.0.0.1:{port}?keep=stop&freebind=1"), true, true),
            (format!("{scheme}://127.0.0.1:{next}"), false, false),
            (format!("{scheme}://127.0.0.2:{port}"), false, false),
            (format!("{scheme}://127.0.0.2:0"), false, false),
            (format!("{scheme}://0.0.0.0:{port}"), false, false),
            (format!("{scheme}://:{port}"), false, false),
            (format!("{scheme}://[::1]:{port}"), false, false),
            (format!("{scheme}://[::ffff:127.0.0.1]:{port}"), false, false),
            (format!("{scheme}://127.0.0.1:{port}?reuseport=1"), false, false),
            (format!("{scheme}://127.0.0.1:{port}?device=lo"), false, false),
            (format!("{other}://127.0.0.1:{port}"), false, false),
            (format!("{other}://127.0.0.1:0"), false, false),
            ("unix:///run/a".into(), false, false),
        ] {
            check(&bound.fd, &wanted, by_name, by_address);
        }
    }
    let bound = open("tcp://127.0.0.1:0?reuseport=1&device=lo");
    check(&bound.fd, "tcp://127.0.0.1:0?reuseport=1&device=lo", true, false);
    check(&bound.fd, "tcp://127.0.0.1:0?reuseport=1", false, false);
    check(&bound.fd, "tcp://127.0.0.1:0?device=lo", false, false);
    let bound = open("tcp://127.0.0.1:0?backlog=3&nodelay=1");
    check(&bound.fd, "tcp://127.0.0.1:0?backlog=9&nodelay=0&defer=1&fastopen=1", true, false);
}

#[test]
fn all_addresses_of_both_families_are_not_all_of_one() {
    let v4 = open("tcp://0.0.0.0:0");
    check(&v4.fd, "tcp://0.0.0.0:0", true, false);
    if !ipv6() {
        return; // What an empty host is without IPv6 is tested with faults.
    }
    check(&v4.fd, "tcp://:0", false, false);
    let default = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").unwrap().trim() == "1";
    let both = open("tcp://:0");
    let port = local(&both.fd).port();
    check(&both.fd, &format!("tcp://:{port}"), true, true);
    check(&both.fd, &format!("tcp://:{port}?v6only=0"), true, true);
    check(&both.fd, &format!("tcp://[::]:{port}?v6only=0"), true, true);
    check(&both.fd, &format!("tcp://[::]:{port}"), !default, !default);
    check(&both.fd, &format!("tcp://[::]:{port}?v6only=1"), false, false);
    check(&both.fd, &format!("tcp://0.0.0.0:{port}"), false, false);
    let only = open("tcp://[::]:0?v6only=1");
    check(&only.fd, "tcp://[::]:0?v6only=1", true, false);
    check(&only.fd, "tcp://[::]:0", default, false);
    check(&only.fd, "tcp://:0", false, false);
    let one = open("tcp://[::1]:0?v6only=1");
    check(&one.fd, "tcp://[::1]:0", true, false);
    check(&one.fd, "tcp://[::1]:0?v6only=0", false, false);
    check(&one.fd, "tcp://[::]:0", false, false);
}

#[test]
fn unix_sockets_match_by_type_and_name() {
    let folder = Folder::new();
    let name = abstract_name();
    for scheme in ["unix", "unixgram", "unixpacket"] {
        let path = folder.path(scheme);
        let (path, name) = (path.display(), &name);
        let by_path = open(&format!("{scheme}://{path}?mode=0600"));
        let by_name = open(&format!("{scheme}:@{name}"));
        for wanted in ["unix", "unixgram", "unixpacket"] {
            let same = wanted == scheme;
            check(&by_path.fd, &format!("{wanted}://{path}"), same, same);
            check(&by_path.fd, &format!("{wanted}://{path}?mode=0666"), same, same);
            check(&by_path.fd, &format!("{wanted}://{path}x"), false, false);
            check(&by_path.fd, &format!("{wanted}:@{path}"), false, false);
            check(&by_name.fd, &format!("{wanted}:@{name}"), same, same);
            check(&by_name.fd, &format!("{wanted}:@{name}x"), false, false);
        }
        check(&by_path.fd, "tcp://127.0.0.1:0", false, false);
    }
}

#[test]
fn what_is_no_listener_matches_nothing() {
    let bound = open("tcp://127.0.0.1:0");
    let wanted = format!("tcp://{}", local(&bound.fd));
    let _client = TcpStream::connect(local(&bound.fd)).unwrap();
    let accepted = accept(&bound.fd);
    assert_eq!(local(&accepted), local(&bound.fd));
    check(&accepted, &wanted, false, false);
    check(&net::socket(libc::AF_INET, libc::SOCK_STREAM).unwrap(), "tcp://0.0.0.0:0", false, false);
    check(&UnixDatagram::unbound().unwrap().into(), "unixgram:@a", false, false);
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(matching(file.as_fd(), &parse(&wanted), true), Ok(None));
    let error = describe(file.as_fd()).unwrap_err();
    assert_eq!(error.to_string(), "cannot inspect the socket: socket operation on non-socket (ENOTSOCK)");
}

#[test]
fn what_no_address_can_say_is_described_all_the_same() {
    let text = |fd: BorrowedFd<'_>| describe(fd).unwrap().to_string();
    assert_eq!(text(UnixDatagram::unbound().unwrap().as_fd()), "a unix socket without a name");
    let netlink = net::socket(libc::AF_NETLINK, libc::SOCK_RAW).unwrap();
    assert_eq!(text(netlink.as_fd()), "a socket of family 16, type 3");
    let name = abstract_name();
    let bound = net::socket(libc::AF_UNIX, libc::SOCK_STREAM).unwrap();
    net::bind(bound.as_fd(), &SockAddr::UnixAbstract([name.as_bytes(), b"\0\xff"].concat())).unwrap();
    assert_eq!(text(bound.as_fd()), format!("unix:@{name}%00%FF"));
}

/// In a network of its own, where interfaces can be made.
fn ip(arguments: &str) {
    let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[test]
#[ignore = "in a network of its own: run by interfaces_come_and_go"]
fn in_a_network_of_its_own() {
    ip("link set lo up");
    ip("link add up0 type veth peer name up1");
    ip("link set up0 up");
    ip("link set up1 up");
    ip("addr add fe80::77/64 dev up0 nodad");
    ip("addr add 2001:db8::77/64 dev up0 nodad");
    let linked = open("tcp://[fe80::77%25up0]:0");
    let port = local(&linked.fd).port();
    check(&linked.fd, "tcp://[fe80::77%25up0]:0", true, false);
    check(&linked.fd, &format!("tcp://[fe80::77%25up0]:{port}"), true, true);
    check(&linked.fd, &format!("tcp://[fe80::77%25up1]:{port}"), false, false);
    check(&linked.fd, &format!("tcp://[fe80::77%25up0]:{port}?device=up0"), true, true);
    check(&linked.fd, &format!("tcp://[fe80::77%25up0]:{port}?device=up1"), false, false);
    // Only a link-local address needs its zone.
    let global = open("tcp://[2001:db8::77%25up0]:0");
    check(&global.fd, "tcp://[2001:db8::77%25up0]:0", true, false);
    check(&global.fd, "tcp://[2001:db8::77]:0", true, false);

    // Where the right for it is there.
    let plain = open("tcp://127.0.0.1:0");
    super::super::apply_live(plain.fd.as_fd(), &parse("tcp://127.0.0.1:0?transparent=1"), None).unwrap();
    assert_eq!(option(&plain.fd, libc::SOL_IP, libc::IP_TRANSPARENT), 1);

    let bound = open("tcp://:0?device=up0");
    ip("link delete up0");
    let port = local(&bound.fd).port();
    check(&bound.fd, &format!("tcp://:{port}?device=up0"), false, false);
    check(&bound.fd, "tcp://127.0.0.1:0", false, false);
    assert!(super::super::is_listener(bound.fd.as_fd()).unwrap());
}

#[test]
fn interfaces_come_and_go() {
    let unshare = ["--user", "--map-root-user", "--net"];
    let tried = std::process::Command::new("unshare").args(unshare).args(["ip", "link"]).output();
    if !tried.as_ref().is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED: socket::tests::matching::interfaces_come_and_go: no network of its own: {tried:?}"
        );
        return;
    }
    let output = std::process::Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--include-ignored", "socket::tests::matching::in_a_network_of_its_own"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_path_that_is_gone_is_no_match() {
    let folder = Folder::new();
    let text = format!("unix://{}", folder.path("a").display());
    let bound = open(&text);
    check(&bound.fd, &text, true, true);
    std::fs::remove_file(folder.path("a")).unwrap();
    check(&bound.fd, &text, false, false);
}
