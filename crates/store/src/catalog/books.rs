//! Money: prices, holds, the ledger.
//!
//! An account's `balance` is the sum of its ledger entries and its `held` the sum of the holds of its
//! uploads and relayed calls; both are changed only here and only in the transaction that changes what they are
//! the sums of. What can be spent is `balance - held`, and the UPDATE that takes it says so itself:
//! no two calls can spend the same money, whatever is read before.
//!
//! An upload that costs something holds its price when its row is made and captures it in the
//! transaction that makes it a file. A crash between leaves a hold on a row, and goes with it when the
//! reaper takes the row.

use filegate_types::units::Bytes;
use filegate_types::{AccountId, Call, FileId, KeyId, Money, PriceUnit, PurposeName, UnixMillis};

use super::sql::{self, Connection, OptionalExtension as _, Row};
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
///
/// The account must be locked: so nobody enters the same reference in between, and entries are numbered
/// in the order of their balances.
pub(super) fn post(c: &Connection, entry: &Entry<'_>) -> sql::Result<Option<Money>> {
    enter(c, entry, false)
}

/// As [`post`]; if `covered`, only where what can be spent covers it.
fn enter(c: &Connection, entry: &Entry<'_>, covered: bool) -> sql::Result<Option<Money>> {
    if entry.amount.is_zero() {
        return Ok(None);
    }
    let balance = c
        .prepare_cached(
            "UPDATE accounts SET balance = balance + ?2
             WHERE account_id = ?1 AND (NOT ?3 OR balance - held + ?2 >= 0)
               AND NOT EXISTS (SELECT 1 FROM ledger WHERE account_id = ?1 AND reference = ?4)
             RETURNING balance",
        )?
        .query_row((entry.account.0, entry.amount.0, covered, entry.reference), |row| {
            row.get(0).map(Money)
        })
        .optional()?;
    let Some(balance) = balance else { return Ok(None) };
    c.prepare_cached(
        "INSERT INTO ledger (account_id, at, kind, amount, balance, call, key_id, file_id, reason,
                             reference)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .queue((
        entry.account.0,
        entry.at.0,
        entry.kind,
        entry.amount.0,
        balance.0,
        entry.call.map_or("", Call::name),
        entry.key.map(|key| key.0),
        entry.file.map(FileId::get),
        entry.reason,
        entry.reference,
    ))?;
    Ok(Some(balance))
}

/// The price of `unit` of `call` for `purpose`: the purpose's own, else that of all others.
pub(super) fn price(
    c: &Connection,
    call: Call,
    unit: PriceUnit,
    purpose: &str,
) -> sql::Result<Money> {
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
pub(super) fn upload_price(c: &Connection, purpose: &str, bytes: Bytes) -> sql::Result<Money> {
    // Put in order here: for an IN or an ORDER BY SQLite makes a table, which costs more than all else of this.
    let mut statement = c.prepare_cached(
        "SELECT unit, amount, 0 FROM prices WHERE call = ?1 AND purpose = ?2
         UNION ALL
         SELECT unit, amount, 1 FROM prices WHERE call = ?1 AND purpose = ''",
    )?;
    let ranked = |row: &Row<'_>| Ok((row.get::<i64>(2)?, unit_price(row)?));
    let prices = statement.query_map((Call::Upload.name(), purpose), ranked)?;
    let mut prices = prices.collect::<sql::Result<Vec<_>>>()?;
    prices.sort_by_key(|(rank, _)| *rank);
    let prices: Vec<_> = prices.into_iter().map(|(_, price)| price).collect();
    Ok(cost(&prices, bytes))
}

/// The most that an upload of `bytes` costs, whatever its purpose turns out to be.
fn dearest_upload(c: &Connection, bytes: Bytes) -> sql::Result<Money> {
    let mut statement =
        c.prepare_cached("SELECT unit, max(amount) FROM prices WHERE call = ?1 GROUP BY unit")?;
    let prices = statement.query_map([Call::Upload.name()], unit_price)?;
    Ok(cost(&prices.collect::<sql::Result<Vec<_>>>()?, bytes))
}

fn unit_price(row: &Row<'_>) -> sql::Result<(String, Money)> {
    Ok((row.get(0)?, Money(row.get(1)?)))
}

/// By the first price of each unit.
fn cost(prices: &[(String, Money)], bytes: Bytes) -> Money {
    let of = |unit: PriceUnit| {
        let found = prices.iter().find(|(name, _)| name == unit.name());
        found.map_or(Money::ZERO, |(_, amount)| *amount)
    };
    of(PriceUnit::Call).plus(of(PriceUnit::Mib).per_mib(bytes))
}

/// Holds what an upload costs at most: true, with the amount, if the account can pay it.
pub(super) fn hold(
    c: &Connection,
    account: AccountId,
    purpose: Option<&PurposeName>,
    bytes_max: Bytes,
) -> sql::Result<Result<Money, Short>> {
    let amount = match purpose {
        Some(purpose) => upload_price(c, purpose.as_str(), bytes_max)?,
        None => dearest_upload(c, bytes_max)?,
    };
    hold_amount(c, account, amount)
}

/// Holds `amount`, if the account can pay it.
pub(super) fn hold_amount(
    c: &Connection,
    account: AccountId,
    amount: Money,
) -> sql::Result<Result<Money, Short>> {
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
pub(super) fn release(c: &Connection, account: AccountId, amount: Money) -> sql::Result<()> {
    if amount.is_zero() {
        return Ok(());
    }
    c.prepare_cached("UPDATE accounts SET held = held - ?2 WHERE account_id = ?1")?
        .queue((account.0, amount.0))
}

fn short(c: &Connection, account: AccountId, price: Money) -> sql::Result<Short> {
    let available = c
        .prepare_cached("SELECT balance - held FROM accounts WHERE account_id = ?1")?
        .query_row([account.0], |row| row.get(0).map(Money))?;
    Ok(Short { price, available })
}

/// Takes the price of one call, if the account can pay it; says what was taken. The account must be locked.
pub(super) fn charge(
    c: &Connection,
    account: AccountId,
    key: KeyId,
    call: Call,
    purpose: &str,
    file: Option<FileId>,
    now: UnixMillis,
) -> sql::Result<Result<Money, Short>> {
    let amount = price(c, call, PriceUnit::Call, purpose)?;
    if amount.is_zero() {
        return Ok(Ok(amount));
    }
    let entry = Entry {
        call: Some(call),
        key: Some(key),
        file,
        ..Entry::of(account, now, "charge", Money(-amount.0))
    };
    match enter(c, &entry, true)? {
        Some(_) => Ok(Ok(amount)),
        None => short(c, account, amount).map(Err),
    }
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

/// The columns of [`CallPrices::of_row`], of the call that is the parameter `?3`.
macro_rules! select_call_prices {
    () => {
        "SELECT min(amount) FILTER (WHERE unit = 'call') AS least, max(amount) AS most,
                count(*) FILTER (WHERE purpose = '' AND unit = 'call') AS of_all
         FROM prices WHERE call = ?3"
    };
}
pub(super) use select_call_prices;

impl CallPrices {
    /// Reads the three columns from `index` on.
    pub(super) fn of_row(row: &Row<'_>, index: usize) -> sql::Result<Self> {
        let least: Option<i64> = row.get(index)?;
        let most: Option<i64> = row.get(index + 1)?;
        let of_all: i64 = row.get(index + 2)?;
        let least = if of_all > 0 { least.unwrap_or(0) } else { 0 };
        Ok(Self { least: Money(least), any: most.unwrap_or(0) > 0 })
    }
}

/// A fault of the books, as `fsck` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookFault {
    /// The name of the account.
    pub account: String,
    /// What does not agree: `balance`, `held`, `stored`, `files`, `entry`, or `copies` on channels of files
    /// that are not there.
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
            .write(super::synced("charging a call").of(account), move |c| {
                let purpose = purpose.as_ref().map_or("", PurposeName::as_str);
                charge(c, account, key, call, purpose, file, now)
            })
            .await
    }

    /// Charges every account for the UTC day `day` (`YYYY-MM-DD`), which ended at `end`: for what it
    /// has stored of what was there then. An account is charged once for a day, however often this
    /// is called, and by how many replicas: the reference of the entry is looked for while the account is
    /// locked. Storage is owed whether or not the balance covers it: it alone may take the balance below
    /// zero, and all other calls are refused from there on.
    ///
    /// Each account is a transaction of its own, so that no account waits for all others.
    pub async fn charge_storage(
        &self,
        day: String,
        end: UnixMillis,
        now: UnixMillis,
    ) -> Result<usize, StoreError> {
        let reference = format!("storage:{day}");
        let looked_for = reference.clone();
        let owed = self
            .engine
            .read_slowly("adding up what is stored", move |c| owed(c, &looked_for, end))
            .await?;
        let mut charged = 0;
        for (account, share) in owed {
            // Rounded up once, for all purposes together.
            let amount = (share + (1 << 30) - 1) >> 30;
            let amount = Money(-i64::try_from(amount).unwrap_or(i64::MAX));
            let (day, reference) = (day.clone(), reference.clone());
            let change = freeing("charging storage").of(account);
            let posted = self.engine.write(change, move |c| {
                let entry = Entry {
                    call: Some(Call::Storage),
                    reason: &day,
                    reference: Some(&reference),
                    ..Entry::of(account, now, "storage", amount)
                };
                post(c, &entry)
            });
            charged += usize::from(posted.await?.is_some());
        }
        Ok(charged)
    }

    /// Where the books do not agree with themselves: nowhere, if nobody changed them from outside.
    pub async fn check_books(&self) -> Result<Vec<BookFault>, StoreError> {
        self.engine.read_slowly("checking the books", check).await
    }
}

/// What accounts owe for a day that they have not been charged for yet, in GiB-days times 2^30.
fn owed(c: &Connection, reference: &str, end: UnixMillis) -> sql::Result<Vec<(AccountId, i128)>> {
    let mut owed: Vec<(AccountId, i128)> = Vec::new();
    let mut statement = c.prepare_cached(
        "SELECT account_id, purpose, CAST(sum(bytes) AS BIGINT) FROM files
         WHERE created_at < ?1
           AND EXISTS (SELECT 1 FROM prices WHERE unit = 'gib_day' AND amount > 0)
           AND NOT EXISTS (SELECT 1 FROM ledger
                           WHERE ledger.account_id = files.account_id AND reference = ?2)
         GROUP BY account_id, purpose ORDER BY account_id",
    )?;
    let sums = statement.query_map((end.0, reference), |row| {
        Ok((AccountId(row.get(0)?), row.get::<String>(1)?, row.get::<i64>(2)?))
    })?;
    for sum in sums {
        let (account, purpose, bytes) = sum?;
        let each = price(c, Call::Storage, PriceUnit::GibDay, &purpose)?;
        let share = i128::from(each.0) * i128::from(bytes);
        match owed.last_mut() {
            Some((last, sum)) if *last == account => *sum += share,
            _ => owed.push((account, share)),
        }
    }
    Ok(owed)
}

fn check(c: &Connection) -> sql::Result<Vec<BookFault>> {
    let checks = [
        (
            "balance",
            "SELECT name, balance,
                    (SELECT CAST(coalesce(sum(amount), 0) AS BIGINT) FROM ledger l WHERE l.account_id = a.account_id)
             FROM accounts a",
        ),
        (
            "held",
            "SELECT name, held,
                    (SELECT CAST(coalesce(sum(hold), 0) AS BIGINT) FROM uploads u WHERE u.account_id = a.account_id)
                    + (SELECT CAST(coalesce(sum(amount), 0) AS BIGINT) FROM holds h WHERE h.account_id = a.account_id)
             FROM accounts a",
        ),
        (
            "stored",
            "SELECT name, (SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM stored s WHERE s.account_id = a.account_id),
                    (SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM files f WHERE f.account_id = a.account_id)
             FROM accounts a",
        ),
        (
            "files",
            "SELECT name, (SELECT CAST(coalesce(sum(files), 0) AS BIGINT) FROM stored s WHERE s.account_id = a.account_id),
                    (SELECT count(*) FROM files f WHERE f.account_id = a.account_id)
             FROM accounts a",
        ),
        (
            "copies",
            "SELECT name, (SELECT count(*) FROM replicas r WHERE r.account_id = a.account_id),
                    (SELECT count(*) FROM replicas r JOIN files f USING (file_id, account_id)
                     WHERE r.account_id = a.account_id)
             FROM accounts a",
        ),
        (
            "entry",
            "SELECT name, l.balance, l.running FROM (
                 SELECT account_id, balance,
                        CAST(sum(amount) OVER (PARTITION BY account_id ORDER BY entry_id)
                             AS BIGINT) AS running
                 FROM ledger) l JOIN accounts USING (account_id)",
        ),
    ];
    let mut faults = Vec::new();
    for (what, sql) in checks {
        let mut statement = c.prepare_cached(sql)?;
        let rows = statement.query_map((), |row| {
            Ok((row.get::<String>(0)?, row.get::<i64>(1)?, row.get::<i64>(2)?))
        })?;
        for row in rows {
            let (account, kept, counted) = row?;
            if kept != counted {
                faults.push(BookFault { account, what, kept, counted });
            }
        }
    }
    Ok(faults)
}
