//! Lists, page by page.

use serde_json::Value;

use super::request::{Call, Table};
use super::show;
use super::transport::{Attempt, Transport};
use crate::exit::Failure;
use crate::printer::{Printer, Style};

/// Rows of a page, at most: the API's own maximum.
const PAGE_ROWS: u32 = 1000;

/// Fetches and prints at most `limit` rows; all, if there is none, of a list without pages.
///
/// JSON and ids go out page by page. A table is printed when all rows are there, since its columns are
/// as wide as their widest cell.
pub(super) async fn list(
    transport: &Transport,
    call: &Call,
    attempt: &Attempt,
    (table, limit): (&'static Table, Option<u32>),
    printer: &Printer,
) -> Result<(), Failure> {
    let mut rows: Vec<Value> = Vec::new();
    let mut left = limit.unwrap_or(u32::MAX);
    let mut seen = 0;
    let mut after: Option<String> = None;
    loop {
        let mut more = Vec::new();
        more.extend(limit.map(|_| ("limit", left.min(PAGE_ROWS).to_string())));
        more.extend(after.take().map(|after| ("after", after)));
        let mut page = transport.json(call, attempt, &more, printer).await?;
        let has_more = page.get("has_more").and_then(Value::as_bool).unwrap_or(false);
        let Some(Value::Array(mut data)) = page.get_mut("data").map(Value::take) else {
            return Err(Failure::Fault(anyhow::anyhow!("the answer has no list")));
        };
        data.truncate(left as usize);
        left = left.saturating_sub(u32::try_from(data.len()).unwrap_or(u32::MAX));
        seen += data.len();
        // Sums have no id: their lists go on by the number of rows that were seen.
        let last = data.last().map(|row| show::id(row).unwrap_or_else(|| seen.to_string()));
        if printer.style() == Style::Human {
            rows.extend(data);
        } else {
            data.iter().try_for_each(|row| show::line(row, printer))?;
        }
        match last {
            Some(last) if has_more && left > 0 => after = Some(last),
            last => {
                show::table_of(&rows, table, printer)?;
                if has_more && last.is_some() {
                    printer.note("more rows follow: raise --limit");
                }
                return Ok(());
            }
        }
    }
}
