//! Accounts.

use filegate_types::{AccountId, AccountSettings, Money, TenantLimits, UnixMillis};
use serde::Serialize;
use serde_json::Value;

use super::view::{Cursor, Kind, View, text};
use super::{Applied, Listed, Page, Refusal, Stop, channels};
use crate::catalog::books::{self, Entry};
use crate::catalog::sql::{Connection, OptionalExtension as _};

/// An account to be made.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// What it is called; nothing else has the name.
    pub name: String,
    /// What it can spend from the start.
    pub balance: Money,
    /// What it may use.
    pub limits: TenantLimits,
    /// How its files are kept.
    pub settings: AccountSettings,
}

/// A change of an account. What is absent stays.
#[derive(Debug, Clone)]
pub struct AccountChange {
    /// Which.
    pub name: String,
    /// Whether it may be used.
    pub active: Option<bool>,
    /// What it may use.
    pub limits: Option<TenantLimits>,
    /// How its files are kept.
    pub settings: Option<AccountSettings>,
}

const VIEW: View = View {
    columns: &[
        ("a.name", "id", Kind::Plain),
        ("a.name", "name", Kind::Plain),
        ("a.state", "state", Kind::Plain),
        ("a.balance", "balance", Kind::Money),
        ("a.held", "held", Kind::Money),
        ("a.balance - a.held", "available", Kind::Money),
        ("a.limits", "limits", Kind::Json),
        ("a.settings", "settings", Kind::Json),
        (
            "(SELECT CAST(coalesce(sum(files), 0) AS BIGINT) FROM stored s WHERE s.account_id = a.account_id)",
            "stored_files",
            Kind::Plain,
        ),
        (
            "(SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM stored s WHERE s.account_id = a.account_id)",
            "stored_bytes",
            Kind::Plain,
        ),
        (
            // By hand: the two databases have other functions for JSON. A purpose has no quotes.
            "(SELECT '{' || coalesce(string_agg('\"' || purpose || '\":{\"files\":' || files
                                                || ',\"bytes\":' || bytes || '}', ','), '') || '}'
              FROM stored s WHERE s.account_id = a.account_id AND files > 0)",
            "stored",
            Kind::Json,
        ),
        (
            "(SELECT count(*) FROM keys k
              WHERE k.account_id = a.account_id AND k.revoked_at IS NULL)",
            "keys",
            Kind::Plain,
        ),
        ("a.created_at", "created_at", Kind::Time),
    ],
    from: "accounts a",
    cursor: Cursor::Named("a.account_id", "SELECT account_id FROM accounts WHERE name = ?"),
};

pub(super) fn list(c: &Connection, name: Option<&str>, page: &Page) -> Result<Listed, Stop> {
    VIEW.page(c, &[("a.name = ?", text(name))], page)
}

pub(super) fn look(c: &Connection, name: &str) -> Result<Value, Stop> {
    Ok(VIEW.one(c, "a.name = ?", name)?.ok_or_else(|| unknown(name))?)
}

/// The row of the account called `name`.
pub(super) fn id(c: &Connection, name: &str) -> Result<AccountId, Stop> {
    let found = c
        .prepare_cached("SELECT account_id FROM accounts WHERE name = ?1")?
        .query_row([name], |row| row.get(0).map(AccountId))
        .optional()?;
    Ok(found.ok_or_else(|| unknown(name))?)
}

fn unknown(name: &str) -> Refusal {
    Refusal::NotFound(format!("there is no account {name:?}"))
}

pub(super) fn create(c: &Connection, new: &NewAccount, now: UnixMillis) -> Result<Applied, Stop> {
    let made = c
        .prepare_cached(
            "INSERT INTO accounts (name, created_at, limits, settings) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING RETURNING account_id",
        )?
        .query_row((&new.name, now.0, json(&new.limits), json(&new.settings)), |row| row.get(0))
        .optional()?;
    let Some(account) = made.map(AccountId) else {
        let why = format!("there is an account {:?} already", new.name);
        return Err(Refusal::Conflict(why).into());
    };
    channels::check_tied(c, account, &new.settings)?;
    let entry =
        Entry { reason: "opening balance", ..Entry::of(account, now, "top_up", new.balance) };
    books::post(c, &entry)?;
    Ok(Applied::of(target(&new.name), None, look(c, &new.name)?))
}

pub(super) fn change(c: &Connection, change: &AccountChange) -> Result<Applied, Stop> {
    let before = look(c, &change.name)?;
    if let Some(settings) = &change.settings {
        channels::check_tied(c, id(c, &change.name)?, settings)?;
    }
    c.prepare_cached(
        "UPDATE accounts SET state = coalesce(?2, state), limits = coalesce(?3, limits),
                             settings = coalesce(?4, settings)
         WHERE name = ?1",
    )?
    .execute((
        &change.name,
        change.active.map(|active| if active { "active" } else { "disabled" }),
        change.limits.as_ref().map(json),
        change.settings.as_ref().map(json),
    ))?;
    Ok(Applied::of(target(&change.name), Some(before), look(c, &change.name)?))
}

fn target(name: &str) -> String {
    format!("account:{name}")
}

/// A value for a column of JSON.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("limits and settings always serialise")
}
