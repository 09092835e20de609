//! What calls cost and how often they are made.
//!
//! Uploads and deletes are paid and counted by the transactions that do them. Reads are paid here, when
//! they have succeeded and before they are answered; what they cost nothing is counted in memory and
//! written down every few seconds, so a crash forgets some counts but never money.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use filegate_store::{Short, Usage};
use filegate_types::{AccountId, ApiError, Call, FileId, KeyId, Money, Principal, PurposeName};

use crate::app::App;
use crate::http::reply::store_failed;

/// Distinct counts that are kept in memory; more are written down at once.
const COUNTS_MAX: usize = 10_000;

/// Calls that are not written down yet.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<HashMap<Counted, Sums>>);

type Counted = (AccountId, KeyId, Call, Option<PurposeName>);

#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    calls: u64,
    bytes: u64,
    charged: Money,
}

impl Counts {
    fn add(&self, counted: Counted, bytes: u64, charged: Money) -> usize {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = counts.entry(counted).or_default();
        sums.calls += 1;
        sums.bytes += bytes;
        sums.charged = sums.charged.plus(charged);
        counts.len()
    }

    fn take(&self) -> Vec<Usage> {
        let taken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        taken
            .into_iter()
            .map(|((account, key, call, purpose), sums)| Usage {
                account,
                key,
                purpose: purpose.map(String::from).unwrap_or_default(),
                call,
                calls: sums.calls,
                bytes: sums.bytes,
                charged: sums.charged,
            })
            .collect()
    }
}

/// Refuses a caller that cannot pay even the cheapest purpose, before anything is done for it.
pub(crate) fn can_pay(principal: &Principal) -> Result<(), ApiError> {
    if principal.least_price.is_zero() || principal.least_price <= principal.available {
        return Ok(());
    }
    Err(ApiError::insufficient(principal.least_price, principal.available))
}

/// Takes the price of a read that has succeeded, of a file if it was of one, and counts it.
pub(crate) async fn for_read(
    app: &App,
    principal: &Principal,
    call: Call,
    file: Option<(FileId, &PurposeName)>,
    bytes: u64,
) -> Result<(), ApiError> {
    let purpose = file.map(|(_, purpose)| purpose.clone());
    let file_id = file.map(|(file_id, _)| file_id);
    let mut charged = Money::ZERO;
    if principal.priced {
        let (account, key) = (principal.account_id, principal.key_id);
        let paid = app
            .catalog
            .charge_call(account, key, call, purpose.clone(), file_id, app.clock.now())
            .await;
        charged = paid.map_err(|error| store_failed(&error))?.map_err(refused)?;
    }
    let counted = (principal.account_id, principal.key_id, call, purpose);
    if app.counts.add(counted, bytes, charged) > COUNTS_MAX {
        app.jobs_due.notify_one();
    }
    Ok(())
}

/// What a client is told of money that is not there.
pub(crate) fn refused(short: Short) -> ApiError {
    ApiError::insufficient(short.price, short.available)
}

/// Writes down what was counted.
pub(crate) async fn write_down(app: &App) -> Result<(), filegate_store::StoreError> {
    let counted = app.counts.take();
    if counted.is_empty() {
        return Ok(());
    }
    app.catalog.add_usage(counted, app.clock.now()).await
}
