//! Ids in queries.

use std::ops::Range;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::CallRules;
use crate::relay::json::{Edit, Kind};

/// An id in a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueryId {
    /// What it is.
    pub(crate) kind: Kind,
    /// As it is meant, escapes undone.
    pub(crate) text: String,
    /// Where it stands in the query, as it is written.
    pub(crate) range: Range<usize>,
}

impl QueryId {
    /// Puts `text` there.
    pub(crate) fn edit(&self, text: &str) -> Edit {
        let escaped = utf8_percent_encode(text, NON_ALPHANUMERIC);
        let range = self.range.start as u64..self.range.end as u64;
        Edit { range, bytes: escaped.to_string().into_bytes() }
    }
}

impl CallRules {
    /// Ids in `query`, which is without its question mark. A value may be several with commas between them; nothing
    /// and zero are none.
    pub(crate) fn query_ids(&self, query: &str) -> Vec<QueryId> {
        let mut ids = Vec::new();
        let mut at = 0;
        for pair in query.split('&') {
            let start = at;
            at += pair.len() + 1;
            let Some((name, value)) = pair.split_once('=') else { continue };
            let Some(kind) = self.query_kind(name) else { continue };
            let mut from = start + name.len() + 1;
            for part in parts(value) {
                let range = from..from + part.len();
                let text =
                    percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned();
                if !matches!(text.as_str(), "" | "0") {
                    ids.push(QueryId { kind, text, range: range.clone() });
                }
                // A comma is one byte or, escaped, three.
                from = range.end + if query[range.end..].starts_with('%') { 3 } else { 1 };
            }
        }
        ids
    }

    fn query_kind(&self, name: &str) -> Option<Kind> {
        let name = percent_decode_str(name).decode_utf8_lossy();
        let name = name.trim().trim_end_matches("[]");
        self.query.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, kind)| *kind)
    }
}

/// The parts of a value between commas, escaped ones too.
fn parts(value: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = value;
    loop {
        let comma = (0..rest.len()).find(|at| {
            rest.as_bytes()[*at] == b','
                || rest.as_bytes()[*at..].get(..3).is_some_and(|c| c.eq_ignore_ascii_case(b"%2c"))
        });
        let Some(at) = comma else { break };
        parts.push(&rest[..at]);
        let len = if rest.as_bytes()[at] == b',' { 1 } else { 3 };
        rest = &rest[at + len..];
    }
    parts.push(rest);
    parts
}
