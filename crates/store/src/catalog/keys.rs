//! Accounts and keys.

use filegate_types::{AccountId, Call, KeyHash, KeyId, Money, Principal, Scopes, UnixMillis};

use super::books::{CallPrices, select_call_prices};
use super::sql::{self, OptionalExtension as _, Row};
use super::{Catalog, corrupt_column, json_or_default, synced};
use crate::error::StoreError;

/// A key to be made.
#[derive(Debug, Clone)]
pub struct KeyDraft {
    /// The account it belongs to, made if it is not there.
    pub account: String,
    /// What its owner calls it.
    pub name: String,
    /// The hash of the key.
    pub hash: KeyHash,
    /// Its last four characters.
    pub hint: String,
    /// What it may do.
    pub scopes: Scopes,
    /// When it stops working, if ever.
    pub expires_at: Option<UnixMillis>,
}

/// A key as it is listed. The key itself is not known here.
#[derive(Debug, Clone)]
pub struct KeyRow {
    /// Its id, by which it is revoked.
    pub key_id: KeyId,
    /// The name of its account.
    pub account: String,
    /// What its owner calls it.
    pub name: String,
    /// Its last four characters.
    pub hint: String,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it stops working, if ever.
    pub expires_at: Option<UnixMillis>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<UnixMillis>,
}

/// Which key is meant.
#[derive(Debug, Clone, Copy)]
pub enum KeySelector {
    /// By its id.
    Id(KeyId),
    /// By the key itself.
    Hash(KeyHash),
}

impl Catalog {
    /// Makes a key, and its account on first mention. Where two mention it first, the second INSERT waits for
    /// the first and then changes nothing; the SELECT after it sees the account.
    pub async fn create_key(&self, draft: KeyDraft, now: UnixMillis) -> Result<KeyId, StoreError> {
        self.engine
            .write(synced("creating a key"), move |c| {
                c.execute(
                    "INSERT INTO accounts (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    (&draft.account, now.0),
                )?;
                c.query_row(
                    "INSERT INTO keys
                         (account_id, key_hash, name, hint, scopes, created_at, expires_at)
                     SELECT account_id, ?2, ?3, ?4, ?5, ?6, ?7 FROM accounts WHERE name = ?1
                     RETURNING key_id",
                    (
                        &draft.account,
                        draft.hash.as_bytes(),
                        &draft.name,
                        &draft.hint,
                        draft.scopes.to_string(),
                        now.0,
                        draft.expires_at.map(|t| t.0),
                    ),
                    |row| row.get(0).map(KeyId),
                )
            })
            .await
    }

    /// Every key, oldest first.
    pub async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        self.engine
            .read("listing keys", |c| {
                let mut statement = c.prepare_cached(
                    "SELECT key_id, accounts.name, keys.name, hint, scopes, keys.created_at,
                            expires_at, revoked_at
                     FROM keys JOIN accounts USING (account_id) ORDER BY key_id",
                )?;
                let rows = statement.query_map((), |row| {
                    Ok(KeyRow {
                        key_id: KeyId(row.get(0)?),
                        account: row.get(1)?,
                        name: row.get(2)?,
                        hint: row.get(3)?,
                        scopes: scopes(row, 4)?,
                        created_at: UnixMillis(row.get(5)?),
                        expires_at: row.get::<Option<i64>>(6)?.map(UnixMillis),
                        revoked_at: row.get::<Option<i64>>(7)?.map(UnixMillis),
                    })
                })?;
                rows.collect()
            })
            .await
    }

    /// Revokes a key from the next request on. False if there is no such key; revoking twice is
    /// success and keeps the first time.
    pub async fn revoke_key(&self, key: KeySelector, now: UnixMillis) -> Result<bool, StoreError> {
        self.engine
            .write(synced("revoking a key"), move |c| {
                let (id, hash) = match key {
                    KeySelector::Id(id) => (Some(id.0), None),
                    KeySelector::Hash(hash) => (None, Some(*hash.as_bytes())),
                };
                let changed = c.execute(
                    "UPDATE keys SET revoked_at = coalesce(revoked_at, ?3)
                     WHERE key_id = ?1 OR key_hash = ?2",
                    (id, hash, now.0),
                )?;
                Ok(changed == 1)
            })
            .await
    }

    /// Who presents a key with this hash, to make `call`; `None` for one that is unknown, revoked or
    /// expired.
    pub async fn authenticate(
        &self,
        hash: KeyHash,
        call: Call,
        now: UnixMillis,
    ) -> Result<Option<Caller>, StoreError> {
        self.engine
            .read_few("looking up a key", move |c| {
                let mut statement = c.prepare_cached(concat!(
                    "SELECT key_id, account_id, scopes, purposes, networks, keys.limits,
                            accounts.limits, settings, balance - held, state, expires_at, least, most, of_all
                     FROM (",
                    select_call_prices!(),
                    ") AS p CROSS JOIN keys JOIN accounts USING (account_id)
                     WHERE key_hash = ?1 AND revoked_at IS NULL
                       AND (expires_at IS NULL OR expires_at > ?2)"
                ))?;
                let row = statement.query_row((hash.as_bytes(), now.0, call.name()), |row| {
                    let prices = CallPrices::of_row(row, 11)?;
                    let state: String = row.get(9)?;
                    let principal = Principal {
                        key_id: KeyId(row.get(0)?),
                        account_id: AccountId(row.get(1)?),
                        scopes: scopes(row, 2)?,
                        purposes: json_or_default(row, 3)?,
                        networks: json_or_default(row, 4)?,
                        key_limits: json_or_default(row, 5)?,
                        account_limits: json_or_default(row, 6)?,
                        settings: json_or_default(row, 7)?,
                        available: Money(row.get(8)?),
                        key_expires_at: row.get::<Option<i64>>(10)?.map(UnixMillis),
                        least_price: prices.least,
                        priced: prices.any,
                    };
                    Ok(if state == "active" {
                        Caller::Active(Box::new(principal))
                    } else {
                        Caller::Disabled(principal.key_id)
                    })
                });
                row.optional()
            })
            .await
    }
}

/// A good key, and whether its account may be used.
#[derive(Debug, Clone)]
pub enum Caller {
    /// It may.
    Active(Box<Principal>),
    /// The account is disabled.
    Disabled(KeyId),
}

fn scopes(row: &Row<'_>, index: usize) -> sql::Result<Scopes> {
    let text: String = row.get(index)?;
    text.parse().map_err(|why: String| corrupt_column(index, std::io::Error::other(why)))
}
