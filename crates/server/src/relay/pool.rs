//! Connections of a channel that are kept for the next call, and what moves them.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use hyper::client::conn::http1;
use sync_wrapper::SyncWrapper;
use tokio::time::{Instant, sleep};

use crate::config::Relay as Settings;
use crate::lifecycle::Tasks;
use crate::rounds::Rounds;

/// How long a connection is kept without a call.
pub(crate) const KEPT: Duration = Duration::from_secs(30);
/// How long it may have been, for a call that cannot be sent again: common servers close after five seconds, and
/// a close that crosses a request leaves nobody knowing.
pub(crate) const KEPT_FOR_LASTING: Duration = Duration::from_secs(3);
/// How often kept connections are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// The connections of a channel that are kept for the next call.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    max: usize,
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Idle {
    /// The one that was used last is the last.
    kept: VecDeque<Kept>,
    /// Whether somebody closes those that have been here for too long.
    is_swept: bool,
}

#[derive(Debug)]
struct Kept {
    wire: Wire,
    since: Instant,
}

/// A connection and what moves it.
///
/// The call that uses it moves it: a task of its own would be four changes of tasks for each call, some of them of
/// threads. Where the call may stop looking while the connection has to go on, it becomes a task ([`Wire::detach`]).
pub(super) struct Wire {
    pub(super) sender: http1::SendRequest<Body>,
    /// `None` if it is a task, or has ended.
    driver: Option<SyncWrapper<Driver>>,
    rounds: Rounds,
}

pub(super) type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

impl Wire {
    pub(super) fn new(sender: http1::SendRequest<Body>, driver: Driver) -> Self {
        Self { sender, driver: Some(SyncWrapper::new(driver)), rounds: Rounds::default() }
    }

    /// Polls with `poll`, and the connection meanwhile.
    pub(super) fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self { driver, rounds, .. } = self;
        rounds.poll(cx, |cx| {
            let polled = poll(cx);
            if polled.is_ready() || !drive(driver, cx) {
                return polled;
            }
            poll(cx)
        })
    }

    /// Whether it can carry another request, as far as is known.
    fn is_open(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        !self.sender.is_closed()
    }

    /// From now on it is moved by a task.
    pub(super) fn detach(&mut self, pool: &Arc<Pool>) {
        let Some(driver) = self.driver.take() else { return };
        let mut driver = driver.into_inner();
        let (pool, tasks) = (Arc::clone(pool), pool.tasks.clone());
        pool.tasks.clone().spawn(async move {
            let ended = tokio::select! {
                ended = driver.as_mut() => ended,
                () = tasks.stopping() => {
                    pool.clear();
                    driver.await
                }
            };
            log_end(ended);
        });
    }
}

/// Whether there was something to be moved.
fn drive(driver: &mut Option<SyncWrapper<Driver>>, cx: &mut Context<'_>) -> bool {
    let Some(moved) = driver else { return false };
    if let Poll::Ready(ended) = moved.get_mut().as_mut().poll(cx) {
        log_end(ended);
        *driver = None;
    }
    true
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "relay.connection.ended");
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(settings: &Settings, tasks: &Tasks) -> Arc<Self> {
        let max = settings.idle_connections;
        Arc::new(Self { idle: Mutex::default(), max, tasks: tasks.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last, if it was used within `kept_for` and upstream has not closed it since.
    pub(super) fn take(&self, kept_for: Duration) -> Option<Wire> {
        // A task of its own may have to move before it is ready: it is left for a later call.
        let mut not_yet = vec![];
        let found = loop {
            let Some(mut last) = self.lock().kept.pop_back() else { break None };
            let fresh = last.since.elapsed() < kept_for;
            if fresh && last.wire.is_open() {
                if last.wire.sender.is_ready() {
                    break Some(last.wire);
                }
                not_yet.push(last);
            } else if !fresh {
                // And so are all before it; for another call one may be good enough.
                not_yet.push(last);
                break None;
            }
        };
        if !not_yet.is_empty() {
            self.lock().kept.extend(not_yet.into_iter().rev());
        }
        found
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn give_back(self: &Arc<Self>, mut wire: Wire) {
        if !wire.is_open() {
            return;
        }
        let mut idle = self.lock();
        // Asked while the lock is held: who clears when the gateway stops comes after that.
        if self.max == 0 || self.tasks.is_stopping() {
            return;
        }
        // The newest is the one to keep: the oldest may be too old for most calls.
        let oldest = if idle.kept.len() < self.max { None } else { idle.kept.pop_front() };
        idle.kept.push_back(Kept { wire, since: Instant::now() });
        if !std::mem::replace(&mut idle.is_swept, true) {
            self.tasks.spawn(Arc::clone(self).sweep());
        }
        drop(idle);
        drop(oldest);
    }

    /// Closes what was not used for too long or was closed by upstream, until nothing is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = sleep(SWEEP) => {}
                () = self.tasks.stopping() => return self.clear(),
            }
            let mut idle = self.lock();
            idle.kept.retain_mut(|kept| kept.since.elapsed() < KEPT && kept.wire.is_open());
            if idle.kept.is_empty() {
                idle.is_swept = false;
                return;
            }
        }
    }

    /// Closes what nobody uses: when the gateway stops, or the channel is no longer called.
    pub(crate) fn clear(&self) {
        let closed = std::mem::take(&mut self.lock().kept);
        drop(closed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::tests::{connected, used};
    use super::*;

    #[tokio::test]
    async fn old_connections_make_room_for_new_ones() {
        let (pool, made, listener) = connected(2, 3).await;
        let mut made = made.into_iter();
        let mut use_next = async || {
            let mut peer = listener.accept().await.unwrap().0;
            used(made.next().unwrap(), &mut peer).await;
            peer
        };
        let _old = [use_next().await, use_next().await];
        tokio::time::pause();
        tokio::time::advance(KEPT_FOR_LASTING).await;
        assert!(pool.take(KEPT_FOR_LASTING).is_none());
        assert_eq!(pool.lock().kept.len(), 2);
        let _new = use_next().await;
        assert_eq!(pool.lock().kept.len(), 2);
        assert!(pool.take(KEPT_FOR_LASTING).is_some());
        // What may be sent again is sent on the old one.
        assert!(pool.take(KEPT_FOR_LASTING).is_none());
        assert!(pool.take(KEPT).is_some());
    }

    #[tokio::test]
    async fn what_upstream_has_closed_is_not_used() {
        let (pool, made, listener) = connected(2, 1).await;
        let mut peer = listener.accept().await.unwrap().0;
        used(made.into_iter().next().unwrap(), &mut peer).await;
        drop(peer);
        while pool.lock().kept[0].wire.is_open() {
            tokio::task::yield_now().await;
        }
        assert!(pool.take(KEPT).is_none());
        assert!(pool.lock().kept.is_empty());
    }
}
