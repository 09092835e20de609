//! Starting and stopping: tasks that are waited for, and the order of a shutdown.
//!
//! ```text
//! 1 drain: /readyz says 503, each answer closes its connection, and all goes on (limits.drain)
//! 2 stop accepting
//! 3 connections finish the request they are in, then close
//! 4 tasks (landing, committing, reading refused bodies) end
//! 5 at the deadline whatever is left is dropped: nothing of it was acknowledged
//! ```
//!
//! Without the first step a balancer that has not heard yet sends requests where nobody listens, and one on a
//! connection that is kept alive may cross its close.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where all tasks are spawned, so that a shutdown can wait for them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    draining: Arc<AtomicBool>,
    stopping: CancellationToken,
}

impl Tasks {
    /// Runs `future` to its end, whoever waits for it.
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(future)
    }

    /// Runs `work` on a thread that may block, and waits for it at shutdown.
    pub(crate) fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn_blocking(work)
    }

    /// Ends when the server is stopping.
    pub(crate) async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Step 1: whatever is answered from now on is the last on its connection.
    pub(crate) async fn drain(&self, time: Duration) {
        if !time.is_zero() {
            self.draining.store(true, Ordering::Relaxed);
            tokio::time::sleep(time).await;
        }
    }

    /// Whether new requests should go elsewhere.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether the server is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Stops: asks everyone to end, and waits until all have or `deadline` has passed. True if all
    /// have.
    pub(crate) async fn stop(&self, deadline: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}
