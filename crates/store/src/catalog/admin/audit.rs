//! Who did what.

use super::view::{Cursor, Kind, View, text};
use super::{AdminCall, Applied, Listed, Page, Stop};
use crate::catalog::sql::{self, Connection};

const VIEW: View = View {
    columns: &[
        ("u.audit_id", "id", Kind::Plain),
        ("u.at", "at", Kind::Time),
        ("u.actor", "actor", Kind::Plain),
        ("u.origin", "origin", Kind::Plain),
        ("u.action", "action", Kind::Plain),
        ("u.target", "target", Kind::Plain),
        ("u.before", "before", Kind::Json),
        ("u.after", "after", Kind::Json),
    ],
    from: "audit u",
    cursor: Cursor::Number("u.audit_id"),
};

/// By actor, action and target.
pub(super) fn list(
    c: &Connection,
    [actor, action, target]: [Option<&str>; 3],
    page: &Page,
) -> Result<Listed, Stop> {
    let filters = [
        ("u.actor = ?", text(actor)),
        ("u.action = ?", text(action)),
        ("u.target = ?", text(target)),
    ];
    VIEW.page(c, &filters, page)
}

pub(super) fn write(c: &Connection, call: &AdminCall, applied: &Applied) -> sql::Result<()> {
    c.prepare_cached(
        "INSERT INTO audit (at, actor, origin, action, target, before, after)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute((
        call.now.0,
        &call.actor,
        &call.origin,
        call.action,
        &applied.target,
        applied.before.as_ref().map(ToString::to_string),
        applied.after.as_ref().map(ToString::to_string),
    ))
    .map(drop)
}
