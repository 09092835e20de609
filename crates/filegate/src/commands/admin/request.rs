//! A call of the admin API, and what its answer is to look like.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Map, Value};

/// What stands in a part of a path or a query as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Longest silence of a gateway that works on a call.
const PATIENCE: Duration = Duration::from_mins(3);

/// A call to be made.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// Below `/admin/v1/`, already encoded.
    pub(super) path: String,
    /// Only what was given.
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Option<Map<String, Value>>,
    /// Fields of the body that are laid over what is there now, which is asked for first.
    pub(super) merge: Vec<(&'static str, Map<String, Value>)>,
    pub(super) show: Show,
    /// What it is about, for the failures of one of several calls.
    pub(super) about: String,
    /// Whether it may begin a data directory, as `serve` does.
    pub(super) makes_directory: bool,
    /// How long the answer may take.
    pub(super) patience: Duration,
}

/// How an answer is shown.
#[derive(Debug)]
pub(super) enum Show {
    /// A list, page by page, at most so many rows; without a limit it has no pages.
    List { table: &'static Table, limit: Option<u32> },
    /// One object.
    Record,
    /// One object with a secret, which alone goes to stdout.
    Secret {
        /// Where the secret is.
        field: &'static str,
        /// What it is called.
        what: &'static str,
    },
    /// Why a file can be read or not, and where its next call would go.
    Explained,
    /// As it comes.
    Raw,
}

/// The table of a list.
#[derive(Debug)]
pub(super) struct Table {
    /// What the rows are, in "no files".
    pub(super) what: &'static str,
    /// Title and field of each column; one without any value is left out.
    pub(super) columns: &'static [(&'static str, &'static str)],
}

impl Call {
    /// Asks for a list.
    pub(super) fn list(path: &str, table: &'static Table, limit: u32) -> Self {
        Self::new(Method::GET, path.to_owned(), Show::List { table, limit: Some(limit) })
    }

    /// Asks for a list that has no pages.
    pub(super) fn whole(path: &str, table: &'static Table) -> Self {
        Self::new(Method::GET, path.to_owned(), Show::List { table, limit: None })
    }

    /// Asks for one object.
    pub(super) fn get(path: String) -> Self {
        Self::new(Method::GET, path, Show::Record)
    }

    /// Changes something.
    pub(super) fn post(path: impl Into<String>) -> Self {
        let call = Self::new(Method::POST, path.into(), Show::Record);
        Self { body: Some(Map::new()), ..call }
    }

    fn new(method: Method, path: String, show: Show) -> Self {
        Self {
            method,
            path,
            query: vec![],
            body: None,
            merge: vec![],
            show,
            about: String::new(),
            makes_directory: false,
            patience: PATIENCE,
        }
    }

    /// Names what the call is about.
    pub(super) fn about(mut self, about: &(impl ToString + ?Sized)) -> Self {
        self.about = about.to_string();
        self
    }

    /// Shows the answer otherwise.
    pub(super) fn shown(mut self, show: Show) -> Self {
        self.show = show;
        self
    }

    /// May begin a data directory.
    pub(super) fn making(mut self) -> Self {
        self.makes_directory = true;
        self
    }

    /// May take so long.
    pub(super) fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Adds a parameter of the query if there is one.
    pub(super) fn ask(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// Adds a field of the body if there is one.
    pub(super) fn set(mut self, name: &str, value: Option<impl Serialize>) -> Self {
        if let Some(value) = value {
            self.put(name, serde_json::to_value(value).unwrap_or(Value::Null));
        }
        self
    }

    /// Sets a field of the body.
    pub(super) fn put(&mut self, name: &str, value: Value) {
        if let Some(body) = &mut self.body {
            body.insert(name.to_owned(), value);
        }
    }

    /// Adds fields that are laid over what is there now: the API takes them as a whole.
    pub(super) fn merging<const N: usize>(
        mut self,
        given: [(&'static str, Option<Map<String, Value>>); N],
    ) -> Self {
        self.merge = given.into_iter().filter_map(|(name, new)| Some((name, new?))).collect();
        self
    }

    /// Whether it changes something.
    pub(super) fn is_change(&self) -> bool {
        self.method != Method::GET
    }

    /// The path with the query and `more`.
    pub(super) fn target(&self, more: &[(&str, String)]) -> String {
        let own = self.query.iter().map(|(name, value)| (*name, value.as_str()));
        let more = more.iter().map(|(name, value)| (*name, value.as_str()));
        let pairs: Vec<_> =
            own.chain(more).map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let mark = if pairs.is_empty() { "" } else { "?" };
        format!("/admin/v1/{}{mark}{}", self.path, pairs.join("&"))
    }
}

/// Text as a part of a path or a query.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: Table = Table { what: "rows", columns: &[] };

    #[test]
    fn names_cannot_change_the_path_or_the_query() {
        let call = Call::whole(&format!("accounts/{}", encode("a/../b?c")), &ROWS)
            .ask("name", Some("x&y=z +#"))
            .ask("state", None::<String>);
        assert_eq!(
            call.target(&[("limit", "5".to_owned())]),
            "/admin/v1/accounts/a%2F..%2Fb%3Fc?name=x%26y%3Dz%20%2B%23&limit=5"
        );
    }

    #[test]
    fn a_body_has_what_was_given() {
        let call = Call::post("prices").set("amount", Some("0.1")).set("unit", None::<u8>);
        assert_eq!(Value::Object(call.body.unwrap()), serde_json::json!({"amount": "0.1"}));
    }
}
