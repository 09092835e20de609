//! Work that waits.

use filegate_types::UnixMillis;

use super::view::{Cursor, Kind, View};
use super::{Applied, Listed, Page, Refusal, Stop};
use crate::catalog::sql::Connection;

const VIEW: View = View {
    columns: &[
        ("j.job_id", "id", Kind::Plain),
        ("j.kind", "kind", Kind::Plain),
        ("j.target", "target", Kind::Plain),
        ("j.run_at", "run_at", Kind::Time),
        ("j.attempts", "attempts", Kind::Plain),
        ("j.last_error", "last_error", Kind::Plain),
    ],
    from: "jobs j",
    cursor: Cursor::Number("j.job_id"),
};

pub(super) fn list(c: &Connection, page: &Page) -> Result<Listed, Stop> {
    VIEW.page(c, &[], page)
}

/// Makes a job due; the runner does the rest.
pub(super) fn run(c: &Connection, id: i64, now: UnixMillis) -> Result<Applied, Stop> {
    let look = || VIEW.one(c, "j.job_id = ?", id);
    let why = || Refusal::NotFound(format!("there is no job {id}: it may be done"));
    let before = look()?.ok_or_else(why)?;
    c.prepare_cached(
        "UPDATE jobs SET run_at = CASE WHEN run_at < ?2 THEN run_at ELSE ?2 END
         WHERE job_id = ?1",
    )?
    .execute((id, now.0))?;
    Ok(Applied::of(format!("job:{id}"), Some(before), look()?.ok_or_else(why)?))
}
