//! Upstream's calls: where ids stand in them, what they do, and how they are refused.
//!
//! `table` has a row a call; whatever is not there gets the rules of `unknown`, which look for ids at any depth.

mod paths;
mod query;
mod table;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use http::Method;

use super::json::{Form, Found, Kind, Rules};
use paths::{canonical, normalised};
pub(crate) use query::QueryId;
use table::{Row, rows, unknown};

/// How a call's errors look (§3.1, §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// HTTP 200 and `base_resp`.
    Native,
    /// A real status and `{"type":"error","error":{…},"request_id":…}`.
    OpenAi,
    /// The same with the types of Anthropic's API and without `http_code`.
    Anthropic,
}

/// What a call leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing but its price: it may be made again elsewhere.
    None,
    /// Something is made or deleted.
    Lasting,
}

/// What a call does to the voices that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Voice {
    /// It makes them: `voice_id` in the request is a name to be taken, in the reply one that was.
    Makes,
    /// It deletes them.
    Deletes,
}

/// A reply that shows all that is on a channel, whosever it is (`lists.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// `get_voice`.
    Voices,
    /// The tasks of video V2.
    Videos,
}

/// An id in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathId {
    /// What it is.
    pub(crate) kind: Kind,
    /// Where it stands in [`CallRules::path`].
    pub(crate) range: Range<usize>,
}

/// What is known of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallRules {
    /// The normalised path, for prices, usage and metrics: without mount, ids in it replaced by `{id}`.
    pub(crate) name: Cow<'static, str>,
    /// The path as it goes upstream: repeated slashes, dots and needless escapes are undone, so that upstream cannot
    /// read another path in it than was looked up.
    pub(crate) path: String,
    /// Ids in `path`.
    pub(crate) path_ids: Vec<PathId>,
    /// Whether it is in the table.
    pub(crate) is_known: bool,
    /// How it is refused.
    pub(crate) shape: Shape,
    /// What it leaves behind.
    pub(crate) effect: Effect,
    /// What stands in its request. Where there are rules the body has to be JSON, whatever its type says, but for calls
    /// that are not known. Empty: the body passes unread.
    pub(crate) request: &'static Rules,
    /// What stands in its reply.
    pub(crate) reply: &'static Rules,
    /// Names of ids in its query.
    query: &'static [(&'static str, Kind)],
    /// The purpose under which a file in its reply becomes one of ours.
    pub(crate) adopts: Option<&'static str>,
    /// What it does to voices.
    pub(crate) voice: Option<Voice>,
    /// Whether its reply is a list of everybody's.
    pub(crate) list: Option<List>,
}

impl CallRules {
    /// Whether its reply counts something that may have a price.
    pub(crate) fn counts_units(&self) -> bool {
        self.reply.iter().any(|rule| rule.kind == Kind::Units)
    }
}

/// What is known of `method path`; `path` is without the mount and without the query.
pub(crate) fn lookup(method: &Method, path: &str) -> CallRules {
    static TABLE: LazyLock<Vec<Row>> = LazyLock::new(rows);
    static UNKNOWN: LazyLock<Row> = LazyLock::new(unknown);
    let path = canonical(path);
    let found = TABLE.iter().find(|row| row.method == *method && row.matches(&path));
    let row = found.unwrap_or(&UNKNOWN);
    let (name, path_ids) = match found {
        Some(row) => (Cow::Borrowed(row.path), row.path_ids(&path)),
        None => normalised(&path),
    };
    let reads = matches!(*method, Method::GET | Method::HEAD);
    CallRules {
        name,
        path_ids,
        is_known: found.is_some(),
        shape: shape_of(&path),
        effect: if reads { Effect::None } else { row.effect },
        path,
        request: &row.request,
        reply: &row.reply,
        query: row.query,
        adopts: row.adopts,
        voice: row.voice,
        list: row.list,
    }
}

/// §3.2; of V2 the pages, which show that body for every error.
fn shape_of(path: &str) -> Shape {
    let begins = |with: &str| {
        path.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if begins("/anthropic") {
        Shape::Anthropic
    } else if begins("/v2") || begins("/v1/chat") || begins("/v1/responses") {
        Shape::OpenAi
    } else {
        Shape::Native
    }
}

/// What an answer counts. Of a place that is said again, as in the events of a stream, the most counts; places are added
/// up.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnitsCount {
    by_rule: Vec<(usize, u64)>,
}

impl UnitsCount {
    /// Notes a find; what is no count or another kind changes nothing.
    pub(crate) fn note(&mut self, found: &Found) {
        if found.kind != Kind::Units || found.form != Form::Number {
            return;
        }
        let Ok(count) = found.text.parse::<u64>() else { return };
        match self.by_rule.iter_mut().find(|(rule, _)| *rule == found.rule) {
            Some((_, most)) => *most = count.max(*most),
            None => self.by_rule.push((found.rule, count)),
        }
    }

    /// All together.
    pub(crate) fn total(&self) -> u64 {
        self.by_rule.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}
