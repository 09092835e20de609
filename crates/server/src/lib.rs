//! The gateway: HTTP surface, intake pipeline, jobs and lifecycle.
//!
//! | module | what is there |
//! |---|---|
//! | [`config`] | settings and where they come from |
//! | `admin` | what operators see and change |
//! | `accept`, `socket` | the accept loop, and what bounds every connection |
//! | `http` | one route, one file; replies; authentication |
//! | `gate` | networks, limits, places and turns of tenants |
//! | `intake` | an upload from its first byte to its row |
//! | `jobs` | purge, reaper, expirer, scrub |
//! | `links` | signed downloads |
//! | `moderation` | what an upload is asked before it lands |
//! | `origins` | which setting was set where |
//! | `outgoing` | clients for addresses that others have chosen |
//! | [`Stores`] | which stores there are, and who else may use them |
//! | `relay` | every other call of upstream's, on channels; [`json`] finds and replaces ids in them |
//! | `pay` | what reads cost, and counts of calls |
//! | `secrets` | what seals the keys of channels |
//! | `shared` | what replicas share through Redis |
//! | `lifecycle` | tasks that are waited for, and the order of a shutdown |

mod accept;
mod admin;
mod app;
pub mod config;
mod gate;
mod http;
mod intake;
mod jobs;
mod lifecycle;
mod links;
mod moderation;
mod origins;
mod outgoing;
mod pay;
mod relay;
mod rounds;
mod secrets;
mod shared;
mod socket;
mod stores;

use std::fs::File;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use filegate_store::migrate::refuse_unfinished;
use filegate_store::{Blobs, Catalog, DataDir, StoreError};
use filegate_types::{AdminScope, Clock, PlainKey, SystemClock, UnixMillis};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;

use app::{App, random};
use config::Config;
use gate::Gate;
use http::idempotency::InFlight;
use lifecycle::Tasks;
use links::{Links, SECRET_BYTES};
use moderation::Moderation;
use relay::Relay;
use secrets::Secrets;
use shared::Shared;
use shared::callers::Callers;
use shared::known::Known;
use shared::link::Link;

pub use admin::{LocalAdmin, admin_routes};
pub use http::openapi_document;
pub use http::range;
pub use intake::inspect_file;
pub use moderation::{ImageHashError, image_hash, normal_form};
pub use relay::json;
pub use secrets::unusable_keys;
pub use shared::{RedisFacts, RedisFault};
pub use stores::Stores;

/// How often metrics are folded together; without it histograms grow without bound.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Connections that may wait to be accepted; the kernel has a bound of its own, `net.core.somaxconn`. What comes beyond, in a
/// burst, waits for seconds or is reset. The standard library asks for 128.
const WAITING_MAX: u32 = 4096;

/// A running gateway.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    /// Where clients connect, with the port that was bound.
    pub address: SocketAddr,
    /// Where operators connect.
    pub admin_address: SocketAddr,
    /// The admin token, on the first start only: it is kept nowhere.
    pub admin_token: Option<String>,
    /// What the last process left behind and the start removed.
    pub swept: Swept,
    _lock: File,
}

/// What a start found of a crash.
#[derive(Debug, Clone, Copy, Default)]
pub struct Swept {
    /// Temporary files removed.
    pub temporary_files: u64,
    /// Uploads in progress whose bytes were given to the purge job.
    pub uploads: usize,
    /// Files that were in packs and not yet in the catalog.
    pub replayed: u64,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] config::ConfigError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Whoever is to be asked about uploads cannot be.
    #[error("moderation cannot be set up: {0}")]
    Moderation(String),
    /// What is to be shared through Redis cannot be.
    #[error("redis_url cannot be used: {0}")]
    Redis(String),
    /// The keys of channels can be neither sealed nor opened.
    #[error("channels cannot be used: {0}")]
    Sealing(String),
    /// Channels cannot be spoken to.
    #[error("TLS to channels cannot be set up")]
    Relay(#[source] rustls::Error),
    /// A stored secret is not one.
    #[error("the link secret in the catalog is damaged")]
    Secret,
}

impl Server {
    /// Opens the data directory and serves.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_at(config, Arc::new(SystemClock)).await
    }

    /// As [`start`](Self::start), with a clock of the caller's.
    pub async fn start_at(mut config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        config.check_serving()?;
        // A replica keeps nothing here but what it is receiving; two would sweep away each other's.
        let dir = DataDir::open_for(&config.data_dir, config.keeps_here())?;
        let lock = dir.lock()?;
        // Bound before anything is stored: a start that fails here must not use up the one showing
        // of the admin token.
        let public = listen(config.listen)?;
        let operators = listen(config.admin_listen)?;
        let address = bound(&public, config.listen)?;
        let admin_address = bound(&operators, config.admin_listen)?;
        config.listen = address;
        config.admin_listen = admin_address;

        let stores = Stores::open_in(&config, Some(&dir)).await?;
        let replayed = stores.replay().await?;
        refuse_unfinished(&stores.catalog).await?;
        let app = assemble(config, stores, clock).await?;
        let now = app.clock.now();
        let token = admin::new_token();
        let draft = admin::drafted(&token, "first".to_owned(), AdminScope::Full);
        let fresh = app.catalog.first_token(draft, now).await?;
        // Not earlier: on a first start the rows above need room more.
        if let Some(reserve) = &app.reserve {
            reserve.restore();
        }
        let swept = Swept { replayed, ..sweep(&app.catalog, &app.blobs, now).await? };

        shared::start(&app).await;
        let tasks = app.tasks.clone();
        let limits = app.config.limits.clone();
        for (listener, router) in [(public, http::public(&app)), (operators, http::operators(&app))]
        {
            let (limits, pieces) = (limits.clone(), app.pieces.clone());
            tasks.spawn(accept::serve(listener, router, limits, pieces, tasks.clone()));
        }
        jobs::start(&app);
        relay::start(&app);
        tasks.spawn(metrics_upkeep(Arc::clone(&app)));
        tasks.spawn(gate::upkeep(Arc::clone(&app)));
        tasks.spawn(relay::money::upkeep(Arc::clone(&app)));
        app.started.store(true, Ordering::Release);
        let admin_token = fresh.then_some(token);
        Ok(Self { app, address, admin_address, admin_token, swept, _lock: lock })
    }

    /// The catalog, for commands that run in the same process.
    pub fn catalog(&self) -> &Catalog {
        &self.app.catalog
    }

    /// Drains and stops. True if everything ended before the deadline of the configuration; what had
    /// not was dropped, and none of it was acknowledged.
    pub async fn stop(self) -> bool {
        let limits = &self.app.config.limits;
        self.app.tasks.drain(limits.drain.0).await;
        let ended = self.app.tasks.stop(limits.shutdown.0).await;
        // Else the next start finds out whose blobs there are.
        let settled = ended && !self.app.catalog.is_poisoned();
        if let Some(local) = self.app.blobs.as_local().filter(|_| settled).cloned() {
            let closing = tokio::task::spawn_blocking(move || local.close_packs());
            let _told_in_its_log = closing.await;
        }
        ended
    }
}

/// Puts everything together that handlers share. Nothing runs yet.
async fn assemble(
    config: Config,
    stores: Stores,
    clock: Arc<dyn Clock>,
) -> Result<Arc<App>, StartError> {
    let Stores { catalog, blobs, reserve } = stores;
    let (secret, _) = catalog.meta_init("link_secret", random::<SECRET_BYTES>().to_vec()).await?;
    let links = Links::new(&secret).ok_or(StartError::Secret)?;
    let moderation = Moderation::new(&config.moderation).map_err(StartError::Moderation)?;
    let secrets = Secrets::new(&config).map_err(|why| StartError::Sealing(why.to_string()))?;
    let tasks = Tasks::default();
    let redis = Link::new(&config).map_err(StartError::Redis)?;
    let shared = Shared::new(&config, redis.as_ref(), &tasks);
    let relay = Relay::new(&config, &tasks).map_err(StartError::Relay)?;
    Ok(Arc::new(App {
        relay,
        gate: Arc::new(Gate::new(&config, shared)),
        redis,
        callers: Arc::new(Callers::default()),
        known: Known::default(),
        catalog,
        blobs,
        reserve,
        clock,
        tasks,
        links,
        moderation,
        secrets,
        replica: filegate_types::hex(&random_id()),
        jobs_due: Notify::new(),
        counts: pay::Counts::default(),
        in_flight: InFlight::default(),
        pieces: intake::Pieces::default(),
        straight: intake::Straight::default(),
        metrics: recorder(),
        started: AtomicBool::new(false),
        config,
    }))
}

/// Removes what a crash left. The lock says that nobody else is at work in the directory.
async fn sweep(catalog: &Catalog, blobs: &Blobs, now: UnixMillis) -> Result<Swept, StoreError> {
    let temporary_files = filegate_store::sweep(catalog, blobs).await?;
    let mut swept = Swept { temporary_files, ..Swept::default() };
    if catalog.is_shared() {
        // Uploads in progress may be other replicas'; the leases of those that are nobody's end.
        return Ok(swept);
    }
    loop {
        let never = UnixMillis(i64::MAX);
        let reaped = match catalog.reap_uploads(never, now, jobs::BATCH).await {
            // The reaper comes to them when their leases have ended and deletes have made room.
            Err(error) if error.is_full() => {
                tracing::warn!("serve.full: no room to sweep up uploads that were cut off");
                return Ok(swept);
            }
            reaped => reaped?,
        };
        swept.uploads += reaped;
        // Of relayed calls that were cut off.
        let voided = catalog.reap_holds(never, jobs::BATCH).await?;
        if reaped.max(voided) < jobs::BATCH as usize {
            return Ok(swept);
        }
    }
}

/// Sends panics to the log, but for those of decoders on hostile files: they are caught where the
/// decoder is called and answered like any undecodable file.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if filegate_media::decoding() {
            tracing::debug!("media.decoder.panic");
        } else {
            let place = panic.location().map(ToString::to_string);
            tracing::error!(place, "panic: {}", panic.payload_as_str().unwrap_or("(no text)"));
        }
    }));
}

/// Random bits that tell one thing from another.
pub fn random_id() -> [u8; 16] {
    random()
}

/// A fresh API key.
pub fn new_key() -> PlainKey {
    PlainKey::from_random(random())
}

/// Listens as the standard library does, but with room for more connections that wait.
fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listening = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart does not wait until the kernel has forgotten the connections of before.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(WAITING_MAX)
    };
    listening().map_err(|source| StartError::Listen { address, source })
}

fn bound(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Listen { address, source })
}

/// The process's one metrics recorder.
fn recorder() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    let made = RECORDER.get_or_init(|| {
        let seconds =
            [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)
            .expect("the buckets are not empty");
        builder.install_recorder().expect("nothing else in the process records metrics")
    });
    describe();
    made.clone()
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!("filegate_requests_total", "Replies, by route, HTTP status and status_code");
    describe_histogram!("filegate_request_seconds", "Time to the head of a reply, by route");
    describe_counter!("filegate_uploads_total", "Uploads, by purpose and outcome");
    describe_counter!("filegate_upload_received_bytes_total", "Bytes of upload bodies");
    describe_counter!("filegate_upload_stored_bytes_total", "Bytes of stored files, by purpose");
    describe_histogram!("filegate_upload_seconds", "Uploads from head to outcome");
    describe_histogram!("filegate_upload_stage_seconds", "Stages of uploads");
    describe_counter!("filegate_moderation_total", "Moderation, by stage and outcome");
    describe_histogram!("filegate_moderation_seconds", "Stages of moderation");
    describe_gauge!("filegate_redis_up", "1 if Redis takes writes; absent without redis_url");
    describe_gauge!("filegate_uploads_in_flight", "Uploads being received or finished");
    describe_gauge!("filegate_connections", "Open connections");
    describe_counter!("filegate_channel_calls_total", "Calls to channels, by channel and outcome");
    describe_gauge!("filegate_channel_calls_in_flight", "Calls in progress on channels");
    describe_gauge!("filegate_channel_condition", "1 for the condition that a channel is in");
    describe_counter!("filegate_downloads_total", "Contents served, ranges included");
    describe_counter!("filegate_deletes_total", "Files deleted by clients");
    describe_counter!("filegate_store_errors_total", "Failed operations of the store");
    describe_counter!("filegate_jobs_total", "Jobs, by kind and outcome");
    describe_counter!("filegate_scrub_bytes_total", "Bytes re-read by the scrub");
    describe_counter!("filegate_scrub_damaged_total", "Files that the scrub found damaged");
}

async fn metrics_upkeep(app: Arc<App>) {
    loop {
        tokio::select! {
            () = app.tasks.stopping() => return,
            () = tokio::time::sleep(METRICS_UPKEEP) => app.metrics.run_upkeep(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_waits_to_be_accepted() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        // Beyond what the kernel holds it leaves a client waiting.
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5));
        let all: Vec<_> = (0..400).map(|_| connect().unwrap()).collect();
        assert_eq!(all.len(), 400);
    }
}
