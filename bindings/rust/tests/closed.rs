//! A handle that is closed wakes everybody who waits, in this very process; and what cannot be built is said.

#![cfg(feature = "tokio")]

use graceflip::tokio::StopOnShutdown;
use graceflip::{Error, ErrorKind, Event, EventMask, Flip, Request, Shutdown};
use std::time::Duration;

/// Deadlines of these are of the test's own: nothing here waits for anything that takes time.
const SOON: Duration = Duration::from_secs(10);

fn kind<T>(result: Result<T, Error>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it was to fail"),
        Err(error) => error.kind(),
    }
}

#[test]
fn everybody_who_waits_is_woken_by_close_and_a_second_handle_may_follow() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let hooks = Flip::builder().events(EventMask::LOG).on_shutdown(|_| {});
    assert_eq!(kind(hooks.build()), ErrorKind::Invalid);
    assert_eq!(kind(Flip::builder().drain_timeout(Duration::ZERO).build()), ErrorKind::Invalid);
    assert_eq!(kind(Flip::builder().signal(9, Request::Stop).build()), ErrorKind::Invalid);
    for round in 0..20 {
        let flip = Flip::builder().no_signals().events(EventMask::SHUTDOWN | EventMask::LOG).build().unwrap();
        let listener = flip.listen_tcp("127.0.0.1:0").unwrap();
        let connections =
            runtime.block_on(async { flip.tcp_stream(StopOnShutdown::Yes, "127.0.0.1:0?name=second") });
        let mut connections = connections.unwrap();
        assert_eq!(kind(flip.drain(SOON)), ErrorKind::Invalid);
        assert_eq!(kind(flip.wait_shutdown_timeout(Duration::ZERO)), ErrorKind::TimedOut);
        flip.ready().unwrap();
        let guard = flip.connection();
        assert_eq!(flip.connections(), 1);
        let clones = [flip.clone(), flip.clone(), flip.clone()];
        let [accepts, waits, reads] = clones;
        let accepts = std::thread::spawn(move || kind(accepts.accept(&listener)));
        let waits = std::thread::spawn(move || waits.wait_shutdown());
        let reads = runtime.spawn(async move {
            loop {
                match reads.next_event_async().await {
                    Ok(Event::Log(..) | Event::Shutdown(_)) => {}
                    Ok(event) => panic!("nobody asked for {event:?}"),
                    Err(error) => break error.kind(),
                }
            }
        });
        let (shutdown, ended) =
            (flip.clone(), runtime.spawn(async move { connections.accept().await.is_none() }));
        let shutdown = runtime.spawn(async move { shutdown.shutdown().await });
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        flip.close();
        assert!(matches!(accepts.join().unwrap(), ErrorKind::Canceled | ErrorKind::Closed));
        // Closing is a stop whose drain is over: either is true of it.
        let stopped = |result: Result<Shutdown, Error>| match result {
            Ok(why) => assert_eq!(why, Shutdown::Stop),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Canceled | ErrorKind::Closed), "{error}"),
        };
        stopped(waits.join().unwrap());
        runtime.block_on(async {
            stopped(shutdown.await.unwrap());
            assert!(matches!(reads.await.unwrap(), ErrorKind::Canceled | ErrorKind::Closed));
            assert!(ended.await.unwrap());
        });
        assert_eq!(kind(flip.listen_udp("127.0.0.1:0")), ErrorKind::Closed);
        flip.close();
        let second = Flip::builder().no_signals().build().unwrap();
        // The guard is of a handle that is no more: it counts for nobody.
        let counted = second.connection();
        drop(guard);
        assert_eq!(second.connections(), 1);
        drop(counted);
        assert_eq!(second.connections(), 0);
    }
}

#[test]
fn a_thread_for_hooks_that_cannot_be_had_is_an_error_of_the_kernels() {
    // In a process of its own, whose threads would have stacks that nobody has room for.
    const ALONE: &str = "GRACEFLIP_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let _limit = testkit::limit(Duration::from_secs(60));
        let name = "a_thread_for_hooks_that_cannot_be_had_is_an_error_of_the_kernels";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args([name, "--exact"]).env(ALONE, "1").env("RUST_MIN_STACK", (1_u64 << 60).to_string());
        assert!(again.status().unwrap().success());
        return;
    }
    let error = Flip::builder().no_signals().on_shutdown(|_| {}).build().unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::System, 11), "{error}");
}

#[test]
fn what_is_passed_on_is_named_and_found_once() {
    // In a process of its own, since there is one handle: this test runs itself again.
    const ALONE: &str = "GRACEFLIP_TEST_ALONE";
    let _limit = testkit::limit(Duration::from_secs(60));
    if std::env::var_os(ALONE).is_none() {
        let name = "what_is_passed_on_is_named_and_found_once";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        assert!(again.args([name, "--exact"]).env(ALONE, "1").status().unwrap().success());
        return;
    }
    let flip = Flip::builder().no_signals().build().unwrap();
    let made = flip.take_or("ours", || std::net::UdpSocket::bind("127.0.0.1:0")).unwrap();
    assert!(flip.take::<std::net::UdpSocket>("ours").unwrap().is_none(), "not inherited");
    let error =
        flip.take_or::<std::net::UdpSocket>("theirs", || std::net::UdpSocket::bind(made.local_addr()?));
    assert_eq!(error.as_ref().unwrap_err().raw_os_error(), 98, "{error:?}");
    assert!(error.unwrap_err().to_string().contains("cannot make theirs"));
    let (predecessor, _mine) = flip.unix_datagram_pair("line").unwrap();
    assert!(predecessor.is_none());
    assert!(flip.forget("line").unwrap() && !flip.forget("line").unwrap());
    assert!(flip.inherit::<std::net::TcpListener>("tcp://127.0.0.1:80").unwrap().is_none());
    assert!(flip.unclaimed().unwrap().is_empty());
    let folder = testkit::process::temp_dir();
    let path = folder.path().join("a socket with blanks, %, ? and #");
    let listener = flip.listen_unix(graceflip::Address::from(&path).mode(0o600)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    flip.ready().unwrap();
    let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let (_server, guard) = flip.accept(&listener).unwrap();
    drop((client, guard));
    assert_eq!((flip.connections(), flip.generation(), flip.successor_pid().unwrap()), (0, 0, None));
    drop((listener, flip));
    assert!(!path.exists(), "a stop without a successor unlinks");
}
