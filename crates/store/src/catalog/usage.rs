//! What is stored, and what was called: counted in the transactions that change it.

use filegate_types::{AccountId, Call, KeyId, Money, UnixMillis};
use rusqlite::Connection;

use super::{Catalog, relaxed};
use crate::error::StoreError;

/// Calls of one kind that succeeded, on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Whose calls.
    pub account: AccountId,
    /// With which key.
    pub key: KeyId,
    /// On files of which purpose; empty where a call is of none.
    pub purpose: String,
    /// Which call.
    pub call: Call,
    /// How many.
    pub calls: u64,
    /// Bytes that were uploaded or handed out.
    pub bytes: u64,
    /// What was charged for them.
    pub charged: Money,
}

impl Catalog {
    /// Adds calls that no transaction of their own has counted, such as reads.
    pub async fn add_usage(&self, used: Vec<Usage>, now: UnixMillis) -> Result<(), StoreError> {
        self.engine
            .write(relaxed("counting calls"), move |c| {
                used.iter().try_for_each(|one| add(c, one, now))
            })
            .await
    }
}

/// Adds to the counts of the UTC day of `now`.
pub(super) fn add(c: &Connection, used: &Usage, now: UnixMillis) -> rusqlite::Result<()> {
    c.prepare_cached(
        "INSERT INTO usage (day, account_id, key_id, purpose, call, calls, bytes, charged)
         VALUES (date(?1 / 1000, 'unixepoch'), ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (day, account_id, key_id, purpose, call) DO UPDATE SET
             calls = calls + excluded.calls, bytes = bytes + excluded.bytes,
             charged = charged + excluded.charged",
    )?
    .execute((
        now.0,
        used.account.0,
        used.key.0,
        &used.purpose,
        used.call.name(),
        used.calls.cast_signed(),
        used.bytes.cast_signed(),
        used.charged.0,
    ))
    .map(drop)
}

/// Changes what an account has stored of a purpose.
pub(super) fn store(
    c: &Connection,
    account: AccountId,
    purpose: &str,
    files: i64,
    bytes: i64,
) -> rusqlite::Result<()> {
    let changed = c
        .prepare_cached(
            "UPDATE stored SET files = files + ?3, bytes = bytes + ?4
             WHERE account_id = ?1 AND purpose = ?2",
        )?
        .execute((account.0, purpose, files, bytes))?;
    if changed == 1 {
        return Ok(());
    }
    // The first file of the purpose.
    c.prepare_cached(
        "INSERT INTO stored (account_id, purpose, files, bytes) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute((account.0, purpose, files, bytes))
    .map(drop)
}
