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
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument as _;

/// Where all tasks are spawned, so that a shutdown can wait for them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    draining: Arc<AtomicBool>,
    stopping: CancellationToken,
}

/// See [`Tasks::to_its_end`].
pub(crate) struct ToItsEnd<F: Future<Output: Send + 'static> + Send + 'static> {
    /// What is left of it.
    future: Option<Pin<Box<F>>>,
    span: tracing::Span,
    tasks: Tasks,
    /// A stop waits from the beginning.
    _waited_for: TaskTrackerToken,
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Future for ToItsEnd<F> {
    type Output = thread::Result<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.future.as_mut().expect("it is not polled after its end");
        let ended = ready!(AssertUnwindSafe(future.as_mut()).catch_unwind().poll_unpin(cx));
        self.future = None;
        Poll::Ready(ended)
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Drop for ToItsEnd<F> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            self.tasks.spawn(future.instrument(self.span.clone()));
        }
    }
}

/// Runs `work`, which may block, here: for what would have to be waited for anyway, where a change of threads takes longer
/// than the work. Others go on on other threads.
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => tokio::task::block_in_place(work),
    }
}

impl Tasks {
    /// Runs `future` to its end, whoever waits for it.
    ///
    /// In a box: on its way into a task a future is moved several times, and those that finish an upload are of 15 KB.
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(Box::pin(future))
    }

    /// Runs `future` to its end, whoever waits for it, in place for as long as somebody does: a task of its own would be
    /// two changes of threads. Who waits no longer hands it to one. A panic is `Err`.
    pub(crate) fn to_its_end<F>(&self, future: F) -> ToItsEnd<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        ToItsEnd {
            future: Some(Box::pin(future)),
            span: tracing::Span::current(),
            tasks: self.clone(),
            _waited_for: self.tracker.token(),
        }
    }

    /// Does what can be done of `future` without waiting, now, and the rest on a task.
    pub(crate) fn now_or_later<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut future = Box::pin(future);
        // A panic within a panic would end the process.
        let done = !thread::panicking()
            && future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        if !done {
            self.spawn(future);
        }
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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_is_run_to_its_end_and_a_stop_waits_for_it() {
        let tasks = Tasks::default();
        let (goes_on, waits) = oneshot::channel::<()>();
        let (ends, ended) = oneshot::channel();
        let mut running = tasks.to_its_end(async move {
            waits.await.unwrap();
            ends.send("ended").unwrap();
        });
        assert!((&mut running).now_or_never().is_none());
        drop(running);
        assert!(!tasks.stop(Duration::ZERO).await);
        goes_on.send(()).unwrap();
        assert_eq!(ended.await.unwrap(), "ended");
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_stop_waits_for_what_was_never_polled_and_a_panic_is_an_error() {
        let tasks = Tasks::default();
        let running = tasks.to_its_end(async { 7 });
        assert!(!tasks.stop(Duration::ZERO).await);
        assert_eq!(running.await.unwrap(), 7);
        let panics = tasks.to_its_end(async { panic!("on purpose") });
        assert!(panics.await.is_err());
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn what_need_not_wait_is_done_at_once() {
        let tasks = Tasks::default();
        let (ends, mut ended) = oneshot::channel();
        tasks.now_or_later(async move { ends.send(1).unwrap() });
        assert_eq!(ended.try_recv(), Ok(1));
        let (ends, ended) = oneshot::channel();
        tasks.now_or_later(async move {
            tokio::task::yield_now().await;
            ends.send(2).unwrap();
        });
        assert_eq!(ended.await, Ok(2));
    }
}
