//! Places of uploads in progress, of keys and accounts, counted for all replicas together.
//!
//! ```text
//! 1 take      a lease in Redis, of key and account or of neither     a crash: it ends by itself
//! 2 renew     every third of the lease, all of the replica at once
//! 3 leave     the lease is given back, before the upload is answered
//! ```
//!
//! A replica knows its own leases. What Redis has lost is written again with the next renewal, and at
//! once when it comes back; what could not be given back is given back then. So when Redis was away
//! its counts are right again a moment later, and those of a dead replica after a lease at most.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Script;
use tokio::sync::RwLock;

use super::link::{Away, Link};
use super::meters::id;
use crate::app::random;
use crate::gate::Subject;
use crate::lifecycle::Tasks;

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));

/// Keys in one call: Redis serves others in between.
const BATCH: usize = 200;
/// Leases that could not be given back and are remembered; more end by themselves.
const LEFT_MAX: usize = 10_000;

/// The leases of this replica.
#[derive(Debug)]
pub(crate) struct Leases {
    link: Arc<Link>,
    /// How long one lasts when nobody renews it.
    life: Duration,
    tasks: Tasks,
    state: Mutex<State>,
    /// Held for writing while leases are renewed, so that none is renewed that was given back.
    renewing: RwLock<()>,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<u128, Vec<Subject>>,
    left: Vec<(u128, Vec<Subject>)>,
}

/// A place of key and account, given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    leases: Arc<Leases>,
    id: Option<u128>,
}

impl Leases {
    pub(crate) fn new(link: Arc<Link>, life: Duration, tasks: Tasks) -> Self {
        let (state, renewing) = (Mutex::default(), RwLock::default());
        Self { link, life, tasks, state, renewing }
    }

    /// A place of each of `asked`, or which of them has none left.
    pub(crate) async fn take(
        self: &Arc<Self>,
        asked: &[(Subject, u32)],
    ) -> Result<Result<Lease, usize>, Away> {
        // Known before it is asked for: whoever goes away meanwhile gives it back.
        let lease = self.hold(asked.iter().map(|(subject, _)| *subject));
        let mut script = TAKE.arg(self.life.as_millis() as u64);
        script.arg(lease.name());
        for (subject, most) in asked {
            script.key(self.name(*subject)).arg(most);
        }
        match self.link.ask::<usize>(&script).await? {
            0 => Ok(Ok(lease)),
            none_left => {
                lease.forget();
                Ok(Err(none_left - 1))
            }
        }
    }

    /// A place that was not asked for, of whom none is asked at the moment: it counts when Redis is
    /// back.
    pub(crate) fn hold(self: &Arc<Self>, subjects: impl Iterator<Item = Subject>) -> Lease {
        let id = u128::from_be_bytes(random());
        self.lock().held.insert(id, subjects.collect());
        Lease { leases: Arc::clone(self), id: Some(id) }
    }

    /// Renews what is held and gives back what is not.
    pub(super) async fn renew(&self) -> Result<(), Away> {
        let _nobody_leaves = self.renewing.write().await;
        let (held, left) = {
            let mut state = self.lock();
            let held: Vec<_> = state.held.iter().map(|(id, of)| (*id, of.clone())).collect();
            (held, std::mem::take(&mut state.left))
        };
        let flat = |sign: char, leases: &[(u128, Vec<Subject>)]| -> Vec<(String, String)> {
            let each = leases.iter().flat_map(|(id, of)| of.iter().map(move |s| (*id, *s)));
            each.map(|(id, subject)| (self.name(subject), format!("{sign}{id:032x}"))).collect()
        };
        let all = [flat('-', &left), flat('+', &held)].concat();
        for batch in all.chunks(BATCH) {
            let mut script = RENEW.arg(self.life.as_millis() as u64);
            for (key, id) in batch {
                script.key(key).arg(id);
            }
            if let Err(away) = self.link.ask::<i64>(&script).await {
                self.lock().remember(left);
                return Err(away);
            }
        }
        Ok(())
    }

    /// Gives a lease back.
    async fn leave(self: Arc<Self>, id: u128) {
        let _not_renewed = self.renewing.read().await;
        let Some(of) = self.lock().held.remove(&id) else { return };
        let mut script = RENEW.arg(self.life.as_millis() as u64);
        for subject in &of {
            script.key(self.name(*subject)).arg(format!("-{id:032x}"));
        }
        if self.link.ask::<i64>(&script).await.is_err() {
            self.lock().remember(vec![(id, of)]);
        }
    }

    fn name(&self, subject: Subject) -> String {
        self.link.name(format_args!("u:{}", id(subject)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remember(&mut self, left: Vec<(u128, Vec<Subject>)>) {
        let room = LEFT_MAX.saturating_sub(self.left.len());
        self.left.extend(left.into_iter().take(room));
    }
}

impl Lease {
    /// Gives it back, and ends when that is done.
    pub(crate) async fn leave(mut self) {
        if let Some(id) = self.id.take() {
            // On a task of its own, so that it is given back even if nobody waits for it.
            let left = self.leases.tasks.spawn(Arc::clone(&self.leases).leave(id));
            let _panic_is_in_the_log = left.await;
        }
    }

    /// Of one that was refused there is nothing to give back.
    fn forget(mut self) {
        if let Some(id) = self.id.take() {
            self.leases.lock().held.remove(&id);
        }
    }

    fn name(&self) -> String {
        format!("{:032x}", self.id.unwrap_or_default())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.leases.tasks.spawn(Arc::clone(&self.leases).leave(id));
        }
    }
}

/// Renews all leases until the server stops, and once more then: that lasts for what drains.
pub(super) async fn keep(leases: Arc<Leases>, tasks: Tasks) {
    loop {
        let stopping = tokio::select! {
            () = tasks.stopping() => true,
            () = tokio::time::sleep(leases.life / 3) => false,
            () = leases.link.back() => false,
        };
        let _told_in_its_log = leases.renew().await;
        if stopping {
            return;
        }
    }
}
