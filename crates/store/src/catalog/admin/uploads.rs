//! Uploads in progress.

use filegate_types::UnixMillis;
use serde_json::json;

use super::view::{Cursor, Kind, View};
use super::{Applied, Listed, Page, Refusal, Stop};
use crate::catalog::sql::Connection;
use crate::catalog::{jobs, uploads};

const VIEW: View = View {
    columns: &[
        ("u.blob_key", "id", Kind::Plain),
        ("u.blob_key", "blob_key", Kind::Plain),
        ("a.name", "account", Kind::Plain),
        ("u.key_id", "key_id", Kind::Plain),
        ("u.hold", "hold", Kind::Money),
        ("u.started_at", "started_at", Kind::Time),
        ("u.lease_until", "lease_until", Kind::Time),
    ],
    from: "uploads u JOIN accounts a USING (account_id)",
    cursor: Cursor::Text("u.blob_key"),
};

pub(super) fn list(c: &Connection, page: &Page) -> Result<Listed, Stop> {
    VIEW.page(c, &[], page)
}

/// Ends an upload as the reaper does: it cannot be committed any more, and its hold is void at once.
pub(super) fn abort(c: &Connection, blob_key: &str, now: UnixMillis) -> Result<Applied, Stop> {
    uploads::lock_owner(c, blob_key)?;
    let before = VIEW.one(c, "u.blob_key = ?", blob_key)?;
    let why = || Refusal::NotFound(format!("there is no upload {blob_key:?} in progress"));
    let before = before.ok_or_else(why)?;
    let lease_until: i64 = c
        .prepare_cached("SELECT lease_until FROM uploads WHERE blob_key = ?1")?
        .query_row([blob_key], |row| row.get(0))?;
    uploads::take(c, blob_key)?;
    // Not before the lease ends: the bytes may be landing just now.
    jobs::enqueue_purge(c, blob_key, UnixMillis(lease_until.max(now.0)))?;
    let reply = json!({"id": blob_key, "aborted": true});
    Ok(Applied { target: format!("upload:{blob_key}"), before: Some(before), after: None, reply })
}
