//! State: none, empty and lost are three things; it arrives whole, sealed and read-only; it never delays who ignores it.

use crate::part::{LIMIT, Part, minus};
use std::time::Duration;
use testkit::deadline::{wait_for, wait_until};
use testkit::host::SOON;
use testkit::process::{Proc, Signal, signal, temp_dir};

const STATE: i64 = 6;
const SIGNALLED: i64 = 3;
const DEADLINE: i64 = 4;
/// SEAL, SHRINK, GROW, WRITE (fcntl(2)).
const SEALS: i32 = 0xf;

fn memfds(pid: i32) -> usize {
    Proc(pid).descriptors().iter().filter(|fd| format!("{fd:?}").contains("shellflip-state")).count()
}

/// The word after `name=` in the first line with `text`.
fn field(part: &Part, text: &str, name: &str) -> String {
    let line = part.lines(text).first().cloned().unwrap_or_default();
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(&format!("{name}=")));
    word.unwrap_or_else(|| panic!("no {name} in {line:?}")).to_string()
}

#[test]
fn none_and_empty_are_two_things() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "0")]);
    let first = part.first();
    assert_eq!(part.call(first, "/take/0").rc, minus(libc::ENOENT));
    let second = part.upgrade(first);
    assert_eq!(part.call(second, "/take/0").rc, minus(libc::ENOENT));
    part.stop(second);

    let part = Part::start(&[("EVENTS", "2")]);
    let second = part.upgrade(part.first());
    let called = part.call(second, "/take/0");
    assert_eq!(called.rc, 0, "{called:?}");
    assert!(called.error.starts_with("size=0 "), "{called:?}");
    part.stop(second);
}

#[test]
fn the_state_is_read_only_sealed_mappable_and_opened_anew_each_time() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "2"), ("STATE", "size:100000"), ("BEFORE", "take,take")]);
    let second = part.upgrade(part.first());
    part.wait_for_lines("took 0 size=100000", 2);
    for line in part.lines("took 0") {
        let number = |name: &str| -> i32 {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
        };
        assert_eq!((number("offset="), number("access="), number("cloexec=")), (0, libc::O_RDONLY, 1));
        // The kernel may have added one that forbids execution.
        assert_eq!((number("seals=") & SEALS, number("write=")), (SEALS, libc::EBADF));
    }
    assert_eq!(field(&part, "took 0", "sum"), field(&part, "wrote", "sum"));
    assert!(part.call(second, "/take/0").error.starts_with("size=100000 "));
    part.stop(second);
}

#[test]
fn a_gibibyte_crosses_whole() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let size = 1u64 << 30;
    let policy = format!("size:{size}");
    let part = Part::start(&[("EVENTS", "2"), ("STATE", &policy), ("BEFORE", "take")]);
    let first = part.first();
    let called = part.call(first, "/upgrade");
    assert!(called.rc > 0, "{called:?}");
    assert_eq!(field(&part, "took 0", "size"), size.to_string());
    // One so large is sealed in another way, without a look at each of its pages.
    let seals = SEALS & !libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE;
    assert_eq!(field(&part, "took 0", "seals").parse::<i32>().unwrap() & (SEALS | seals), seals);
    assert_eq!(field(&part, "took 0", "sum"), field(&part, "wrote", "sum"));
    part.stop(called.rc as i32);
}

#[test]
fn who_never_reads_the_state_is_ready_all_the_same() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "2"), ("STATE", "size:67108864"), ("UPGRADE_TIMEOUT_MS", "20000")]);
    let second = part.upgrade(part.first());
    assert!(part.lines("took").is_empty());
    part.stop(second);
}

#[test]
fn a_successor_that_dies_with_the_state_unread_leaves_nothing_behind() {
    let _limit = testkit::limit(LIMIT);
    let folder = temp_dir();
    let go = folder.path().join("go");
    let before = format!("wait:{},kill", go.display());
    let part = Part::start(&[("EVENTS", "2"), ("STATE", "size:67108864"), ("BEFORE", &before)]);
    let first = part.first();
    let mut counts = Vec::new();
    for round in 1..=4 {
        let upgrade = part.call_meanwhile(first, "/upgrade");
        part.wait_for_lines("answered 0", round);
        std::fs::write(&go, "").unwrap();
        let called = upgrade.join().unwrap();
        assert_eq!((called.rc, called.failure), (minus(libc::ECONNABORTED), SIGNALLED), "{called:?}");
        std::fs::remove_file(&go).unwrap();
        // The host frees its event after the answer.
        wait_until("no state is left", SOON, || memfds(first) == 0);
        wait_until("no mapping grows", SOON, || Proc(first).resident().is_some_and(|bytes| bytes < 48 << 20));
        counts.push(Proc(first).descriptors().len());
    }
    let settled = wait_for("as many descriptors as before", SOON, || {
        let now = Proc(first).descriptors().len();
        (now <= counts[0]).then_some(now)
    });
    assert!(settled <= counts[0], "{counts:?}");
    part.stop(first);
}

#[test]
fn a_predecessor_that_dies_before_the_state_is_written_loses_it_and_the_successor_is_told_first() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "2"), ("STATE", "hold")]);
    let first = part.first();
    let _upgrade = part.call_unanswered(first, "/upgrade");
    part.wait_for_line("held 2");
    let second = part.successor();
    signal(first, Signal::SIGKILL);
    // flip_ready first, which is not final; then flip_take_state says it; then flip_ready lets it serve.
    part.wait_for_line("ready -104");
    part.wait_for_line("took -104 the state that the predecessor promised was lost with it");
    part.wait_for_line("ready 0 generation=1");
    assert_eq!(part.host.who().pid, second);
    assert_eq!(part.call(second, "/take/0").rc, minus(libc::ECONNRESET));
    // And it can be upgraded.
    part.call(second, "/state/size:8");
    let third = part.upgrade(second);
    part.stop(third);
}

#[test]
fn who_asks_for_the_state_before_flip_ready_is_told_of_the_loss_there() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "2"), ("STATE", "hold"), ("BEFORE", "take")]);
    let first = part.first();
    let _upgrade = part.call_unanswered(first, "/upgrade");
    part.wait_for_line("held 2");
    let second = part.successor();
    assert_eq!(part.call(second, "/take/0").rc, minus(libc::ETIMEDOUT));
    signal(first, Signal::SIGKILL);
    part.wait_for_line("took -104");
    part.wait_for_line("ready 0 generation=1");
    assert!(part.lines("ready -104").is_empty());
    part.stop(second);
}

#[test]
fn a_host_that_has_left_for_a_root_without_proc_gets_its_state() {
    let _limit = testkit::limit(LIMIT);
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        println!(
            "SKIPPED: a_host_that_has_left_for_a_root_without_proc_gets_its_state: only root may chroot"
        );
        return;
    }
    let root = testkit::process::temp_dir();
    let before = format!("chroot:{},take", root.path().display());
    let part = Part::start(&[("EVENTS", "2"), ("STATE", "size:8"), ("BEFORE", &before)]);
    let first = part.first();
    let second = part.upgrade(first);
    assert_eq!(part.lines("chroot 0").len(), 1);
    part.wait_for_line("took 0 size=8");
    part.stop(second);
}

#[test]
fn a_writable_mapping_at_the_answer_fails_only_the_upgrade() {
    still_mapped("mapped:4096");
}

#[test]
fn a_writable_mapping_of_a_large_state_does_too() {
    still_mapped("mapped:20000000");
}

fn still_mapped(policy: &str) {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "6"), ("STATE", policy)]);
    let first = part.first();
    let called = part.call(first, "/upgrade");
    assert_eq!((called.rc, called.failure), (minus(libc::EIO), STATE), "{called:?}");
    let line = "the state cannot be sealed while the host has it mapped for writing";
    assert!(called.error.contains(line), "{called:?}");
    part.wait_for_line(&format!("event 4 failure {STATE}: the state was not handed over: {line}"));
    part.call(first, "/state/size:8");
    let second = part.upgrade(first);
    part.stop(second);
}

#[test]
fn a_host_that_cannot_write_its_state_fails_only_the_upgrade() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "6"), ("STATE", "enospc")]);
    let first = part.first();
    let called = part.call(first, "/upgrade");
    assert_eq!((called.rc, called.failure), (minus(libc::EIO), STATE), "{called:?}");
    assert!(called.error.contains("no space left on device (ENOSPC)"), "{called:?}");
    part.call(first, "/state/free");
    let called = part.call(first, "/upgrade");
    assert_eq!((called.rc, called.failure), (minus(libc::EIO), STATE), "{called:?}");
    part.call(first, "/state/size:8");
    let second = part.upgrade(first);
    part.stop(second);
}

#[test]
fn a_state_that_nobody_writes_fails_the_upgrade_at_its_deadline() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "2"), ("STATE", "hold"), ("UPGRADE_TIMEOUT_MS", "400")]);
    let first = part.first();
    let called = part.call(first, "/upgrade");
    assert_eq!((called.rc, called.failure), (minus(libc::ETIME), DEADLINE), "{called:?}");
    assert!(called.error.contains("did not answer the STATE event by the upgrade deadline"), "{called:?}");
    assert_eq!(part.call(first, "/answer/0").rc, minus(libc::ESTALE));
    assert_eq!(part.call(first, "/give-back").rc, 0);
    assert_eq!(memfds(first), 0);
    part.stop(first);
}

/// It would be killed where it waits on, two seconds later.
#[test]
fn who_waits_for_the_state_of_a_predecessor_that_gives_up_is_told() {
    let _limit = testkit::limit(LIMIT);
    let environment = [("EVENTS", "2"), ("STATE", "hold"), ("BEFORE", "take"), ("UPGRADE_TIMEOUT_MS", "500")];
    let part = Part::start(&environment);
    let first = part.first();
    let called = part.call(first, "/upgrade");
    assert_eq!(called.rc, minus(libc::ETIME), "{called:?}");
    part.wait_for_line("took -125 this process will not serve");
    part.call(first, "/give-back");
    part.stop(first);
}
