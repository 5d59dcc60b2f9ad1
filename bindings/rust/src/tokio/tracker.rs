//! tokio-util's tools, tied to shutdown.

use crate::error::{Error, Result};
use crate::flip::{Flip, Shutdown};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

impl Flip {
    /// A token that is cancelled when shutdown begins, by a task of the current runtime. Make one and give its children
    /// away (`child_token`): the task lives until then, and each call makes one, with two descriptors.
    pub fn cancellation_token(&self) -> Result<CancellationToken> {
        let (token, signal) = (CancellationToken::new(), self.shutdown_signal()?);
        let cancelled = token.clone();
        // Whoever cancels the token first ends the task too.
        tokio::spawn(async move {
            let waits = cancelled.clone();
            waits.run_until_cancelled(signal.wait()).await;
            cancelled.cancel();
        });
        Ok(token)
    }

    /// Waits for shutdown, then until every task of the tracker has ended, at most this long. A detach is none: the tasks go
    /// on, and it goes on waiting.
    ///
    /// [`crate::ErrorKind::TimedOut`]: some have not.
    pub async fn shutdown_of(&self, tasks: &TaskTracker, limit: Duration) -> Result<Shutdown> {
        // Not by a loop over `shutdown`: a detach is told once, and may be waited for elsewhere.
        self.shutdown_signal()?.wait().await;
        let why = self.shutdown().await?;
        tasks.close();
        match tokio::time::timeout(limit, tasks.wait()).await {
            Ok(()) => Ok(why),
            Err(_) => Err(Error::timed_out()),
        }
    }
}
