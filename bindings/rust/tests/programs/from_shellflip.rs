//! A server on graceflip that counts its connections, and hands the count to its successor.
use graceflip::tokio::{Counted, ShutdownCoordinator, ShutdownHandle, ShutdownSignal, StopOnShutdown};
use graceflip::{Control, Failure, Flip};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

static SERVED: AtomicU64 = AtomicU64::new(0);

async fn serve(mut client: Counted<TcpStream>, handle: Arc<ShutdownHandle>) {
    let mut signal = ShutdownSignal::from(&*handle);
    let mut byte = [0];
    let line = format!("{}\n", SERVED.fetch_add(1, SeqCst) + 1);
    let _ = client.write_all(line.as_bytes()).await;
    loop {
        tokio::select! {
            read = client.read(&mut byte) => match read {
                Ok(1) => {}
                _ => return,
            },
            () = signal.on_shutdown() => {
                let _ = client.write_all(b"please leave\n").await;
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let socket = std::env::args().nth(2).unwrap_or("/tmp/counts.sock".into());
    if std::env::args().nth(3).as_deref() == Some("restart") {
        let there = Control::new(socket)?;
        println!("{}", there.upgrade_async().await?);
        return Ok(());
    }
    let flip = Flip::builder()
        .control_socket(socket)
        .on_starting_async(async |_: &str| {
            eprintln!("a new process is about to start");
            Ok::<_, String>(())
        })
        .on_state_async(async |state| state.write_u64(SERVED.load(SeqCst)).await)
        .on_failed_async(async |_: Failure, _: &str| eprintln!("it failed"))
        .build()?;
    flip.set_env("STARTED_BY", "an upgrade")?;
    if let Some(mut state) = flip.state_async().await? {
        SERVED.store(state.read_u64().await?, SeqCst);
    }
    let coordinator = ShutdownCoordinator::new();
    let mut clients = flip.tcp_stream(StopOnShutdown::Yes, address)?;
    flip.ready_async().await?;
    while let Some(client) = clients.accept().await {
        tokio::spawn(serve(client?, coordinator.handle()));
    }
    coordinator.shutdown_with_timeout(Duration::from_secs(30)).await;
    Ok(())
}
