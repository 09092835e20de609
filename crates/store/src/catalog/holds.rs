//! The books of relayed calls: what is held before a call, and captured or voided after it.
//!
//! ```text
//! hold      a row, and the account's `held` with it          crash: the lease ends; reaped, voided
//! renew     while the call goes on
//! capture   the row goes; what the call did cost is entered   COMMIT POINT: it is paid
//! void      the row goes                                     crash: as above
//! ```
//!
//! What is captured is never more than was held, so that an account's balance is not taken below zero by
//! it, whatever the reply counts and however prices change meanwhile.

use filegate_types::{AccountId, Call, ChannelId, KeyId, Money, PriceUnit, UnixMillis};

use super::books::{self, Entry, Short};
use super::idempotency::{self, FirstAnswer};
use super::sql::{self, Connection, OptionalExtension as _, Row};
use super::uploads::by_account;
use super::usage::{self, Usage};
use super::{Catalog, freeing, relaxed, synced};
use crate::error::StoreError;

/// What a call is to hold.
#[derive(Debug, Clone)]
pub struct NewHold {
    /// Its name: random, and used once.
    pub hold_id: String,
    /// Whose call it is.
    pub account: AccountId,
    /// The key it is made with.
    pub key: KeyId,
    /// Its path, without mount and ids.
    pub path: String,
    /// The most units that its reply can count.
    pub units_max: u64,
    /// When the money goes back, unless it is renewed.
    pub lease_until: UnixMillis,
}

/// What relayed calls of a path cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayPrices {
    /// Each call.
    pub call: Money,
    /// Each 1,000 units that the reply counts.
    pub kilounit: Money,
}

impl RelayPrices {
    /// What a call costs whose reply counts so many units.
    pub fn of(self, units: u64) -> Money {
        self.call.plus(self.kilounit.per_thousand(units))
    }
}

/// What is held for a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The hold's name.
    pub hold_id: String,
    /// How much; nothing if the path has no price, and then there is no row.
    pub amount: Money,
    /// By which prices.
    pub prices: RelayPrices,
}

/// A relayed call that succeeded.
#[derive(Debug, Clone)]
pub struct Relayed {
    /// The key it was made with.
    pub key: KeyId,
    /// The channel that answered.
    pub channel: ChannelId,
    /// Its path, without mount and ids.
    pub path: String,
    /// What the reply counted.
    pub units: u64,
    /// What upstream takes for it.
    pub cost: Money,
    /// What is to be answered to the same again: the request's `Idempotency-Key`, the status and the body.
    pub first_answer: Option<(FirstAnswer, u16, Vec<u8>)>,
}

/// Relayed calls that succeeded and that nothing was held for, on one day.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelayedUsage {
    /// Whose calls.
    pub account: AccountId,
    /// With which key.
    pub key: KeyId,
    /// Where they went.
    pub channel: ChannelId,
    /// Their path.
    pub path: String,
    /// How many.
    pub calls: u64,
    /// What the replies counted.
    pub units: u64,
    /// Bytes of the replies.
    pub bytes: u64,
    /// What upstream takes for them.
    pub cost: Money,
}

impl Catalog {
    /// Holds the most that a relayed call can cost. No row and no money if its path has no price.
    ///
    /// No lock: the UPDATE that holds the money says itself that it is there. Relaxed: what a crash forgets
    /// is row and money alike.
    pub async fn hold_relay(
        &self,
        new: NewHold,
        now: UnixMillis,
    ) -> Result<Result<Held, Short>, StoreError> {
        self.engine
            .write(relaxed("holding the price of a call"), move |c| {
                let prices = prices(c, &new.path)?;
                let amount = prices.of(new.units_max);
                if let Err(short) = books::hold_amount(c, new.account, amount)? {
                    return Ok(Err(short));
                }
                if !amount.is_zero() {
                    c.prepare_cached(
                        "INSERT INTO holds (hold_id, account_id, key_id, path, amount, created_at,
                                            lease_until)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    )?
                    .queue((
                        &new.hold_id,
                        new.account.0,
                        new.key.0,
                        &new.path,
                        amount.0,
                        now.0,
                        new.lease_until.0,
                    ))?;
                }
                Ok(Ok(Held { hold_id: new.hold_id.clone(), amount, prices }))
            })
            .await
    }

    /// Takes what a call did cost, never more than was held, and counts the call; says what was taken. Where
    /// nothing is held any more, nothing is taken, and the call is counted all the same. Synced when it
    /// returns.
    ///
    /// The account is locked: a hold is captured, voided or reaped, and once.
    pub async fn capture_relay(
        &self,
        account: AccountId,
        hold_id: String,
        call: Relayed,
        now: UnixMillis,
    ) -> Result<Money, StoreError> {
        self.engine
            .write(synced("capturing the price of a call").of(account), move |c| {
                capture(c, account, &hold_id, &call, now)
            })
            .await
    }

    /// Gives back what was held for a call that failed; nothing if there is no such hold.
    pub async fn void_relay(&self, account: AccountId, hold_id: String) -> Result<(), StoreError> {
        self.engine
            .write(relaxed("voiding a hold").of(account), move |c| {
                if let Some(amount) = take(c, account, &hold_id)? {
                    books::release(c, account, amount)?;
                }
                Ok(())
            })
            .await
    }

    /// Extends the leases of calls that go on; says of how many there still is a hold.
    pub async fn renew_holds(
        &self,
        mut holds: Vec<String>,
        lease_until: UnixMillis,
    ) -> Result<usize, StoreError> {
        // In one order everywhere, so that replicas wait in turn.
        holds.sort_unstable();
        self.engine
            .write(relaxed("renewing holds"), move |c| {
                let mut renew =
                    c.prepare_cached("UPDATE holds SET lease_until = ?2 WHERE hold_id = ?1")?;
                holds.iter().try_fold(0, |renewed, hold| {
                    Ok(renewed + renew.execute((hold, lease_until.0))?)
                })
            })
            .await
    }

    /// Voids holds whose lease ended by `deadline`, at most `limit`; says how many. With a deadline in the
    /// far future: all of them, as at a start.
    pub async fn reap_holds(&self, deadline: UnixMillis, limit: u32) -> Result<usize, StoreError> {
        let lapsed = self
            .engine
            .read("looking for lapsed holds", move |c| {
                let mut statement = c.prepare_cached(
                    "SELECT account_id, hold_id FROM holds WHERE lease_until <= ?1
                     ORDER BY lease_until LIMIT ?2",
                )?;
                let rows = statement.query_map((deadline.0, limit), |row| {
                    Ok((row.get::<i64>(0)?, row.get::<String>(1)?))
                })?;
                rows.collect::<sql::Result<Vec<_>>>()
            })
            .await?;
        let mut reaped = 0;
        for (account, holds) in by_account(lapsed) {
            let change = freeing("reaping holds").of(account);
            let voided = self.engine.write(change, move |c| reap(c, account, &holds, deadline));
            reaped += voided.await?;
        }
        Ok(reaped)
    }

    /// Counts relayed calls that nothing was held for.
    pub async fn add_relayed(
        &self,
        mut used: Vec<RelayedUsage>,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        // In one order everywhere, so that replicas that count at the same time wait in turn.
        used.sort_unstable();
        self.engine
            .write(relaxed("counting relayed calls"), move |c| {
                for one in &used {
                    let call = Call::Relay;
                    let charged = Money::ZERO;
                    let (account, key, calls, bytes) = (one.account, one.key, one.calls, one.bytes);
                    let purpose = one.path.clone();
                    let used = Usage { account, key, purpose, call, calls, bytes, charged };
                    usage::add(c, &used, now)?;
                }
                used.iter().try_for_each(|one| count(c, one, Money::ZERO, now))
            })
            .await
    }
}

/// The path's own prices, else those of all paths.
fn prices(c: &Connection, path: &str) -> sql::Result<RelayPrices> {
    let mut statement = c.prepare_cached(
        "SELECT unit, amount FROM prices WHERE call = ?1 AND purpose IN (?2, '')
         ORDER BY purpose <> ''",
    )?;
    let found = statement.query_map((Call::Relay.name(), path), |row| {
        Ok((row.get::<String>(0)?, Money(row.get(1)?)))
    })?;
    let mut prices = RelayPrices::default();
    // Those of all paths come first, and the path's own over them.
    for price in found {
        let (unit, amount) = price?;
        match unit.as_str() {
            unit if unit == PriceUnit::Call.name() => prices.call = amount,
            unit if unit == PriceUnit::Kilounit.name() => prices.kilounit = amount,
            _ => {}
        }
    }
    Ok(prices)
}

/// Removes a hold; says how much it was. Its account must be locked.
fn take(c: &Connection, account: AccountId, hold_id: &str) -> sql::Result<Option<Money>> {
    c.prepare_cached("DELETE FROM holds WHERE hold_id = ?1 AND account_id = ?2 RETURNING amount")?
        .query_row((hold_id, account.0), amount)
        .optional()
}

fn amount(row: &Row<'_>) -> sql::Result<Money> {
    row.get(0).map(Money)
}

fn capture(
    c: &Connection,
    account: AccountId,
    hold_id: &str,
    call: &Relayed,
    now: UnixMillis,
) -> sql::Result<Money> {
    let charged = match take(c, account, hold_id)? {
        Some(held) => {
            books::release(c, account, held)?;
            prices(c, &call.path)?.of(call.units).min(held)
        }
        None => Money::ZERO,
    };
    let reference = format!("relay:{hold_id}");
    let entry = Entry {
        call: Some(Call::Relay),
        key: Some(call.key),
        reason: &call.path,
        reference: Some(&reference),
        ..Entry::of(account, now, "charge", Money(-charged.0))
    };
    books::post(c, &entry)?;
    let (key, purpose) = (call.key, call.path.clone());
    let used = Usage { account, key, purpose, call: Call::Relay, calls: 1, bytes: 0, charged };
    usage::add(c, &used, now)?;
    let counted = RelayedUsage {
        account,
        key,
        channel: call.channel,
        path: call.path.clone(),
        calls: 1,
        units: call.units,
        bytes: 0,
        cost: call.cost,
    };
    count(c, &counted, charged, now)?;
    if let Some((first, status, reply)) = &call.first_answer {
        idempotency::keep(c, first, *status, reply, now)?;
    }
    Ok(charged)
}

/// Voids those of the holds that have still lapsed; says how many.
fn reap(
    c: &Connection,
    account: AccountId,
    holds: &[String],
    deadline: UnixMillis,
) -> sql::Result<usize> {
    let mut reaped = 0;
    for hold in holds {
        let taken = c
            .prepare_cached(
                "DELETE FROM holds WHERE hold_id = ?1 AND account_id = ?2 AND lease_until <= ?3
                 RETURNING amount",
            )?
            .query_row((hold, account.0, deadline.0), amount)
            .optional()?;
        if let Some(held) = taken {
            books::release(c, account, held)?;
            reaped += 1;
        }
    }
    Ok(reaped)
}

/// Adds to what channels have done on the UTC day of `now`.
fn count(c: &Connection, one: &RelayedUsage, charged: Money, now: UnixMillis) -> sql::Result<()> {
    c.prepare_cached(
        "INSERT INTO relayed (day, channel_id, account_id, path, calls, units, charged, cost)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (day, channel_id, account_id, path) DO UPDATE SET
             calls = relayed.calls + excluded.calls, units = relayed.units + excluded.units,
             charged = relayed.charged + excluded.charged, cost = relayed.cost + excluded.cost",
    )?
    .queue((
        usage::day(now),
        one.channel.0,
        one.account.0,
        &one.path,
        one.calls.cast_signed(),
        one.units.cast_signed(),
        charged.0,
        one.cost.0,
    ))
}
