//! First answers: what a request with an `Idempotency-Key` was told, kept for a day.
//!
//! Kept by the transaction that does what the answer says, so there is never one without the other. Only
//! successes are kept: a refusal has changed nothing, and the same request may do better later.

use filegate_types::UnixMillis;
use serde::{Deserialize, Serialize};

use super::sql::{self, Connection, OptionalExtension as _};
use super::{Catalog, freeing};
use crate::error::StoreError;

/// How long a first answer is kept.
const KEPT_MS: i64 = 86_400_000;

/// The answer that is to be kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstAnswer {
    /// Whose key it is: `account:N` or `token:N`.
    pub owner: String,
    /// The `Idempotency-Key`.
    pub key: String,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
}

/// An answer that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// SHA-256 of the request it was given to.
    pub fingerprint: [u8; 32],
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub reply: Vec<u8>,
}

impl Catalog {
    /// What was answered to `key` of `owner` within the last day.
    pub async fn first_answer(
        &self,
        owner: String,
        key: String,
        now: UnixMillis,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        self.engine
            .read_few("looking for a first answer", move |c| find(c, &owner, &key, now))
            .await
    }

    /// Forgets answers that are older than a day, at most `limit`; says how many.
    pub async fn forget_answers(&self, now: UnixMillis, limit: u32) -> Result<usize, StoreError> {
        self.engine
            .write(freeing("forgetting first answers"), move |c| {
                c.prepare_cached(
                    "DELETE FROM idempotency WHERE (owner, key) IN
                         (SELECT owner, key FROM idempotency WHERE created_at <= ?1 LIMIT ?2)",
                )?
                .execute((now.0 - KEPT_MS, limit))
            })
            .await
    }
}

pub(super) fn find(
    c: &Connection,
    owner: &str,
    key: &str,
    now: UnixMillis,
) -> sql::Result<Option<KeptAnswer>> {
    c.prepare_cached(
        "SELECT fingerprint, status, reply FROM idempotency
         WHERE owner = ?1 AND key = ?2 AND created_at > ?3",
    )?
    .query_row((owner, key, now.0 - KEPT_MS), |row| {
        Ok(KeptAnswer { fingerprint: row.get(0)?, status: row.get(1)?, reply: row.get(2)? })
    })
    .optional()
}

/// Keeps an answer that [`find`] did not find. Both in one transaction that has locked the owner, be it an
/// account or the operators: of two requests with one key the second finds the answer of the first.
pub(super) fn keep(
    c: &Connection,
    first: &FirstAnswer,
    status: u16,
    reply: &[u8],
    now: UnixMillis,
) -> sql::Result<()> {
    // One that is older than a day is no longer an answer.
    c.prepare_cached(
        "INSERT INTO idempotency (owner, key, fingerprint, status, reply, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (owner, key) DO UPDATE SET
             fingerprint = excluded.fingerprint, status = excluded.status, reply = excluded.reply,
             created_at = excluded.created_at",
    )?
    .queue((&first.owner, &first.key, first.fingerprint, status, reply, now.0))
}
