//! A request that was let in, and the values of it. What a call does not know is refused, so that a
//! mistyped limit is never silently no limit.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use filegate_store::admin::Page;
use filegate_types::units::Span;
use filegate_types::{Money, UnixMillis};
use http::HeaderMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::auth::Operator;
use super::problem::Problem;
use crate::app::App;

/// Rows of a page when the request says nothing.
const LIMIT_DEFAULT: u32 = 100;
/// Rows of a page, at most.
pub(super) const LIMIT_MAX: u32 = 1000;
/// Longest name, reason, note or the like.
const TEXT_BYTES_MAX: usize = 255;

/// A request that was let in.
pub(super) struct Ask {
    pub(super) app: Arc<App>,
    pub(super) operator: Operator,
    pub(super) params: HashMap<String, String>,
    pub(super) query: HashMap<String, String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) now: UnixMillis,
}

impl Ask {
    /// A text of the path.
    pub(super) fn path(&self, name: &str) -> String {
        self.params.get(name).cloned().unwrap_or_default()
    }

    /// A number of the path. One that is none names nothing.
    pub(super) fn path_id(&self, name: &str) -> Result<i64, Problem> {
        let text = self.path(name);
        text.parse().map_err(|_why: std::num::ParseIntError| {
            Problem::not_found("ids of this resource are numbers")
        })
    }

    /// A text of the query.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.query.get(name).cloned()
    }

    /// A value of the query.
    pub(super) fn value<T: FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.query.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|why| Problem::invalid(name, why))
    }

    /// Which page.
    pub(super) fn page(&self, most: u32) -> Result<Page, Problem> {
        let limit = self.value::<u32>("limit")?.unwrap_or(LIMIT_DEFAULT.min(most));
        if !(1..=most).contains(&limit) {
            return Err(Problem::invalid("limit", format_args!("{limit} is not from 1 to {most}")));
        }
        Ok(Page { limit, after: self.text("after") })
    }

    /// Whether everything is only tried.
    pub(super) fn dry_run(&self) -> Result<bool, Problem> {
        Ok(self.value::<bool>("dry_run")?.unwrap_or(false))
    }

    /// The body; none at all is an empty object.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let bytes: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let field = error.path().to_string();
            let inner = error.into_inner();
            let why = inner.to_string();
            let unknown = why.starts_with("unknown field") || why.starts_with("missing field");
            match inner.classify() {
                serde_json::error::Category::Data if unknown => Problem::unreadable(why),
                serde_json::error::Category::Data => Problem::invalid(&field, why),
                _ => Problem::unreadable(format!("the body is not JSON: {why}")),
            }
        })?;
        let ended = reader.end();
        ended.map_err(|why| Problem::unreadable(format!("the body is not JSON: {why}")))?;
        Ok(parsed)
    }

    /// When something ends that is to last for `span`.
    pub(super) fn until(&self, span: Span) -> Result<UnixMillis, Problem> {
        if span.0.is_zero() {
            return Err(Problem::invalid("expires_in", "must be more than 0s"));
        }
        Ok(self.now.plus(span.0))
    }
}

/// A name: 1 to 255 bytes without control characters.
pub(super) fn name(field: &str, text: String) -> Result<String, Problem> {
    if text.is_empty() {
        return Err(Problem::invalid(field, "is empty; it has 1 to 255 bytes"));
    }
    note(field, text)
}

/// A text for people: at most 255 bytes without control characters.
pub(super) fn note(field: &str, text: String) -> Result<String, Problem> {
    if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        let why = format!("has {} bytes; at most 255, without control characters", text.len());
        return Err(Problem::invalid(field, why));
    }
    Ok(text)
}

/// A reason that must be given.
pub(super) fn reason(text: Option<String>) -> Result<String, Problem> {
    name("reason", text.unwrap_or_default())
}

/// An amount above zero.
pub(super) fn above_zero(field: &str, amount: Money) -> Result<Money, Problem> {
    if amount <= Money::ZERO {
        return Err(Problem::invalid(field, format_args!("{amount} is not above 0")));
    }
    Ok(amount)
}

/// A field where null says something else than absence.
#[expect(clippy::option_option, reason = "absent and null are two requests")]
pub(super) fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A list, or one text with commas or spaces.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    /// Each of them.
    pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(
        &self,
        field: &str,
    ) -> Result<Vec<T>, Problem> {
        let words: Vec<&str> = match self {
            Self::One(text) => text.split([' ', ',']).filter(|word| !word.is_empty()).collect(),
            Self::Many(words) => words.iter().map(String::as_str).collect(),
        };
        if words.is_empty() {
            return Err(Problem::invalid(field, "is empty: it would allow nothing"));
        }
        words.iter().map(|w| w.parse().map_err(|why| Problem::invalid(field, why))).collect()
    }
}
