//! What is shown on a terminal while flipctl waits, and that nothing is where there is none.

use crate::kit::Stage;
use nix::pty::{OpenptyResult, openpty};
use std::fs::File;
use std::io::Read;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use testkit::host::SOON;
use testkit::{limit, wait_until};

/// flipctl on a terminal of its own, and what it has written there.
struct OnTerminal {
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl OnTerminal {
    fn start(mut command: Command) -> OnTerminal {
        let size = nix::libc::winsize { ws_row: 24, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).expect("a terminal");
        command.env("TERM", "xterm").stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = command.spawn().expect("flipctl");
        // The command holds copies of the terminal: the reader would wait for ever.
        drop(command);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let written = seen.clone();
        let reader = std::thread::spawn(move || {
            let (mut master, mut chunk) = (File::from(master), [0; 4096]);
            // EIO once nobody has the other side open.
            while let Ok(length @ 1..) = master.read(&mut chunk) {
                written.lock().unwrap().extend_from_slice(&chunk[..length]);
            }
        });
        OnTerminal { child, seen, reader }
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    fn end(mut self) -> (i32, String) {
        let status = self.child.wait().unwrap().code().unwrap_or(-1);
        self.reader.join().unwrap();
        let text = String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned();
        (status, text)
    }
}

#[test]
fn on_a_terminal_the_phase_and_the_seconds_are_shown_and_go_away() {
    let _limit = limit(Duration::from_secs(100));
    let stage = Stage::new(&[]);
    let go = stage.path("go");
    stage.successors(&format!("wait:{}", go.display()));
    let shown = OnTerminal::start(stage.command(&["upgrade"]));
    for text in ["waiting until the new process is ready (pid ", "deadline in "] {
        wait_until(&format!("{text:?} on the terminal"), SOON, || shown.seen().contains(text));
    }
    wait_until("seconds that go on", SOON, || {
        let seen = shown.seen();
        let mut seconds: Vec<&str> = seen.split("  ").filter(|part| part.contains(" s")).collect();
        seconds.dedup();
        seconds.len() > 3
    });
    std::fs::write(&go, "").unwrap();
    let (status, text) = shown.end();
    assert_eq!(status, 0, "{text}");
    // The line is cleared, and then the result is written.
    let last = text.rsplit_once("\x1b[2K").map_or(text.as_str(), |(_, last)| last);
    assert!(last.contains("upgraded in ") && !last.contains("waiting"), "{text:?}");
}

#[test]
fn a_status_has_colours_on_a_terminal_only() {
    let _limit = limit(Duration::from_secs(100));
    let stage = Stage::new(&[]);
    let (status, text) = OnTerminal::start(stage.command(&["status"])).end();
    assert_eq!(status, 0);
    assert!(text.contains("\x1b[1m") && text.contains("generation 0"), "{text:?}");
    let mut command = stage.command(&["status"]);
    command.env("NO_COLOR", "1");
    let (_, text) = OnTerminal::start(command).end();
    assert!(!text.contains('\x1b'), "{text:?}");
    let plain = stage.run(&["status"]).expect(0);
    assert!(!plain.out.contains('\x1b') && plain.err.is_empty(), "{plain:?}");
}

#[test]
fn without_a_terminal_there_is_one_plain_line() {
    let _limit = limit(Duration::from_secs(100));
    let stage = Stage::new(&[]);
    stage.successors("sleep:1500");
    let ran = stage.run(&["upgrade"]).expect(0);
    assert!(ran.err.is_empty() && ran.out.lines().count() == 1, "{ran:?}");
    assert!(
        !ran.out.contains(char::is_control) || ran.out.trim_end().chars().all(|c| !c.is_control()),
        "{ran:?}"
    );
}
