//! Admin tokens.

use filegate_types::{AdminScope, KeyHash, UnixMillis};
use serde_json::Value;

use super::view::{Cursor, Kind, View};
use super::{Applied, Listed, Page, Refusal, Stop};
use crate::catalog::sql::{self, Connection, OptionalExtension as _};
use crate::catalog::{Catalog, corrupt_column, synced};
use crate::error::StoreError;

/// A token to be made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What its owner calls it.
    pub name: String,
    /// The hash of the token.
    pub hash: KeyHash,
    /// Its last four characters.
    pub hint: String,
    /// What it may do.
    pub scope: AdminScope,
    /// When it stops working, if ever.
    pub expires_at: Option<UnixMillis>,
}

/// A token to be revoked.
#[derive(Debug, Clone, Copy)]
pub struct TokenRevocation {
    /// Which.
    pub token_id: i64,
    /// Whether it may be the last that can do everything.
    pub force: bool,
}

/// A token that works.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// Its row.
    pub token_id: i64,
    /// The hash that is stored.
    pub hash: Vec<u8>,
    /// What it may do.
    pub scope: AdminScope,
}

const VIEW: View = View {
    columns: &[
        ("t.token_id", "id", Kind::Plain),
        ("t.name", "name", Kind::Plain),
        ("t.hint", "hint", Kind::Plain),
        ("t.scope", "scope", Kind::Plain),
        ("t.created_at", "created_at", Kind::Time),
        ("t.expires_at", "expires_at", Kind::Time),
        ("t.revoked_at", "revoked_at", Kind::Time),
    ],
    from: "admin_tokens t",
    cursor: Cursor::Number("t.token_id"),
};

pub(super) fn list(c: &Connection, page: &Page) -> Result<Listed, Stop> {
    VIEW.page(c, &[], page)
}

fn look(c: &Connection, id: i64) -> Result<Value, Stop> {
    let found = VIEW.one(c, "t.token_id = ?", id)?;
    Ok(found.ok_or_else(|| Refusal::NotFound(format!("there is no token {id}")))?)
}

pub(super) fn create(c: &Connection, new: &NewToken, now: UnixMillis) -> Result<Applied, Stop> {
    let id = insert(c, new, now)?;
    Ok(Applied::of(format!("token:{id}"), None, look(c, id)?))
}

fn insert(c: &Connection, new: &NewToken, now: UnixMillis) -> sql::Result<i64> {
    c.prepare_cached(
        "INSERT INTO admin_tokens (name, token_hash, hint, scope, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING token_id",
    )?
    .query_row(
        (
            &new.name,
            new.hash.as_bytes(),
            &new.hint,
            new.scope.name(),
            now.0,
            new.expires_at.map(|t| t.0),
        ),
        |row| row.get(0),
    )
}

pub(super) fn revoke(
    c: &Connection,
    revocation: &TokenRevocation,
    now: UnixMillis,
) -> Result<Applied, Stop> {
    let id = revocation.token_id;
    let before = look(c, id)?;
    let works = |other: &str| -> sql::Result<bool> {
        c.prepare_cached(&format!(
            "SELECT EXISTS (SELECT 1 FROM admin_tokens
                            WHERE token_id {other} ?1 AND scope = 'full' AND revoked_at IS NULL
                              AND (expires_at IS NULL OR expires_at > ?2))"
        ))?
        .query_row((id, now.0), |row| row.get(0))
    };
    if !revocation.force && works("=")? && !works("<>")? {
        let why = format!(
            "token {id} is the last with the scope full: without one only the machine itself can \
             make another; \"force\": true revokes it all the same"
        );
        return Err(Refusal::Conflict(why).into());
    }
    c.prepare_cached(
        "UPDATE admin_tokens SET revoked_at = coalesce(revoked_at, ?2) WHERE token_id = ?1",
    )?
    .execute((id, now.0))?;
    Ok(Applied::of(format!("token:{id}"), Some(before), look(c, id)?))
}

impl Catalog {
    /// Makes the first token, unless there has ever been one. True if it was made. Of replicas that start
    /// at the same time one makes it: whoever makes tokens locks out the others.
    pub async fn first_token(&self, new: NewToken, now: UnixMillis) -> Result<bool, StoreError> {
        self.engine
            .write(synced("making the first admin token").by_operators(), move |c| {
                let any: bool =
                    c.query_row("SELECT EXISTS (SELECT 1 FROM admin_tokens)", (), |r| r.get(0))?;
                if !any {
                    insert(c, &new, now)?;
                }
                Ok(!any)
            })
            .await
    }

    /// The token with this hash; `None` for one that is unknown, revoked or expired.
    pub async fn admin_token(
        &self,
        hash: KeyHash,
        now: UnixMillis,
    ) -> Result<Option<TokenRow>, StoreError> {
        self.engine
            .read("looking up an admin token", move |c| {
                c.prepare_cached(
                    "SELECT token_id, token_hash, scope FROM admin_tokens
                     WHERE token_hash = ?1 AND revoked_at IS NULL
                       AND (expires_at IS NULL OR expires_at > ?2)",
                )?
                .query_row((hash.as_bytes(), now.0), |row| {
                    let scope: String = row.get(2)?;
                    let scope = scope
                        .parse()
                        .map_err(|why: String| corrupt_column(2, std::io::Error::other(why)))?;
                    Ok(TokenRow { token_id: row.get(0)?, hash: row.get(1)?, scope })
                })
                .optional()
            })
            .await
    }
}
