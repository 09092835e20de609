//! Answers as tables, as lines of names and values, as ids, or as they came.
//!
//! How a value is written follows from its name, as the API has it: `…_at` and `…_until` are Unix
//! seconds, `…bytes` are bytes. So a new field needs no new line here.

use serde_json::Value;

use super::request::Table;
use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::text::{escape, size, table, time};

/// The longest cell that is not the last of its row.
const CELL_CHARS_MAX: usize = 60;

/// A row where no table is asked for: the JSON of it, or its id.
pub(super) fn line(row: &Value, printer: &Printer) -> Result<(), Failure> {
    if printer.style() == Style::Json {
        return Ok(printer.json(row)?);
    }
    Ok(printer.result(&escape(&id(row).unwrap_or_default()))?)
}

/// The rows as a table, for people.
pub(super) fn table_of(rows: &[Value], of: &Table, printer: &Printer) -> Result<(), Failure> {
    if printer.style() != Style::Human {
        return Ok(());
    }
    if rows.is_empty() {
        printer.note(&format!("no {}", of.what));
        return Ok(());
    }
    let filled = |field: &str| rows.iter().any(|row| !is_empty(at(row, field)));
    let columns: Vec<_> = of.columns.iter().filter(|(_, field)| filled(field)).collect();
    let titles: Vec<_> = columns.iter().map(|(title, _)| *title).collect();
    let right: Vec<_> = columns
        .iter()
        .filter(|(_, field)| rows.iter().all(|row| is_figure(field, at(row, field))))
        .map(|(title, _)| *title)
        .collect();
    let cells = |row: &Value| -> Vec<String> {
        let last = columns.len().saturating_sub(1);
        let cell = |(nth, (_, field)): (usize, &&(&str, &str))| {
            let text = value(field, at(row, field), false);
            if nth == last { text } else { short(&text) }
        };
        columns.iter().enumerate().map(cell).collect()
    };
    let cells: Vec<_> = rows.iter().map(cells).collect();
    for line in table(&titles, &right, &cells) {
        printer.result(&line)?;
    }
    Ok(())
}

/// One object.
pub(super) fn record(object: &Value, printer: &Printer) -> Result<(), Failure> {
    if printer.style() != Style::Human {
        return line(object, printer);
    }
    let mut lines = Vec::new();
    flatten("", object, &mut lines);
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 1;
    for (name, value) in lines {
        printer.result(format!("{:width$} {value}", name + ":").trim_end())?;
    }
    Ok(())
}

/// One object with a secret that is shown once.
pub(super) fn secret(
    object: &Value,
    field: &str,
    what: &str,
    dry_run: bool,
    printer: &Printer,
) -> Result<(), Failure> {
    if printer.style() == Style::Json {
        return Ok(printer.json(object)?);
    }
    match at(object, field) {
        Value::String(secret) => {
            printer.result(&escape(secret))?;
            let name = |field: &str| value(field, at(object, field), false);
            let account = match at(object, "account") {
                Value::String(account) => format!(" of account {}", escape(account)),
                _ => String::new(),
            };
            printer.note(&format!(
                "{what} {} ({}){account}; it is not shown again",
                name("id"),
                name("name")
            ));
            Ok(())
        }
        _ if dry_run => record(object, printer),
        // The same change as before, answered from what was kept: the secret was not.
        _ => Err(Failure::Problem {
            exit: Exit::Refused,
            text: format!("this {what} was made before and is not shown again"),
        }),
    }
}

/// What tells a row from others, and where its list goes on.
pub(super) fn id(row: &Value) -> Option<String> {
    match row.get("id")? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A field, or one of an object within with a dot between.
fn at<'a>(row: &'a Value, field: &str) -> &'a Value {
    static NULL: Value = Value::Null;
    field.split('.').try_fold(row, |value, name| value.get(name)).unwrap_or(&NULL)
}

fn flatten(prefix: &str, from: &Value, lines: &mut Vec<(String, String)>) {
    let name = |key: &str| {
        if prefix.is_empty() { escape(key) } else { format!("{prefix}.{}", escape(key)) }
    };
    match from {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(key, inner)| flatten(&name(key), inner, lines));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let numbered = items.iter().enumerate();
            numbered.for_each(|(nth, item)| flatten(&name(&nth.to_string()), item, lines));
        }
        plain => {
            let last = prefix.rsplit('.').next().unwrap_or_default();
            lines.push((prefix.to_owned(), value(last, plain, true)));
        }
    }
}

/// A value for people; `exact` also says what rounding hides.
fn value(name: &str, from: &Value, exact: bool) -> String {
    let name = name.rsplit('.').next().unwrap_or_default();
    match from {
        empty if is_empty(empty) => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => escape(text),
        Value::Number(number) if is_time(name) => {
            number.as_i64().map_or_else(|| number.to_string(), time)
        }
        Value::Number(number) if is_size(name) => match number.as_u64() {
            Some(bytes) if exact && bytes >= 1024 => format!("{} ({bytes} bytes)", size(bytes)),
            Some(bytes) => size(bytes),
            None => number.to_string(),
        },
        Value::Array(items) if !items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().map(|item| value(name, item, exact)).collect::<Vec<_>>().join(", ")
        }
        Value::Object(fields) => {
            let pair = |(key, inner): (&String, &Value)| {
                format!("{} {}", escape(key), value(key, inner, exact))
            };
            fields.iter().map(pair).collect::<Vec<_>>().join(", ")
        }
        other => escape(&other.to_string()),
    }
}

fn is_time(name: &str) -> bool {
    name == "at" || name.ends_with("_at") || name.ends_with("_until")
}

fn is_size(name: &str) -> bool {
    name == "bytes" || name.ends_with("_bytes")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        _ => false,
    }
}

/// Whether it is aligned to the right: numbers, and amounts, which are written as text.
fn is_figure(field: &str, value: &Value) -> bool {
    let name = field.rsplit('.').next().unwrap_or_default();
    match value {
        Value::Null => true,
        Value::Number(_) => !is_time(name),
        Value::String(text) => text.parse::<filegate_types::Money>().is_ok(),
        _ => false,
    }
}

fn short(text: &str) -> String {
    if text.chars().count() <= CELL_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_by_their_names() {
        for (name, from, says) in [
            ("created_at", json!(1_700_469_398), "2023-11-20 08:36:38Z"),
            ("at", json!(1_700_469_398), "2023-11-20 08:36:38Z"),
            ("stored_bytes", json!(2048), "2.0 KiB (2048 bytes)"),
            ("bytes", json!(713), "713 B"),
            ("attempts", json!(3), "3"),
            ("upload", json!(true), "yes"),
            ("reason", json!(""), "-"),
            ("limits", json!({}), "-"),
            ("filename", json!("a\u{1b}[2J"), "a\\u{1b}[2J"),
            ("networks", json!(["a", "b\n"]), "a, b\\u{a}"),
            ("verdict", json!({"x": 1, "y\r": [1, 2]}), "x 1, y\\u{d} 1, 2"),
            ("odd", json!([{"a": "\u{1b}"}]), "[{\"a\":\"\\u001b\"}]"),
        ] {
            assert_eq!(value(name, &from, true), says, "{name}");
        }
    }

    #[test]
    fn objects_become_lines_with_the_names_of_what_is_inside() {
        let mut lines = Vec::new();
        let object = json!({"id": 7, "limits": {"request_burst": 5},
            "ledger": [{"amount": "-1", "at": 0}]});
        flatten("", &object, &mut lines);
        let lines: Vec<_> = lines.iter().map(|(name, value)| format!("{name} {value}")).collect();
        assert_eq!(
            lines,
            [
                "id 7",
                "ledger.0.amount -1",
                "ledger.0.at 1970-01-01 00:00:00Z",
                "limits.request_burst 5"
            ]
        );
    }

    #[test]
    fn amounts_and_counts_stand_at_the_right() {
        assert!(is_figure("amount", &json!("-0.5")) && is_figure("key_id", &json!(7)));
        assert!(!is_figure("created_at", &json!(7)) && !is_figure("name", &json!("x")));
        assert_eq!(short(&"x".repeat(60)).chars().count(), 60);
        assert_eq!(short(&"x".repeat(61)), format!("{}…", "x".repeat(59)));
    }
}
