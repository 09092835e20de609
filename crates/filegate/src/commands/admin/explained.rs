//! What `filegate file explain` says to people.

use serde_json::Value;

use super::request::Table;
use super::show::{record, table_of};
use crate::exit::Failure;
use crate::printer::{Printer, Style};
use crate::text::{escape, size, time};

const COPIES: Table = Table {
    what: "copies on channels",
    columns: &[
        ("COPY ON", "channel"),
        ("STATE", "state"),
        ("ID THERE", "upstream_id"),
        ("UPLOADS", "uploads"),
        ("USED", "used_at"),
        ("EXPIRES", "expires_at"),
    ],
};

const CHANNELS: Table = Table {
    what: "channels",
    columns: &[
        ("CHANNEL", "channel"),
        ("STATE", "state"),
        ("NEXT", "chosen"),
        ("UNTIL", "rests_until"),
        ("WHY", "why"),
    ],
};

/// Sentences and tables, then every field.
pub(super) fn show(told: &Value, printer: &Printer) -> Result<(), Failure> {
    if printer.style() != Style::Human {
        return record(told, printer);
    }
    for sentence in sentences(told) {
        printer.result(&sentence)?;
    }
    let relay = &told["relay"];
    let copies = rows(&relay["copies"]);
    if !copies.is_empty() {
        printer.result("")?;
        table_of(&copies, &COPIES, printer)?;
    }
    let mut channels = rows(&relay["channels"]);
    if !channels.is_empty() {
        for channel in &mut channels {
            channel["rests_until"] = channel["until"].take();
        }
        printer.result("")?;
        table_of(&channels, &CHANNELS, printer)?;
    }
    printer.result("")?;
    let mut rest = told.clone();
    if let Some(fields) = rest.as_object_mut() {
        fields.remove("relay");
    }
    record(&rest, printer)
}

fn rows(list: &Value) -> Vec<Value> {
    list.as_array().cloned().unwrap_or_default()
}

fn sentences(told: &Value) -> Vec<String> {
    let words = |value: &Value| escape(value.as_str().unwrap_or_default());
    let known = if told["file"].is_null() { &told["receipt"] } else { &told["file"] };
    let reasons: Vec<_> = rows(&told["reasons"]).iter().map(words).collect();
    let can = if told["readable"] == true {
        "can be read".to_owned()
    } else {
        format!("cannot be read: {}", reasons.join("; "))
    };
    let mut lines =
        vec![format!("File {} of account {} {can}.", told["id"], words(&known["account"]))];
    let bytes = known["bytes"].as_u64().map_or_else(|| "of unknown size".to_owned(), size);
    let what =
        format!("It is {:?}, {bytes}, for {}", words(&known["filename"]), words(&known["purpose"]));
    let until = known["expires_at"].as_i64().map(|at| format!(", until {}", time(at)));
    lines.push(format!("{what}{}.", until.unwrap_or_default()));
    let relay = &told["relay"];
    let born = &relay["born_on"];
    lines.push(match (told["file"].is_null(), born.is_null()) {
        (true, _) => "Its bytes are here no more.".to_owned(),
        (false, true) => "Its bytes are here.".to_owned(),
        (false, false) => format!(
            "Its bytes are upstream only: on channel {}, as {}.",
            words(&born["channel"]),
            words(&born["upstream_id"])
        ),
    });
    let next: Vec<_> = rows(&relay["next"]).iter().map(words).collect();
    if told["file"].is_null() || relay.is_null() || !born.is_null() {
        return lines;
    }
    lines.push(match next.as_slice() {
        [] => "No channel would take its next call.".to_owned(),
        [one] => format!("Its next call would go to channel {one}."),
        some => format!("Its next call would go to one of the channels {}.", some.join(", ")),
    });
    lines
}
