//! What a request names, and the request as a channel gets it: with the channel's ids in the places of ours.

use std::ops::Range;

use filegate_types::ChannelId;

use super::calls::{CallRules, QueryId};
use super::ids::{Asked, Needs};
use super::json::{Edit, Found, Kind, Splice};

/// Everything that a request names, and where.
#[derive(Debug, Clone, Default)]
pub(crate) struct Named {
    /// What it is, in the order of the places.
    pub(crate) asked: Vec<Asked>,
    places: Vec<Place>,
}

#[derive(Debug, Clone)]
enum Place {
    Path(Range<usize>),
    Query(QueryId),
    Body(Found),
}

/// A request as a channel gets it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ForChannel {
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    /// What is to be changed in the body, in order.
    pub(crate) edits: Vec<Edit>,
}

impl Named {
    /// By the path as upstream is asked, `query` and what was found in the body.
    pub(crate) fn of(rules: &CallRules, path: &str, query: Option<&str>, finds: &[Found]) -> Self {
        let mut named = Self::default();
        for id in &rules.path_ids {
            // Rules know the path by one spelling, which differs from it in case only.
            let text = path.get(id.range.clone()).unwrap_or_default().to_owned();
            named.add(
                Asked { kind: id.kind, text, exact: true, name: "".into() },
                Place::Path(id.range.clone()),
            );
        }
        for id in query.map(|query| rules.query_ids(query)).unwrap_or_default() {
            let (kind, text) = (id.kind, id.text.clone());
            named.add(Asked { kind, text, exact: true, name: "".into() }, Place::Query(id));
        }
        for found in finds {
            let place = rules.request.get(found.rule).map_or("", |rule| rule.path);
            let name = place.rsplit('.').next().unwrap_or(place).trim_end_matches("[]");
            let (kind, text, exact) = (found.kind, found.text.clone(), found.exact);
            named.add(Asked { kind, text, exact, name: name.into() }, Place::Body(found.clone()));
        }
        named
    }

    fn add(&mut self, asked: Asked, place: Place) {
        let names =
            matches!(asked.kind, Kind::FileId | Kind::TaskId | Kind::VoiceId | Kind::MmFile);
        if names {
            self.asked.push(asked);
            self.places.push(place);
        }
    }

    /// The request as `channel` gets it, once all files are there that it needs.
    pub(crate) fn for_channel(
        &self,
        path: &str,
        query: Option<&str>,
        needs: &Needs,
        channel: ChannelId,
    ) -> ForChannel {
        let (mut path, mut in_query, mut edits) = (path.to_owned(), vec![], vec![]);
        // From the end of the path, so that what is before stays where it is.
        for (index, place) in self.places.iter().enumerate().rev() {
            let Some(text) = needs.replacement(index, channel) else { continue };
            match place {
                Place::Path(range) => path.replace_range(range.clone(), text),
                Place::Query(id) => in_query.push(id.edit(text)),
                Place::Body(found) => edits.extend(found.edit(text)),
            }
        }
        edits.reverse();
        let query = query.map(|query| {
            let query = Splice::new(in_query).whole(query.as_bytes());
            String::from_utf8(query).expect("digits in the place of ASCII")
        });
        ForChannel { path, query, edits }
    }
}
