//! Rows as operators see them, and lists of them.
//!
//! A [`View`] says once which columns a resource has and how each is written; its SELECT, its pages and
//! its JSON follow from that. All text of the SQL is ours; values are always bound.

use filegate_types::{Money, UnixMillis, hex};
use serde_json::{Map, Value};

use super::{Refusal, Stop};
use crate::catalog::corrupt_column;
use crate::catalog::sql::{
    self, Connection, Dialect, OptionalExtension as _, Row, ToValue, Value as Sql,
};

/// Which part of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// How many, at most.
    pub limit: u32,
    /// The `id` of the last one that was seen.
    pub after: Option<String>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Listed {
    /// The rows.
    pub data: Vec<Value>,
    /// Whether more come after them.
    pub has_more: bool,
}

/// How a column is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Numbers and text as they are.
    Plain,
    /// Micro-units as a decimal string.
    Money,
    /// Milliseconds as seconds.
    Time,
    /// Bytes as hex digits.
    Hex,
    /// JSON that our own code wrote.
    Json,
}

/// What `after` is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cursor {
    /// A number of the rows', newest first.
    Number(&'static str),
    /// A text of the rows', the last first.
    Text(&'static str),
    /// A text of the rows', the first first.
    Ascending(&'static str),
    /// A number, newest first, which the SELECT finds by the text.
    Named(&'static str, &'static str),
}

/// A resource: its columns, where they come from, and how its lists go on.
#[derive(Debug)]
pub(super) struct View {
    /// Expression, name, how it is written.
    pub(super) columns: &'static [(&'static str, &'static str, Kind)],
    pub(super) from: &'static str,
    pub(super) cursor: Cursor,
}

/// A condition with the one value it has; without a value it is left out.
pub(super) type Filter = (&'static str, Option<Sql>);

/// The value of a filter by text.
pub(super) fn text(value: Option<&str>) -> Option<Sql> {
    value.map(|text| Sql::Text(text.to_owned()))
}

impl View {
    fn select(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|(expression, ..)| *expression).collect();
        format!("SELECT {} FROM {}", columns.join(", "), self.from)
    }

    fn object(&self, row: &Row<'_>) -> sql::Result<Value> {
        object(row, self.columns.iter().map(|(_, name, kind)| (*name, *kind)))
    }

    /// The one row that `condition` names.
    pub(super) fn one(
        &self,
        c: &Connection,
        condition: &str,
        value: impl ToValue,
    ) -> sql::Result<Option<Value>> {
        c.prepare_cached(&format!("{} WHERE {condition}", self.select()))?
            .query_row([value], |row| self.object(row))
            .optional()
    }

    /// A page of the rows that pass every filter.
    pub(super) fn page(
        &self,
        c: &Connection,
        filters: &[Filter],
        page: &Page,
    ) -> Result<Listed, Stop> {
        let mut conditions = vec!["TRUE".to_owned()];
        let mut values: Vec<Sql> = Vec::new();
        let mut order = String::new();
        for (condition, value) in filters {
            let Some(value) = value else { continue };
            values.push(value.clone());
            match condition.strip_suffix(" = ?") {
                // As `files::list_sql` does it, for the same reason.
                Some(account)
                    if account.ends_with(".account_id") && c.dialect() == Dialect::Postgres =>
                {
                    conditions.push(format!("{account} BETWEEN ? AND ?"));
                    values.push(value.clone());
                    order = format!("{account} DESC, ");
                }
                _ => conditions.push((*condition).to_owned()),
            }
        }
        let after = page.after.as_deref().map(|text| self.after(c, text)).transpose()?;
        let (column, direction, beyond) = match self.cursor {
            Cursor::Number(column) | Cursor::Text(column) | Cursor::Named(column, _) => {
                (column, "DESC", "<")
            }
            Cursor::Ascending(column) => (column, "ASC", ">"),
        };
        if let Some(after) = after {
            conditions.push(format!("{column} {beyond} ?"));
            values.push(after);
        }
        values.push(Sql::Integer(i64::from(page.limit) + 1));
        let sql = format!(
            "{} WHERE {} ORDER BY {order}{column} {direction} LIMIT ?",
            self.select(),
            conditions.join(" AND ")
        );
        let mut statement = c.prepare_cached(&sql)?;
        let rows = statement.query_map(&values[..], |row| self.object(row))?;
        Ok(cut(rows.collect::<sql::Result<_>>()?, page.limit))
    }

    fn after(&self, c: &Connection, text: &str) -> Result<Sql, Stop> {
        let wrong =
            || Refusal::Invalid(format!("after: {text:?} is not the id of one of the list"));
        match self.cursor {
            Cursor::Text(_) | Cursor::Ascending(_) => Ok(Sql::Text(text.to_owned())),
            Cursor::Number(_) => {
                let number = text.parse().map_err(|_why: std::num::ParseIntError| wrong())?;
                Ok(Sql::Integer(number))
            }
            Cursor::Named(_, select) => {
                let found = c.prepare_cached(select)?.query_row([text], |row| row.get(0));
                Ok(Sql::Integer(found.optional()?.ok_or_else(wrong)?))
            }
        }
    }
}

/// A page of rows of which one more than `limit` was asked for.
pub(super) fn cut(mut data: Vec<Value>, limit: u32) -> Listed {
    let has_more = data.len() > limit as usize;
    data.truncate(limit as usize);
    Listed { data, has_more }
}

/// A row as an object.
pub(super) fn object(
    row: &Row<'_>,
    columns: impl Iterator<Item = (&'static str, Kind)>,
) -> sql::Result<Value> {
    let mut object = Map::new();
    for (index, (name, kind)) in columns.enumerate() {
        object.insert(name.to_owned(), written(row, index, kind)?);
    }
    Ok(Value::Object(object))
}

fn written(row: &Row<'_>, index: usize, kind: Kind) -> sql::Result<Value> {
    Ok(match (kind, row.get::<Sql>(index)?) {
        (_, Sql::Null) => Value::Null,
        (Kind::Money, Sql::Integer(amount)) => Value::from(Money(amount).to_string()),
        (Kind::Time, Sql::Integer(millis)) => Value::from(UnixMillis(millis).seconds()),
        (_, Sql::Integer(number)) => Value::from(number),
        (Kind::Json, Sql::Text(text)) => {
            serde_json::from_str(&text).map_err(|e| corrupt_column(index, e))?
        }
        (_, Sql::Text(text)) => Value::from(text),
        (_, Sql::Blob(bytes)) => Value::from(hex(&bytes)),
    })
}
