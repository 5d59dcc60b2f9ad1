//! A host with hooks and a logger takes part in its own replacement.

mod support;

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{SOON, example};
use testkit::process::{Family, Process, Signal, TempDir, free_port, signal, temp_dir};
use testkit::wait_for;

struct Server {
    process: Process,
    folder: TempDir,
    port: u16,
}

impl Server {
    fn start(family: &Family) -> Server {
        let (folder, port) = (temp_dir(), free_port());
        let program = family.program(example("takes_part")).arg(format!("tcp://127.0.0.1:{port}"));
        let names = ["REFUSE", "PANIC", "STATE_FAILS"];
        let program = names.iter().fold(program, |program, name| program.env(name, folder.path().join(name)));
        let server = Server { process: program.start(), folder, port };
        server.process.wait_for_output("SERVING", SOON);
        server
    }

    fn switch(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, "").expect("a file");
        path
    }

    /// Who answers.
    fn pid(&self) -> i32 {
        let mut text = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.read_to_string(&mut text).expect("an answer");
        text.trim().parse().expect("a pid")
    }

    /// The lines that begin with this.
    fn lines(&self, start: &str) -> Vec<String> {
        self.process.output().lines().filter(|line| line.starts_with(start)).map(String::from).collect()
    }
}

/// One upgrade that fails for this reason while the file is there; the server serves on.
fn fails(server: &Server, switch: &Path, kind: &str, reason: &str) {
    let pid = server.pid();
    signal(pid, Signal::SIGUSR1);
    let line = format!("FAILED {pid}: {kind}: ");
    let said = wait_for("a failed upgrade", SOON, || {
        server.lines(&line).into_iter().find(|line| line.contains(reason))
    });
    assert!(said.contains(reason), "{said}");
    assert_eq!(server.pid(), pid);
    fs::remove_file(switch).expect("no file");
}

#[test]
fn hooks_may_refuse_write_the_state_and_are_told_and_lines_come_on_a_thread_of_this_crate() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let server = Server::start(&family);
    let first = server.pid();
    assert_eq!(server.lines("STATE"), [format!("STATE {first}: none, 0 bytes")]);

    fails(&server, &server.switch("REFUSE"), "Refused", "not today");
    fails(&server, &server.switch("PANIC"), "Refused", "a hook of the server panicked: as the test asked");
    fails(&server, &server.switch("STATE_FAILS"), "State", "no words for it");

    signal(first, Signal::SIGUSR1);
    server.process.wait_for_output(&format!("CLOSED {first}"), SOON);
    server.process.wait_for_output("generation 1", SOON);
    let second = wait_for("the successor", SOON, || Some(server.pid()).filter(|pid| *pid != first));
    let state = server.lines(&format!("STATE {second}"));
    assert!(state[0].starts_with(&format!("STATE {second}: from {first}, 1000")), "{state:?}");
    assert_eq!(server.lines(&format!("ENDS {first}")), [format!("ENDS {first}: Upgrade")]);
    assert_eq!(server.lines(&format!("SHUTDOWN {first}")).len(), 1);

    let log = server.lines("LOG");
    assert!(log.iter().all(|line| line.contains("on graceflip-hooks: ")), "{log:#?}");
    let said = |text: &str| log.iter().any(|line| line.contains(text));
    assert!(said(&format!("INFO graceflip upgraded to process {second}")), "{log:#?}");
    assert!(said("ERROR graceflip upgrade failed: "), "{log:#?}");

    signal(second, Signal::SIGTERM);
    server.process.wait_for_output(&format!("ENDS {second}: Stop"), SOON);
    family.wait_gone(second, SOON);
    family.assert_none_left(SOON);
}
