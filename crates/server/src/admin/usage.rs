//! `usage`: sums of calls, as JSON or as CSV.

use filegate_store::admin::{AdminQuestion, UsageBy, UsageFilter};
use http::header::ACCEPT;
use serde_json::Value;

use super::ask::Ask;
use super::problem::Problem;
use super::{Answer, Answered};
use crate::pay;

/// Rows of an answer, at most: a year of a hundred accounts by day.
pub(super) const ROWS_MAX: u32 = 36_600;
/// What is summed by when the request says nothing.
const BY_DEFAULT: [UsageBy; 2] = [UsageBy::Day, UsageBy::Account];

pub(super) async fn read(ask: Ask) -> Answered {
    let filter = UsageFilter {
        account: ask.text("account"),
        key: ask.value("key")?,
        purpose: ask.text("purpose"),
        from: day(&ask, "from")?,
        to: day(&ask, "to")?,
        by: by(&ask)?,
    };
    let csv = wants_csv(&ask)?;
    let mut page = ask.page(ROWS_MAX)?;
    if csv && ask.text("limit").is_none() {
        page.limit = ROWS_MAX;
    }
    // Calls that are counted in memory belong to the sums.
    pay::write_down(&ask.app).await?;
    let columns: Vec<&str> =
        filter.by.iter().map(|by| by.name()).chain(["calls", "bytes", "charged"]).collect();
    let listed = ask.app.catalog.admin_list(AdminQuestion::Usage(filter), page).await??;
    if csv {
        return Ok(Answer::Csv(table(&columns, &listed.data)));
    }
    Ok(super::page_of(listed))
}

fn by(ask: &Ask) -> Result<Vec<UsageBy>, Problem> {
    let Some(text) = ask.text("by") else { return Ok(BY_DEFAULT.to_vec()) };
    let names = text.split(',').filter(|name| !name.is_empty());
    let mut by: Vec<UsageBy> = names
        .map(|name| name.parse().map_err(|why| Problem::invalid("by", why)))
        .collect::<Result<_, _>>()?;
    by.sort_unstable();
    by.dedup();
    Ok(by)
}

pub(super) fn day(ask: &Ask, name: &str) -> Result<Option<String>, Problem> {
    let Some(text) = ask.text(name) else { return Ok(None) };
    let digits = |part: &str, len| part.len() == len && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = text.split('-').collect();
    match parts.as_slice() {
        [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2) => {
            Ok(Some(text))
        }
        _ => Err(Problem::invalid(name, format_args!("{text:?} is not a day such as 2026-01-31"))),
    }
}

pub(super) fn wants_csv(ask: &Ask) -> Result<bool, Problem> {
    match ask.text("format").as_deref() {
        Some("csv") => Ok(true),
        Some("json") => Ok(false),
        Some(other) => {
            Err(Problem::invalid("format", format_args!("{other:?} is not json or csv")))
        }
        None => {
            let accept = ask.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
            Ok(accept.is_some_and(|text| text.contains("text/csv")))
        }
    }
}

pub(super) fn table(columns: &[&str], rows: &[Value]) -> String {
    let mut text = format!("{}\r\n", columns.join(","));
    for row in rows {
        let cells: Vec<String> = columns.iter().map(|column| cell(&row[*column])).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

/// A cell of RFC 4180. Text that a spreadsheet would take for a formula gets a `'` in front.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::String(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => {
            format!("'{text}")
        }
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_are_quoted_and_no_formulas() {
        for (value, says) in [
            (json!("plain"), "plain"),
            (json!("a,b"), "\"a,b\""),
            (json!("say \"x\""), "\"say \"\"x\"\"\""),
            (json!("=1+1"), "'=1+1"),
            (json!("@x,y"), "\"'@x,y\""),
            (json!("-3"), "'-3"),
            (json!(-3), "-3"),
            (Value::Null, ""),
        ] {
            assert_eq!(cell(&value), says);
        }
    }
}
