//! Waiting for every task of a group: each holds a handle, and the coordinator waits until the last one is dropped.

use super::ShutdownSignal;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Tells the tasks of a group that shutdown has begun, and waits until all have ended. It knows nothing of sockets or
/// processes: call [`ShutdownCoordinator::shutdown`] once [`crate::Flip::shutdown`] has returned, and not for a
/// [`crate::Shutdown::Detach`], after which the process goes on.
///
/// ```
/// use graceflip::tokio::{ShutdownCoordinator, ShutdownSignal};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let coordinator = ShutdownCoordinator::new();
/// let handle = coordinator.handle();
/// tokio::spawn(async move {
///     ShutdownSignal::from(&*handle).wait().await;
///     // finish, then drop the handle
/// });
/// assert!(coordinator.shutdown_with_timeout(Duration::from_secs(10)).await);
/// # }
/// ```
pub struct ShutdownCoordinator {
    handle: Arc<ShutdownHandle>,
    begin: watch::Sender<bool>,
    /// Ends once every handle is gone; nothing is ever sent.
    ended: mpsc::Receiver<()>,
}

/// Held by a task for as long as the coordinator shall wait for it.
pub struct ShutdownHandle {
    signal: ShutdownSignal,
    _held: Option<mpsc::Sender<()>>,
}

impl ShutdownCoordinator {
    /// A group without tasks.
    pub fn new() -> ShutdownCoordinator {
        let (begin, begun) = watch::channel(false);
        let (held, ended) = mpsc::channel(1);
        let handle = ShutdownHandle { signal: ShutdownSignal::of_coordinator(begun), _held: Some(held) };
        ShutdownCoordinator { handle: Arc::new(handle), begin, ended }
    }

    /// For a task that is waited for.
    pub fn handle(&self) -> Arc<ShutdownHandle> {
        Arc::clone(&self.handle)
    }

    /// For a task that is not waited for, but may start others that are: while it can be upgraded, shutdown has not begun,
    /// or some task has not ended.
    pub fn handle_weak(&self) -> Weak<ShutdownHandle> {
        Arc::downgrade(&self.handle)
    }

    /// Tells every task, and waits until the last handle is dropped. Dropped before that, the tasks have been told all the
    /// same.
    pub async fn shutdown(mut self) {
        let _ = self.begin.send(true);
        drop(self.handle);
        let _ = self.ended.recv().await;
    }

    /// The same, but waits no longer than this: whether every task has ended.
    pub async fn shutdown_with_timeout(self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.shutdown()).await.is_ok()
    }
}

impl Default for ShutdownCoordinator {
    fn default() -> ShutdownCoordinator {
        ShutdownCoordinator::new()
    }
}

/// One that is never told of anything, and that nobody waits for.
impl Default for ShutdownHandle {
    fn default() -> ShutdownHandle {
        ShutdownHandle { signal: ShutdownSignal::default(), _held: None }
    }
}

impl From<&ShutdownHandle> for ShutdownSignal {
    fn from(handle: &ShutdownHandle) -> ShutdownSignal {
        handle.signal.clone()
    }
}

impl fmt::Debug for ShutdownCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownCoordinator").finish_non_exhaustive()
    }
}

impl fmt::Debug for ShutdownHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownHandle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a future is done without being woken.
    fn done<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.poll(&mut context).is_ready()
    }

    #[test]
    fn a_group_without_tasks_is_over_at_once_and_one_with_a_task_when_that_ends() {
        assert!(done(std::pin::pin!(ShutdownCoordinator::new().shutdown())));
        let coordinator = ShutdownCoordinator::new();
        let (handle, weak) = (coordinator.handle(), coordinator.handle_weak());
        let mut over = std::pin::pin!(coordinator.shutdown());
        assert!(!done(over.as_mut()));
        assert!(weak.upgrade().is_some());
        drop(handle);
        assert!(weak.upgrade().is_none());
        assert!(done(over.as_mut()));
    }

    #[test]
    fn a_signal_is_heard_once_by_each_also_by_those_that_listen_late() {
        let coordinator = ShutdownCoordinator::new();
        let handle = coordinator.handle();
        let mut early = ShutdownSignal::from(&*handle);
        assert!(!done(std::pin::pin!(early.on_shutdown())));
        let mut over = std::pin::pin!(coordinator.shutdown());
        assert!(!done(over.as_mut()));
        let mut late = ShutdownSignal::from(&*handle);
        for signal in [&mut early, &mut late] {
            assert!(done(std::pin::pin!(signal.on_shutdown())));
            assert!(!done(std::pin::pin!(signal.on_shutdown())));
        }
    }

    #[test]
    fn a_default_handle_hears_of_nothing() {
        let mut signal = ShutdownSignal::from(&ShutdownHandle::default());
        assert!(!done(std::pin::pin!(signal.on_shutdown())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_left_behind_at_the_time_out() {
        let coordinator = ShutdownCoordinator::new();
        let handle = coordinator.handle();
        assert!(!coordinator.shutdown_with_timeout(Duration::from_secs(3)).await);
        drop(handle);
    }
}
