//! The log: LOG events for who subscribed, standard error for who set `SHELLFLIP_LOG`.

use crate::part::{LIMIT, Part, minus};

const LOG: i64 = 16;

/// All LOG lines that wait.
fn lines(part: &Part, pid: i32) -> Vec<String> {
    std::iter::from_fn(|| Some(part.call(pid, "/event/0")).filter(|called| called.rc == LOG))
        .map(|called| called.error)
        .collect()
}

#[test]
fn the_newest_lines_are_kept_and_the_first_of_them_says_how_many_were_dropped() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "16"), ("READER", "0")]);
    let first = part.first();
    lines(&part, first);
    // Each failed upgrade leaves a few lines.
    part.call(first, "/env/BEFORE/kill");
    let called = part.call(first, "/upgrade");
    assert_eq!(called.rc, minus(libc::ECONNABORTED));
    let each = lines(&part, first);
    assert!(each.iter().any(|line| line.starts_with("upgrade: starting ")), "{each:?}");
    assert!(each.last().is_some_and(|line| line.starts_with("upgrade failed: new process ")), "{each:?}");
    let rounds = 256 / each.len() + 2;
    for _ in 0..rounds {
        part.call(first, "/upgrade");
    }
    let kept = lines(&part, first);
    assert_eq!(kept.len(), 256);
    let dropped = rounds * each.len() - 256;
    let start = format!("({dropped} events were dropped before this) ");
    assert!(kept[0].starts_with(&start), "{}", kept[0]);
    assert!(kept[1..].iter().all(|line| !line.contains("dropped")));
    assert!(kept[255].starts_with("upgrade failed: new process "), "{}", kept[255]);
    part.call(first, "/upgrade");
    assert_eq!(lines(&part, first).len(), each.len());
    part.stop(first);
}

#[test]
fn shellflip_log_says_how_much_goes_to_standard_error() {
    let _limit = testkit::limit(LIMIT);
    for (level, info, debug) in [("error", false, false), ("info", true, false), ("debug", true, true)] {
        let part = Part::start(&[("SHELLFLIP_LOG", level)]);
        let first = part.first();
        part.call(first, "/env/BEFORE/kill");
        part.call(first, "/upgrade");
        let mark = format!("shellflip[{first}]: ");
        part.wait_for_line(&format!("{mark}upgrade failed: new process "));
        assert_eq!(!part.lines(&format!("{mark}upgrade: starting ")).is_empty(), info, "{level}");
        assert_eq!(!part.lines("Spawned in ").is_empty(), debug, "{level}");
        part.stop(first);
    }
    let part = Part::start(&[]);
    let first = part.first();
    let second = part.upgrade(first);
    assert!(part.lines("shellflip[").is_empty());
    part.stop(second);
}
