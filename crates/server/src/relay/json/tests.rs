//! The oracle is `serde_json` with the order of keys kept, and a walk over bytes that knows nothing of pieces.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

const ALL: &[Rule] = &[
    Rule::new(Kind::FileId, "file_id"),
    Rule::new(Kind::FileId, "clone_prompt.prompt_audio"),
    Rule::new(Kind::FileId, "file_ids[]"),
    Rule::new(Kind::TaskId, "**.task_id"),
    Rule::new(Kind::TaskId, "**.*_task_id"),
    Rule::new(Kind::VoiceId, "timbre_weights[].voice_id"),
    Rule::new(Kind::MmFile, "**"),
    Rule::new(Kind::CallbackUrl, "callback_url"),
    Rule::new(Kind::StatusCode, "base_resp.status_code"),
    Rule::new(Kind::Units, "usage.total_tokens"),
];

fn rules() -> Rules {
    Rules::new(ALL)
}

/// What is found in one piece, as kind, form and text.
fn finds(document: &[u8]) -> Result<Vec<(Kind, Form, String)>, &'static str> {
    let found = scan(&rules(), [document]).map_err(|malformed| malformed.what)?;
    Ok(found.into_iter().map(|found| (found.kind, found.form, found.text)).collect())
}

fn only(document: &str) -> (Kind, Form, String) {
    let mut found = finds(document.as_bytes()).unwrap_or_else(|why| panic!("{document}: {why}"));
    assert_eq!(found.len(), 1, "{document}: {found:?}");
    found.remove(0)
}

/// The document with `7` wherever something that is exact was found.
fn sevens(document: &[u8]) -> Vec<u8> {
    let found = scan(&rules(), [document]).unwrap();
    Splice::new(found.iter().filter_map(|found| found.edit("7")).collect()).whole(document)
}

/// As [`sevens`], as the document passes in pieces that end at `cuts`.
fn passed(document: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<Found>, bool) {
    let rules = rules();
    let mut transform = Transform::new(&rules);
    let (mut out, mut finds) = (Vec::new(), Vec::new());
    for piece in pieces(document, cuts) {
        let mut piece = Bytes::copy_from_slice(piece);
        while let Some(found) = transform.push(&mut piece, &mut out) {
            transform.resolve(Some("7"), &mut out);
            finds.push(found);
        }
        assert!(piece.is_empty());
    }
    let whole = transform.finish(&mut out).is_ok();
    (out.concat(), finds, whole)
}

fn pieces<'d>(document: &'d [u8], cuts: &[usize]) -> Vec<&'d [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (document.len() + 1)).collect();
    cuts.extend([0, document.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &document[pair[0]..pair[1]]).collect()
}

#[test]
fn each_kind_of_path_matches_where_it_says() {
    use Form::{Number, String};
    use Kind::{CallbackUrl, FileId, MmFile, StatusCode, TaskId, Units, VoiceId};
    for (document, kind, form, text) in [
        (r#"{"file_id":12}"#, FileId, Number, "12"),
        (r#"{"a":[1,{"b":2}],"file_id" : "12" }"#, FileId, String, "12"),
        (r#"{"clone_prompt":{"x":1,"prompt_audio":9}}"#, FileId, Number, "9"),
        (r#"{"file_ids":["5"]}"#, FileId, String, "5"),
        (r#"[[{"x":{"task_id":"5"}}]]"#, TaskId, String, "5"),
        (r#"{"task_id":5}"#, TaskId, Number, "5"),
        (r#"{"a":{"source_task_id":"5"}}"#, TaskId, String, "5"),
        (r#"{"timbre_weights":[{"weight":1,"voice_id":"v"}]}"#, VoiceId, String, "v"),
        (r#""mm_file://5""#, MmFile, String, "5"),
        (r#"{"m":[{"c":{"url":"mm_file://56"}}]}"#, MmFile, String, "56"),
        (r#"{"callback_url":"https:\/\/h\/"}"#, CallbackUrl, String, "https://h/"),
        (r#"{"base_resp":{"status_code":1002}}"#, StatusCode, Number, "1002"),
        (r#"{"base_resp":{"status_code":0}}"#, StatusCode, Number, "0"),
        (r#"{"usage":{"total_tokens":7}}"#, Units, Number, "7"),
    ] {
        assert_eq!(only(document), (kind, form, text.to_owned()), "{document}");
    }
    for document in [
        r#"{"a":{"file_id":12}}"#,
        r#"[{"file_id":12}]"#,
        r#"{"prompt_audio":12,"clone_prompt":[{"prompt_audio":1}]}"#,
        r#"{"file_ids":1,"file_ids":[{"file_id":1}]}"#,
        r#"{"timbre_weights":{"voice_id":"v"},"voice_id":"v"}"#,
        r#"{"file_idx":1,"xfile_id":1,"file_i":1,"":1}"#,
        r#"{"base_resp":{"status_code":null},"usage":{"total_tokens":{}}}"#,
        r#"{"text":"see mm_file://12","u":"mm_file:/12","v":"mm_file","w":"mm_files://1"}"#,
        r#"{"file_id":null,"file_ids":[0,"0","",null],"callback_url":""}"#,
        r#"{"file_id":{"type":"string"},"callback_url":true}"#,
        r#"{"text":"mm_file://","text":"mm_file://{id}","text":"mm_file://id/1"}"#,
        "",
        " \r\n\t",
        "12",
        "null",
    ] {
        assert_eq!(finds(document.as_bytes()), Ok(vec![]), "{document}");
    }
}

#[test]
fn keys_match_as_lenient_readers_match_them() {
    for document in [
        r#"{"file\u005fid":12}"#,
        r#"{"\u0066\u0069\u006C\u0065\u005F\u0069\u0064":12}"#,
        r#"{"FILE_ID":12}"#,
        r#"{"File_Id":12}"#,
        "{\"x\":{\"ta\u{17F}\u{212A}_id\":12}}",
        r#"{"x":{"ta\u017f\u212a_id":12}}"#,
        r#"{"file_id":0,"file_id":12}"#,
        "\u{FEFF}{\"file_id\":12}",
        "{\n\t\"file_id\"\r\n:\n12\n}\n",
    ] {
        assert_eq!(only(document).2, "12", "{document}");
    }
    for document in [
        "{\"\u{FB01}le_id\":12}",
        r#"{"file_id\u0000":12}"#,
        r#"{"\ud800file_id":12}"#,
        r#"{"file_\ud83d\ude00id":12}"#,
        r#"{"file_id ":12}"#,
    ] {
        assert_eq!(finds(document.as_bytes()), Ok(vec![]), "{document}");
    }
    let twice = br#"{"file_id":1,"file_id":"2","file_id":3}"#;
    assert_eq!(finds(twice).unwrap().len(), 3);
    assert_eq!(sevens(twice), br#"{"file_id":7,"file_id":"7","file_id":7}"#);
}

#[test]
fn what_is_no_plain_id_is_found_as_it_is_written() {
    for text in ["1.0", "1e3", "-1", "-0", "0.0", "9007199254740993", "9223372036854775808", "1E+2"]
    {
        assert_eq!(only(&format!(r#"{{"file_id":{text}}}"#)).2, text);
        let quoted = only(&format!(r#"{{"file_id":"{text}"}}"#));
        assert_eq!((quoted.1, quoted.2.as_str()), (Form::String, text));
    }
    for (document, text) in [
        (r#"{"file_id":" 12"}"#, " 12"),
        (r#"{"file_id":"1\u0032"}"#, "12"),
        (r#"{"u":"mm_file://12abc"}"#, "12abc"),
        (r#"{"u":"mm_file://12 "}"#, "12 "),
        (r#"{"u":" \nMM_File://12"}"#, "12"),
        (r#"{"u":"mm_file:\/\/12"}"#, "12"),
        (r#"{"u":"\u006dm_file://\u00312"}"#, "12"),
        (r#"{"u":"mm_file://+12"}"#, "+12"),
        (r#"{"u":"mm_file:// 12"}"#, " 12"),
        (r#"{"u":"mm_file:///12"}"#, "/12"),
        (r#"{"u":"mm_file://%31"}"#, "%31"),
        (r#"{"u":"mm_file://1_2"}"#, "1_2"),
        ("{\"u\":\"mm_file://\u{661}\"}", "\u{661}"),
        // Both rules are about it, and it is one find.
        (r#"{"file_id":"mm_file://12"}"#, "12"),
    ] {
        assert_eq!(only(document).2, text, "{document}");
    }
    let list = scan(&rules(), [&br#"{"file_id":[1,2],"clone_prompt":{"prompt_audio":[]}}"#[..]]);
    let list = list.unwrap();
    assert!(list.len() == 2 && list.iter().all(|found| found.form == Form::Other && !found.exact));
    assert_eq!(list[0].edit("7"), None);
}

#[test]
fn what_cannot_be_an_id_is_never_exact() {
    let long = format!(r#"{{"file_id":"{}"}}"#, "1".repeat(VALUE_MAX + 1));
    let cut = scan(&rules(), [long.as_bytes()]).unwrap().remove(0);
    assert!(!cut.exact && cut.text.len() == VALUE_MAX);
    let fits = format!(r#"{{"file_id":"{}"}}"#, "1".repeat(VALUE_MAX));
    assert!(scan(&rules(), [fits.as_bytes()]).unwrap()[0].exact);
    let number = format!(r#"{{"file_id":{}}}"#, "1".repeat(VALUE_MAX + 1));
    assert!(!scan(&rules(), [number.as_bytes()]).unwrap()[0].exact);
    for document in [
        &b"{\"timbre_weights\":[{\"voice_id\":\"v\xFF\"}]}"[..],
        br#"{"timbre_weights":[{"voice_id":"\ud800"}]}"#,
        br#"{"timbre_weights":[{"voice_id":"\udc00x"}]}"#,
        br#"{"timbre_weights":[{"voice_id":"\ud800\ud800\udc00"}]}"#,
    ] {
        assert!(!scan(&rules(), [document]).unwrap()[0].exact);
    }
    let pair = br#"{"timbre_weights":[{"voice_id":"\ud83d\ude00"}]}"#;
    let pair = scan(&rules(), [&pair[..]]).unwrap().remove(0);
    assert!(pair.exact && pair.text == "\u{1F600}");
    // Half a pair in one value says nothing of the next.
    let next = br#"{"timbre_weights":[{"voice_id":"\ud800"}],"file_id":1}"#;
    assert!(scan(&rules(), [&next[..]]).unwrap()[1].exact);
}

#[test]
fn forms_stay() {
    for (document, expected) in [
        (r#"{"file_id": 12 , "x":1.50}"#, r#"{"file_id": 7 , "x":1.50}"#),
        (r#"{"file_id":"12"}"#, r#"{"file_id":"7"}"#),
        (
            r#"{"a":"mm_file:\/\/12","b":"mm_file://3"}"#,
            r#"{"a":"mm_file:\/\/7","b":"mm_file://7"}"#,
        ),
        (r#"{"a":" mm_file://12"}"#, r#"{"a":" mm_file://7"}"#),
        (r#"{"file_ids":["1",2 ,"3"]}"#, r#"{"file_ids":["7",7 ,"7"]}"#),
        (
            r#"{"z":1e400,"a":-0,"b":123456789012345678901234567890}"#,
            r#"{"z":1e400,"a":-0,"b":123456789012345678901234567890}"#,
        ),
    ] {
        assert_eq!(String::from_utf8(sevens(document.as_bytes())).unwrap(), expected);
    }
    let found = scan(&rules(), [&br#"{"task_id":1,"source_task_id":"2"}"#[..]]).unwrap();
    let edits = found.iter().filter_map(|found| found.edit("a\"\n\u{1F600}")).collect();
    let out = Splice::new(edits).whole(br#"{"task_id":1,"source_task_id":"2"}"#);
    let out = String::from_utf8(out).unwrap();
    assert_eq!(out, "{\"task_id\":\"a\\\"\\n\u{1F600}\",\"source_task_id\":\"a\\\"\\n\u{1F600}\"}");
}

#[test]
fn what_is_not_json_is_refused_in_requests_and_passes_in_replies() {
    for document in [
        &b"{"[..],
        b"[1,]",
        b"[,1]",
        b"{,}",
        b"{\"a\"}",
        b"{\"a\":}",
        b"{\"a\":1,}",
        b"{a:1}",
        b"{'a':1}",
        b"{\"a\" 1}",
        b"{1:2}",
        b"[1 2]",
        b"[1}",
        b"{\"a\":1]",
        b"nul",
        b"nulL",
        b"True",
        b"NaN",
        b"01",
        b"+1",
        b"-",
        b"1.",
        b".5",
        b"1e",
        b"1e+",
        b"0x10",
        b"1 2",
        b"{} {}",
        b"{}\n{}",
        b"\"\\x\"",
        b"\"\\u12g4\"",
        b"\"abc",
        b"\"abc\\",
        b"// c\n1",
        b"\xFF\xFE{\0}\0",
        b"\xEF\xBB",
        b"\xEF\xBB\xBF",
        b" \xEF\xBB\xBF1",
        b"data: {}\n\n",
    ] {
        assert!(finds(document).is_err(), "{}", document.escape_ascii());
        let (out, _, whole) = passed(document, &[]);
        assert_eq!((out.as_slice(), whole), (document, false), "{}", document.escape_ascii());
    }
    let after = br#"{"file_id":1}{"file_id":2}"#;
    assert_eq!(passed(after, &[]).0, br#"{"file_id":7}{"file_id":2}"#);
    let cut = br#"{"file_id":"12"#;
    assert_eq!(passed(cut, &[]).0, cut);
}

#[test]
fn bounds_hold() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(finds(nested(DEPTH_MAX).as_bytes()), Ok(vec![]));
    assert_eq!(finds(nested(DEPTH_MAX + 1).as_bytes()), Err("nested too deeply"));
    let ids = |n: usize| format!(r#"{{"file_ids":[{}1]}}"#, "1,".repeat(n - 1));
    assert_eq!(finds(ids(FINDS_MAX).as_bytes()).unwrap().len(), FINDS_MAX);
    assert_eq!(finds(ids(FINDS_MAX + 1).as_bytes()), Err("too many ids"));
    // A key's escapes count as what they mean.
    let key = |n: usize| format!(r#"{{"{}_task_id":1}}"#, r"\u0061".repeat(n));
    assert_eq!(finds(key(KEY_MAX - 8).as_bytes()).unwrap().len(), 1);
    assert_eq!(finds(key(KEY_MAX - 7).as_bytes()), Ok(vec![]));
    // However long a value is, what is held of it is not.
    let rules = rules();
    let mut transform = Transform::new(&rules);
    let mut out = Vec::new();
    let mut taken = Bytes::from_static(b"{\"file_id\":\"");
    assert_eq!(transform.push(&mut taken, &mut out), None);
    for _ in 0..100 {
        let mut piece = Bytes::from_static(&[b'1'; 1000]);
        assert_eq!(transform.push(&mut piece, &mut out), None);
    }
    let passed: usize = out.iter().map(Bytes::len).sum();
    assert_eq!(passed, 100_000 + 12);
}

#[test]
fn bytes_that_pass_are_not_copied() {
    let document = Bytes::from(format!(r#"{{"audio":"{}","file_id":1}}"#, "ab".repeat(50_000)));
    let rules = rules();
    let (mut transform, mut out) = (Transform::new(&rules), Vec::new());
    let mut input = document.clone();
    assert!(transform.push(&mut input, &mut out).is_some());
    let within = document.as_ptr_range();
    assert!(out.iter().all(|piece| within.contains(&piece.as_ptr())));
}

/// JSON text as clients and fuzzers write it, with keys that rules are about.
fn document() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just("file_id".to_owned()),
        Just("file_ids".to_owned()),
        Just("task_id".to_owned()),
        Just("FILE_\\u0049d".to_owned()),
        Just("timbre_weights".to_owned()),
        Just("voice_id".to_owned()),
        "[a-c\\\\\"é]{0,3}".prop_map(|text| {
            let quoted = serde_json::to_string(&text).unwrap();
            quoted[1..quoted.len() - 1].to_owned()
        }),
    ];
    let text = prop_oneof![
        "[ -~é\u{1F600}]{0,12}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        "(mm_file|MM_FILE|mm_fil):(//|\\\\/\\\\/|/)[0-9]{0,4}"
            .prop_map(|text| format!("\"{text}\"")),
        "[0-9]{1,20}".prop_map(|text| format!("\"{text}\"")),
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "(-?[1-9][0-9]{0,22}|0)(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?",
        text,
    ];
    let blank = "[ \n\t\r]{0,2}";
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..5), blank).prop_map(|(items, blank)| format!(
                "[{blank}{}]",
                items.join(&format!("{blank},"))
            )),
            (prop::collection::vec((key.clone(), inner), 0..5), blank).prop_map(
                |(items, blank)| {
                    let items: Vec<String> = items
                        .iter()
                        .map(|(key, value)| format!("\"{key}\"{blank}:{value}"))
                        .collect();
                    format!("{{{}{blank}}}", items.join(&format!(",{blank}")))
                }
            ),
        ]
    })
}

/// Whether an id is to be at `path`, and whether a voice is.
fn is_about(path: &[String]) -> (bool, bool) {
    let at: Vec<&str> = path.iter().map(String::as_str).collect();
    let is_id = matches!(at[..], ["file_id"] | ["file_ids", "[]"]) || at.last() == Some(&"task_id");
    (is_id, at == ["timbre_weights", "[]", "voice_id"])
}

/// The finds as `serde_json` sees the document: a walk over raw values that knows the rules only as prose.
fn oracle(text: &str, path: &mut Vec<String>, out: &mut Vec<String>) {
    use std::collections::VecDeque;
    use std::fmt;

    struct Entries(Vec<(String, Box<RawValue>)>);
    impl<'de> serde::Deserialize<'de> for Entries {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Visit;
            impl<'de> serde::de::Visitor<'de> for Visit {
                type Value = Entries;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Entries, A::Error> {
                    let mut entries = Vec::new();
                    while let Some(entry) = map.next_entry()? {
                        entries.push(entry);
                    }
                    Ok(Entries(entries))
                }
            }
            from.deserialize_map(Visit)
        }
    }
    let text = text.trim();
    if text.starts_with('{') {
        for (key, value) in serde_json::from_str::<Entries>(text).unwrap().0 {
            path.push(key.to_lowercase());
            oracle(value.get(), path, out);
            path.pop();
        }
    } else if text.starts_with('[') {
        let items: VecDeque<Box<RawValue>> = serde_json::from_str(text).unwrap();
        if is_about(path).0 || is_about(path).1 {
            out.push(String::new());
        }
        for item in items {
            path.push("[]".to_owned());
            oracle(item.get(), path, out);
            path.pop();
        }
    } else {
        let string: Option<String> = serde_json::from_str(text).ok();
        if let Some((scheme, id)) = string.as_ref().and_then(|text| text.split_once("://"))
            && scheme.trim_start().eq_ignore_ascii_case("mm_file")
            && id.starts_with(|first: char| first.is_ascii_digit())
        {
            return out.push(id.to_owned());
        }
        let (is_id, is_voice) = is_about(path);
        let said = string.clone().unwrap_or_else(|| text.to_owned());
        let is_word = string.is_none() && matches!(text, "null" | "true");
        let is_none = said.is_empty() || is_id && said == "0";
        if (is_id || is_voice) && !is_word && !is_none {
            out.push(said);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn finds_are_what_serde_json_sees(document in document()) {
        let mut expected = Vec::new();
        oracle(&document, &mut Vec::new(), &mut expected);
        let found: Vec<String> =
            scan(&rules(), [document.as_bytes()]).unwrap().into_iter().map(|found| found.text).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn pieces_change_nothing(document in document(), cuts in prop::collection::vec(any::<usize>(), 0..8)) {
        let bytes = document.as_bytes();
        let whole = scan(&rules(), [bytes]).unwrap();
        prop_assert_eq!(&scan(&rules(), pieces(bytes, &cuts)).unwrap(), &whole);
        let each: Vec<usize> = (0..bytes.len()).collect();
        for cuts in [&cuts, &each] {
            let (out, found, ended) = passed(bytes, cuts);
            let exact: Vec<&Found> = whole.iter().filter(|found| found.form != Form::Other).collect();
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), exact);
            prop_assert_eq!(&out, &sevens(bytes));
            prop_assert!(ended);
            let mut spliced = Vec::new();
            let mut splice = Splice::new(whole.iter().filter_map(|found| found.edit("7")).collect());
            let len = splice.len_of(bytes.len() as u64);
            for piece in pieces(bytes, cuts) {
                splice.push(Bytes::copy_from_slice(piece), &mut spliced);
            }
            prop_assert_eq!(len, out.len() as u64);
            prop_assert_eq!(spliced.concat(), out);
        }
    }

    #[test]
    fn outside_the_finds_every_byte_stays(document in document()) {
        let bytes = document.as_bytes();
        let out = sevens(bytes);
        let (mut from, mut at) = (0, 0);
        for found in scan(&rules(), [bytes]).unwrap().iter().filter(|found| found.exact) {
            let range = found.range.start as usize..found.range.end as usize;
            let same = range.start - from;
            prop_assert_eq!(&out[at..at + same], &bytes[from..range.start]);
            prop_assert_eq!(out[at + same], b'7');
            (from, at) = (range.end, at + same + 1);
        }
        prop_assert_eq!(&out[at..], &bytes[from..]);
        prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok());
    }

    #[test]
    fn any_bytes_in_any_pieces_have_one_outcome(
        bytes in prop::collection::vec(prop::sample::select(br#"{}[]:,"\u0071mfile_id:/ 1-.e"#.to_vec()), 0..60),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        prop_assert_eq!(scan(&rules(), [&bytes[..]]), scan(&rules(), pieces(&bytes, &cuts)));
        prop_assert_eq!(passed(&bytes, &[]), passed(&bytes, &cuts));
        if serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok() {
            prop_assert!(scan(&rules(), [&bytes[..]]).is_ok());
        }
    }
}
