//! Listening sockets that the server has open and does not pass on. The new process will want the same address, and
//! cannot have it while the old one lives.

use super::{Examination, Subject};
use procfs::net::{TcpNetEntries, TcpNetEntry, TcpState, UdpNetEntry};
use procfs::process::FDTarget;
use procfs::{FromBufReadSI, current_system_info};
use shellflip::address::{Address, Endpoint, UnixName};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

/// `struct unix_sock` listens: __SO_ACCEPTCON of net/unix/af_unix.c, the fourth column of /proc/net/unix.
const ACCEPTS: u32 = 1 << 16;

/// One socket that is bound and waits for others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Open {
    what: String,
    inode: u64,
}

pub fn examine(subject: &Subject, examination: &mut Examination) {
    let Some(report) = &subject.report else {
        return examination.unseen("listening sockets", "what is passed on is known with --socket only");
    };
    let (ours, listening) = match own_sockets(subject).and_then(|ours| Ok((ours, listening(subject)?))) {
        Ok(seen) => seen,
        Err(error) => return examination.unseen("listening sockets", error),
    };
    let passed_on = |inode| report.listeners.iter().any(|one| one.inode == Some(inode));
    let control = report.control_socket.as_deref().and_then(|text| unix_name(text.as_bytes()));
    for one in listening {
        let Some(number) = ours.get(&one.inode) else { continue };
        if passed_on(one.inode) || control.as_ref().is_some_and(|name| one.what == format!("unix:{name}")) {
            continue;
        }
        examination.found(
            "socket-not-registered",
            format!("{} (descriptor {number}) is open and is not passed on", one.what),
            "the new process cannot bind that address while this one lives (EADDRINUSE), and the upgrade fails; with \
             SO_REUSEPORT it can, and clients that are queued here are reset when this process ends",
            "open it with flip_listen, or hand it over with flip_add, and take it with flip_listen in the new program",
        );
    }
}

/// The path of the address, or `@name`, as /proc/net/unix writes it.
fn unix_name(address: &[u8]) -> Option<String> {
    match Address::parse(address).ok()?.endpoint {
        Endpoint::Unix { name: UnixName::Path(path), .. } => {
            Some(String::from_utf8_lossy(&path).into_owned())
        }
        Endpoint::Unix { name: UnixName::Abstract(name), .. } => {
            Some(format!("@{}", String::from_utf8_lossy(&name).replace('\0', "@")))
        }
        _ => None,
    }
}

/// The sockets of the process: inode and lowest number.
fn own_sockets(subject: &Subject) -> procfs::ProcResult<BTreeMap<u64, i32>> {
    let mut sockets = BTreeMap::new();
    for fd in subject.process.fd()?.flatten() {
        if let FDTarget::Socket(inode) = fd.target {
            let lowest = sockets.entry(inode).or_insert(fd.fd);
            *lowest = fd.fd.min(*lowest);
        }
    }
    Ok(sockets)
}

/// All that listens in the network namespace of the process.
fn listening(subject: &Subject) -> procfs::ProcResult<Vec<Open>> {
    let process = &subject.process;
    let mut found = Vec::new();
    let tcp = |file| process.open_relative(file).and_then(|file| listening_tcp(BufReader::new(file)));
    // A kernel without IPv6 has no tcp6.
    for one in tcp("net/tcp")?.into_iter().chain(tcp("net/tcp6").unwrap_or_default()) {
        found.push(Open { what: format!("tcp://{}", one.local_address), inode: one.inode });
    }
    let first_of_any = first_ephemeral_port();
    for one in process.udp()?.into_iter().chain(process.udp6().unwrap_or_default()) {
        if serves(&one, first_of_any) {
            found.push(Open { what: format!("udp://{}", one.local_address), inode: one.inode });
        }
    }
    let mut text = String::new();
    process.open_relative("net/unix")?.read_to_string(&mut text)?;
    found.extend(text.lines().filter_map(listening_unix));
    Ok(found)
}

/// A busy server has a hundred thousand connections, which take seconds to list. The kernel lists what listens first
/// (tcp_get_idx in net/ipv4/tcp_ipv4.c), and makes up the rest only when it is read.
fn listening_tcp(file: impl BufRead) -> procfs::ProcResult<Vec<TcpNetEntry>> {
    const LISTENS: &str = "0A";
    let mut text = String::new();
    for (number, line) in file.lines().enumerate() {
        let line = line?;
        if number > 0 && line.split_ascii_whitespace().nth(3) != Some(LISTENS) {
            break;
        }
        text += &line;
        text += "\n";
    }
    let TcpNetEntries(entries) = TcpNetEntries::from_buf_read(text.as_bytes(), current_system_info())?;
    Ok(entries.into_iter().filter(|one| one.state == TcpState::Listen).collect())
}

/// No datagram socket listens. One without a peer, on a port that the kernel would not have picked, was bound for
/// others to send to.
fn serves(socket: &UdpNetEntry, first_of_any: u16) -> bool {
    let port = socket.local_address.port();
    socket.remote_address.port() == 0 && port != 0 && port < first_of_any
}

fn first_ephemeral_port() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    text.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(32_768)
}

/// One line of /proc/net/unix: proc_pid_net(5).
fn listening_unix(line: &str) -> Option<Open> {
    let mut columns = line.splitn(8, ' ').filter(|column| !column.is_empty());
    let flags = u32::from_str_radix(columns.nth(3)?, 16).ok()?;
    // Columns are padded with blanks, and a path may hold some.
    let rest = line.split_ascii_whitespace().nth(6)?;
    let inode = rest.parse().ok()?;
    let path = line.split_once(&format!(" {rest} ")).map_or("(unnamed)", |(_, path)| path);
    (flags & ACCEPTS != 0).then(|| Open { what: format!("unix:{path}"), inode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_not_read() {
        let line = |n: u32, state: &str| {
            format!(
                "{n:4}: 0100007F:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0        0 {} 1 0 100 0 0 10 0\n",
                n + 100
            )
        };
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let text =
            [head.to_string(), line(0, "0A"), line(1, "0A"), line(2, "01"), "never parsed".into()].concat();
        let found = listening_tcp(text.as_bytes()).unwrap();
        assert_eq!(found.iter().map(|one| one.inode).collect::<Vec<_>>(), [100, 101]);
        assert_eq!(found[0].local_address.to_string(), "127.0.0.1:8080");
        assert!(listening_tcp(head.as_bytes()).unwrap().is_empty());
    }

    #[test]
    fn lines_of_unix_sockets_are_read() {
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/with blank";
        let open = |what: &str| Some(Open { what: what.into(), inode: 12345 });
        assert_eq!(listening_unix(line), open("unix:/run/with blank"));
        assert_eq!(listening_unix(&line.replace("/run/with blank", "@app")), open("unix:@app"));
        assert_eq!(listening_unix(&line.replace("00010000", "00000000")), None);
        assert_eq!(listening_unix("Num       RefCount Protocol Flags    Type St Inode Path"), None);
        assert_eq!(
            listening_unix("0000: 00000002 00000000 00010000 0001 01   99 /a").map(|one| one.inode),
            Some(99)
        );
    }

    #[test]
    fn names_are_compared_as_the_kernel_writes_them() {
        assert_eq!(unix_name(b"unix:///run/a.ctl?mode=0600").as_deref(), Some("/run/a.ctl"));
        assert_eq!(unix_name(b"unix:@app").as_deref(), Some("@app"));
        assert_eq!(unix_name(b"tcp://127.0.0.1:1"), None);
    }
}
