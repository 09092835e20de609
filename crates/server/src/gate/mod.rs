//! What stands before every call of a tenant: where its key may be used, what it may touch, how much it
//! may use, and whose turn it is.
//!
//! | question | answered in |
//! |---|---|
//! | where does it come from, may the key be used there | [`network`] |
//! | which purposes may the key touch | [`purposes`] |
//! | requests and bytes in a minute | [`limits`] |
//! | uploads in progress | [`places`] |
//! | whose upload is examined and committed next | [`fair`] |
//!
//! A limit of the key is asked before the account's: a key that floods then uses up what is its own,
//! and not what the account's other keys may use. What is refused by the account is charged to the
//! key alone.
//!
//! Limits are counted here, or in Redis for all replicas together ([`shared`](crate::shared)); while that
//! is away, here again or not at all, as the configuration says. A call that no limit applies to asks
//! nobody. What protects this machine (places of the gateway, turns) is always counted here.

pub(crate) mod fair;
pub(crate) mod limits;
pub(crate) mod network;
pub(crate) mod places;
pub(crate) mod purposes;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use filegate_types::tenant::TenantLimits;
use filegate_types::units::Bytes;
use filegate_types::{AccountId, ApiError, ChannelId, ErrorCode, KeyId, Principal};
use tokio::task::JoinHandle;

use crate::app::App;
use crate::config::Config;
use crate::shared::Shared;
use fair::{FairSemaphore, Permit};
use limits::{Allowance, Meters, Rate};
use places::{Place, Places};

/// How often what nobody uses any more is forgotten.
const SHRINK_EVERY: Duration = Duration::from_mins(1);
/// Uploads examined, landed and committed at a time beside two for each core: they wait for the
/// disk most of the time, and share its syncs.
const WAITING_FOR_DISK: usize = 8;

/// Uploads whose bytes go to S3 at a time: they wait for the network, a small one for some 50 ms.
const LANDINGS: usize = 128;

/// A channel's calls that may come at once are a minute's by this.
const CHANNEL_BURSTS: u32 = 10;

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// A key's own.
    Key(KeyId),
    /// That of all keys of an account together.
    Account(AccountId),
    /// An upstream account's, whoever calls.
    Channel(ChannelId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "this key",
            Self::Account(_) => "this account",
            Self::Channel(_) => "this channel",
        })
    }
}

/// Limits, places and turns of everybody.
#[derive(Debug)]
pub(crate) struct Gate {
    meters: Meters,
    /// Where limits are counted for all replicas.
    shared: Option<Shared>,
    places: Places,
    turns: FairSemaphore,
    landings: FairSemaphore,
}

impl Gate {
    pub(crate) fn new(config: &Config, shared: Option<Shared>) -> Self {
        let turns = match config.probe.parallel {
            0 => {
                let cores = std::thread::available_parallelism().map_or(2, usize::from);
                cores * 2 + WAITING_FOR_DISK
            }
            n => n,
        };
        let places = config.limits.uploads_max;
        Self {
            meters: Meters::new(),
            shared,
            places: Places::new(places, config.limits.upload_wait.0),
            // As many waiters as uploads: what was received whole is never turned away here.
            turns: FairSemaphore::new(turns, turns, places),
            landings: FairSemaphore::new(LANDINGS, LANDINGS, places),
        }
    }

    /// What is counted for all replicas together.
    pub(crate) fn shared(&self) -> Option<&Shared> {
        self.shared.as_ref()
    }

    /// Counts a request of `principal`; gives what is left of the tightest limit on requests.
    pub(crate) async fn request(
        &self,
        principal: &Principal,
    ) -> (Option<Allowance>, Result<(), ApiError>) {
        let [key, account] = limits_of(principal);
        if let Some(shared) = &self.shared {
            let rates = [key, account].map(|(subject, limits)| Some((subject, Rate::of(limits)?)));
            let asked: Vec<_> = rates.into_iter().flatten().collect();
            if asked.is_empty() {
                return (None, Ok(()));
            }
            match shared.meters.requests(&asked).await {
                Ok((left, counted)) => {
                    let left = left.into_iter().map(Some);
                    return (left.reduce(Allowance::tightest).flatten(), counted);
                }
                Err(away) => {
                    if let Err(refused) = shared.without(away) {
                        return (None, Err(refused));
                    }
                }
            }
        }
        let (of_key, counted) = self.meters.request(key.0, key.1);
        if counted.is_err() {
            return (of_key, counted);
        }
        let (of_account, counted) = self.meters.request(account.0, account.1);
        (Allowance::tightest(of_key, of_account), counted)
    }

    /// Counts a call to `channel`; seconds to wait if `per_minute` are used up. Where Redis is away each replica
    /// counts by itself, whatever is said for tenants: upstream has a limit of its own.
    pub(crate) async fn channel(&self, channel: ChannelId, per_minute: u32) -> Result<(), u32> {
        // A minute's worth at once would be two minutes' worth in one.
        let burst = per_minute.div_ceil(CHANNEL_BURSTS).max(1);
        let limits = TenantLimits {
            requests_per_minute: Some(per_minute),
            request_burst: Some(burst),
            ..TenantLimits::default()
        };
        let subject = Subject::Channel(channel);
        let wait = |error: ApiError| error.retry_after_s.unwrap_or(1);
        if let (Some(shared), Some(rate)) = (&self.shared, Rate::of(&limits))
            && let Ok((_left, counted)) = shared.meters.requests(&[(subject, rate)]).await
        {
            return counted.map_err(wait);
        }
        self.meters.request(subject, &limits).1.map_err(wait)
    }

    /// Lets an upload in, before any of its body is read: a place for as long as it is in progress,
    /// and the count of what it brings if it does not say how much.
    pub(crate) async fn upload(
        self: &Arc<Self>,
        principal: &Principal,
        declared: Option<u64>,
    ) -> Result<(Place, Option<Tally>), ApiError> {
        let place = self.places.enter(principal, self.shared.as_ref()).await?;
        if let Err(error) = self.charge(principal, declared).await {
            place.leave().await;
            return Err(error);
        }
        let of = limited_bytes(principal);
        if declared.is_some() || of.is_empty() {
            return Ok((place, None));
        }
        Ok((place, Some(Tally { gate: Arc::clone(self), of, bytes: 0 })))
    }

    /// Charges the bytes of an upload before it is read.
    async fn charge(&self, principal: &Principal, declared: Option<u64>) -> Result<(), ApiError> {
        let asked = limited_bytes(principal);
        if asked.is_empty() {
            return Ok(());
        }
        if let Some(shared) = &self.shared {
            match shared.meters.upload(&asked, declared).await {
                Ok(charged) => return charged,
                Err(away) => shared.without(away)?,
            }
        }
        for (subject, per_minute) in asked {
            self.meters.upload(subject, per_minute, declared)?;
        }
        Ok(())
    }

    /// Charges what came of an upload that had not said how much it brings.
    async fn received(&self, of: Vec<(Subject, Bytes)>, bytes: u64) {
        if let Some(shared) = &self.shared
            && shared.meters.received(&of, bytes).await.is_ok()
        {
            return;
        }
        for (subject, per_minute) in of {
            self.meters.received(subject, per_minute, bytes);
        }
    }

    /// The account's turn to use processor and disk.
    pub(crate) async fn turn(&self, account: AccountId) -> Result<Permit, ApiError> {
        self.turns.acquire(account).await.map_err(queue_full)
    }

    /// The account's turn to send bytes to S3.
    pub(crate) async fn landing(&self, account: AccountId) -> Result<Permit, ApiError> {
        self.landings.acquire(account).await.map_err(queue_full)
    }
}

fn queue_full(fair::QueueFull: fair::QueueFull) -> ApiError {
    ApiError::detailed(ErrorCode::RateLimit, "too many uploads of this account wait").retry_after(1)
}

/// Counts the bytes of a body of unknown length; they are charged when it is settled or dropped,
/// however the upload ended.
#[derive(Debug)]
pub(crate) struct Tally {
    gate: Arc<Gate>,
    of: Vec<(Subject, Bytes)>,
    bytes: u64,
}

impl Tally {
    /// So many more came.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Charges them, and ends when that is done.
    pub(crate) async fn settle(mut self) {
        if let Some(charged) = self.charge() {
            let _panic_is_in_the_log = charged.await;
        }
    }

    /// Charges them once; what others count is told on a task of its own, whoever waits for it.
    fn charge(&mut self) -> Option<JoinHandle<()>> {
        let of = std::mem::take(&mut self.of);
        if of.is_empty() || self.bytes == 0 {
            return None;
        }
        let (gate, bytes) = (Arc::clone(&self.gate), self.bytes);
        if let Some(shared) = &self.gate.shared {
            return Some(shared.tasks.spawn(async move { gate.received(of, bytes).await }));
        }
        for (subject, per_minute) in of {
            gate.meters.received(subject, per_minute, bytes);
        }
        None
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let _nobody_waits = self.charge();
    }
}

/// The limits on bytes that apply to `principal`.
fn limited_bytes(principal: &Principal) -> Vec<(Subject, Bytes)> {
    let each = limits_of(principal).into_iter();
    each.filter_map(|(subject, limits)| Some((subject, limits.bytes_per_minute?))).collect()
}

fn limits_of(principal: &Principal) -> [(Subject, &TenantLimits); 2] {
    [
        (Subject::Key(principal.key_id), &principal.key_limits),
        (Subject::Account(principal.account_id), &principal.account_limits),
    ]
}

/// Forgets idle keys and accounts until the server stops.
pub(crate) async fn upkeep(app: Arc<App>) {
    loop {
        tokio::select! {
            () = app.tasks.stopping() => return,
            () = tokio::time::sleep(SHRINK_EVERY) => app.gate.meters.shrink(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use filegate_types::tenant::AccountSettings;
    use filegate_types::{Money, Scopes};

    use super::*;

    /// Somebody without limits.
    pub(crate) fn principal(key: i64, account: i64) -> Principal {
        Principal {
            account_id: AccountId(account),
            key_id: KeyId(key),
            scopes: Scopes::all(),
            purposes: None,
            networks: vec![],
            key_limits: TenantLimits::default(),
            account_limits: TenantLimits::default(),
            settings: AccountSettings::default(),
            available: Money(0),
            key_expires_at: None,
            least_price: Money(0),
            priced: false,
        }
    }

    #[tokio::test]
    async fn a_flooding_key_does_not_use_up_its_account() {
        let gate = Gate::new(&Config::default(), None);
        let mut flooding = principal(1, 1);
        flooding.key_limits.requests_per_minute = Some(2);
        flooding.account_limits.requests_per_minute = Some(5);
        let mut other = flooding.clone();
        other.key_id = KeyId(2);
        other.key_limits.requests_per_minute = None;
        for _ in 0..50 {
            let _ = gate.request(&flooding).await;
        }
        for remaining in [2, 1, 0] {
            let (left, counted) = gate.request(&other).await;
            assert_eq!((left.unwrap().remaining, counted), (remaining, Ok(())));
        }
        let over = gate.request(&other).await.1.unwrap_err();
        assert!(over.message().contains("5 requests per minute of this account"), "{over}");
    }
}
