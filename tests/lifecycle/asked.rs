//! STARTING: who refuses an upgrade, and how, and what an answer is worth at which time.

use crate::part::{LIMIT, Part, minus};
use std::time::{Duration, Instant};
use testkit::deadline::scaled;
use testkit::host::SOON;

const REFUSED: i64 = 5;
const DEADLINE: i64 = 4;
const STOPPING: i64 = 11;

#[test]
fn an_upgrade_is_refused_with_the_hosts_reason_and_the_next_one_works() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "5"), ("STARTING", "refuse:no upgrades before noon")]);
    let first = part.first();
    let called = part.call(first, "/upgrade");
    assert_eq!((called.rc, called.failure), (minus(libc::ECONNREFUSED), REFUSED), "{called:?}");
    assert!(called.error.contains("no upgrades before noon"), "{called:?}");
    part.wait_for_line("event 4 failure 5: this host refused: no upgrades before noon");
    assert_eq!(part.call(first, "/request/1").rc, 0);
    part.wait_for_lines("event 4 failure 5", 2);
    part.wait_for_line("event 1 failure 0: an upgrade was asked for by flip_upgrade");
    part.wait_for_line("event 1 failure 0: an upgrade was asked for by a signal or flip_request");
    assert!(part.lines("init generation=1").is_empty());
    part.call(first, "/starting/yes");
    let second = part.upgrade(first);
    part.stop(second);
}

#[test]
fn a_question_that_is_given_back_unanswered_is_refused() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "1"), ("STARTING", "free")]);
    let first = part.first();
    let called = part.call(first, "/upgrade");
    assert_eq!((called.rc, called.failure), (minus(libc::ECONNREFUSED), REFUSED), "{called:?}");
    assert!(called.error.contains("the host gave the event back without an answer"), "{called:?}");
    part.stop(first);
}

#[test]
fn a_question_that_nobody_answers_fails_the_upgrade_at_its_deadline_and_an_answer_is_stale_then() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "1"), ("STARTING", "hold"), ("UPGRADE_TIMEOUT_MS", "300")]);
    let first = part.first();
    let called = part.call(first, "/upgrade");
    assert_eq!((called.rc, called.failure), (minus(libc::ETIME), DEADLINE), "{called:?}");
    assert!(called.error.contains("did not answer the STARTING event by the upgrade deadline"), "{called:?}");
    part.wait_for_line("held 1");
    assert_eq!(part.call(first, "/answer/0").rc, minus(libc::ESTALE));
    assert_eq!(part.call(first, "/give-back").rc, 0);
    assert!(part.lines("init generation=1").is_empty());
    part.stop(first);
}

#[test]
fn a_question_that_nobody_reads_is_not_there_any_more_after_the_deadline() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "1"), ("READER", "0"), ("UPGRADE_TIMEOUT_MS", "200")]);
    let first = part.first();
    assert_eq!(part.call(first, "/upgrade").rc, minus(libc::ETIME));
    assert_eq!(part.call(first, "/event/0").rc, minus(libc::ETIMEDOUT));
    part.stop(first);
}

#[test]
fn a_reason_of_several_lines_becomes_one() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "5"), ("STARTING", "refuse:two\nlines\t")]);
    let first = part.first();
    let called = part.call(first, "/upgrade");
    assert_eq!(called.error, "this host refused: two lines ", "{called:?}");
    part.wait_for_line("event 4 failure 5: this host refused: two lines  pid=");
    part.stop(first);
}

#[test]
fn a_question_is_answered_once() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "1"), ("STARTING", "hold")]);
    let first = part.first();
    // Holds the old one until it has answered everything.
    let idle = std::net::TcpStream::connect(part.public()).unwrap();
    testkit::deadline::wait_until("a counted connection", SOON, || part.call(first, "/count").rc == 1);
    let upgrade = part.call_meanwhile(first, "/upgrade");
    part.wait_for_line("held 1");
    assert_eq!(part.call(first, "/answer/1").rc, minus(libc::EINVAL));
    assert_eq!(part.call(first, "/answer/0").rc, 0);
    assert_eq!(part.call(first, "/answer/0").rc, minus(libc::EALREADY));
    assert_eq!(part.call(first, "/answer/-1/no").rc, minus(libc::EALREADY));
    let called = upgrade.join().unwrap();
    drop(idle);
    assert!(called.rc > 0, "{called:?}");
    part.stop(called.rc as i32);
}

#[test]
fn an_answer_after_flip_free_is_stale_and_the_waiting_upgrade_is_cancelled() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "1"), ("STARTING", "hold")]);
    let first = part.first();
    let connection = std::net::TcpStream::connect(part.public()).unwrap();
    testkit::deadline::wait_until("a counted connection", SOON, || part.call(first, "/count").rc == 1);
    let upgrade = part.call_meanwhile(first, "/upgrade");
    part.wait_for_line("held 1");
    // The host's main thread waits for shutdown and is told of the end; the answer comes before it exits.
    let (free, answer) = (part.call_meanwhile(first, "/free-answer"), upgrade);
    assert_eq!(free.join().unwrap().rc, minus(libc::ESTALE));
    assert_eq!(answer.join().unwrap().rc, minus(libc::ECANCELED));
    drop(connection);
    part.family.assert_none_left(SOON);
}

#[test]
fn flip_upgrade_on_the_thread_that_reads_events_would_wait_for_itself() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "1"), ("READER", "0")]);
    let first = part.first();
    assert_eq!(part.call(first, "/event-upgrade").rc, minus(libc::EDEADLK));
    part.stop(first);
    // Who reads events that ask nothing may.
    let part = Part::start(&[("EVENTS", "12"), ("READER", "0")]);
    let first = part.first();
    let called = part.call(first, "/event-upgrade");
    assert!(called.rc > 0, "{called:?}");
    part.stop(called.rc as i32);
}

#[test]
fn a_stop_while_the_host_is_asked_comes_at_once() {
    let _limit = testkit::limit(LIMIT);
    let part = Part::start(&[("EVENTS", "5"), ("STARTING", "hold")]);
    let first = part.first();
    let upgrade = part.call_meanwhile(first, "/upgrade");
    part.wait_for_line("held 1");
    let began = Instant::now();
    let folder = part.call_meanwhile(first, "/request/2");
    let called = upgrade.join().unwrap();
    assert_eq!((called.rc, called.failure), (minus(libc::ESHUTDOWN), STOPPING), "{called:?}");
    assert_eq!(folder.join().unwrap().rc, 0);
    part.family.assert_none_left(SOON);
    assert!(began.elapsed() < scaled(Duration::from_secs(2)));
}
