//! Hearing of shutdown in many tasks.

use super::Ending;
use crate::error::Result;
use crate::flip::Flip;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use tokio::sync::watch;

/// Hears of shutdown: of a [`Flip`]'s, or of a [`super::ShutdownCoordinator`]'s. Clones hear of the same one, each for itself, and
/// cost no descriptor. The default one never hears of any.
#[derive(Clone, Default)]
pub struct ShutdownSignal(Source);

#[derive(Clone, Default)]
enum Source {
    Process(Arc<Ending>),
    Coordinator(watch::Receiver<bool>),
    #[default]
    Never,
}

impl ShutdownSignal {
    /// Waits until shutdown begins, once: after it has returned it waits for ever, so that it can stand in a `select!` in a loop.
    /// May be dropped at any time.
    pub async fn on_shutdown(&mut self) {
        match &mut self.0 {
            Source::Process(ending) => ending.come().await,
            Source::Coordinator(begun) => {
                // An error: the coordinator is gone, which is a shutdown.
                let _ = begun.wait_for(|begun| *begun).await;
            }
            Source::Never => pending().await,
        }
        self.0 = Source::Never;
    }

    /// Waits until shutdown begins: a future that borrows nothing, for servers that take one.
    pub async fn wait(mut self) {
        self.on_shutdown().await;
    }

    pub(crate) fn of_coordinator(begun: watch::Receiver<bool>) -> ShutdownSignal {
        ShutdownSignal(Source::Coordinator(begun))
    }
}

impl Flip {
    /// Hears of this process's shutdown, in as many tasks as it is cloned for; a detach is none. An error: the runtime
    /// cannot watch a further descriptor.
    pub fn shutdown_signal(&self) -> Result<ShutdownSignal> {
        Ok(ShutdownSignal(Source::Process(Arc::new(Ending::new(self)?))))
    }
}

impl fmt::Debug for ShutdownSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownSignal").finish_non_exhaustive()
    }
}
