//! What every handler shares.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use filegate_store::{Blobs, Catalog, Reserve};
use filegate_types::Clock;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Notify;

use crate::config::Config;
use crate::gate::Gate;
use crate::http::idempotency::InFlight;
use crate::intake::{Pieces, Straight};
use crate::lifecycle::Tasks;
use crate::links::Links;
use crate::moderation::Moderation;
use crate::pay::Counts;
use crate::relay::Relay;
use crate::secrets::Secrets;
use crate::shared::callers::Callers;
use crate::shared::known::Known;
use crate::shared::link::Link;

/// The gateway, as handlers and jobs see it.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) catalog: Catalog,
    pub(crate) blobs: Blobs,
    /// Space for deletes, where the catalog is on a disk of ours.
    pub(crate) reserve: Option<Arc<Reserve>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) links: Links,
    pub(crate) moderation: Moderation,
    /// What seals the keys of channels.
    pub(crate) secrets: Secrets,
    /// The connection to Redis, if there is to be one.
    pub(crate) redis: Option<Arc<Link>>,
    /// Who was just let in, where replicas share the catalog.
    pub(crate) callers: Arc<Callers>,
    /// Who was let in since the catalog last changed, where it is embedded.
    pub(crate) known: Known,
    /// Limits, places and turns of tenants.
    pub(crate) gate: Arc<Gate>,
    /// What goes to channels.
    pub(crate) relay: Relay,
    /// Calls that are not written down yet.
    pub(crate) counts: Counts,
    /// Idempotency-Keys of requests that are being worked on.
    pub(crate) in_flight: InFlight,
    /// Memory of large uploads.
    pub(crate) pieces: Pieces,
    /// Small uploads that are being finished.
    pub(crate) straight: Straight,
    /// Tells this process from other replicas.
    pub(crate) replica: String,
    /// Wakes the job runner.
    pub(crate) jobs_due: Notify,
    pub(crate) metrics: PrometheusHandle,
    /// Whether start-up is done.
    pub(crate) started: AtomicBool,
}

impl App {
    /// Why requests should go elsewhere, if they should.
    pub(crate) async fn unready(&self) -> Option<&'static str> {
        if self.tasks.is_draining() || self.tasks.is_stopping() {
            return Some("stopping");
        }
        if !self.started.load(Ordering::Acquire) {
            return Some("starting");
        }
        match self.catalog.ping().await {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "ready.catalog.failed");
                Some("catalog unavailable")
            }
        }
    }
}

/// Bytes from the system's generator, which is asked for more than one number at a time.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    /// Bytes that one system call brings.
    const STORE: usize = 512;
    thread_local! {
        /// What is left of them, at the end.
        static LEFT: RefCell<([u8; STORE], usize)> = const { RefCell::new(([0; STORE], 0)) };
    }
    LEFT.with_borrow_mut(|(store, left)| {
        if *left < N {
            getrandom::fill(store).expect("the operating system gives random bytes");
            *left = STORE;
        }
        let taken = &mut store[*left - N..*left];
        *left -= N;
        let bytes = taken.try_into().expect("it is so long");
        // What was given away is known to nobody else.
        taken.fill(0);
        bytes
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::random;

    #[test]
    fn no_bytes_are_given_twice() {
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            assert!(seen.insert(random::<10>().to_vec()));
            assert!(seen.insert(random::<16>().to_vec()));
        }
        assert!(seen.iter().all(|bytes| bytes.iter().any(|byte| *byte != 0)));
    }
}
