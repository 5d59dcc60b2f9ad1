//! Waits of the feature `tokio` at their edges: a detach amid them.

#![cfg(feature = "tokio-util")]

use graceflip::{Flip, Request, Shutdown};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use testkit::process::Family;
use testkit::wait_until;
use tokio_util::task::TaskTracker;

const SOON: Duration = Duration::from_secs(10);
const ALONE: &str = "GRACEFLIP_TEST_ALONE";

/// Whether this is the process for that test: there is one handle in each. The test runs itself again, with what the shell
/// does before.
fn alone(name: &str, before: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let family = Family::new();
    let program = family.program("sh").arg("-c").arg(format!("{before} exec \"$0\" \"$@\""));
    let program =
        program.arg(std::env::current_exe().expect("a path")).args([name, "--exact", "--nocapture"]);
    let mut again = program.env(ALONE, "1").start();
    let status = again.wait(SOON * 4);
    assert!(status.success(), "{status}: {}", again.output());
    family.assert_none_left(SOON);
    false
}

fn serving() -> Flip {
    let flip = Flip::builder().no_signals().build().expect("a handle");
    flip.ready().expect("ready");
    flip
}

/// A future as it is at its next look; what wakes it is not needed.
fn look<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn a_tracker_that_is_waited_for_is_not_closed_by_a_detach() {
    let _limit = testkit::limit(Duration::from_secs(60));
    if !alone("a_tracker_that_is_waited_for_is_not_closed_by_a_detach", "") {
        return;
    }
    let flip = serving();
    flip.request(Request::Detach).expect("asked");
    wait_until("a detached process", SOON, || flip.status().expect("a status").contains("\"detached\""));
    let tracker = TaskTracker::new();
    let mut over = pin!(flip.shutdown_of(&tracker, SOON));
    assert!(look(over.as_mut()).is_pending(), "a detached process goes on");
    assert!(!tracker.is_closed());
    flip.request(Request::Stop).expect("asked");
    assert_eq!(over.await.expect("no task is left"), Shutdown::Stop);
}
