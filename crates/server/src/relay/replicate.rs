//! A file's copy on a channel: made once, however many calls ask for it at the same time.
//!
//! ```text
//! 1 one flight     calls of this process that want the same file on the same channel wait for one flight of it
//! 2 claim          a row with a lease: flights of other replicas look at it again after growing pauses
//! 3 upload         streamed from the blob, each block checked; the lease is renewed meanwhile
//! 4 row            with upstream's id. COMMIT POINT of a copy
//! ```
//!
//! A crash after 2 or 3 leaves a claim, which ends with its lease; what upstream has stored by then has an id that
//! nobody knows, and stays until upstream forgets it. So does what an upload left whose answer was lost: it is
//! made once more, and then given up. A file that is deleted while it is copied is deleted upstream by a job, which
//! step 4 leaves instead of the row.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use filegate_client::{Client, ClientConfig, Error, Key, Upload};
use filegate_store::{self as store, BlobStream, Claim, StoreError};
use filegate_types::{AccountId, ApiError, BlobKey, ChannelId, FileId, PurposeName, UnixMillis};
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use futures_util::stream;
use tokio_util::io::StreamReader;

use super::health::Fault;
use crate::app::{App, random};
use crate::http::content;
use crate::http::reply::store_failed;

/// How long a claim lasts that is not renewed.
const LEASE: Duration = Duration::from_mins(1);
/// How soon others look at a claim again, at first and at last.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// Before an upload that failed is made once more.
const AGAIN_PAUSE: Duration = Duration::from_millis(200);
/// Before the row of a copy that is made is tried again.
const ROW_PAUSES: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];
/// How long upstream keeps inputs of videos (minimax-wire §2.1).
const VIDEO_KEPT: Duration = Duration::from_hours(7 * 24);

/// Where a copy is to be, and what it takes to make one there.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// The channel.
    pub(crate) channel_id: ChannelId,
    /// Its address, as operators gave it.
    pub(crate) base_url: String,
    /// Its key.
    pub(crate) key: Key,
    /// The `GroupId` that its account needs.
    pub(crate) group_id: Option<String>,
}

/// Why there is no copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReplicateError {
    /// The account has no such file (any more).
    NotFound,
    /// It is held back, damaged, or the store is away.
    Ours(ApiError),
    /// Upstream will not have this file, in its own words.
    Refused {
        /// Its code.
        code: i64,
        /// Its words.
        message: String,
    },
    /// The channel cannot take it now; another may.
    Channel(Fault),
}

/// A file on a channel, for its account.
type Place = (AccountId, FileId, ChannelId);
type Outcome = Result<Arc<str>, ReplicateError>;
type Flight = Shared<BoxFuture<'static, Outcome>>;

/// What this process copies at the moment, and with which clients.
#[derive(Default)]
pub(crate) struct Replicator {
    flights: Mutex<HashMap<Place, Flight>>,
    clients: Mutex<HashMap<ChannelId, (Endpoint, Client)>>,
    /// Copies that were used since it was written down.
    used: Mutex<HashSet<(FileId, ChannelId)>>,
}

impl fmt::Debug for Replicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicator")
            .field("flights", &locked(&self.flights).len())
            .finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sees that the file is on the channel; gives upstream's id of it there.
///
/// Whoever comes while it is being copied shares the outcome. The work ends even if all of them leave.
pub(crate) async fn ensure(
    app: &Arc<App>,
    account: AccountId,
    file_id: FileId,
    endpoint: &Endpoint,
) -> Outcome {
    let place = (account, file_id, endpoint.channel_id);
    let flight = {
        let mut flights = locked(&app.relay.replicator.flights);
        if let Some(flight) = flights.get(&place) {
            flight.clone()
        } else {
            // It takes itself out when it has ended, for which it needs the lock that is held here.
            let ended = Ended { app: Arc::clone(app), place };
            let (app, endpoint) = (Arc::clone(app), endpoint.clone());
            let work = app.tasks.clone().spawn(async move {
                let _ended = ended;
                observed(&app, account, file_id, &endpoint).await
            });
            let panicked = || Err(ReplicateError::Channel(Fault::Failed));
            let flight = work.map(move |done| done.unwrap_or_else(|_panic| panicked()));
            let flight = flight.boxed().shared();
            flights.insert(place, flight.clone());
            flight
        }
    };
    flight.await
}

/// Takes a flight out of those in progress, however it ended.
struct Ended {
    app: Arc<App>,
    place: Place,
}

impl Drop for Ended {
    fn drop(&mut self) {
        locked(&self.app.relay.replicator.flights).remove(&self.place);
    }
}

/// A client of the channel, the same as long as its address and key are.
pub(crate) fn client(app: &App, endpoint: &Endpoint) -> Result<Client, Error> {
    let mut clients = locked(&app.relay.replicator.clients);
    if let Some((known, client)) = clients.get(&endpoint.channel_id)
        && known.base_url == endpoint.base_url
        && known.key.expose() == endpoint.key.expose()
        && known.group_id == endpoint.group_id
    {
        return Ok(client.clone());
    }
    let relay = &app.config.relay;
    let client = Client::new(&ClientConfig {
        connect_timeout: relay.connect_timeout.0,
        idle_timeout: relay.answer_idle.0,
        answer_timeout: relay.answer_timeout.0,
        group_id: endpoint.group_id.clone(),
        ..ClientConfig::new(endpoint.base_url.clone(), Some(endpoint.key.clone()))
    })?;
    clients.insert(endpoint.channel_id, (endpoint.clone(), client.clone()));
    Ok(client)
}

/// Notes that a call has used copies; they are written down every few seconds.
pub(crate) fn used(app: &App, copies: impl IntoIterator<Item = (FileId, ChannelId)>) {
    locked(&app.relay.replicator.used).extend(copies);
}

/// Writes down which copies were used.
pub(crate) async fn write_down(app: &App) -> Result<(), StoreError> {
    let used = std::mem::take(&mut *locked(&app.relay.replicator.used));
    if used.is_empty() {
        return Ok(());
    }
    app.catalog.replica_used(used.into_iter().collect(), app.clock.now()).await
}

async fn observed(
    app: &Arc<App>,
    account: AccountId,
    file_id: FileId,
    endpoint: &Endpoint,
) -> Outcome {
    let started = Instant::now();
    let (outcome, uploaded) = match copy(app, account, file_id, endpoint).await {
        Ok((upstream_id, bytes)) => (Ok(upstream_id), bytes),
        Err(error) => (Err(error), None),
    };
    let named = match (&outcome, uploaded) {
        (Ok(_), Some(_)) => "copied",
        (Ok(_), None) => "there",
        (Err(ReplicateError::NotFound), _) => "not_found",
        (Err(ReplicateError::Ours(_)), _) => "ours",
        (Err(ReplicateError::Refused { .. }), _) => "refused",
        (Err(ReplicateError::Channel(_)), _) => "channel",
    };
    metrics::counter!("filegate_relay_replications_total", "outcome" => named).increment(1);
    metrics::counter!("filegate_relay_replicated_bytes_total").increment(uploaded.unwrap_or(0));
    metrics::histogram!("filegate_relay_replication_seconds", "outcome" => named)
        .record(started.elapsed().as_secs_f64());
    if let Err(error) = &outcome {
        tracing::info!(%file_id, channel = %endpoint.channel_id, ?error, "relay.replicate.failed");
    }
    outcome
}

/// Upstream's id, and the bytes that were uploaded if it was not there before.
async fn copy(
    app: &Arc<App>,
    account: AccountId,
    file_id: FileId,
    endpoint: &Endpoint,
) -> Result<(Arc<str>, Option<u64>), ReplicateError> {
    // Of one flight, and not of one process: what an earlier one left is not mistaken for ours.
    let holder = format!("{}:{}", app.replica, filegate_types::hex(&random::<6>()));
    let [mut pause, longest] = LOOK_AGAIN;
    loop {
        let now = app.clock.now();
        let claimed = app.catalog.claim_replica(
            account,
            file_id,
            endpoint.channel_id,
            holder.clone(),
            LEASE,
            now,
        );
        match claimed.await.map_err(ours)? {
            None => return Err(ReplicateError::NotFound),
            Some(Claim::Ready(replica)) => return Ok((replica.upstream_id.into(), None)),
            Some(Claim::Mine { .. }) => {
                let claimed = Claimed { app, account, file_id, endpoint, holder: &holder };
                if let Some(copied) = claimed.copy().await? {
                    return Ok(copied);
                }
            }
            // It was removed while it was copied to: the call goes to another.
            Some(Claim::Nowhere) => return Err(ReplicateError::Channel(Fault::Failed)),
            Some(Claim::Others { .. }) => {
                tokio::select! {
                    () = app.tasks.stopping() => return Err(ReplicateError::Channel(Fault::Failed)),
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(longest),
                }
            }
        }
    }
}

/// A claim of ours.
struct Claimed<'a> {
    app: &'a Arc<App>,
    account: AccountId,
    file_id: FileId,
    endpoint: &'a Endpoint,
    holder: &'a str,
}

impl Claimed<'_> {
    /// `None` if the claim was lost: it took so long that others have it now, or the file is gone.
    async fn copy(&self) -> Result<Option<(Arc<str>, Option<u64>)>, ReplicateError> {
        match self.holding(self.upload()).await {
            None => Ok(None),
            Some(Ok(Uploaded { upstream_id, bytes, expires_at })) => {
                let written = self.commit(&upstream_id, expires_at).await?;
                Ok(written.then_some((upstream_id, Some(bytes))))
            }
            Some(Err(error)) => {
                let (account, file, channel) =
                    (self.account, self.file_id, self.endpoint.channel_id);
                let given_back =
                    self.app.catalog.replica_failed(account, file, channel, self.holder.to_owned());
                if let Err(error) = given_back.await {
                    // It ends with its lease.
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "relay.replicate.claim"
                    );
                }
                Err(error)
            }
        }
    }

    /// Renews the claim while `work` goes on; `None` if it is lost.
    async fn holding<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        let mut held = Instant::now();
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                () = tokio::time::sleep(LEASE / 3) => {}
            }
            let until = self.app.clock.now().plus(LEASE);
            let (account, file, channel) = (self.account, self.file_id, self.endpoint.channel_id);
            let holder = self.holder.to_owned();
            let renewing = self.app.catalog.renew_replica(account, file, channel, holder, until);
            match renewing.await {
                Ok(true) => held = Instant::now(),
                Ok(false) => return None,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "relay.replicate.renew"
                    );
                    if held.elapsed() >= LEASE {
                        return None;
                    }
                }
            }
        }
    }

    async fn upload(&self) -> Result<Uploaded, ReplicateError> {
        let app = self.app;
        let found = app.catalog.file_with_sums(self.account, self.file_id, app.clock.now()).await;
        let (record, sums) = found.map_err(ours)?.ok_or(ReplicateError::NotFound)?;
        content::check_given_out(&record).map_err(ReplicateError::Ours)?;
        let sent = Sent {
            purpose: &record.purpose,
            filename: &record.filename,
            bytes: record.bytes,
            blob_key: &record.blob_key,
            sums: &sums,
        };
        send(app, self.endpoint, sent).await
    }

    /// Writes down that the copy is there; false if the claim was lost meanwhile.
    async fn commit(
        &self,
        upstream_id: &str,
        expires_at: Option<UnixMillis>,
    ) -> Result<bool, ReplicateError> {
        let mut pauses = ROW_PAUSES.into_iter();
        loop {
            let copy = store::Uploaded {
                account: self.account,
                file_id: self.file_id,
                channel_id: self.endpoint.channel_id,
                holder: self.holder.to_owned(),
                upstream_id: upstream_id.to_owned(),
                expires_at,
            };
            let error = match self.app.catalog.replica_uploaded(copy, self.app.clock.now()).await {
                Ok(written) => {
                    if !written {
                        // The same transaction has left a job that deletes it upstream.
                        self.app.relay.jobs_due.notify_one();
                    }
                    return Ok(written);
                }
                Err(error) => error,
            };
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(ours(error)),
            }
        }
    }
}

/// Bytes that have landed, on their way to a channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent<'a> {
    pub(crate) purpose: &'a PurposeName,
    pub(crate) filename: &'a str,
    pub(crate) bytes: u64,
    pub(crate) blob_key: &'a BlobKey,
    /// Of its blocks.
    pub(crate) sums: &'a [u8],
}

/// What upstream has taken.
#[derive(Debug)]
pub(crate) struct Uploaded {
    pub(crate) upstream_id: Arc<str>,
    bytes: u64,
    /// When upstream forgets it, as far as is published.
    pub(crate) expires_at: Option<UnixMillis>,
}

/// Uploads them, once more if that failed at once.
pub(crate) async fn send(
    app: &App,
    endpoint: &Endpoint,
    sent: Sent<'_>,
) -> Result<Uploaded, ReplicateError> {
    let client = client(app, endpoint).map_err(|error| {
        tracing::error!(%error, channel = %endpoint.channel_id, "relay.replicate.client");
        ReplicateError::Channel(Fault::Failed)
    })?;
    let mut again = true;
    loop {
        // From before it begins: upstream may have it from then on.
        let now = app.clock.now();
        let opened = app.blobs.open(sent.blob_key, sent.bytes, sent.sums.to_vec()).await;
        let source = StreamReader::new(pieces(opened.map_err(ours)?.stream(0, sent.bytes)));
        let (purpose, bytes) = (sent.purpose.as_str(), Some(sent.bytes));
        let upload = Upload::from_reader(purpose, sent.filename, bytes, source);
        let error = match client.upload(upload).await {
            Ok(reply) => {
                let file = reply.file.ok_or(ReplicateError::Channel(Fault::Failed))?;
                return Ok(Uploaded {
                    upstream_id: file.file_id.to_string().into(),
                    bytes: sent.bytes,
                    expires_at: upstream_expiry(sent.purpose, now),
                });
            }
            Err(error) => error,
        };
        if !(again && may_do_better(&error)) {
            return Err(meaning(error));
        }
        again = false;
        tokio::time::sleep(AGAIN_PAUSE).await;
    }
}

fn pieces(stream: BlobStream) -> impl stream::Stream<Item = io::Result<bytes::Bytes>> + Send {
    stream::try_unfold(stream, |mut stream| async move {
        let next = stream.next().await.map_err(io::Error::other)?;
        Ok(next.map(|piece| (piece, stream)))
    })
}

/// When upstream forgets a file of this purpose that comes to it now, as far as is published.
fn upstream_expiry(purpose: &PurposeName, now: UnixMillis) -> Option<UnixMillis> {
    let forgets = ["video_understanding", "video_generation_input"].contains(&purpose.as_str());
    forgets.then(|| now.plus(VIDEO_KEPT))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn ours(error: StoreError) -> ReplicateError {
    ReplicateError::Ours(store_failed(&error))
}

/// Whether the same upload may succeed at once: a connection that could not be made or broke off, a fault of
/// upstream. Not what took too long already.
fn may_do_better(error: &Error) -> bool {
    match error {
        Error::Http { status, .. } => *status >= 500,
        Error::Refused { status, .. } if *status >= 500 => true,
        error => error.is_unavailable() && !error.is_timeout(),
    }
}

/// What upstream's answer to an upload means.
fn meaning(error: Error) -> ReplicateError {
    let fault = match error {
        Error::Refused { code, message, status, retry_after_s, .. } => {
            match fault_of(code, status, retry_after_s) {
                Some(fault) => fault,
                None => return ReplicateError::Refused { code, message },
            }
        }
        Error::Http { status: 429, .. } => Fault::Limited(None),
        Error::Http { status: 401 | 403, .. } => Fault::KeyRefused,
        Error::Http { status: 402, .. } => Fault::OutOfBalance,
        // The shape of refusals of files that do not conform is not published.
        Error::Http { status: 400 | 413 | 415 | 422, .. } => {
            let message = "invalid params, the file was refused".to_owned();
            return ReplicateError::Refused { code: 2013, message };
        }
        Error::Source(error) => {
            return match error.downcast::<StoreError>() {
                Ok(error) => ours(error),
                Err(error) => ours(StoreError::Damaged(error.to_string())),
            };
        }
        error if error.is_connect() => Fault::Unreachable,
        error if error.is_timeout() => Fault::TimedOut,
        _ => Fault::Failed,
    };
    ReplicateError::Channel(fault)
}

/// What a code says of the channel; `None` if it is about the file.
fn fault_of(code: i64, status: u16, retry_after_s: Option<u64>) -> Option<Fault> {
    match (code, status) {
        (1002 | 1039 | 1041 | 2045, _) | (_, 429) => {
            Some(Fault::Limited(retry_after_s.map(Duration::from_secs)))
        }
        (1008, _) | (_, 402) => Some(Fault::OutOfBalance),
        (1004 | 2049, _) | (_, 401 | 403) => Some(Fault::KeyRefused),
        (1000 | 1001 | 1013 | 1024 | 1033, _) | (_, 500..) => Some(Fault::Failed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i64, status: u16, retry_after_s: Option<u64>) -> Error {
        Error::Refused { code, message: "words".to_owned(), trace_id: None, status, retry_after_s }
    }

    #[test]
    fn what_is_about_the_file_keeps_upstreams_words() {
        for code in [2013, 2037, 1026, 777] {
            let meant = meaning(refused(code, 200, None));
            assert_eq!(meant, ReplicateError::Refused { code, message: "words".to_owned() });
        }
        let nonconforming = meaning(Error::Http { status: 400, trace_id: None });
        assert!(matches!(nonconforming, ReplicateError::Refused { code: 2013, .. }));
    }

    #[test]
    fn what_is_about_the_channel_is_never_told_as_about_the_file() {
        for (error, fault) in [
            (refused(1002, 200, Some(7)), Fault::Limited(Some(Duration::from_secs(7)))),
            (refused(1041, 200, None), Fault::Limited(None)),
            (refused(2013, 429, None), Fault::Limited(None)),
            (refused(1008, 200, None), Fault::OutOfBalance),
            (refused(1004, 200, None), Fault::KeyRefused),
            (refused(2049, 401, None), Fault::KeyRefused),
            (refused(1000, 200, None), Fault::Failed),
            (refused(1013, 500, None), Fault::Failed),
            (Error::Http { status: 502, trace_id: None }, Fault::Failed),
            (Error::Http { status: 404, trace_id: None }, Fault::Failed),
            (Error::Http { status: 403, trace_id: None }, Fault::KeyRefused),
        ] {
            assert_eq!(meaning(error), ReplicateError::Channel(fault));
        }
    }

    #[test]
    fn only_what_may_do_better_is_tried_again() {
        for status in [500, 502, 503, 529] {
            assert!(may_do_better(&Error::Http { status, trace_id: None }), "{status}");
        }
        for status in [400, 401, 404, 429] {
            assert!(!may_do_better(&Error::Http { status, trace_id: None }), "{status}");
        }
        assert!(may_do_better(&refused(1000, 200, None)));
        assert!(!may_do_better(&refused(1002, 200, None)));
        assert!(!may_do_better(&refused(2013, 200, None)));
        let broken = |kind: io::ErrorKind| Error::Network {
            doing: "sending",
            connect: false,
            source: Box::new(io::Error::from(kind)),
        };
        assert!(may_do_better(&broken(io::ErrorKind::ConnectionReset)));
        assert!(!may_do_better(&broken(io::ErrorKind::TimedOut)));
    }

    #[test]
    fn only_inputs_of_videos_are_forgotten() {
        let expiry = |purpose: &str| {
            upstream_expiry(&PurposeName::try_from(purpose.to_owned()).unwrap(), UnixMillis(5))
        };
        let week = Some(UnixMillis(5 + 7 * 86_400_000));
        assert_eq!(expiry("video_understanding"), week);
        assert_eq!(expiry("video_generation_input"), week);
        assert_eq!(expiry("voice_clone"), None);
    }
}
