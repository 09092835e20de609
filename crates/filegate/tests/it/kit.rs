//! What the tests of the API share: starting, and looking at replies.

use std::fmt::Write as _;

use filegate_testkit::http::{Connection, Reply, Request};
use filegate_testkit::server::{Setup, TestServer};
use serde_json::Value;

/// Every place where the five calls are.
pub(crate) const MOUNTS: [&str; 3] = ["/minimax", "/minimaxi", ""];

/// Headers that a JSON reply may have. Whatever else appears must be thought about first.
const HEADERS_OF_JSON: [&str; 8] = [
    "allow",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "retry-after",
    "trace-id",
];

/// Headers that an answer with content may have beside those.
const HEADERS_OF_CONTENT: [&str; 7] = [
    "accept-ranges",
    "content-disposition",
    "content-range",
    "content-security-policy",
    "etag",
    "repr-digest",
    "x-content-type-options",
];

pub(crate) fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_filegate"))
}

pub(crate) fn start() -> TestServer {
    setup().start()
}

pub(crate) fn start_with(toml: &str) -> TestServer {
    setup().config(toml).start()
}

/// `Trace-Id` and the allowed headers, each once.
#[track_caller]
fn check_headers(reply: &Reply, allowed: &[&[&str]]) {
    let trace = reply.header("trace-id").unwrap_or_default();
    let hex = trace.len() == 32 && trace.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    assert!(hex, "Trace-Id: {:?} {}", reply.headers, reply.text());
    for (i, (name, _)) in reply.headers.iter().enumerate() {
        assert!(allowed.concat().contains(&name.as_str()), "unexpected header {name}");
        assert!(!reply.headers[..i].iter().any(|(n, _)| n == name), "{name} stands twice");
    }
}

/// A JSON reply of ours, whatever it says: `base_resp`, `Trace-Id`, no unknown headers.
#[track_caller]
pub(crate) fn checked(reply: Reply) -> Reply {
    check_headers(&reply, &[&HEADERS_OF_JSON]);
    assert_eq!(reply.header("content-type"), Some("application/json"), "{}", reply.text());
    assert_eq!(reply.header("cache-control"), Some("private, no-store"));
    let json = reply.json();
    let base = json["base_resp"].as_object().expect("base_resp is an object");
    assert_eq!(base.len(), 2, "{base:?}");
    assert!(base["status_code"].is_i64() || base["status_code"].is_u64(), "{base:?}");
    assert!(base["status_msg"].as_str().is_some_and(|text| !text.is_empty()), "{base:?}");
    reply
}

/// A success: HTTP 200, 0, `success`.
#[track_caller]
pub(crate) fn success(reply: Reply) -> Reply {
    let reply = checked(reply);
    assert_eq!((reply.status, reply.code()), (200, 0), "{}", reply.text());
    assert_eq!(reply.message(), "success");
    reply
}

/// A refusal by the API: HTTP 200, this code, a message that starts so.
#[track_caller]
pub(crate) fn refused(reply: Reply, code: i64, message: &str) -> Reply {
    let reply = checked(reply);
    assert_eq!((reply.status, reply.code()), (200, code), "{}", reply.text());
    assert!(reply.message().starts_with(message), "{:?}, not {message:?}", reply.message());
    reply
}

/// A refused upload: as [`refused`], with `file` null and nothing else.
#[track_caller]
pub(crate) fn upload_refused(reply: Reply, code: i64, message: &str) {
    let reply = refused(reply, code, message);
    let json = reply.json();
    assert_eq!(keys(&json), ["base_resp", "file"]);
    assert_eq!(json["file"], Value::Null);
}

/// A stored upload, in the shape of the contract.
#[track_caller]
pub(crate) fn uploaded(reply: Reply) -> Value {
    let json = success(reply).json();
    assert_eq!(keys(&json), ["base_resp", "file"]);
    let file = json["file"].clone();
    let mut expected = vec!["bytes", "created_at", "file_id", "filename", "purpose"];
    if file.get("expires_at").is_some() {
        expected.insert(2, "expires_at");
    }
    assert_eq!(keys(&file), expected);
    let id = file["file_id"].as_i64().expect("file_id is a number");
    assert!((1..1 << 53).contains(&id), "{id}");
    file
}

/// A fault of HTTP: this status, and a body all the same.
#[track_caller]
pub(crate) fn fault(reply: Reply, status: u16) -> Reply {
    let reply = checked(reply);
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_ne!(reply.code(), 0);
    assert_eq!(keys(&reply.json()), ["base_resp"]);
    reply
}

/// An answer with bytes of a file.
#[track_caller]
pub(crate) fn content(reply: Reply, status: u16) -> Reply {
    check_headers(&reply, &[&HEADERS_OF_JSON, &HEADERS_OF_CONTENT]);
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_ne!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("cache-control"), Some("private, no-store"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    let policy = reply.header("content-security-policy").unwrap_or_default();
    assert!(policy.contains("sandbox") && policy.contains("default-src 'none'"), "{policy}");
    let disposition = reply.header("content-disposition").unwrap_or_default();
    assert!(disposition.starts_with("attachment; filename=\""), "{disposition}");
    assert_eq!(reply.header("accept-ranges"), Some("bytes"));
    reply
}

pub(crate) fn keys(json: &Value) -> Vec<&str> {
    let mut keys: Vec<_> =
        json.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Neither bytes of a file nor a part of one are on disk.
#[track_caller]
pub(crate) fn nothing_stored(server: &TestServer) {
    assert_eq!(server.stored("blobs"), []);
    // A refused upload's temporary file goes away on a task of its own.
    filegate_testkit::server::eventually("tmp is empty", || {
        server.stored("tmp").is_empty().then_some(())
    });
    assert_eq!(success(server.get("/v1/files/list")).json()["files"], Value::Array(vec![]));
}

/// After an attack: it still answers, still stores, and nothing has panicked.
#[track_caller]
pub(crate) fn still_well(server: &TestServer) {
    let health = Request::new(&server.address, "GET", "/healthz").send();
    assert_eq!((health.status, health.text().as_str()), (200, "ok\n"));
    uploaded(server.upload("retrieval", "well.txt", b"still here"));
    no_panic(server);
}

#[track_caller]
pub(crate) fn no_panic(server: &TestServer) {
    let log = server.log();
    assert!(!log.to_ascii_lowercase().contains("panic"), "{log}");
}

/// Sends bytes as they are and reads one reply; `None` when the connection ends without one.
pub(crate) fn exchange(server: &TestServer, bytes: &[u8]) -> Option<Reply> {
    let mut connection = Connection::open(&server.address).expect("it listens");
    let _may_be_cut = connection.write(bytes);
    connection.reply().ok()
}

/// An upload form of parts as they are: header lines (CRLF between them) and content.
pub(crate) fn form_of(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (head, content) in parts {
        body.extend_from_slice(format!("--XyZ\r\n{head}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--XyZ--\r\n");
    body
}

pub(crate) const PURPOSE: &str = "Content-Disposition: form-data; name=\"purpose\"";
pub(crate) const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"";
pub(crate) const FORM_TYPE: &str = "multipart/form-data; boundary=XyZ";

/// A file part whose file name is written so, parameter name and quotes included.
pub(crate) fn file_head(filename_parameter: &str) -> String {
    format!("Content-Disposition: form-data; name=\"file\"; {filename_parameter}")
}

/// Uploads a body as it is.
pub(crate) fn post_form(server: &TestServer, body: Vec<u8>) -> Reply {
    server.request("POST", "/v1/files/upload").header("Content-Type", FORM_TYPE).body(body).send()
}

/// A request without its body, to be followed by whatever the test sends.
pub(crate) fn head_of(server: &TestServer, method: &str, target: &str, lines: &[&str]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", server.address);
    let _infallible = write!(head, "Authorization: Bearer {}\r\n", server.key);
    for line in lines {
        let _infallible = write!(head, "{line}\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// The body in chunks of `size`.
pub(crate) fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// A wav of noise that lasts so long exactly: 8 kHz, 8 bits.
pub(crate) fn wav(ms: u32) -> Vec<u8> {
    let samples = ms * 8;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend_from_slice(&(36 + samples + samples % 2).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend_from_slice(&8000u32.to_le_bytes());
    bytes.extend_from_slice(&8000u32.to_le_bytes());
    bytes.extend_from_slice(b"\x01\0\x08\0data");
    bytes.extend_from_slice(&samples.to_le_bytes());
    bytes.extend((0..samples).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8));
    bytes
}

/// A zip of these entries.
pub(crate) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write as _;
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in entries {
        let options = zip::write::SimpleFileOptions::default();
        writer.start_file(*name, options).expect("a file can be started");
        writer.write_all(content).expect("memory can be written");
    }
    writer.finish().expect("a zip can be ended").into_inner()
}

/// Bytes that differ from one another, without line ends.
pub(crate) fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| b'a' + (i.wrapping_mul(2_654_435_761) >> 16) as u8 % 26).collect()
}
