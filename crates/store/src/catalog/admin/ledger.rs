//! Ledger entries that operators make.

use filegate_types::{Money, UnixMillis};

use super::accounts;
use super::view::{Cursor, Kind, View, text};
use super::{Applied, Listed, Page, Refusal, Stop};
use crate::catalog::books::{self, Entry};
use crate::catalog::sql::{self, Connection, Value as Sql};

/// The highest balance: far from where sums overflow.
const BALANCE_MAX: Money = Money(9_000_000_000_000_000);

/// A change of a balance.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// Whose.
    pub account: String,
    /// Whether it is an adjustment, not a top-up.
    pub adjustment: bool,
    /// By how much; below zero takes away.
    pub amount: Money,
    /// Why.
    pub reason: String,
}

pub(super) const VIEW: View = View {
    columns: &[
        ("l.entry_id", "id", Kind::Plain),
        ("a.name", "account", Kind::Plain),
        ("l.at", "at", Kind::Time),
        ("l.kind", "kind", Kind::Plain),
        ("l.amount", "amount", Kind::Money),
        ("l.balance", "balance", Kind::Money),
        ("l.call", "call", Kind::Plain),
        ("l.key_id", "key_id", Kind::Plain),
        ("l.file_id", "file_id", Kind::Plain),
        ("l.reason", "reason", Kind::Plain),
    ],
    from: "ledger l JOIN accounts a USING (account_id)",
    cursor: Cursor::Number("l.entry_id"),
};

pub(super) fn list(
    c: &Connection,
    account: Option<&str>,
    kind: Option<&str>,
    page: &Page,
) -> Result<Listed, Stop> {
    let account =
        account.map(|name| accounts::id(c, name)).transpose()?.map(|id| Sql::Integer(id.0));
    let filters = [("l.account_id = ?", account), ("l.kind = ?", text(kind))];
    VIEW.page(c, &filters, page)
}

pub(super) fn post(c: &Connection, new: &NewEntry, now: UnixMillis) -> Result<Applied, Stop> {
    let account = accounts::id(c, &new.account)?;
    c.lock_account(account.0);
    let before = accounts::look(c, &new.account)?;
    let (balance, held) = c
        .prepare_cached("SELECT balance, held FROM accounts WHERE account_id = ?1")?
        .query_row([account.0], |row| Ok((Money(row.get(0)?), Money(row.get(1)?))))?;
    let after = balance.plus(new.amount);
    if new.amount < Money::ZERO && after < held {
        let why = format!(
            "the balance would be {after}; it is {balance}, of which {held} is held for uploads"
        );
        return Err(Refusal::Conflict(why).into());
    }
    if after > BALANCE_MAX {
        let why = format!("amount: the balance would be {after}, above {BALANCE_MAX}");
        return Err(Refusal::Invalid(why).into());
    }
    let kind = if new.adjustment { "adjustment" } else { "top_up" };
    let entry = Entry { reason: &new.reason, ..Entry::of(account, now, kind, new.amount) };
    books::post(c, &entry)?;
    let id: i64 = c
        .prepare_cached("SELECT max(entry_id) FROM ledger WHERE account_id = ?1")?
        .query_row([account.0], |row| row.get(0))?;
    let entry = VIEW.one(c, "l.entry_id = ?", id)?;
    let entry = entry.ok_or(sql::Error::NoRows)?;
    let shown = serde_json::json!({"balance": before["balance"], "held": before["held"]});
    Ok(Applied::of(format!("account:{}", new.account), Some(shown), entry))
}
