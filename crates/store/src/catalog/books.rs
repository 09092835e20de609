//! Money: prices, holds, the ledger.
//!
//! An account's `balance` is the sum of its ledger entries and its `held` the sum of the holds of its
//! uploads; both are changed only here and only in the transaction that changes what they are
//! the sums of. What can be spent is `balance - held`, and the UPDATE that takes it says so itself:
//! no two calls can spend the same money, whatever is read before.
//!
//! An upload that costs something holds its price when its row is made and captures it in the
//! transaction that makes it a file. A crash between leaves a hold on a row, and goes with it when the
//! reaper takes the row.

use filegate_types::units::Bytes;
use filegate_types::{AccountId, Call, FileId, KeyId, Money, PriceUnit, PurposeName, UnixMillis};
use rusqlite::{Connection, OptionalExtension};

use super::{Catalog, freeing};
use crate::error::StoreError;

/// An entry to be made.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub(super) account: AccountId,
    pub(super) at: UnixMillis,
    /// `top_up`, `adjustment`, `charge` or `storage`.
    pub(super) kind: &'static str,
    pub(super) amount: Money,
    pub(super) call: Option<Call>,
    pub(super) key: Option<KeyId>,
    pub(super) file: Option<FileId>,
    pub(super) reason: &'a str,
    /// What can be entered only once for an account.
    pub(super) reference: Option<&'a str>,
}

impl Entry<'_> {
    /// An entry of `amount` with nothing more to say.
    pub(super) fn of(
        account: AccountId,
        at: UnixMillis,
        kind: &'static str,
        amount: Money,
    ) -> Self {
        Self {
            account,
            at,
            kind,
            amount,
            call: None,
            key: None,
            file: None,
            reason: "",
            reference: None,
        }
    }
}

/// Makes the entry and changes the balance by it; says the new balance. An entry of nothing is not
/// made, and neither is one whose reference is there already: `None`.
pub(super) fn post(c: &Connection, entry: &Entry<'_>) -> rusqlite::Result<Option<Money>> {
    if entry.amount.is_zero() {
        return Ok(None);
    }
    let made = c
        .prepare_cached(
            "INSERT INTO ledger (account_id, at, kind, amount, balance, call, key_id, file_id,
                                 reason, reference)
             SELECT account_id, ?2, ?3, ?4, balance + ?4, ?5, ?6, ?7, ?8, ?9
             FROM accounts WHERE account_id = ?1
             ON CONFLICT (account_id, reference) DO NOTHING",
        )?
        .execute((
            entry.account.0,
            entry.at.0,
            entry.kind,
            entry.amount.0,
            entry.call.map_or("", Call::name),
            entry.key.map(|key| key.0),
            entry.file.map(FileId::get),
            entry.reason,
            entry.reference,
        ))?;
    if made == 0 {
        return Ok(None);
    }
    c.prepare_cached(
        "UPDATE accounts SET balance = balance + ?2 WHERE account_id = ?1 RETURNING balance",
    )?
    .query_row((entry.account.0, entry.amount.0), |row| row.get(0).map(Money))
    .map(Some)
}

/// The price of `unit` of `call` for `purpose`: the purpose's own, else that of all others.
pub(super) fn price(
    c: &Connection,
    call: Call,
    unit: PriceUnit,
    purpose: &str,
) -> rusqlite::Result<Money> {
    let found = c
        .prepare_cached(
            "SELECT amount FROM prices WHERE call = ?1 AND unit = ?2 AND purpose IN (?3, '')
             ORDER BY purpose = '' LIMIT 1",
        )?
        .query_row((call.name(), unit.name(), purpose), |row| row.get(0).map(Money))
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// What an upload of `bytes` costs.
pub(super) fn upload_price(c: &Connection, purpose: &str, bytes: Bytes) -> rusqlite::Result<Money> {
    let each = price(c, Call::Upload, PriceUnit::Call, purpose)?;
    Ok(each.plus(price(c, Call::Upload, PriceUnit::Mib, purpose)?.per_mib(bytes)))
}

/// The most that an upload of `bytes` costs, whatever its purpose turns out to be.
fn dearest_upload(c: &Connection, bytes: Bytes) -> rusqlite::Result<Money> {
    let dearest = |unit: PriceUnit| {
        c.prepare_cached(
            "SELECT coalesce(max(amount), 0) FROM prices WHERE call = ?1 AND unit = ?2",
        )?
        .query_row((Call::Upload.name(), unit.name()), |row| row.get(0).map(Money))
    };
    Ok(dearest(PriceUnit::Call)?.plus(dearest(PriceUnit::Mib)?.per_mib(bytes)))
}

/// Holds what an upload costs at most: true, with the amount, if the account can pay it.
pub(super) fn hold(
    c: &Connection,
    account: AccountId,
    purpose: Option<&PurposeName>,
    bytes_max: Bytes,
) -> rusqlite::Result<Result<Money, Short>> {
    let amount = match purpose {
        Some(purpose) => upload_price(c, purpose.as_str(), bytes_max)?,
        None => dearest_upload(c, bytes_max)?,
    };
    if amount.is_zero() {
        return Ok(Ok(amount));
    }
    let held = c
        .prepare_cached(
            "UPDATE accounts SET held = held + ?2
             WHERE account_id = ?1 AND balance - held >= ?2",
        )?
        .execute((account.0, amount.0))?;
    if held == 1 { Ok(Ok(amount)) } else { short(c, account, amount).map(Err) }
}

/// Gives back a hold.
pub(super) fn release(c: &Connection, account: AccountId, amount: Money) -> rusqlite::Result<()> {
    if amount.is_zero() {
        return Ok(());
    }
    c.prepare_cached("UPDATE accounts SET held = held - ?2 WHERE account_id = ?1")?
        .execute((account.0, amount.0))
        .map(drop)
}

fn short(c: &Connection, account: AccountId, price: Money) -> rusqlite::Result<Short> {
    let available = c
        .prepare_cached("SELECT balance - held FROM accounts WHERE account_id = ?1")?
        .query_row([account.0], |row| row.get(0).map(Money))?;
    Ok(Short { price, available })
}

/// Takes the price of one call, if the account can pay it; says what was taken.
pub(super) fn charge(
    c: &Connection,
    account: AccountId,
    key: KeyId,
    call: Call,
    purpose: &str,
    file: Option<FileId>,
    now: UnixMillis,
) -> rusqlite::Result<Result<Money, Short>> {
    let amount = price(c, call, PriceUnit::Call, purpose)?;
    if amount.is_zero() {
        return Ok(Ok(amount));
    }
    let short = short(c, account, amount)?;
    if short.available < amount {
        return Ok(Err(short));
    }
    let entry = Entry {
        call: Some(call),
        key: Some(key),
        file,
        ..Entry::of(account, now, "charge", Money(-amount.0))
    };
    post(c, &entry)?;
    Ok(Ok(amount))
}

/// The account cannot pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// What the call costs, at most if that is not known yet.
    pub price: Money,
    /// What the account can spend.
    pub available: Money,
}

/// What calls of one kind cost, whatever the purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallPrices {
    /// The cheapest purpose's price of a call: who cannot pay it cannot pay any.
    pub least: Money,
    /// Whether any purpose's call, or a MiB of it, costs something.
    pub any: bool,
}

/// See [`CallPrices`].
pub(super) fn call_prices(c: &Connection, call: Call) -> rusqlite::Result<CallPrices> {
    c.prepare_cached(
        "SELECT min(amount) FILTER (WHERE unit = 'call'), max(amount),
                max(purpose = '' AND unit = 'call')
         FROM prices WHERE call = ?1",
    )?
    .query_row([call.name()], |row| {
        let least: Option<i64> = row.get(0)?;
        let most: Option<i64> = row.get(1)?;
        let all_purposes: Option<bool> = row.get(2)?;
        let least = if all_purposes == Some(true) { least.unwrap_or(0) } else { 0 };
        Ok(CallPrices { least: Money(least), any: most.unwrap_or(0) > 0 })
    })
}

/// A fault of the books, as `fsck` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookFault {
    /// The name of the account.
    pub account: String,
    /// What does not agree: `balance`, `held`, `stored` or `entry`.
    pub what: &'static str,
    /// What is kept.
    pub kept: i64,
    /// What the rows add up to.
    pub counted: i64,
}

impl Catalog {
    /// Takes the price of a call that is not an upload or a delete, which take theirs themselves.
    pub async fn charge_call(
        &self,
        account: AccountId,
        key: KeyId,
        call: Call,
        purpose: Option<PurposeName>,
        file: Option<FileId>,
        now: UnixMillis,
    ) -> Result<Result<Money, Short>, StoreError> {
        self.engine
            .write(super::synced("charging a call"), move |c| {
                let purpose = purpose.as_ref().map_or("", PurposeName::as_str);
                charge(c, account, key, call, purpose, file, now)
            })
            .await
    }

    /// Charges every account for the UTC day `day` (`YYYY-MM-DD`), which ended at `end`: for what it
    /// has stored of what was there then. An account is charged once for a day, however often this
    /// is called. Storage is owed whether or not the balance covers it: it alone may take the
    /// balance below zero, and all other calls are refused from there on.
    pub async fn charge_storage(
        &self,
        day: String,
        end: UnixMillis,
        now: UnixMillis,
    ) -> Result<usize, StoreError> {
        self.engine
            .write(freeing("charging storage"), move |c| {
                let mut owed: Vec<(AccountId, i128)> = Vec::new();
                let mut statement = c.prepare_cached(
                    "SELECT account_id, purpose, sum(bytes) FROM files
                     WHERE created_at < ?1 AND EXISTS
                         (SELECT 1 FROM prices WHERE unit = 'gib_day' AND amount > 0)
                     GROUP BY account_id, purpose ORDER BY account_id",
                )?;
                let mut rows = statement.query([end.0])?;
                while let Some(row) = rows.next()? {
                    let account = AccountId(row.get(0)?);
                    let purpose: String = row.get(1)?;
                    let each = price(c, Call::Storage, PriceUnit::GibDay, &purpose)?;
                    let share = i128::from(each.0) * i128::from(row.get::<_, i64>(2)?);
                    match owed.last_mut() {
                        Some((last, sum)) if *last == account => *sum += share,
                        _ => owed.push((account, share)),
                    }
                }
                let reference = format!("storage:{day}");
                let mut charged = 0;
                for (account, share) in owed {
                    // Rounded up once, for all purposes together.
                    let amount = (share + (1 << 30) - 1) >> 30;
                    let entry = Entry {
                        call: Some(Call::Storage),
                        reason: &day,
                        reference: Some(&reference),
                        ..Entry::of(
                            account,
                            now,
                            "storage",
                            Money(-i64::try_from(amount).unwrap_or(i64::MAX)),
                        )
                    };
                    charged += usize::from(post(c, &entry)?.is_some());
                }
                Ok(charged)
            })
            .await
    }

    /// Where the books do not agree with themselves: nowhere, if nobody changed them from outside.
    pub async fn check_books(&self) -> Result<Vec<BookFault>, StoreError> {
        self.engine.read("checking the books", check).await
    }
}

fn check(c: &Connection) -> rusqlite::Result<Vec<BookFault>> {
    let checks = [
        (
            "balance",
            "SELECT name, balance,
                    (SELECT coalesce(sum(amount), 0) FROM ledger l WHERE l.account_id = a.account_id)
             FROM accounts a",
        ),
        (
            "held",
            "SELECT name, held,
                    (SELECT coalesce(sum(hold), 0) FROM uploads u WHERE u.account_id = a.account_id)
             FROM accounts a",
        ),
        (
            "stored",
            "SELECT name, (SELECT coalesce(sum(bytes), 0) FROM stored s WHERE s.account_id = a.account_id),
                    (SELECT coalesce(sum(bytes), 0) FROM files f WHERE f.account_id = a.account_id)
             FROM accounts a",
        ),
        (
            "files",
            "SELECT name, (SELECT coalesce(sum(files), 0) FROM stored s WHERE s.account_id = a.account_id),
                    (SELECT count(*) FROM files f WHERE f.account_id = a.account_id)
             FROM accounts a",
        ),
        (
            "entry",
            "SELECT name, l.balance, l.running FROM (
                 SELECT account_id, balance,
                        sum(amount) OVER (PARTITION BY account_id ORDER BY entry_id) AS running
                 FROM ledger) l JOIN accounts USING (account_id)",
        ),
    ];
    let mut faults = Vec::new();
    for (what, sql) in checks {
        let mut statement = c.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (kept, counted) = (row.get(1)?, row.get(2)?);
            if kept != counted {
                faults.push(BookFault { account: row.get(0)?, what, kept, counted });
            }
        }
    }
    Ok(faults)
}
