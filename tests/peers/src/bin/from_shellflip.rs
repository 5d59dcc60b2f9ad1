//! A server on shellflip that counts its connections, and hands the count to its successor.
use async_trait::async_trait;
use shellflip::lifecycle::{LifecycleHandler, PipeWriter, receive_from_old_process};
use shellflip::{RestartConfig, ShutdownCoordinator, ShutdownHandle, ShutdownSignal};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

static SERVED: AtomicU64 = AtomicU64::new(0);

struct Handler;

#[async_trait]
impl LifecycleHandler for Handler {
    async fn pre_new_process(&mut self) {
        eprintln!("a new process is about to start");
    }

    async fn send_to_new_process(&mut self, mut write_pipe: PipeWriter) -> std::io::Result<()> {
        write_pipe.write_u64(SERVED.load(SeqCst)).await
    }

    async fn new_process_failed(&mut self) {
        eprintln!("it failed");
    }
}

async fn serve(mut client: TcpStream, handle: Arc<ShutdownHandle>) {
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
        let there =
            RestartConfig { enabled: true, coordination_socket_path: socket.into(), ..Default::default() };
        println!("{}", there.request_restart().await?);
        return Ok(());
    }
    if let Some(mut pipe) = receive_from_old_process() {
        SERVED.store(pipe.read_u64().await?, SeqCst);
    }
    let config = RestartConfig {
        enabled: true,
        coordination_socket_path: socket.into(),
        lifecycle_handler: Box::new(Handler),
        environment: vec![("STARTED_BY".into(), "an upgrade".into())],
        exit_on_error: false,
        ..Default::default()
    };
    let restart = config.try_into_restart_task()?;
    tokio::pin!(restart);
    let coordinator = ShutdownCoordinator::new();
    let listener = TcpListener::bind(address).await?;
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                tokio::spawn(serve(client, coordinator.handle()));
            }
            result = &mut restart => {
                result?;
                break;
            }
        }
    }
    drop(listener);
    coordinator.shutdown_with_timeout(30).await;
    Ok(())
}
