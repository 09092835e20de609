//! What the tests of the front door share.

use filegate_testkit::http::{Field, Reply, Request, form};
use filegate_testkit::server::{Setup, TestServer};

pub(crate) fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_filegate"))
}

/// A text file whose content is told apart by `seed`.
pub(crate) fn text(seed: u64, bytes: usize) -> Vec<u8> {
    format!("{seed:020} the quick brown fox ")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(bytes)
        .collect()
}

/// An upload of a text with more fields than the usual two.
pub(crate) fn upload_with(server: &TestServer, content: &[u8], more: &[(&str, &str)]) -> Request {
    let mut fields: Vec<Field<'_>> =
        more.iter().map(|(name, value)| Field::Text(name, value)).collect();
    fields.push(Field::Text("purpose", "retrieval"));
    fields.push(Field::File("file", "a.txt", content));
    let (content_type, body) = form(&fields);
    server
        .request("POST", "/minimax/v1/files/upload")
        .header("Content-Type", &content_type)
        .body(body)
}

/// The consistency of everything, books included, as `fsck` sees it.
#[track_caller]
pub(crate) fn books_balance(server: &TestServer) {
    let report: serde_json::Value =
        serde_json::from_str(&server.command(&["fsck", "--json"])).unwrap();
    assert_eq!(report["clean"], true, "{report}");
}

/// That the reply is a refusal with this code.
#[track_caller]
pub(crate) fn refused(reply: &Reply, code: i64) -> String {
    assert_eq!(reply.code(), code, "{}", reply.text());
    reply.message()
}
