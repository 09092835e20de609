//! Flags that several commands have: limits, spans, sizes, how many rows.

use std::convert::Infallible;
use std::str::FromStr;

use clap::Args;
use filegate_types::units::{Bytes, Span};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// How many rows a list shows.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct RowsArg {
    /// At most so many rows
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
}

/// A value, or `none` for no bound.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct OrNone<T>(Option<T>);

impl<T: FromStr<Err: ToString>> FromStr for OrNone<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let hint = |error: T::Err| format!("{}; `none` takes the bound away", error.to_string());
        text.parse().map(|value| Self(Some(value))).map_err(hint)
    }
}

/// Names with commas between them, or `any`.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct NamesOrAny(Option<Vec<String>>);

impl FromStr for NamesOrAny {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        if text == "any" {
            return Ok(Self(None));
        }
        Ok(Self(Some(text.split(',').map(|name| name.trim().to_owned()).collect())))
    }
}

/// What a key or an account may use.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits (`none` takes one away)")]
pub(super) struct LimitArgs {
    /// Requests in a minute
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<OrNone<u32>>,

    /// Requests that may come at once [default: as many as in a minute]
    #[arg(long, value_name = "N")]
    request_burst: Option<OrNone<u32>>,

    /// Bytes of uploads in a minute, such as 100MiB
    #[arg(long, value_name = "SIZE")]
    bytes_per_minute: Option<OrNone<Bytes>>,

    /// Uploads in progress at a time
    #[arg(long, value_name = "N")]
    concurrent_uploads: Option<OrNone<u32>>,
}

impl LimitArgs {
    fn given(&self) -> Map<String, Value> {
        let fields = [
            ("requests_per_minute", self.requests_per_minute.as_ref().map(|v| json!(v))),
            ("request_burst", self.request_burst.as_ref().map(|v| json!(v))),
            ("bytes_per_minute", self.bytes_per_minute.as_ref().map(|v| json!(v))),
            ("concurrent_uploads", self.concurrent_uploads.as_ref().map(|v| json!(v))),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// The limits that were given, as a key has them; `None` if none was.
    pub(super) fn of_key(&self) -> Option<Map<String, Value>> {
        Some(self.given()).filter(|fields| !fields.is_empty())
    }
}

/// What an account may store, beside the limits that a key can have too.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits (`none` takes one away)")]
pub(super) struct AccountLimitArgs {
    #[command(flatten)]
    shared: LimitArgs,

    /// Bytes of stored files, such as 10GiB
    #[arg(long, value_name = "SIZE")]
    stored_bytes: Option<OrNone<Bytes>>,

    /// Stored files of a purpose, such as voice_clone=100; may be given several times
    #[arg(long, value_name = "PURPOSE=N", value_parser = purpose_limit)]
    files_per_purpose: Vec<(String, OrNone<u64>)>,

    /// The shortest expires_after that an upload may ask for, such as 1h
    #[arg(long, value_name = "SPAN")]
    keep_min: Option<OrNone<Span>>,

    /// The longest time that a file is kept, such as 30d
    #[arg(long, value_name = "SPAN")]
    keep_max: Option<OrNone<Span>>,

    /// The channels that its calls may go to, with commas between them; `any`: its own if it has any, else all
    /// of the operator's
    #[arg(long, value_name = "CHANNELS")]
    channels: Option<NamesOrAny>,

    /// When its files are copied to channels: on_use, on_upload; `none`: as relay.replicate says
    #[arg(long, value_name = "WHEN", value_parser = ["on_use", "on_upload", "none"])]
    replicate: Option<String>,

    /// Whether the bytes of what is born upstream are kept here: true, false; `none`: as relay.keep_outputs says
    #[arg(long, value_name = "WHETHER")]
    keep_outputs: Option<OrNone<bool>>,
}

impl AccountLimitArgs {
    /// The limits that were given, if any.
    pub(super) fn limits(&self) -> Option<Map<String, Value>> {
        let mut fields = self.shared.given();
        if let Some(size) = &self.stored_bytes {
            fields.insert("stored_bytes".to_owned(), json!(size));
        }
        if !self.files_per_purpose.is_empty() {
            let counts = self.files_per_purpose.iter();
            let counts: Map<_, _> = counts.map(|(name, n)| (name.clone(), json!(n))).collect();
            fields.insert("files_per_purpose".to_owned(), Value::Object(counts));
        }
        Some(fields).filter(|fields| !fields.is_empty())
    }

    /// The settings that were given, if any.
    pub(super) fn settings(&self) -> Option<Map<String, Value>> {
        let replicate = self.replicate.as_deref().map(|when| match when {
            "none" => Value::Null,
            when => json!(when),
        });
        let fields = [
            ("keep_min", self.keep_min.as_ref().map(|v| json!(v))),
            ("keep_max", self.keep_max.as_ref().map(|v| json!(v))),
            ("channels", self.channels.as_ref().map(|v| json!(v))),
            ("replicate", replicate),
            ("keep_outputs", self.keep_outputs.as_ref().map(|v| json!(v))),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let fields: Map<_, _> = given.collect();
        Some(fields).filter(|fields| !fields.is_empty())
    }
}

fn purpose_limit(text: &str) -> Result<(String, OrNone<u64>), String> {
    let (purpose, count) =
        text.split_once('=').ok_or("write PURPOSE=N, such as voice_clone=100".to_owned())?;
    Ok((purpose.to_owned(), count.parse()?))
}

/// `old` with the fields of `new`; null takes one away.
pub(super) fn merged(old: Option<&Value>, new: &Map<String, Value>) -> Map<String, Value> {
    let mut fields = match old {
        Some(Value::Object(fields)) => fields.clone(),
        _ => Map::new(),
    };
    for (name, value) in new {
        match value {
            Value::Null => drop(fields.remove(name)),
            Value::Object(inner) => {
                let inner = merged(fields.get(name), inner);
                fields.insert(name.clone(), Value::Object(inner));
            }
            value => drop(fields.insert(name.clone(), value.clone())),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays_and_none_takes_away() {
        let old = json!({"requests_per_minute": 60, "stored_bytes": "1GiB",
            "files_per_purpose": {"batch": 1, "retrieval": 2}});
        let new = json!({"requests_per_minute": null, "concurrent_uploads": 4,
            "files_per_purpose": {"batch": null, "assistants": 3}});
        let merged = merged(Some(&old), new.as_object().unwrap());
        assert_eq!(
            Value::Object(merged),
            json!({"stored_bytes": "1GiB", "concurrent_uploads": 4,
                "files_per_purpose": {"retrieval": 2, "assistants": 3}})
        );
    }

    #[test]
    fn bounds_and_names_are_read() {
        let read = |text: &str| text.parse::<OrNone<Bytes>>().map(|v| json!(v));
        assert_eq!(read("100MiB").unwrap(), json!("100MiB"));
        assert_eq!(read("none").unwrap(), Value::Null);
        assert!(read("lots").unwrap_err().contains("`none`"));
        let names: NamesOrAny = "voice_clone, batch".parse().unwrap();
        assert_eq!(json!(names), json!(["voice_clone", "batch"]));
        assert_eq!(json!("any".parse::<NamesOrAny>().unwrap()), Value::Null);
        assert!(purpose_limit("batch").is_err());
    }
}
