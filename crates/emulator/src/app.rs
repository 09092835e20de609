//! What every call can reach, and the tasks of the emulator.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Options;
use crate::calls::Calls;
use crate::clock::Clock;
use crate::faults::Faults;
use crate::links::Links;
use crate::rng::Rng;
use crate::world::World;

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) options: Options,
    pub(crate) clock: Clock,
    pub(crate) links: Links,
    pub(crate) tasks: Tasks,
    /// For callbacks.
    pub(crate) http: reqwest::Client,
    world: Mutex<World>,
    faults: Mutex<Faults>,
    calls: Mutex<Calls>,
    traces: Mutex<Rng>,
}

impl App {
    pub(crate) fn new(options: Options, address: SocketAddr) -> io::Result<Arc<Self>> {
        let public = options.public_url.clone().unwrap_or_else(|| format!("http://{address}"));
        Ok(Arc::new(Self {
            clock: Clock::new(options.clock),
            links: Links::new(&public, options.seed),
            tasks: Tasks::default(),
            http: crate::callbacks::client().map_err(io::Error::other)?,
            world: Mutex::new(World::new(&options)),
            faults: Mutex::new(Faults::new(options.seed, options.script.clone())),
            calls: Mutex::default(),
            traces: Mutex::new(Rng::new(options.seed, 1)),
            options,
        }))
    }

    /// Accounts, files, voices, tasks. Never held across an await (a lint sees to it).
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        unpoisoned(&self.world)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        unpoisoned(&self.faults)
    }

    pub(crate) fn calls(&self) -> MutexGuard<'_, Calls> {
        unpoisoned(&self.calls)
    }

    /// 32 hex digits, as `Trace-Id` has them.
    pub(crate) fn trace_id(&self) -> String {
        let mut rng = unpoisoned(&self.traces);
        format!("{:016x}{:016x}", rng.next(), rng.next())
    }
}

/// A test that made a handler panic is to see the next call work.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where all tasks are spawned, so that a stop can wait for them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    pub(crate) fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(future);
    }

    /// Runs `work` on a thread that may block.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.tracker.spawn_blocking(work).await.ok()
    }

    /// Ends when the emulator is stopping.
    pub(crate) async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    pub(crate) async fn stop(&self, deadline: Duration) {
        self.stopping.cancel();
        self.tracker.close();
        let _cut = tokio::time::timeout(deadline, self.tracker.wait()).await;
    }
}
