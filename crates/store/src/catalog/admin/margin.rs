//! What relayed calls brought and what they cost.

use std::str::FromStr;

use super::channels::shown_name;
use super::view::{Kind, cut, object, text};
use super::{Listed, Page, Refusal, Stop, accounts};
use crate::catalog::sql::{self, Connection, Value as Sql};

/// What relayed calls are summed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MarginBy {
    /// The UTC day.
    Day,
    /// The channel.
    Channel,
    /// The account.
    Account,
    /// The normalised path.
    Path,
}

impl MarginBy {
    /// All of them, in the order of the columns.
    pub const ALL: [Self; 4] = [Self::Day, Self::Channel, Self::Account, Self::Path];

    /// The name of the column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Channel => "channel",
            Self::Account => "account",
            Self::Path => "path",
        }
    }

    fn expression(self) -> &'static str {
        match self {
            Self::Day => "r.day",
            Self::Channel => concat!("coalesce(", shown_name!(), ", '')"),
            Self::Account => "coalesce(a.name, '')",
            Self::Path => "r.path",
        }
    }
}

impl FromStr for MarginBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|by| by.name() == text)
            .ok_or_else(|| format!("{text:?} is not day, channel, account or path"))
    }
}

/// Which relayed calls are summed, and by what.
#[derive(Debug, Clone, Default)]
pub struct MarginFilter {
    /// On this channel, as lists show it: with its number if it is removed.
    pub channel: Option<String>,
    /// Of this account.
    pub account: Option<String>,
    /// Of this path.
    pub path: Option<String>,
    /// From this day, `YYYY-MM-DD`.
    pub from: Option<String>,
    /// To this day, itself counted.
    pub to: Option<String>,
    /// The columns, each once.
    pub by: Vec<MarginBy>,
}

/// `after` is the number of rows that were seen: sums have no id.
pub(super) fn list(c: &Connection, filter: &MarginFilter, page: &Page) -> Result<Listed, Stop> {
    let skipped = page.after.as_deref().unwrap_or("0").parse::<u32>();
    let skipped =
        skipped.map_err(|why| Refusal::Invalid(format!("after: not a number of rows: {why}")))?;
    let account = filter.account.as_deref().map(|name| accounts::id(c, name)).transpose()?;
    let mut conditions = vec!["TRUE"];
    let mut values = Vec::new();
    for (condition, value) in [
        (concat!(shown_name!(), " = ?"), text(filter.channel.as_deref())),
        ("r.account_id = ?", account.map(|id| Sql::Integer(id.0))),
        ("r.path = ?", text(filter.path.as_deref())),
        ("r.day >= ?", text(filter.from.as_deref())),
        ("r.day <= ?", text(filter.to.as_deref())),
    ] {
        if let Some(value) = value {
            conditions.push(condition);
            values.push(value);
        }
    }
    values.push(Sql::Integer(i64::from(page.limit) + 1));
    values.push(Sql::Integer(i64::from(skipped)));
    let grouped: Vec<_> = filter.by.iter().map(|by| by.expression()).collect();
    let grouped = grouped.join(", ");
    // Without a column there is one sum of everything.
    let (selected, grouping) = if grouped.is_empty() {
        (String::new(), String::new())
    } else {
        (format!("{grouped}, "), format!("GROUP BY {grouped} ORDER BY {grouped}"))
    };
    let sql = format!(
        "SELECT {selected} CAST(coalesce(sum(r.calls), 0) AS BIGINT),
                CAST(coalesce(sum(r.units), 0) AS BIGINT),
                CAST(coalesce(sum(r.charged), 0) AS BIGINT),
                CAST(coalesce(sum(r.cost), 0) AS BIGINT),
                CAST(coalesce(sum(r.charged - r.cost), 0) AS BIGINT)
         FROM relayed r LEFT JOIN accounts a ON a.account_id = r.account_id
              LEFT JOIN channels ch ON ch.channel_id = r.channel_id
         WHERE {} {grouping} LIMIT ? OFFSET ?",
        conditions.join(" AND ")
    );
    let sums = [
        ("calls", Kind::Plain),
        ("units", Kind::Plain),
        ("charged", Kind::Money),
        ("cost", Kind::Money),
        ("margin", Kind::Money),
    ];
    let columns: Vec<_> = filter.by.iter().map(|by| (by.name(), Kind::Plain)).chain(sums).collect();
    let mut statement = c.prepare_cached(&sql)?;
    let rows = statement.query_map(&values[..], |row| object(row, columns.iter().copied()))?;
    Ok(cut(rows.collect::<sql::Result<_>>()?, page.limit))
}
