//! What a relayed call costs: held before it, captured when it has succeeded, given back when it has not.
//!
//! A hold is a row with a lease, which one task renews for all calls of this process. A crash leaves it to the
//! reaper. What costs nothing holds nothing: it is counted in memory and written down every few seconds, as reads
//! are.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use filegate_store::{
    CostRow, FirstAnswer, KeptAnswer, NewHold, Relayed, RelayedUsage, StoreError,
};
use filegate_types::{
    AccountId, ApiError, ChannelId, ErrorCode, KeyId, Money, PriceUnit, Principal,
};
use http::HeaderMap;
use sha2::{Digest as _, Sha256};

use crate::app::{App, random};
use crate::http::idempotency::{NOT_A_KEY, NotAKey, Taken, key_of};
use crate::http::reply::store_failed;
use crate::pay;

/// How long a hold lasts that is not renewed.
const LEASE: Duration = Duration::from_mins(3);
/// How long costs are used before they are read again.
const COSTS_LIFE: Duration = Duration::from_secs(5);
/// Distinct counts that are kept in memory; more are written down at once.
const COUNTS_MAX: usize = 10_000;
/// Before a capture is tried again that the store did not take.
const CAPTURE_PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];

/// The holds of calls in progress, and counts of those that cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Books {
    held: Mutex<HashSet<String>>,
    counts: Mutex<HashMap<Counted, Sums>>,
    /// What upstream takes, and when that was read.
    costs: Mutex<Option<(Instant, Arc<Vec<CostRow>>)>>,
}

type Counted = (AccountId, KeyId, ChannelId, String);

#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    calls: u64,
    units: u64,
    bytes: u64,
    cost: Money,
}

impl Books {
    /// What upstream takes on all channels. It is only for reports: where it cannot be read, what was known is.
    pub(crate) async fn costs(&self, app: &App) -> Arc<Vec<CostRow>> {
        let known = locked(&self.costs).clone();
        if let Some((read_at, costs)) = &known
            && read_at.elapsed() < COSTS_LIFE
        {
            return Arc::clone(costs);
        }
        let costs = match app.catalog.costs().await {
            Ok(costs) => Arc::new(costs),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "relay.costs.failed");
                known.map(|(_, costs)| costs).unwrap_or_default()
            }
        };
        *locked(&self.costs) = Some((Instant::now(), Arc::clone(&costs)));
        costs
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The money of a call. Dropped before it is [captured](Self::capture), what it holds is given back.
#[derive(Debug)]
pub(crate) struct Hold {
    app: Arc<App>,
    account: AccountId,
    key: KeyId,
    path: String,
    /// The row, if the path has a price.
    row: Option<String>,
}

/// How a call has succeeded.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    /// Where.
    pub(crate) channel: ChannelId,
    /// What its reply counts; 0 if it counts nothing.
    pub(crate) units: u64,
    /// Bytes of request and reply.
    pub(crate) bytes: u64,
    /// What upstream takes for it.
    pub(crate) cost: Money,
    /// Its answer, if it is to be given again: with whose key, its status and body.
    pub(crate) first: Option<(FirstAnswer, u16, Vec<u8>)>,
}

impl Hold {
    /// Holds what a call of `path` with a body of so many bytes can cost.
    pub(crate) async fn begin(
        app: &Arc<App>,
        principal: &Principal,
        path: &str,
        body_bytes: u64,
    ) -> Result<Self, ApiError> {
        let mut hold = Self {
            app: Arc::clone(app),
            account: principal.account_id,
            key: principal.key_id,
            path: path.to_owned(),
            row: None,
        };
        if !principal.priced {
            return Ok(hold);
        }
        pay::can_pay(principal)?;
        let hold_id = filegate_types::hex(&random::<16>());
        // A body cannot count more units than it has bytes: a character, a token is at least one.
        let units_max = app.config.relay.units_held.max(body_bytes);
        let now = app.clock.now();
        // Noted first: if this future is dropped, the row may be there all the same.
        locked(&app.relay.books.held).insert(hold_id.clone());
        hold.row = Some(hold_id.clone());
        let new = NewHold {
            hold_id,
            account: hold.account,
            key: hold.key,
            path: hold.path.clone(),
            units_max,
            lease_until: now.plus(LEASE),
        };
        let taken = app.catalog.hold_relay(new, now).await;
        match taken.map_err(|error| store_failed(&error))? {
            Ok(taken) => {
                if taken.amount.is_zero() {
                    hold.forget();
                }
                Ok(hold)
            }
            Err(short) => {
                hold.forget();
                Err(pay::refused(short))
            }
        }
    }

    /// Whether anything is held.
    pub(crate) fn is_held(&self) -> bool {
        self.row.is_some()
    }

    /// Takes what the call did cost, and counts it. COMMIT POINT of a call that is paid.
    pub(crate) async fn capture(mut self, settled: Settled) -> Result<Money, StoreError> {
        let Some(hold_id) = self.row.clone() else {
            if settled.first.is_none() {
                self.count(&settled);
                return Ok(Money::ZERO);
            }
            return self.write(String::new(), settled).await;
        };
        let captured = self.write(hold_id, settled).await;
        // Where that failed, whether it was captured is not known. If it was not, the reaper gives it back.
        self.forget();
        captured
    }

    async fn write(&self, hold_id: String, settled: Settled) -> Result<Money, StoreError> {
        let mut pauses = CAPTURE_PAUSES.into_iter();
        loop {
            let relayed = Relayed {
                key: self.key,
                channel: settled.channel,
                path: self.path.clone(),
                units: settled.units,
                cost: settled.cost,
                first_answer: settled.first.clone(),
            };
            let now = self.app.clock.now();
            let captured =
                self.app.catalog.capture_relay(self.account, hold_id.clone(), relayed, now).await;
            // Only what has changed nothing is tried again: nobody pays twice.
            match (captured, pauses.next()) {
                (Err(StoreError::Unavailable { .. }), Some(pause)) => {
                    tokio::time::sleep(pause).await;
                }
                (captured, _) => return captured,
            }
        }
    }

    fn count(&self, settled: &Settled) {
        let counted = (self.account, self.key, settled.channel, self.path.clone());
        let mut counts = locked(&self.app.relay.books.counts);
        let sums = counts.entry(counted).or_default();
        sums.calls += 1;
        sums.units += settled.units;
        sums.bytes += settled.bytes;
        sums.cost = sums.cost.plus(settled.cost);
        if counts.len() > COUNTS_MAX {
            self.app.jobs_due.notify_one();
        }
    }

    /// No longer this call's.
    fn forget(&mut self) -> Option<String> {
        let hold_id = self.row.take()?;
        locked(&self.app.relay.books.held).remove(&hold_id);
        Some(hold_id)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(hold_id) = self.forget() else { return };
        let (app, account) = (Arc::clone(&self.app), self.account);
        self.app.tasks.spawn(async move {
            if let Err(error) = app.catalog.void_relay(account, hold_id).await {
                // Its lease ends by itself, and the reaper does the rest.
                tracing::warn!(error = &error as &dyn std::error::Error, "relay.void.failed");
            }
        });
    }
}

/// Renews the holds of calls in progress until the server stops.
pub(crate) async fn upkeep(app: Arc<App>) {
    loop {
        tokio::select! {
            // What is still held lasts longer than a stop takes.
            () = app.tasks.stopping() => return,
            () = tokio::time::sleep(LEASE / 3) => {}
        }
        let held: Vec<_> = locked(&app.relay.books.held).iter().cloned().collect();
        if held.is_empty() {
            continue;
        }
        let until = app.clock.now().plus(LEASE);
        if let Err(error) = app.catalog.renew_holds(held, until).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "relay.holds.renew");
        }
    }
}

/// Writes down what was counted.
pub(crate) async fn write_down(app: &App) -> Result<(), StoreError> {
    let counted = std::mem::take(&mut *locked(&app.relay.books.counts));
    if counted.is_empty() {
        return Ok(());
    }
    let used = counted.into_iter().map(|((account, key, channel, path), sums)| RelayedUsage {
        account,
        key,
        channel,
        path,
        calls: sums.calls,
        units: sums.units,
        bytes: sums.bytes,
        cost: sums.cost,
    });
    app.catalog.add_relayed(used.collect(), app.clock.now()).await
}

/// What upstream takes on `channel` for a call of `path` that counted `units`: by the path's own costs, else by those
/// of all others.
pub(crate) fn cost(rows: &[CostRow], channel: ChannelId, path: &str, units: u64) -> Money {
    let of = |unit: PriceUnit| {
        let here = |path: &str| {
            let fits =
                |row: &&CostRow| row.channel_id == channel && row.unit == unit && row.path == path;
            rows.iter().find(fits).map(|row| row.amount)
        };
        here(path).or_else(|| here("")).unwrap_or_default()
    };
    of(PriceUnit::Call).plus(of(PriceUnit::Kilounit).per_thousand(units))
}

/// The `Idempotency-Key` of a call that makes something, for as long as the call is in progress.
pub(crate) struct Repeatable {
    taken: Taken,
    /// What was answered to the key before.
    kept: Option<KeptAnswer>,
}

/// How much of an answer is kept.
pub(crate) const ANSWER_MAX: usize = 64 << 10;

impl Repeatable {
    /// Reads the header, takes the key and looks for a first answer. `None` without the header.
    pub(crate) async fn begin(
        app: &App,
        principal: &Principal,
        headers: &HeaderMap,
    ) -> Result<Option<Self>, ApiError> {
        let key = key_of(headers)
            .map_err(|NotAKey| ApiError::invalid(format_args!("Idempotency-Key {NOT_A_KEY}")))?;
        let Some(key) = key else { return Ok(None) };
        // Uploads have the same owner: a key is for one request of an account, whatever it is.
        let owner = format!("account:{}", principal.account_id.0);
        let taken = app.in_flight.take(owner, key).ok_or_else(|| {
            let why = "a request with this Idempotency-Key is in progress";
            ApiError::detailed(ErrorCode::RateLimit, why).retry_after(1)
        })?;
        let (owner, key) = (taken.owner.clone(), taken.key.clone());
        let kept = app.catalog.first_answer(owner, key, app.clock.now()).await;
        Ok(Some(Self { taken, kept: kept.map_err(|error| store_failed(&error))? }))
    }

    /// What the capture keeps of the answer.
    pub(crate) fn first_answer(&self, fingerprint: [u8; 32]) -> FirstAnswer {
        let (owner, key) = (self.taken.owner.clone(), self.taken.key.clone());
        FirstAnswer { owner, key, fingerprint }
    }

    /// The status and body of the first answer, if there is one and this is the same request.
    pub(crate) fn replay(&self, fingerprint: [u8; 32]) -> Result<Option<(u16, Vec<u8>)>, ApiError> {
        let Some(kept) = &self.kept else { return Ok(None) };
        if kept.fingerprint != fingerprint {
            return Err(ApiError::invalid(
                "this Idempotency-Key was used for another request: its path, query or body differ",
            ));
        }
        Ok(Some((kept.status, kept.reply.clone())))
    }
}

/// Sums up what makes two calls the same request.
#[derive(Debug)]
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    /// Of a call of `method` on `target`, path and query as upstream is asked, before its body.
    pub(crate) fn new(method: &http::Method, target: &str) -> Self {
        let mut hash = Sha256::new();
        for field in ["relay", method.as_str(), target] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field.as_bytes());
        }
        Self(hash)
    }

    /// So much of the body.
    pub(crate) fn add(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The sum.
    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(channel: i64, path: &str, unit: PriceUnit, amount: i64) -> CostRow {
        CostRow {
            channel_id: ChannelId(channel),
            path: path.to_owned(),
            unit,
            amount: Money(amount),
        }
    }

    #[test]
    fn a_paths_own_costs_come_before_those_of_all_others() {
        let rows = [
            row(1, "", PriceUnit::Call, 7),
            row(1, "", PriceUnit::Kilounit, 1000),
            row(1, "/v1/t2a_v2", PriceUnit::Call, 0),
            row(2, "/v1/t2a_v2", PriceUnit::Kilounit, 3),
        ];
        let of = |channel, path, units| cost(&rows, ChannelId(channel), path, units).0;
        assert_eq!(of(1, "/v1/other", 0), 7);
        assert_eq!(of(1, "/v1/other", 1500), 7 + 1500);
        assert_eq!(of(1, "/v1/t2a_v2", 1), 1);
        // Rounded up to a whole micro-unit.
        assert_eq!(of(2, "/v1/t2a_v2", 1), 1);
        assert_eq!(of(2, "/v1/t2a_v2", 1001), 4);
        assert_eq!(of(2, "/v1/other", 1001), 0);
        assert_eq!(of(3, "/v1/t2a_v2", 1001), 0);
    }

    #[test]
    fn the_same_request_is_the_same_by_all_that_counts() {
        let of = |method, target, body: &[&[u8]]| {
            let mut sum = Fingerprint::new(&method, target);
            for piece in body {
                sum.add(piece);
            }
            sum.finish()
        };
        let post = || http::Method::POST;
        let one = of(post(), "/v1/a?b=c", &[b"body"]);
        assert_eq!(one, of(post(), "/v1/a?b=c", &[b"bo", b"dy"]));
        assert_ne!(one, of(http::Method::PUT, "/v1/a?b=c", &[b"body"]));
        assert_ne!(one, of(post(), "/v1/a?b=d", &[b"body"]));
        assert_ne!(one, of(post(), "/v1/a?b=c", &[b"bodY"]));
        assert_ne!(of(post(), "/v1/ab", &[b"c"]), of(post(), "/v1/a", &[b"bc"]));
    }
}
