//! Replies that show all that is on a channel: cut down to what is the caller's.
//!
//! Pure functions over whole replies of at most [`LIST_MAX`] bytes; whom to ask, and whose what is, is for the caller.
//! What stays is the same bytes. A reply with an error is not for here: it has no list.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use filegate_types::FileId;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{Edit, Splice};

/// Bytes of a list, at most; a longer one is not passed on, for nobody could say whose is what in it.
pub(crate) const LIST_MAX: usize = 4 << 20;

/// The one list of `get_voice` that is everybody's.
const SYSTEM_VOICES: &str = "system_voice";

/// The reply is not a list, or too long for one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAList {
    /// It is longer than [`LIST_MAX`].
    #[error("the list is too long")]
    TooLong,
    /// It is not a JSON object.
    #[error("the list cannot be read")]
    Json(#[from] serde_json::Error),
}

/// A reply to `get_voice`, and which voices on its channel are the caller's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VoicesOf<'a> {
    /// The body.
    pub(crate) reply: &'a [u8],
    /// Names of the caller's voices on the channel that said so.
    pub(crate) own: &'a HashSet<String>,
}

/// The reply of `first` with the caller's voices of all channels, each once. System voices are those of `first`, as they
/// are.
///
/// # Errors
/// `first` is not a list. Others that are none are passed over: a channel that does not answer hides its own
/// voices and no more.
pub(crate) fn voices(first: VoicesOf<'_>, others: &[VoicesOf<'_>]) -> Result<Vec<u8>, NotAList> {
    let base = entries(first.reply)?;
    let mut lists: Vec<(Cow<'_, str>, Vec<&RawValue>)> = Vec::new();
    let mut seen = HashSet::new();
    let readable: Vec<_> =
        others.iter().filter_map(|of| Some((entries(of.reply).ok()?, of.own))).collect();
    for (entries, own) in
        [(&base, first.own)].into_iter().chain(readable.iter().map(|(e, own)| (e, *own)))
    {
        for (key, value) in &entries.0 {
            let Some(items) = items(value).filter(|_| !is_system(key)) else { continue };
            let mine = items.into_iter().filter(|item| is_own(item, own, &mut seen));
            match lists.iter_mut().find(|(name, _)| name == key) {
                Some((_, list)) => list.extend(mine),
                None => lists.push((key.clone(), mine.collect())),
            }
        }
    }
    let mut edits = Vec::new();
    for (key, value) in &base.0 {
        let is_list = items(value).is_some() || value.get() == "null";
        // If a key is there twice, all is in the first.
        let list =
            lists.iter().position(|(name, _)| name == key).filter(|_| is_list && !is_system(key));
        match list {
            Some(at) => edits.push(edit(first.reply, value, &lists.remove(at).1)),
            None if is_list && !is_system(key) && value.get() != "null" => {
                edits.push(edit(first.reply, value, &[]));
            }
            None => {}
        }
    }
    lists.retain(|(_, list)| !list.is_empty());
    if let Some(end) = first.reply.iter().rposition(|byte| *byte == b'}') {
        let mut more = String::new();
        for (n, (key, list)) in lists.iter().enumerate() {
            let comma = if n > 0 || !base.0.is_empty() { "," } else { "" };
            let key = serde_json::to_string(key)?;
            more.extend([comma, &key, ":", &array(list)]);
        }
        edits.push(Edit { range: end as u64..end as u64, bytes: more.into_bytes() });
    }
    Ok(Splice::new(edits).whole(first.reply))
}

/// The ids of all tasks that a V2 list shows, as upstream has them.
pub(crate) fn video_ids(reply: &[u8]) -> Result<Vec<String>, NotAList> {
    let mut ids = Vec::new();
    for_lists(&entries(reply)?, &mut |_, items| {
        ids.extend(items.iter().flat_map(|item| task_ids(item)).map(|(_, id)| id));
    });
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// A V2 list with the tasks in `own` alone, under our ids. `own` has the caller's tasks by their ids on that channel.
///
/// Counts and pages are upstream's: a page may be shorter than was asked for.
pub(crate) fn videos(reply: &[u8], own: &HashMap<String, FileId>) -> Result<Vec<u8>, NotAList> {
    let mut edits = Vec::new();
    for_lists(&entries(reply)?, &mut |list, items| {
        let mut kept = Vec::new();
        for item in items {
            let ids = task_ids(item);
            // An item that names somebody else's task beside one's own is not for the caller either.
            let ours: Option<Vec<_>> =
                ids.iter().map(|(at, id)| Some((*at, own.get(id)?))).collect();
            if let Some(ours) = ours.filter(|ours| !ours.is_empty()) {
                let edits = ours.iter().map(|(at, id)| id_edit(item.get(), at, **id)).collect();
                kept.push(Splice::new(edits).whole(item.get().as_bytes()));
            }
        }
        let at = offset(reply, list.get());
        let bytes = [b"[", kept.join(&b","[..]).as_slice(), b"]"].concat();
        edits.push(Edit { range: at..at + list.get().len() as u64, bytes });
    });
    Ok(Splice::new(edits).whole(reply))
}

fn is_system(key: &str) -> bool {
    key.eq_ignore_ascii_case(SYSTEM_VOICES)
}

fn is_own(item: &RawValue, own: &HashSet<String>, seen: &mut HashSet<String>) -> bool {
    #[derive(Deserialize)]
    struct Named {
        voice_id: String,
    }
    let named = serde_json::from_str::<Named>(item.get());
    named.is_ok_and(|named| own.contains(&named.voice_id) && seen.insert(named.voice_id))
}

/// The list as it is, if it has all of `items` and nothing else; else those.
fn edit(document: &[u8], list: &RawValue, kept: &[&RawValue]) -> Edit {
    let at = offset(document, list.get());
    let same = items(list).is_some_and(|all| {
        all.len() == kept.len()
            && all.iter().zip(kept).all(|(one, other)| std::ptr::eq(*one, *other))
    });
    let bytes = if same { list.get().to_owned() } else { array(kept) };
    Edit { range: at..at + list.get().len() as u64, bytes: bytes.into_bytes() }
}

fn array(items: &[&RawValue]) -> String {
    let items: Vec<&str> = items.iter().map(|item| item.get()).collect();
    format!("[{}]", items.join(","))
}

/// Where a part of `document` begins in it.
fn offset(document: &[u8], part: &str) -> u64 {
    (part.as_ptr().addr() - document.as_ptr().addr()) as u64
}

/// Gives each array of the reply, and of an object in it, such as `data`.
fn for_lists<'a>(reply: &Entries<'a>, each: &mut impl FnMut(&'a RawValue, Vec<&'a RawValue>)) {
    for (_, value) in &reply.0 {
        if let Some(items) = items(value) {
            each(value, items);
        } else if let Ok(inner) = serde_json::from_str::<Entries<'_>>(value.get()) {
            for (_, value) in inner.0 {
                if let Some(items) = items(value) {
                    each(value, items);
                }
            }
        }
    }
}

/// What a task of a list is named by: `id` or `task_id`, in itself or in `task`, and the task that it was made of.
fn task_ids(item: &RawValue) -> Vec<(&RawValue, String)> {
    const NAMES: [&str; 3] = ["id", "task_id", "source_task_id"];
    let mut ids = Vec::new();
    let Ok(entries) = serde_json::from_str::<Entries<'_>>(item.get()) else { return ids };
    for (key, value) in entries.0 {
        if NAMES.contains(&key.to_ascii_lowercase().as_str()) {
            ids.extend(id(value).map(|id| (value, id)));
        } else if key == "task" {
            ids.extend(task_ids(value));
        }
    }
    ids
}

/// A string or a number as text; nothing and zero are no ids.
fn id(value: &RawValue) -> Option<String> {
    let text = match serde_json::from_str::<String>(value.get()) {
        Ok(text) => text,
        Err(_) => serde_json::from_str::<serde_json::Number>(value.get()).ok()?.to_string(),
    };
    (!matches!(text.as_str(), "" | "0")).then_some(text)
}

fn id_edit(item: &str, at: &RawValue, id: FileId) -> Edit {
    let start = offset(item.as_bytes(), at.get());
    let quoted = at.get().starts_with('"');
    let bytes = if quoted { format!("\"{id}\"") } else { id.to_string() };
    Edit { range: start..start + at.get().len() as u64, bytes: bytes.into_bytes() }
}

/// The items of an array.
fn items(value: &RawValue) -> Option<Vec<&RawValue>> {
    value.get().starts_with('[').then(|| serde_json::from_str(value.get()).ok()).flatten()
}

fn entries(reply: &[u8]) -> Result<Entries<'_>, NotAList> {
    if reply.len() > LIST_MAX {
        return Err(NotAList::TooLong);
    }
    Ok(serde_json::from_slice(reply)?)
}

/// An object as it is written: every entry, in order, also those that come twice.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    entries.push((key, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }
        from.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn merged(first: (&str, &[&str]), others: &[(&str, &[&str])]) -> String {
        let own: Vec<_> = others.iter().map(|(reply, own)| (*reply, names(own))).collect();
        let others: Vec<_> =
            own.iter().map(|(reply, own)| VoicesOf { reply: reply.as_bytes(), own }).collect();
        let mine = names(first.1);
        let first = VoicesOf { reply: first.0.as_bytes(), own: &mine };
        String::from_utf8(voices(first, &others).unwrap()).unwrap()
    }

    #[test]
    fn others_voices_are_not_shown() {
        let reply = r#"{ "system_voice": [ {"voice_id":"sys", "x": 1.50} ],
            "voice_cloning":[{"voice_id":"mine","n":12345678901234567890},{"voice_id":"theirs"}],"voice_generation" : [{"voice_id":"gen"}],
            "music_generation":[{"voice_id":"theirs"}],"base_resp":{"status_code":0}}"#;
        let shown = r#"{ "system_voice": [ {"voice_id":"sys", "x": 1.50} ],
            "voice_cloning":[{"voice_id":"mine","n":12345678901234567890}],"voice_generation" : [{"voice_id":"gen"}],
            "music_generation":[],"base_resp":{"status_code":0}}"#;
        assert_eq!(merged((reply, &["mine", "gen"]), &[]), shown);
        // Nothing in an item that has no name says that it is the caller's.
        let odd = r#"{"voice_cloning":["mine",{"VOICE_ID":"mine"},{"voice_id":1},null,{"voice_id":"mine"}],"Voice_Generation":[{"voice_id":"theirs"}]}"#;
        let shown = r#"{"voice_cloning":[{"voice_id":"mine"}],"Voice_Generation":[]}"#;
        assert_eq!(merged((odd, &["mine"]), &[]), shown);
    }

    #[test]
    fn voices_of_other_channels_are_shown_with_them() {
        let first =
            r#"{"system_voice":[],"voice_cloning":[{"voice_id":"a"}],"voice_generation":null}"#;
        let second = r#"{"system_voice":[{"voice_id":"s2"}],"voice_cloning":[{"voice_id":"a"},{"voice_id":"b"},{"voice_id":"x"}],"voice_generation":[{"voice_id":"g"}]}"#;
        let shown =
            merged((first, &["a", "x"]), &[(second, &["b", "g"]), ("<html>", &["z"]), ("[]", &[])]);
        assert_eq!(
            shown,
            r#"{"system_voice":[],"voice_cloning":[{"voice_id":"a"},{"voice_id":"b"}],"voice_generation":[{"voice_id":"g"}]}"#
        );
        // A name that is the caller's on one channel is not on another.
        let third = r#"{"voice_cloning":[{"voice_id":"a"}]}"#;
        assert_eq!(merged((third, &[]), &[(third, &["a"])]), third);
        assert_eq!(merged((third, &["a"]), &[(third, &[])]), third);
        // The list that the first does not have.
        assert_eq!(merged(("{}", &[]), &[(third, &["a"])]), third);
        assert_eq!(
            merged((r#"{"base_resp":{}} "#, &[]), &[(third, &["a"])]),
            r#"{"base_resp":{},"voice_cloning":[{"voice_id":"a"}]} "#
        );
        // A key that is there twice shows nothing twice.
        let twice = r#"{"voice_cloning":[{"voice_id":"a"}],"voice_cloning":[{"voice_id":"a"},{"voice_id":"b"}]}"#;
        assert_eq!(
            merged((twice, &["a"]), &[]),
            r#"{"voice_cloning":[{"voice_id":"a"}],"voice_cloning":[]}"#
        );
    }

    #[test]
    fn what_is_no_list_is_said() {
        let own = HashSet::new();
        for reply in ["", "[]", "1", "{", "<html>", r#"{"a":1}x"#] {
            let refused = voices(VoicesOf { reply: reply.as_bytes(), own: &own }, &[]);
            assert!(matches!(refused, Err(NotAList::Json(_))), "{reply}");
            assert!(video_ids(reply.as_bytes()).is_err());
        }
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(LIST_MAX));
        assert!(matches!(video_ids(long.as_bytes()), Err(NotAList::TooLong)));
    }

    #[test]
    fn others_tasks_are_not_shown_and_ids_are_ours() {
        let reply = r#"{"total":4,"items": [ {"id":"11","model":"m","usage":{"n":1.0}}, {"id":"12"},{"task":{"id":"13"},"task_id":13},
            {"id":"11","source_task_id":"12"},{"id":"11","source_task_id":""},"11",{"id":null}],"data":{"tasks":[{"task_id":11}]},"request_id":"r"}"#;
        assert_eq!(video_ids(reply.as_bytes()).unwrap(), ["11", "12", "13"]);
        let own = HashMap::from([
            ("11".to_owned(), FileId::new(901).unwrap()),
            ("13".to_owned(), FileId::new(902).unwrap()),
        ]);
        let shown = String::from_utf8(videos(reply.as_bytes(), &own).unwrap()).unwrap();
        assert_eq!(
            shown,
            r#"{"total":4,"items": [{"id":"901","model":"m","usage":{"n":1.0}},{"task":{"id":"902"},"task_id":902},{"id":"901","source_task_id":""}],"data":{"tasks":[{"task_id":901}]},"request_id":"r"}"#
        );
        let none = videos(reply.as_bytes(), &HashMap::new()).unwrap();
        assert!(!String::from_utf8(none).unwrap().contains("\"1"));
    }
}
