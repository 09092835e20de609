//! Documents and any bytes through the rewriter: JSON stays JSON, what is not an id stays as it is, byte for byte, and
//! pieces change nothing. The oracle is `serde_json`, which keeps numbers as they are written and keys in their order.

#![no_main]

use bytes::Bytes;
use filegate_server::json::{Form, Found, Kind, Malformed, Rule, Rules, Scan, Splice, Transform, VALUE_MAX, scan};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

const RULES: &[Rule] = &[
    Rule::new(Kind::FileId, "file_id"),
    Rule::new(Kind::FileId, "clone_prompt.prompt_audio"),
    Rule::new(Kind::FileId, "**.file_ids[]"),
    Rule::new(Kind::TaskId, "**.*_task_id"),
    Rule::new(Kind::VoiceId, "timbre_weights[].voice_id"),
    Rule::new(Kind::MmFile, "**"),
];

/// Digits, so that they can stand in either form, and unlike anything that is found.
const NEW: &str = "9007199254740993777";

fuzz_target!(|input: (&[u8], Vec<u8>)| {
    let (document, cuts) = input;
    let rules = Rules::new(RULES);
    let whole = scan(&rules, [document]);
    let pieces = cut(document, &cuts);
    assert_eq!(in_pieces(&rules, &pieces), whole);

    let (streamed, streamed_finds, ended) = stream(&rules, &pieces);
    assert_eq!(stream(&rules, &[document]), (streamed.clone(), streamed_finds.clone(), ended.clone()));
    if serde_json::from_slice::<IgnoredAny>(document).is_ok() {
        let found = whole.as_ref().expect("what serde_json reads is read here");
        assert!(ended.is_ok());
        assert!(found.iter().filter(|found| found.form != Form::Other).eq(&streamed_finds));
    }
    let Ok(found) = whole else { return };
    let edited = Splice::new(found.iter().filter_map(|found| found.edit(NEW)).collect());
    let len = edited.len_of(document.len() as u64);
    let out = edited.whole(document);
    assert_eq!(out.len() as u64, len);
    assert_eq!(out, streamed);
    outside_is_the_same(document, &out, &found);
    if let Ok(before) = serde_json::from_slice::<serde_json::Value>(document) {
        let after = serde_json::from_slice(&out).expect("JSON stays JSON");
        same_but_for_ids(&before, &after);
    }
});

fn cut<'d>(document: &'d [u8], cuts: &[u8]) -> Vec<&'d [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), document);
    for cut in cuts {
        let (piece, behind) = rest.split_at(usize::from(*cut).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    pieces
}

fn in_pieces(rules: &Rules, pieces: &[&[u8]]) -> Result<Vec<Found>, Malformed> {
    let mut scan = Scan::new(rules);
    for piece in pieces {
        scan.push(piece)?;
    }
    scan.finish()
}

fn stream(rules: &Rules, pieces: &[&[u8]]) -> (Vec<u8>, Vec<Found>, Result<(), Malformed>) {
    let (mut transform, mut out, mut finds) = (Transform::new(rules), Vec::new(), Vec::new());
    for piece in pieces {
        let mut piece = Bytes::copy_from_slice(piece);
        while let Some(found) = transform.push(&mut piece, &mut out) {
            transform.resolve(Some(NEW), &mut out);
            finds.push(found);
        }
        assert!(piece.is_empty());
    }
    let ended = transform.finish(&mut out);
    (out.concat(), finds, ended)
}

fn outside_is_the_same(document: &[u8], out: &[u8], found: &[Found]) {
    let (mut from, mut at) = (0, 0);
    for found in found.iter().filter(|found| found.exact) {
        let (start, end) = (found.range.start as usize, found.range.end as usize);
        let same = start - from;
        assert!(end - start <= VALUE_MAX);
        assert_eq!(out[at..at + same], document[from..start]);
        assert_eq!(&out[at + same..at + same + NEW.len()], NEW.as_bytes());
        (from, at) = (end, at + same + NEW.len());
    }
    assert_eq!(out[at..], document[from..]);
}

/// Keys are the same in the same order; values are, or are an id in the form they had.
fn same_but_for_ids(before: &serde_json::Value, after: &serde_json::Value) {
    use serde_json::Value::{Array, Number, Object, String};
    match (before, after) {
        (Array(before), Array(after)) => {
            assert_eq!(before.len(), after.len());
            before.iter().zip(after).for_each(|(before, after)| same_but_for_ids(before, after));
        }
        (Object(before), Object(after)) => {
            assert!(before.keys().eq(after.keys()));
            before.values().zip(after.values()).for_each(|(before, after)| same_but_for_ids(before, after));
        }
        (Number(before), Number(after)) => {
            assert!(before == after || after.to_string() == NEW);
        }
        (String(before), String(after)) => {
            assert!(before == after || after.ends_with(NEW));
        }
        (before, after) => assert_eq!(before, after),
    }
}
