//! What moderation refuses.

use std::str::FromStr;

use filegate_types::UnixMillis;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::view::{Cursor, Kind, View, text};
use super::{Applied, Listed, Page, Refusal, Stop};

/// What an entry is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockList {
    /// The SHA-256 of the content.
    Sha256,
    /// The perceptual hash of an image.
    Image,
    /// Names, and the content of texts.
    Term,
}

impl BlockList {
    /// The name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Image => "image",
            Self::Term => "term",
        }
    }
}

impl FromStr for BlockList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Sha256, Self::Image, Self::Term]
            .into_iter()
            .find(|list| list.name() == text)
            .ok_or_else(|| format!("{text:?} is not sha256, image or term"))
    }
}

/// Something that is to be refused from now on.
#[derive(Debug, Clone)]
pub struct NewBlocked {
    /// What it is compared with.
    pub list: BlockList,
    /// The hash or the term.
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

pub(super) fn list(c: &Connection, list: Option<BlockList>, page: &Page) -> Result<Listed, Stop> {
    VIEW.page(c, &[("b.list = ?", text(list.map(BlockList::name)))], page)
}

fn look(c: &Connection, id: i64) -> Result<Value, Stop> {
    let found = VIEW.one(c, "b.entry_id = ?", id)?;
    Ok(found.ok_or_else(|| Refusal::NotFound(format!("there is no blocked entry {id}")))?)
}

pub(super) fn block(c: &Connection, new: &NewBlocked, now: UnixMillis) -> Result<Applied, Stop> {
    let made = c
        .prepare_cached(
            "INSERT INTO blocked (list, value, note, created_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
        )?
        .execute((new.list.name(), &new.value, &new.note, now.0))?;
    if made == 0 {
        let why = format!("{:?} is on the list {} already", new.value, new.list.name());
        return Err(Refusal::Conflict(why).into());
    }
    let id = c.last_insert_rowid();
    Ok(Applied::of(target(id), None, look(c, id)?))
}

pub(super) fn unblock(c: &Connection, id: i64) -> Result<Applied, Stop> {
    let before = look(c, id)?;
    c.prepare_cached("DELETE FROM blocked WHERE entry_id = ?1")?.execute([id])?;
    let reply = json!({"id": id, "removed": true});
    Ok(Applied { target: target(id), before: Some(before), after: None, reply })
}

fn target(id: i64) -> String {
    format!("blocked:{id}")
}
