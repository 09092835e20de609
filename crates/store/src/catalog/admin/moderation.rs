//! What moderation refuses.

use filegate_types::UnixMillis;
use serde_json::{Value, json};

use super::view::{Cursor, Kind, View, text};
use super::{Applied, Listed, Page, Refusal, Stop};
use crate::catalog::moderation::{self, BlockOutcome, BlockedList};
use crate::catalog::sql::Connection;

/// Something that is to be refused from now on.
#[derive(Debug, Clone)]
pub struct NewBlocked {
    /// What it is compared with.
    pub list: BlockedList,
    /// The hash or the term, as [`BlockedList::clean`] gave it.
    pub value: String,
    /// Why, for operators.
    pub note: String,
}

const VIEW: View = View {
    columns: &[
        ("b.entry_id", "id", Kind::Plain),
        ("b.list", "list", Kind::Plain),
        ("b.value", "value", Kind::Plain),
        ("b.note", "note", Kind::Plain),
        ("b.created_at", "created_at", Kind::Time),
    ],
    from: "blocked b",
    cursor: Cursor::Number("b.entry_id"),
};

pub(super) fn list(c: &Connection, list: Option<BlockedList>, page: &Page) -> Result<Listed, Stop> {
    VIEW.page(c, &[("b.list = ?", text(list.map(BlockedList::name)))], page)
}

fn look(c: &Connection, id: i64) -> Result<Value, Stop> {
    let found = VIEW.one(c, "b.entry_id = ?", id)?;
    Ok(found.ok_or_else(|| Refusal::NotFound(format!("there is no blocked entry {id}")))?)
}

pub(super) fn block(c: &Connection, new: &NewBlocked, now: UnixMillis) -> Result<Applied, Stop> {
    let id = match moderation::block(c, new.list, &new.value, &new.note, now)? {
        BlockOutcome::Added(entry) => entry.entry_id,
        BlockOutcome::Present(_) => {
            let why = format!("{:?} is on the list {} already", new.value, new.list);
            return Err(Refusal::Conflict(why).into());
        }
        BlockOutcome::Full => {
            let why = format!("the list {} has {} entries and is full", new.list, new.list.max());
            return Err(Refusal::Conflict(why).into());
        }
    };
    Ok(Applied::of(target(id), None, look(c, id)?))
}

pub(super) fn unblock(c: &Connection, id: i64) -> Result<Applied, Stop> {
    let before = look(c, id)?;
    moderation::unblock(c, id)?;
    let reply = json!({"id": id, "removed": true});
    Ok(Applied { target: target(id), before: Some(before), after: None, reply })
}

fn target(id: i64) -> String {
    format!("blocked:{id}")
}
