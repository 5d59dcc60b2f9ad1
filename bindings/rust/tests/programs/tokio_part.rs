//! A host on tokio that takes part: async hooks and state, a UDP socket that stops, a port that does not, a token, a tracker. It
//! checks what it can itself, and writes what it is told to standard error.

use graceflip::tokio::{ShutdownSignal, StopOnShutdown};
use graceflip::{ErrorKind, Event, Failure, Flip, Shutdown};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::TaskTracker;

static CLOSING: AtomicBool = AtomicBool::new(false);

#[tokio::main]
async fn main() {
    let pid = std::process::id();
    let mut arguments = std::env::args().skip(1);
    let mut address = || arguments.next().expect("an address");
    let (tcp, udp, metrics) = (address(), address(), address());
    let refuse = address();
    let runtime = tokio::runtime::Handle::current().id();
    let control = std::path::PathBuf::from(address());
    let flip = Flip::builder()
        .control_socket(&control)
        .on_starting_async(async move |_: &str| {
            assert_eq!(tokio::runtime::Handle::current().id(), runtime);
            tokio::time::sleep(Duration::from_millis(1)).await;
            if tokio::task::spawn_blocking(move || std::env::var_os("NEVER")).await.is_err() {
                return Err("no runtime");
            }
            Ok(())
        })
        .on_state_async(async move |state| {
            if std::path::Path::new(&refuse).exists() {
                return Err(std::io::Error::other("not now"));
            }
            state.write_u32(pid).await?;
            state.write_all(&[7; 70_000]).await
        })
        .on_failed_async(async move |failure: Failure, why: &str| {
            println!("FAILED {pid}: {failure:?}: {why}")
        })
        .build()
        .expect("a handle");
    let from = match flip.state_async().await {
        // The predecessor's hook has refused, and this is known here before its SIGTERM comes, or not.
        Err(error) if error.kind() == ErrorKind::Canceled => return,
        Err(error) => panic!("{error}"),
        Ok(Some(mut state)) => {
            let (from, mut rest) = (state.read_u32().await.expect("a pid"), Vec::new());
            state.read_to_end(&mut rest).await.expect("the rest");
            assert_eq!(rest, [7; 70_000]);
            from
        }
        Ok(None) => 0,
    };
    println!("STATE {pid}: {from}");
    let mut connections = flip.tcp_stream(StopOnShutdown::Yes, tcp).expect("a listener");
    let mut metrics = flip.tcp_stream(StopOnShutdown::Never, metrics).expect("a listener");
    let udp = flip.udp_stoppable(StopOnShutdown::Yes, udp).expect("a socket");
    assert_eq!(flip.drain_async(Duration::ZERO).await.expect_err("no shutdown").kind(), ErrorKind::Invalid);
    flip.ready_async().await.expect("ready");

    let (tracker, token) = (TaskTracker::new(), flip.cancellation_token().expect("a token"));
    let heard = Arc::new(AtomicBool::new(false));
    let signal: ShutdownSignal = flip.shutdown_signal().expect("a signal");
    for _ in 0..100 {
        // No descriptor each, or this would be too many.
        tracker.spawn(signal.clone().wait());
    }
    tracker.spawn({
        let (token, heard) = (token.clone(), Arc::clone(&heard));
        async move {
            token.cancelled().await;
            heard.store(true, SeqCst);
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(mut client)) = metrics.accept().await {
            let _ = client.write_all(format!("metrics of {pid}\n").as_bytes()).await;
        }
        assert!(CLOSING.load(SeqCst), "it does not stop before the handle is closed");
    });
    tracker.spawn(async move {
        let mut buffer = [0; 64];
        while let Some(received) = udp.until_stopped(|udp| udp.recv_from(&mut buffer)).await {
            let (length, from) = received.expect("a datagram");
            udp.as_unstoppable_ref().send_to(&buffer[..length], from).await.expect("sent");
        }
        println!("UDP ENDS {pid}");
    });
    tracker.spawn(async move {
        while let Some(connection) = connections.accept().await {
            let mut client = connection.expect("a connection");
            let _ = client.write_all(format!("{pid}\n").as_bytes()).await;
        }
        assert!(connections.listener().is_none());
        println!("TCP ENDS {pid}");
    });
    println!("SERVING {pid} generation {}", flip.generation());
    let why = flip.shutdown_of(&tracker, Duration::from_secs(10)).await.expect("all tasks end");
    assert!(heard.load(SeqCst) && token.is_cancelled());
    assert!(matches!(why, Shutdown::Upgrade | Shutdown::Stop));
    flip.drain_async(Duration::from_secs(10)).await.expect("drained");
    flip.predecessor_exited().await.expect("no predecessor, or one that has exited");
    // The hooks read them.
    let error = flip.next_event_async().await.map(|_: Event| ()).expect_err("no events");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    CLOSING.store(true, SeqCst);
    flip.close();
    println!("CLOSED {pid}: {why:?}");
}
