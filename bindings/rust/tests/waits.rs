//! Waits of the feature `tokio` at their edges: a detach amid them, no descriptor left, connections that begin again, a handle
//! that is closed.

#![cfg(feature = "tokio-util")]

use graceflip::tokio::StopOnShutdown;
use graceflip::{Error, ErrorKind, Flip, Request, Shutdown};
use std::fs::File;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use testkit::deadline::scaled;
use testkit::process::{Family, temp_dir};
use testkit::{wait_for, wait_until};
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

fn stopped(flip: &Flip) {
    flip.request(Request::Stop).expect("asked");
    assert_eq!(flip.wait_shutdown_timeout(scaled(SOON)).expect("shutdown"), Shutdown::Stop);
}

/// A future as it is at its next look; what wakes it is not needed.
fn look<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn kind<T>(result: Result<T, Error>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it was to fail"),
        Err(error) => error.kind(),
    }
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

/// Opens files until no descriptor is left.
fn exhausted() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

#[tokio::test]
async fn a_drain_needs_no_descriptor() {
    let _limit = testkit::limit(Duration::from_secs(60));
    if !alone("a_drain_needs_no_descriptor", "ulimit -n 64;") {
        return;
    }
    let flip = serving();
    let guard = flip.connection();
    stopped(&flip);
    let files = exhausted();
    assert_eq!(kind(flip.drain_async(Duration::from_millis(1)).await), ErrorKind::TimedOut);
    let mut drain = pin!(flip.drain_async(SOON));
    assert!(look(drain.as_mut()).is_pending(), "a connection is open");
    drop(guard);
    drain.await.expect("drained");
    assert_eq!(kind(flip.shutdown_signal()), ErrorKind::System);
    drop(files);
}

#[tokio::test]
async fn a_drain_that_was_over_waits_for_a_connection_that_began_afterwards() {
    let _limit = testkit::limit(Duration::from_secs(60));
    if !alone("a_drain_that_was_over_waits_for_a_connection_that_began_afterwards", "") {
        return;
    }
    let flip = serving();
    stopped(&flip);
    let latch = || {
        let copy = flip.drained_fd().expect("a descriptor").try_clone_to_owned().expect("a copy");
        let socket = std::os::unix::net::UnixStream::from(copy);
        socket.set_nonblocking(true).expect("a latch is a socket, which nobody reads");
        tokio::net::UnixStream::from_std(socket).expect("watched")
    };
    latch().readable().await.expect("no connection is open");
    let guard = flip.connection();
    let mut drain = pin!(flip.drain_async(SOON));
    tokio::select! {
        biased;
        result = &mut drain => panic!("a connection is open: {result:?}"),
        // Told together with the drain, which looks first.
        _ = async { latch().readable().await } => {}
    }
    drop(guard);
    drain.await.expect("drained");
    let guard = flip.connection();
    assert_eq!(kind(flip.drain_async(Duration::from_millis(1)).await), ErrorKind::TimedOut);
    drop(guard);
}

#[tokio::test]
async fn who_waits_for_the_predecessor_is_woken_by_close() {
    const OUTCOME: &str = "GRACEFLIP_TEST_OUTCOME";
    let _limit = testkit::limit(Duration::from_secs(60));
    let folder = temp_dir();
    let outcome = folder.path().join("outcome");
    let export = format!("export {OUTCOME}={};", outcome.display());
    if !alone("who_waits_for_the_predecessor_is_woken_by_close", &export) {
        return;
    }
    let outcome = std::env::var_os(OUTCOME).expect("a path");
    let outcome = Path::new(&outcome);
    let flip = serving();
    if flip.generation() == 0 {
        flip.upgrade().expect("the same program");
        let said = || std::fs::read_to_string(outcome).ok().filter(|text| text.ends_with('\n'));
        assert_eq!(wait_for("the successor's outcome", SOON * 2, said), "Canceled\n");
        return;
    }
    // Before that, its end would be a failed upgrade.
    wait_until("the predecessor has let go", SOON, || {
        flip.status().expect("a status").contains("\"state\":\"ready\"")
    });
    let mut exited = pin!(flip.predecessor_exited());
    assert!(look(exited.as_mut()).is_pending(), "the predecessor waits for this one");
    flip.close();
    let result = tokio::time::timeout(scaled(SOON), exited).await.expect("woken");
    std::fs::write(outcome, format!("{:?}\n", kind(result))).expect("a file");
}

#[tokio::test]
async fn a_stream_yields_nothing_once_shutdown_was_published_though_the_runtime_knows_nothing_of_it() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let name = "a_stream_yields_nothing_once_shutdown_was_published_though_the_runtime_knows_nothing_of_it";
    if !alone(name, "") {
        return;
    }
    struct Endless;
    impl futures_core::Stream for Endless {
        type Item = ();
        fn poll_next(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<()>> {
            Poll::Ready(Some(()))
        }
    }
    let flip = serving();
    let mut stream = flip.stoppable(StopOnShutdown::Yes, Endless).expect("a stream");
    assert_eq!(look(pin!(graceflip::tokio::next(&mut stream))), Poll::Ready(Some(())));
    // This thread is the runtime: it does not look for events meanwhile.
    stopped(&flip);
    assert_eq!(look(pin!(graceflip::tokio::next(&mut stream))), Poll::Ready(None));
}

/// The end of a runtime is not the end of the service: others may be running.
#[test]
fn a_runtime_that_ends_tells_of_no_shutdown() {
    let _limit = testkit::limit(Duration::from_secs(60));
    if !alone("a_runtime_that_ends_tells_of_no_shutdown", "") {
        return;
    }
    let flip = serving();
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (signal, socket) = one.block_on(async {
        let socket = flip.udp_stoppable(StopOnShutdown::Yes, "127.0.0.1:0").expect("a socket");
        (flip.shutdown_signal().expect("a signal"), socket)
    });
    drop(one);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    other.block_on(async {
        assert!(look(pin!(signal.wait())).is_pending());
        let mut goes_on = pin!(socket.until_stopped(|_| std::future::pending::<()>()));
        assert!(look(goes_on.as_mut()).is_pending());
    });
}

#[tokio::test]
async fn a_stream_that_cannot_be_made_leaves_no_listener() {
    let _limit = testkit::limit(Duration::from_secs(60));
    if !alone("a_stream_that_cannot_be_made_leaves_no_listener", "ulimit -n 100;") {
        return;
    }
    let flip = serving();
    let address = "127.0.0.1:0?name=a";
    let mut files = exhausted();
    // Each number more lets it come a step further.
    for _ in 0..20 {
        if flip.tcp_stream(StopOnShutdown::Yes, address).is_ok() {
            return;
        }
        files.pop();
    }
    panic!("it was to be made in the end: {:?}", flip.tcp_stream(StopOnShutdown::Yes, address).err());
}
