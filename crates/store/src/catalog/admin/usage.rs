//! Sums of calls.

use std::str::FromStr;

use super::view::{Kind, cut, object, text};
use super::{Listed, Page, Refusal, Stop, accounts};
use crate::catalog::sql::{self, Connection, Value as Sql};

/// What calls are summed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsageBy {
    /// The UTC day.
    Day,
    /// The account.
    Account,
    /// The key.
    Key,
    /// The purpose.
    Purpose,
    /// The call.
    Call,
}

impl UsageBy {
    /// All of them, in the order of the columns.
    pub const ALL: [Self; 5] = [Self::Day, Self::Account, Self::Key, Self::Purpose, Self::Call];

    /// The name of the column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Account => "account",
            Self::Key => "key",
            Self::Purpose => "purpose",
            Self::Call => "call",
        }
    }

    fn expression(self) -> &'static str {
        match self {
            Self::Day => "u.day",
            Self::Account => "coalesce(a.name, '')",
            Self::Key => "u.key_id",
            Self::Purpose => "u.purpose",
            Self::Call => "u.call",
        }
    }
}

impl FromStr for UsageBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|by| by.name() == text)
            .ok_or_else(|| format!("{text:?} is not day, account, key, purpose or call"))
    }
}

/// Which calls are summed, and by what.
#[derive(Debug, Clone, Default)]
pub struct UsageFilter {
    /// Of this account.
    pub account: Option<String>,
    /// With this key.
    pub key: Option<i64>,
    /// On files of this purpose.
    pub purpose: Option<String>,
    /// From this day, `YYYY-MM-DD`.
    pub from: Option<String>,
    /// To this day, itself counted.
    pub to: Option<String>,
    /// The columns, each once.
    pub by: Vec<UsageBy>,
}

/// `after` is the number of rows that were seen: sums have no id.
pub(super) fn list(c: &Connection, filter: &UsageFilter, page: &Page) -> Result<Listed, Stop> {
    let skipped = page.after.as_deref().unwrap_or("0").parse::<u32>();
    let skipped =
        skipped.map_err(|why| Refusal::Invalid(format!("after: not a number of rows: {why}")))?;
    let account = filter.account.as_deref().map(|name| accounts::id(c, name)).transpose()?;
    let mut conditions = vec!["TRUE"];
    let mut values = Vec::new();
    for (condition, value) in [
        ("u.account_id = ?", account.map(|id| Sql::Integer(id.0))),
        ("u.key_id = ?", filter.key.map(Sql::Integer)),
        ("u.purpose = ?", text(filter.purpose.as_deref())),
        ("u.day >= ?", text(filter.from.as_deref())),
        ("u.day <= ?", text(filter.to.as_deref())),
    ] {
        if let Some(value) = value {
            conditions.push(condition);
            values.push(value);
        }
    }
    values.push(Sql::Integer(i64::from(page.limit) + 1));
    values.push(Sql::Integer(i64::from(skipped)));
    let groups: Vec<_> = filter.by.iter().map(|by| by.expression()).collect();
    let grouped = groups.join(", ");
    // Without a column there is one sum of everything.
    let (selected, grouping) = if groups.is_empty() {
        (String::new(), String::new())
    } else {
        (format!("{grouped}, "), format!("GROUP BY {grouped} ORDER BY {grouped}"))
    };
    let sql = format!(
        "SELECT {selected} CAST(coalesce(sum(u.calls), 0) AS BIGINT),
                CAST(coalesce(sum(u.bytes), 0) AS BIGINT),
                CAST(coalesce(sum(u.charged), 0) AS BIGINT)
         FROM usage u LEFT JOIN accounts a USING (account_id)
         WHERE {} {grouping} LIMIT ? OFFSET ?",
        conditions.join(" AND ")
    );
    let sums = [("calls", Kind::Plain), ("bytes", Kind::Plain), ("charged", Kind::Money)];
    let columns: Vec<_> = filter.by.iter().map(|by| (by.name(), Kind::Plain)).chain(sums).collect();
    let mut statement = c.prepare_cached(&sql)?;
    let rows = statement.query_map(&values[..], |row| object(row, columns.iter().copied()))?;
    Ok(cut(rows.collect::<sql::Result<_>>()?, page.limit))
}
