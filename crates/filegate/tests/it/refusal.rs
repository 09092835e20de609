//! An early refusal reaches the client, even one that sends everything before it reads.

use std::io::Write as _;
use std::time::{Duration, Instant};

use filegate_testkit::http::{Connection, Request};
use filegate_testkit::server::TestServer;

use crate::kit::{self, FILE, FORM_TYPE, PURPOSE, chunked, form_of};

const UPLOAD: &str = "/minimax/v1/files/upload";

/// What is refused early: what it is, target, method, key, content type, body, status, code.
type Case<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, Vec<u8>, u16, i64);

fn cases(server: &TestServer, large: usize) -> Vec<Case<'_>> {
    let content = kit::text(large);
    let form = |purpose: &[u8], file: &str| form_of(&[(PURPOSE, purpose), (file, &content)]);
    let good = form(b"retrieval", FILE);
    let exe = kit::file_head("filename=\"a.exe\"");
    let key = server.key.as_str();
    vec![
        ("unknown key", "POST", UPLOAD, "fg-unknown", FORM_TYPE, good.clone(), 200, 2049),
        ("no key", "POST", UPLOAD, "", FORM_TYPE, good.clone(), 200, 1004),
        ("no form", "POST", UPLOAD, key, "text/plain", good.clone(), 200, 2013),
        ("purpose", "POST", UPLOAD, key, FORM_TYPE, form(b"vision", FILE), 200, 2013),
        ("extension", "POST", UPLOAD, key, FORM_TYPE, form(b"retrieval", &exe), 200, 2013),
        ("delete", "POST", "/v1/files/delete", key, "application/json", good.clone(), 200, 2013),
        ("delete, no key", "POST", "/v1/files/delete", "", "", good.clone(), 200, 1004),
        ("path", "POST", "/minimax/v1/files/uploads", key, FORM_TYPE, good.clone(), 404, 2013),
        ("method", "PUT", UPLOAD, key, FORM_TYPE, good.clone(), 405, 2013),
        ("link", "POST", "/d/1", key, FORM_TYPE, good, 405, 2013),
    ]
}

#[test]
fn it_arrives_and_the_connection_lives_on() {
    let server = kit::start();
    for (what, method, target, key, content_type, body, status, code) in cases(&server, 6 << 20) {
        let request = Request::new(&server.address, method, target).bearer(key);
        let bytes = request.header("Content-Type", content_type).body(body).bytes();
        let mut connection = Connection::open(&server.address).unwrap();
        connection.write(&bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        let reply = kit::checked(connection.reply().unwrap());
        assert_eq!((reply.status, reply.code()), (status, code), "{what}: {}", reply.text());
        let next = Request::new(&server.address, "GET", "/healthz").bytes();
        connection.write(&next).unwrap();
        let next = connection.reply().unwrap_or_else(|error| panic!("after {what}: {error}"));
        assert_eq!(next.text(), "ok\n", "{what}");
    }
    kit::nothing_stored(&server);
    kit::still_well(&server);
}

#[test]
fn it_arrives_when_the_body_is_chunked() {
    let server = kit::start();
    for (what, method, target, key, content_type, body, status, code) in cases(&server, 6 << 20) {
        let request = Request::new(&server.address, method, target).bearer(key);
        let request = request.header("Content-Type", content_type);
        let mut bytes = request.header("Transfer-Encoding", "chunked").bytes();
        bytes.extend_from_slice(&chunked(&body, 64 << 10));
        let mut connection = Connection::open(&server.address).unwrap();
        connection.write(&bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        let reply = kit::checked(connection.reply().unwrap());
        assert_eq!((reply.status, reply.code()), (status, code), "{what}: {}", reply.text());
    }
    kit::nothing_stored(&server);
}

#[test]
fn it_arrives_before_the_close_when_there_is_more_than_is_drained() {
    let server = kit::start_with("[limits]\ndrain_bytes = \"1MiB\"");
    for (what, method, target, key, content_type, body, status, code) in cases(&server, 24 << 20) {
        let request = Request::new(&server.address, method, target).bearer(key);
        let bytes = request.header("Content-Type", content_type).body(body).bytes();
        let mut connection = Connection::open(&server.address).unwrap();
        let cut = connection.write(&bytes);
        assert!(cut.is_err(), "{what}: the server read all of it");
        let reply = kit::checked(connection.reply().unwrap_or_else(|e| panic!("{what}: {e}")));
        assert_eq!((reply.status, reply.code()), (status, code), "{what}: {}", reply.text());
    }
    kit::nothing_stored(&server);
    kit::still_well(&server);
}

#[test]
fn a_file_over_the_limit_is_cut_off_with_an_answer() {
    let server = kit::start_with(
        "[limits]\ndrain_bytes = \"1MiB\"\n[purposes.retrieval.accept.document]\nbytes_max = \"1MiB\"\n",
    );
    let body = form_of(&[(PURPOSE, b"retrieval"), (FILE, &kit::text(24 << 20))]);
    let says = "invalid params, file is too large: over 1MiB (1048576 bytes)";
    let declared = Request::new(&server.address, "POST", UPLOAD).bearer(&server.key);
    let declared = declared.header("Content-Type", FORM_TYPE);
    kit::upload_refused(declared.clone().body(body.clone()).send(), 2013, says);
    // Endless: it stops taking more soon after the limit.
    let mut connection = Connection::open(&server.address).unwrap();
    connection.write(&declared.header("Transfer-Encoding", "chunked").bytes()).unwrap();
    let head = &body[..2000];
    connection.write(format!("{:x}\r\n", head.len()).as_bytes()).unwrap();
    connection.write(head).unwrap();
    let piece = [b"\r\n10000\r\n", vec![b'x'; 0x10000].as_slice()].concat();
    let mut sent = 0;
    while sent < 64 << 20 && connection.stream().write_all(&piece).is_ok() {
        sent += piece.len();
    }
    assert!(sent < 64 << 20, "it never stopped taking");
    kit::upload_refused(connection.reply().unwrap(), 2013, says);
    kit::nothing_stored(&server);
}

#[test]
fn one_who_stops_sending_is_not_waited_for() {
    let server = kit::start_with("[limits]\ndrain_time = \"1s\"");
    let mut connection = Connection::open(&server.address).unwrap();
    let head = format!(
        "POST {UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM_TYPE}\r\nContent-Length: 5000000\r\n\r\n"
    );
    let started = Instant::now();
    connection.write(head.as_bytes()).unwrap();
    kit::upload_refused(connection.reply().unwrap(), 1004, "login fail");
    let answered = started.elapsed();
    assert!(answered < Duration::from_millis(900), "the answer does not wait: {answered:?}");
    assert!(connection.is_closed());
    let closed = started.elapsed();
    assert!(closed < Duration::from_secs(5), "closed after {closed:?}");
}
