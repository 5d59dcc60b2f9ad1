//! Listening sockets that are not passed on.

use crate::patient::{Patient, codes};
use std::time::Duration;
use testkit::limit;
use testkit::process::{free_port, temp_dir};

const LIMIT: Duration = Duration::from_secs(100);

#[test]
fn each_kind_of_listening_socket_that_is_not_registered_is_found() {
    let _limit = limit(LIMIT);
    let (port, folder) = (free_port(), temp_dir());
    let path = folder.path().join("own socket").display().to_string();
    for (illness, named) in [
        (format!("tcp:{port}"), format!("tcp://127.0.0.1:{port} ")),
        (format!("unix:{path}"), format!("unix:{path} ")),
    ] {
        let patient = Patient::new(&illness);
        let value = patient.json(&[]);
        assert_eq!(codes(&value), ["socket-not-registered"], "{illness}");
        let what = value["findings"][0]["what"].as_str().unwrap();
        assert!(what.starts_with(&named), "{what}");
    }
}

#[test]
fn a_datagram_socket_on_a_chosen_port_counts_and_a_clients_does_not() {
    let _limit = limit(LIMIT);
    let patient = Patient::new("udp:0");
    assert_eq!(patient.findings(&[]), [] as [&str; 0]);
    // Below the range from which the kernel picks; any port of it may be another program's.
    let taken = |port: &u16| std::net::UdpSocket::bind(("127.0.0.1", *port)).is_ok();
    let port = (20_000..30_000).find(taken).expect("a free port");
    let patient = Patient::new(&format!("udp:{port}"));
    let value = patient.json(&[]);
    assert_eq!(codes(&value), ["socket-not-registered"]);
    assert!(value["findings"][0]["what"].as_str().unwrap().starts_with(&format!("udp://127.0.0.1:{port} ")));
}
