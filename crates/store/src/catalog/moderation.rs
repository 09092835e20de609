//! What moderation refuses: the entries of the blocked lists.
//!
//! Functions on a connection are for callers that change an entry together with something else, such
//! as the audit log; the methods of [`Catalog`] are each a transaction of their own.

use std::fmt;
use std::str::FromStr;

use filegate_types::UnixMillis;

use super::sql::{self, Connection, Dialect, OptionalExtension as _};
use super::{Catalog, corrupt_column, synced};
use crate::error::StoreError;

/// Entries of one list, at most: the server holds all of them in memory.
pub const HASHES_MAX: u32 = 1_000_000;
/// As [`HASHES_MAX`], of terms, each of which takes many states of an automaton.
pub const TERMS_MAX: u32 = 50_000;
/// Bytes of a term, at most.
pub const TERM_BYTES_MAX: usize = 256;
/// Bytes of a note, at most.
pub const NOTE_BYTES_MAX: usize = 1024;

/// A list of what is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockedList {
    /// SHA-256 of whole files.
    Sha256,
    /// Perceptual hashes of pictures.
    Image,
    /// Terms in names and texts.
    Term,
}

impl BlockedList {
    /// The name in rows and replies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Image => "image",
            Self::Term => "term",
        }
    }

    /// Entries it holds, at most.
    pub fn max(self) -> u32 {
        match self {
            Self::Sha256 | Self::Image => HASHES_MAX,
            Self::Term => TERMS_MAX,
        }
    }

    /// `value` as it is kept in this list.
    ///
    /// # Errors
    /// What is wrong with it, in words for the operator.
    pub fn clean(self, value: &str) -> Result<String, String> {
        let value = value.trim();
        let hex = |digits: usize| {
            let lower = value.to_ascii_lowercase();
            let hex = lower.len() == digits && lower.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then_some(lower).ok_or_else(|| format!("{value:?} is not {digits} hex digits"))
        };
        match self {
            Self::Sha256 => hex(64),
            Self::Image => hex(16),
            Self::Term if value.is_empty() => Err("the term is empty".to_owned()),
            Self::Term if value.len() > TERM_BYTES_MAX => {
                Err(format!("the term is longer than {TERM_BYTES_MAX} bytes"))
            }
            Self::Term if value.contains(char::is_control) => {
                Err("the term has control characters".to_owned())
            }
            Self::Term => Ok(value.to_owned()),
        }
    }
}

impl FromStr for BlockedList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Sha256, Self::Image, Self::Term]
            .into_iter()
            .find(|list| list.name() == text)
            .ok_or_else(|| format!("{text:?} is not sha256, image or term"))
    }
}

impl fmt::Display for BlockedList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedEntry {
    /// Its number, never used again.
    pub entry_id: i64,
    /// Where it stands.
    pub list: BlockedList,
    /// What is refused.
    pub value: String,
    /// Why, for operators.
    pub note: String,
    /// Since when.
    pub created_at: UnixMillis,
}

/// How adding an entry went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockOutcome {
    /// It is refused from now on.
    Added(BlockedEntry),
    /// It was already; this is the entry, unchanged.
    Present(BlockedEntry),
    /// The list holds as many entries as it may; see [`BlockedList::max`].
    Full,
}

/// Tells one content of the lists from another: any entry added or removed changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockedVersion {
    last_id: i64,
    entries: i64,
}

impl BlockedVersion {
    /// Entries in all lists.
    pub fn entries(self) -> u64 {
        self.entries.cast_unsigned()
    }
}

/// Adds an entry with a value that [`BlockedList::clean`] gave.
pub(super) fn block(
    c: &Connection,
    list: BlockedList,
    value: &str,
    note: &str,
    now: UnixMillis,
) -> sql::Result<BlockOutcome> {
    let present = c
        .prepare_cached(
            "SELECT entry_id, list, value, note, created_at FROM blocked
             WHERE list = ?1 AND value = ?2",
        )?
        .query_row((list.name(), value), entry)
        .optional()?;
    if let Some(present) = present {
        return Ok(BlockOutcome::Present(present));
    }
    let held: u32 = c
        .prepare_cached("SELECT count(*) FROM blocked WHERE list = ?1")?
        .query_row([list.name()], |row| row.get(0))?;
    if held >= list.max() {
        return Ok(BlockOutcome::Full);
    }
    let added = c
        .prepare_cached(
            "INSERT INTO blocked (list, value, note, created_at) VALUES (?1, ?2, ?3, ?4)
             RETURNING entry_id, list, value, note, created_at",
        )?
        .query_row((list.name(), value, note, now.0), entry)?;
    Ok(BlockOutcome::Added(added))
}

/// Removes an entry; gives what it was.
pub(super) fn unblock(c: &Connection, entry_id: i64) -> sql::Result<Option<BlockedEntry>> {
    c.prepare_cached(
        "DELETE FROM blocked WHERE entry_id = ?1
         RETURNING entry_id, list, value, note, created_at",
    )?
    .query_row([entry_id], entry)
    .optional()
}

/// Entries after `after` in the order they were added, of `list` or of all, at most `limit`.
pub(super) fn blocked(
    c: &Connection,
    list: Option<BlockedList>,
    after: i64,
    limit: u32,
) -> sql::Result<Vec<BlockedEntry>> {
    let mut statement = c.prepare_cached(
        "SELECT entry_id, list, value, note, created_at FROM blocked
         WHERE entry_id > ?1 AND (CAST(?2 AS TEXT) IS NULL OR list = ?2) ORDER BY entry_id LIMIT ?3",
    )?;
    let rows = statement.query_map((after, list.map(BlockedList::name), limit), entry)?;
    rows.collect()
}

/// What stands in the lists now, in one glance. Ids are never used again and only grow, for whoever adds
/// an entry has locked the lists: so as long as the last id and the count are the same, so is the rest.
pub(super) fn blocked_version(c: &Connection) -> sql::Result<BlockedVersion> {
    c.prepare_cached(match c.dialect() {
        Dialect::Sqlite => {
            "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'blocked'), 0),
                    (SELECT count(*) FROM blocked)"
        }
        // A sequence runs ahead of what is committed.
        Dialect::Postgres => "SELECT coalesce(max(entry_id), 0), count(*) FROM blocked",
    })?
    .query_row((), |row| Ok(BlockedVersion { last_id: row.get(0)?, entries: row.get(1)? }))
}

fn entry(row: &sql::Row<'_>) -> sql::Result<BlockedEntry> {
    let list: String = row.get(1)?;
    let list = list.parse().map_err(|why: String| corrupt_column(1, std::io::Error::other(why)))?;
    Ok(BlockedEntry {
        entry_id: row.get(0)?,
        list,
        value: row.get(2)?,
        note: row.get(3)?,
        created_at: UnixMillis(row.get(4)?),
    })
}

impl Catalog {
    /// Adds an entry; see [`block`].
    pub async fn block(
        &self,
        list: BlockedList,
        value: String,
        note: String,
        now: UnixMillis,
    ) -> Result<BlockOutcome, StoreError> {
        let change = synced("adding a blocked entry").by_operators();
        self.engine.write(change, move |c| block(c, list, &value, &note, now)).await
    }

    /// Removes an entry; see [`unblock`].
    pub async fn unblock(&self, entry_id: i64) -> Result<Option<BlockedEntry>, StoreError> {
        let change = synced("removing a blocked entry").by_operators();
        self.engine.write(change, move |c| unblock(c, entry_id)).await
    }

    /// A page of the lists; see [`blocked`].
    pub async fn blocked(
        &self,
        list: Option<BlockedList>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<BlockedEntry>, StoreError> {
        self.engine.read("reading blocked entries", move |c| blocked(c, list, after, limit)).await
    }

    /// Which content the lists have; see [`blocked_version`].
    pub async fn blocked_version(&self) -> Result<BlockedVersion, StoreError> {
        self.engine.read("looking at the blocked lists", blocked_version).await
    }

    /// Every entry, with the version that they are.
    pub async fn all_blocked(&self) -> Result<(BlockedVersion, Vec<BlockedEntry>), StoreError> {
        self.engine
            .read_slowly("reading the blocked lists", |c| {
                // The version must not be newer than the entries.
                c.snapshot(|c| {
                    let version = blocked_version(c)?;
                    let entries = blocked(c, None, 0, 2 * HASHES_MAX + TERMS_MAX)?;
                    Ok((version, entries))
                })
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn database() -> Connection {
        let c = Connection::Sqlite(rusqlite::Connection::open_in_memory().unwrap());
        for step in [
            include_str!("../../../../migrations/sqlite/0001_files.sql"),
            include_str!("../../../../migrations/sqlite/0002_tenants.sql"),
        ] {
            c.execute_batch(step).unwrap();
        }
        c
    }

    #[test]
    fn an_entry_stands_once_until_it_is_removed() {
        let c = database();
        let BlockOutcome::Added(first) = block(&c, BlockedList::Term, "spam", "n", NOW).unwrap()
        else {
            panic!("it is new")
        };
        assert_eq!(
            block(&c, BlockedList::Term, "spam", "again", NOW).unwrap(),
            BlockOutcome::Present(first.clone())
        );
        block(&c, BlockedList::Sha256, "spam", "", NOW).unwrap();
        assert_eq!(
            blocked(&c, Some(BlockedList::Term), 0, 9).unwrap(),
            std::slice::from_ref(&first)
        );
        assert_eq!(blocked(&c, None, 0, 9).unwrap().len(), 2);
        assert_eq!(blocked(&c, None, first.entry_id, 9).unwrap().len(), 1);
        assert_eq!(unblock(&c, first.entry_id).unwrap(), Some(first.clone()));
        assert_eq!(unblock(&c, first.entry_id).unwrap(), None);
    }

    #[test]
    fn every_change_is_another_version() {
        let c = database();
        let mut seen = vec![blocked_version(&c).unwrap()];
        let mut look = |c: &Connection| {
            let version = blocked_version(c).unwrap();
            assert!(!seen.contains(&version), "{version:?}");
            seen.push(version);
        };
        block(&c, BlockedList::Term, "a", "", NOW).unwrap();
        look(&c);
        block(&c, BlockedList::Term, "b", "", NOW).unwrap();
        look(&c);
        unblock(&c, 2).unwrap();
        look(&c);
        // As many entries as after the first step, and another one.
        unblock(&c, 1).unwrap();
        block(&c, BlockedList::Term, "c", "", NOW).unwrap();
        look(&c);
    }

    #[test]
    fn values_are_kept_in_one_form() {
        let upper = "AB".repeat(32);
        assert_eq!(BlockedList::Sha256.clean(&upper).unwrap(), upper.to_lowercase());
        assert_eq!(BlockedList::Image.clean(" 00FF00FF00FF00FF\n").unwrap(), "00ff00ff00ff00ff");
        assert_eq!(BlockedList::Term.clean(" Bad Word ").unwrap(), "Bad Word");
        for (list, bad) in [
            (BlockedList::Sha256, "ab"),
            (BlockedList::Sha256, &*"xy".repeat(32)),
            (BlockedList::Image, "é123456789abcde"),
            (BlockedList::Term, "  "),
            (BlockedList::Term, "a\nb"),
            (BlockedList::Term, &*"a".repeat(257)),
        ] {
            assert!(list.clean(bad).is_err(), "{bad}");
        }
    }
}
