//! The server of shellflip's example, speaking HTTP on hyper. SIGUSR1 restarts it.
//!
//! shellflip passes no sockets on: each process of the example listens on a port of its own, which no client of a server
//! can follow. There are two ways to stay on one address. Under systemd with a socket unit every generation inherits
//! the one listener, since shellflip renews LISTEN_PID; that is what it was made for. Otherwise each one listens
//! itself, with SO_REUSEPORT. LISTEN_FDS decides.

use bench_peers::{LIMIT, address, connection, live};
use shellflip::{RestartConfig, ShutdownCoordinator, ShutdownHandle, ShutdownSignal, startup_complete};
use socket2::{Domain, Socket, Type};
use std::os::fd::FromRawFd;
use std::pin::pin;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

fn listen() -> std::io::Result<TcpListener> {
    let socket = if std::env::var("LISTEN_FDS").is_ok() {
        // SAFETY: sd_listen_fds(3): the first one is descriptor 3, and nobody else in this process takes it.
        unsafe { Socket::from_raw_fd(3) }
    } else {
        let address = address();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        socket
    };
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

async fn serve(stream: TcpStream, handle: Arc<ShutdownHandle>) {
    let mut signal = ShutdownSignal::from(&*handle);
    let mut serving = pin!(connection(stream));
    loop {
        tokio::select! {
            _ = serving.as_mut() => return,
            () = signal.on_shutdown() => serving.as_mut().graceful_shutdown(),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut restarted = pin!(RestartConfig::default().try_into_restart_task()?);
    let coordinator = ShutdownCoordinator::new();
    let listener = listen()?;
    startup_complete()?;
    live();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                tokio::spawn(serve(stream, coordinator.handle()));
            }
            result = &mut restarted => {
                result?;
                break;
            }
        }
    }
    drop(listener);
    coordinator.shutdown_with_timeout(LIMIT.as_secs()).await;
    Ok(())
}
