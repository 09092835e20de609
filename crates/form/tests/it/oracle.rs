//! multer reads the same out of a well-formed form.
//!
//! Documented differences, kept out of the generator and each shown below: multer does not undo `\\` and
//! `%22`, loses the name when `filename*` stands first, finds a parameter's name inside a quoted value, takes
//! the first boundary in mid-line, does not see an empty part whose delimiter follows the empty line at once,
//! reads LF-ended headers, and lets the last of two equal headers win.

use bytes::Bytes;
use filegate_form::{Boundary, FormError, Limits};
use futures_util::stream;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::split::chunks;
use crate::support::{Field, Outcome, boundary, encode, read};

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    name: Option<String>,
    file_name: Option<String>,
    data: Vec<u8>,
}

fn multer(boundary: &Boundary, chunks: &[&[u8]]) -> Result<Vec<Seen>, multer::Error> {
    let chunks: Vec<_> =
        chunks.iter().map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk))).collect();
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime is built");
    runtime.block_on(async {
        let mut form = multer::Multipart::new(stream::iter(chunks), boundary.as_str());
        let mut seen = Vec::new();
        while let Some(field) = form.next_field().await? {
            let (name, file_name) =
                (field.name().map(str::to_owned), field.file_name().map(str::to_owned));
            seen.push(Seen { name, file_name, data: field.bytes().await?.to_vec() });
        }
        Ok(seen)
    })
}

fn ours(outcome: Outcome) -> Result<Vec<Seen>, FormError> {
    outcome.result?;
    let seen = outcome.parts.into_iter().map(|part| Seen {
        name: Some(part.headers.name),
        file_name: part.headers.file_name,
        data: part.data,
    });
    Ok(seen.collect())
}

/// Names as raw UTF-8 or with `\"`, in which the oracle agrees.
fn names() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        4 => "[a-zA-Z0-9;=., ()*'/_-]",
        1 => Just("\\\"".to_owned()),
        1 => prop::char::range('\u{A0}', '\u{FFFF}').prop_map(String::from),
    ];
    // `name=` in a quoted value misleads the oracle.
    prop::collection::vec(character, 0..20).prop_map(|name| name.concat().replace("name", ""))
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let data = prop::collection::vec(
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            prop::sample::select(vec![
                "\r\n",
                "\r",
                "\n",
                "--",
                "\r\n--",
                "\r\n--boundar",
                "--boundary",
                "x--boundary--\r\n"
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
        ],
        0..8,
    );
    let field =
        (names(), prop::option::of(names()), prop::option::of("[a-z]{1,9}/[a-z]{1,9}"), data)
            .prop_map(|(name, file_name, content_type, data)| Field {
                name,
                file_name,
                content_type,
                data: data.concat(),
            });
    prop::collection::vec(field, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_read_the_same(fields in fields(), preamble in "[a-z \n]{0,20}", cuts in prop::collection::vec(any::<Index>(), 0..20)) {
        let boundary = boundary("boundary-1");
        // Where data begins with the delimiter, the form says something else than its maker meant.
        prop_assume!(fields.iter().all(|field| !field.data.starts_with(b"--boundary-1")));
        let preamble = if preamble.is_empty() { preamble } else { preamble + "\r\n" };
        let body = [preamble.as_bytes(), &encode(&boundary, &fields)].concat();
        let chunks = chunks(&body, &cuts);
        let expected: Vec<_> = fields.iter().map(|field| Seen {
            name: Some(field.name.replace("\\\"", "\"")),
            file_name: field.file_name.as_ref().map(|name| name.replace("\\\"", "\"")),
            data: field.data.clone(),
        }).collect();
        let mine = ours(read(&boundary, Limits::default(), chunks.iter().copied()));
        prop_assert_eq!(mine.as_ref(), Ok(&expected));
        prop_assert_eq!(multer(&boundary, &chunks).expect("multer reads it"), expected);
    }
}

#[test]
fn the_differences() {
    let boundary = boundary("b");
    let name_of = |seen: &[Seen]| seen.first().and_then(|part| part.file_name.clone());
    // The disposition's parameters; what we make of the name, what multer makes of it.
    let names = [
        (r#"; name=x; filename="a\\b""#, Some(r"a\b"), Some(r"a\\b")),
        (r#"; name=x; filename="a%22b""#, Some("a\"b"), Some("a%22b")),
        (r"; name=x; filename*=utf-8''a; filename=b", Some("b"), None),
        (r#"; name="; filename=a"; filename=b"#, Some("b"), Some("a\"")),
    ];
    for (parameters, mine, theirs) in names {
        let body =
            format!("--b\r\nContent-Disposition: form-data{parameters}\r\n\r\ndata\r\n--b--\r\n");
        let seen = ours(read(&boundary, Limits::default(), [body.as_bytes()])).expect("we read it");
        assert_eq!(name_of(&seen).as_deref(), mine, "{parameters}");
        let seen = multer(&boundary, &[body.as_bytes()]).expect("multer reads it");
        assert_eq!(name_of(&seen).as_deref(), theirs, "{parameters}");
    }

    let head = "Content-Disposition: form-data; name=x\r\n\r\n";
    // The body; what we make of it, how many parts multer finds.
    let bodies = [
        (format!("x--b\r\n{head}data\r\n--b--\r\n"), Ok(0), Some(1)),
        (format!("--b\r\n{head}--b\r\n{head}data\r\n--b--\r\n"), Ok(2), Some(1)),
        (
            "--b\r\nContent-Disposition: form-data; name=x\nX: y\r\n\r\ndata\r\n--b--\r\n"
                .to_owned(),
            Err(FormError::BareLf),
            Some(1),
        ),
        (
            format!("--b\r\nContent-Disposition: form-data; name=y\r\n{head}data\r\n--b--\r\n"),
            Err(FormError::HeaderRepeated { header: "content-disposition" }),
            Some(1),
        ),
    ];
    for (body, mine, theirs) in bodies {
        let seen =
            ours(read(&boundary, Limits::default(), [body.as_bytes()])).map(|seen| seen.len());
        assert_eq!(seen, mine, "{body:?}");
        assert_eq!(
            multer(&boundary, &[body.as_bytes()]).ok().map(|seen| seen.len()),
            theirs,
            "{body:?}"
        );
    }
}
