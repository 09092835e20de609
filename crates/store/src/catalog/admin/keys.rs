//! Keys.

use filegate_types::{KeyHash, PurposeName, Scopes, TenantLimits, UnixMillis};
use ipnet::IpNet;
use serde_json::Value;

use super::accounts::{self, json};
use super::view::{Cursor, Kind, View, text};
use super::{Applied, Listed, Page, Refusal, Stop};
use crate::catalog::sql::{Connection, OptionalExtension as _};

/// What a key may do.
#[derive(Debug, Clone)]
pub struct KeyRights {
    /// Which calls.
    pub scopes: Scopes,
    /// On files of which purposes; `None` for all.
    pub purposes: Option<Vec<PurposeName>>,
    /// From where; `None` for anywhere.
    pub networks: Option<Vec<IpNet>>,
    /// How much.
    pub limits: TenantLimits,
    /// Until when.
    pub expires_at: Option<UnixMillis>,
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The account it belongs to, made if it is not there.
    pub account: String,
    /// What its owner calls it.
    pub name: String,
    /// The hash of the key.
    pub hash: KeyHash,
    /// Its last four characters.
    pub hint: String,
    /// What it may do.
    pub rights: KeyRights,
}

/// A change of a key. What is absent stays.
#[derive(Debug, Clone, Default)]
pub struct KeyChange {
    /// Which.
    pub key_id: i64,
    /// What its owner calls it.
    pub name: Option<String>,
    /// Which calls.
    pub scopes: Option<Scopes>,
    /// On files of which purposes.
    pub purposes: Option<Option<Vec<PurposeName>>>,
    /// From where.
    pub networks: Option<Option<Vec<IpNet>>>,
    /// How much.
    pub limits: Option<TenantLimits>,
    /// Until when.
    pub expires_at: Option<Option<UnixMillis>>,
}

/// A key that is to replace another.
#[derive(Debug, Clone)]
pub struct RotatedKey {
    /// The one that is replaced.
    pub key_id: i64,
    /// The hash of the new one.
    pub hash: KeyHash,
    /// Its last four characters.
    pub hint: String,
    /// Until when the old one works beside it.
    pub overlap_until: UnixMillis,
}

const VIEW: View = View {
    columns: &[
        ("k.key_id", "id", Kind::Plain),
        ("k.key_id", "key_id", Kind::Plain),
        ("a.name", "account", Kind::Plain),
        ("k.name", "name", Kind::Plain),
        ("k.hint", "hint", Kind::Plain),
        (
            "CASE WHEN k.scopes = '' THEN '[]'
                  ELSE '[\"' || replace(k.scopes, ' ', '\",\"') || '\"]' END",
            "scopes",
            Kind::Json,
        ),
        ("k.purposes", "purposes", Kind::Json),
        ("k.networks", "networks", Kind::Json),
        ("k.limits", "limits", Kind::Json),
        ("k.replaces", "replaces", Kind::Plain),
        ("k.created_at", "created_at", Kind::Time),
        ("k.expires_at", "expires_at", Kind::Time),
        ("k.revoked_at", "revoked_at", Kind::Time),
    ],
    from: "keys k JOIN accounts a USING (account_id)",
    cursor: Cursor::Number("k.key_id"),
};

pub(super) fn list(c: &Connection, account: Option<&str>, page: &Page) -> Result<Listed, Stop> {
    VIEW.page(c, &[("a.name = ?", text(account))], page)
}

pub(super) fn look(c: &Connection, id: i64) -> Result<Value, Stop> {
    let found = VIEW.one(c, "k.key_id = ?", id)?;
    Ok(found.ok_or_else(|| Refusal::NotFound(format!("there is no key {id}")))?)
}

pub(super) fn create(c: &Connection, new: &NewKey, now: UnixMillis) -> Result<Applied, Stop> {
    c.prepare_cached(
        "INSERT INTO accounts (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    )?
    .execute((&new.account, now.0))?;
    let account = accounts::id(c, &new.account)?;
    let rights = &new.rights;
    let mut statement = c.prepare_cached(
        "INSERT INTO keys (account_id, key_hash, name, hint, scopes, created_at, expires_at,
                           purposes, networks, limits)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) RETURNING key_id",
    )?;
    let values = (
        account.0,
        new.hash.as_bytes(),
        &new.name,
        &new.hint,
        rights.scopes.to_string(),
        now.0,
        rights.expires_at.map(|t| t.0),
        rights.purposes.as_ref().map(json),
        rights.networks.as_ref().map(json),
        json(&rights.limits),
    );
    let id = statement.query_row(values, |row| row.get(0))?;
    Ok(Applied::of(target(id), None, look(c, id)?))
}

pub(super) fn change(c: &Connection, change: &KeyChange) -> Result<Applied, Stop> {
    let id = change.key_id;
    let before = look(c, id)?;
    refuse_revoked(&before, id)?;
    c.prepare_cached(
        "UPDATE keys SET name = coalesce(?2, name), scopes = coalesce(?3, scopes),
                         limits = coalesce(?4, limits),
                         purposes = CASE WHEN ?5 THEN ?6 ELSE purposes END,
                         networks = CASE WHEN ?7 THEN ?8 ELSE networks END,
                         expires_at = CASE WHEN ?9 THEN ?10 ELSE expires_at END
         WHERE key_id = ?1",
    )?
    .execute((
        id,
        &change.name,
        change.scopes.map(|scopes| scopes.to_string()),
        change.limits.as_ref().map(json),
        change.purposes.is_some(),
        change.purposes.as_ref().and_then(Option::as_ref).map(json),
        change.networks.is_some(),
        change.networks.as_ref().and_then(Option::as_ref).map(json),
        change.expires_at.is_some(),
        change.expires_at.flatten().map(|t| t.0),
    ))?;
    Ok(Applied::of(target(id), Some(before), look(c, id)?))
}

/// Revoking twice is success and keeps the first time.
pub(super) fn revoke(c: &Connection, id: i64, now: UnixMillis) -> Result<Applied, Stop> {
    let before = look(c, id)?;
    c.prepare_cached("UPDATE keys SET revoked_at = coalesce(revoked_at, ?2) WHERE key_id = ?1")?
        .execute((id, now.0))?;
    Ok(Applied::of(target(id), Some(before), look(c, id)?))
}

pub(super) fn rotate(
    c: &Connection,
    rotated: &RotatedKey,
    now: UnixMillis,
) -> Result<Applied, Stop> {
    let old = rotated.key_id;
    let before = look(c, old)?;
    refuse_revoked(&before, old)?;
    let made = c
        .prepare_cached(
            "INSERT INTO keys (account_id, key_hash, name, hint, scopes, created_at, expires_at,
                               purposes, networks, limits, replaces)
             SELECT account_id, ?2, name, ?3, scopes, ?4, expires_at, purposes, networks, limits,
                    key_id
             FROM keys WHERE key_id = ?1 AND (expires_at IS NULL OR expires_at > ?4)
             RETURNING key_id",
        )?
        .query_row((old, rotated.hash.as_bytes(), &rotated.hint, now.0), |row| row.get(0))
        .optional()?;
    let Some(id) = made else {
        return Err(Refusal::Conflict(format!("key {old} has expired: make a new one")).into());
    };
    c.prepare_cached(
        "UPDATE keys SET expires_at = CASE WHEN expires_at < ?2 THEN expires_at ELSE ?2 END WHERE key_id = ?1",
    )?
    .execute((old, rotated.overlap_until.0))?;
    Ok(Applied::of(target(old), Some(before), look(c, id)?))
}

fn refuse_revoked(key: &Value, id: i64) -> Result<(), Refusal> {
    if key["revoked_at"].is_null() {
        return Ok(());
    }
    Err(Refusal::Conflict(format!("key {id} is revoked")))
}

fn target(id: i64) -> String {
    format!("key:{id}")
}
