//! Attacks that can be tried from outside. After each table the server must still be well.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use filegate_testkit::http::{Connection, Request};
use filegate_testkit::server::{TestServer, eventually};

use crate::kit::{self, FILE, FORM_TYPE, PURPOSE, chunked, file_head, form_of, head_of, post_form};

const UPLOAD: &str = "/v1/files/upload";

/// Everything the server sends until it closes. The peer must close: a connection whose framing is in
/// doubt is not used again.
fn until_close(server: &TestServer, bytes: &[u8]) -> Vec<u8> {
    let connection = Connection::open(&server.address).unwrap();
    let mut stream = connection.stream();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _may_be_cut = stream.write_all(bytes);
    let mut all = vec![];
    match stream.read_to_end(&mut all) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("left open after\n{}", String::from_utf8_lossy(bytes))
        }
        Ok(_) | Err(_) => all,
    }
}

/// Status lines among the bytes.
fn replies(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split("HTTP/1.").skip(1);
    lines.filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect()
}

/// The request must get nothing but a 4xx or 501, if anything, and the connection must end.
fn refused_and_closed(server: &TestServer, what: &str, request: &[u8]) {
    let answer = until_close(server, request);
    let statuses = replies(&answer);
    assert!(statuses.len() <= 1, "{what}: {}", String::from_utf8_lossy(&answer));
    let refused = statuses.iter().all(|status| (400..500).contains(status) || *status == 501);
    let by_us = String::from_utf8_lossy(&answer).contains("\"status_code\":2013");
    assert!(refused || by_us, "{what}: {}", String::from_utf8_lossy(&answer));
}

fn good_form() -> Vec<u8> {
    form_of(&[(PURPOSE, b"retrieval"), (FILE, b"hello")])
}

fn type_line() -> String {
    format!("Content-Type: {FORM_TYPE}")
}

/// A request that must not be seen as one.
fn smuggled(server: &TestServer) -> Vec<u8> {
    let mut form = Request::new(&server.address, "POST", UPLOAD).bearer(&server.key);
    form = form.form("retrieval", "smuggled.txt", b"smuggled");
    form.bytes()
}

#[test]
fn row_8_framing_in_doubt() {
    let server = kit::start();
    let body = good_form();
    let length = format!("Content-Length: {}", body.len());
    let longer = format!("Content-Length: {}", body.len() + 1);
    for lines in [
        &[length.as_str(), longer.as_str()] as &[&str],
        &["Content-Length: +5"],
        &["Content-Length: -5"],
        &["Content-Length: 0x5"],
        &["Content-Length: 5 5"],
        &["Content-Length: 5, 6"],
        &["Content-Length: 18446744073709551616"],
        &["Content-Length: 1e2"],
        &["Content-Length: "],
        &["Content-Length: \u{663}"],
        &["Content-Length : 5"],
        &["Transfer-Encoding: gzip"],
        &["Transfer-Encoding: identity"],
        &["Transfer-Encoding: xchunked"],
        &["Transfer-Encoding: chunked, identity"],
        &["Transfer-Encoding: gzip, chunked"],
        &["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"],
        &["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        &["Transfer-Encoding : chunked"],
        &["Transfer-Encoding: \u{b}chunked"],
        &[" Transfer-Encoding: chunked"],
        &["X: y\rTransfer-Encoding: chunked"],
    ] {
        let type_line = type_line();
        let mut all = vec![type_line.as_str()];
        all.extend_from_slice(lines);
        for framed in [body.clone(), chunked(&body, 40)] {
            let mut request = head_of(&server, "POST", UPLOAD, &all);
            request.extend_from_slice(&framed);
            request.extend_from_slice(&smuggled(&server));
            refused_and_closed(&server, &format!("{lines:?}"), &request);
        }
    }
    kit::nothing_stored(&server);
    kit::still_well(&server);
}

#[test]
fn row_8_both_framings_are_read_one_way_and_end_the_connection() {
    let server = kit::start();
    let chunks = chunked(&good_form(), 40);
    for (first, second) in [
        (format!("Content-Length: {}", chunks.len()), "Transfer-Encoding: chunked".to_owned()),
        ("Transfer-Encoding: chunked".to_owned(), "Content-Length: 3".to_owned()),
        ("Transfer-Encoding: chunked".to_owned(), "Content-Length: 100000".to_owned()),
        ("transfer-encoding: CHUNKED".to_owned(), "content-length: 0".to_owned()),
    ] {
        let mut request = head_of(&server, "POST", UPLOAD, &[&type_line(), &first, &second]);
        request.extend_from_slice(&chunks);
        request.extend_from_slice(&smuggled(&server));
        let answer = until_close(&server, &request);
        assert_eq!(replies(&answer).len(), 1, "{}", String::from_utf8_lossy(&answer));
    }
    let list = kit::success(server.get("/v1/files/list")).json();
    let files = list["files"].as_array().unwrap();
    assert!(files.iter().all(|file| file["filename"] == "a.txt"), "{list}");
    kit::still_well(&server);
}

#[test]
fn row_9_broken_chunks() {
    let server = kit::start();
    let body = good_form();
    let (first, rest) = body.split_at(60);
    let first_len = format!("{:x}", first.len());
    let after = |line: &str| [format!("{line}\r\n").as_bytes(), first, b"\r\n"].concat();
    let long_extension = format!("{first_len};{}", "x".repeat(100_000));
    let mut broken: Vec<(String, Vec<u8>)> = [
        "fffffffffffffffff",
        "ffffffffffffffff",
        "10000000000000000",
        "-3c",
        "+3c",
        "0x3c",
        "3c 3c",
        "g",
        "",
        "3c\u{0}",
        &long_extension,
    ]
    .iter()
    .map(|line| (line.chars().take(30).collect(), after(line)))
    .collect();
    broken.push(("bare LF".to_owned(), [first_len.as_bytes(), b"\n", first, b"\n"].concat()));
    broken.push((
        "data over its length".to_owned(),
        [first_len.as_bytes(), b"\r\n", first, b"XX\r\n"].concat(),
    ));
    broken.push(("no end".to_owned(), [first_len.as_bytes(), b"\r\n", first].concat()));
    for (what, bytes) in broken {
        let mut request =
            head_of(&server, "POST", UPLOAD, &[&type_line(), "Transfer-Encoding: chunked"]);
        request.extend_from_slice(&bytes);
        request.extend_from_slice(format!("{:x}\r\n", rest.len()).as_bytes());
        request.extend_from_slice(rest);
        request.extend_from_slice(b"\r\n0\r\n\r\n");
        request.extend_from_slice(&smuggled(&server));
        refused_and_closed(&server, &what, &request);
    }
    kit::nothing_stored(&server);
    // Trailers are bounded and mean nothing.
    for (count, stored) in [(1, true), (20_000, false)] {
        let mut request =
            head_of(&server, "POST", UPLOAD, &[&type_line(), "Transfer-Encoding: chunked"]);
        let mut chunks = chunked(&body, 40);
        chunks.truncate(chunks.len() - 2);
        request.extend_from_slice(&chunks);
        request.extend_from_slice("Authorization: Bearer x\r\n".repeat(count).as_bytes());
        request.extend_from_slice(b"\r\n");
        let answer = until_close(&server, &request);
        assert_eq!(String::from_utf8_lossy(&answer).contains("\"status_code\":0"), stored);
    }
    kit::still_well(&server);
}

#[test]
fn row_9_broken_heads() {
    let server = kit::start();
    let key = &server.key;
    let with = |line: &str| {
        format!(
            "GET /v1/files/list HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{line}\r\n\r\n"
        )
    };
    for (what, request) in [
        ("NUL in a value", with("X: a\0b")),
        ("NUL in a name", with("X\0: a")),
        ("folded", with("X: a\r\n b")),
        (
            "folded key",
            "GET /v1/files/list HTTP/1.1\r\nHost: x\r\nAuthorization:\r\n Bearer x\r\n\r\n"
                .to_owned(),
        ),
        ("bare CR", with("X: a\rb")),
        ("no colon", with("nothing")),
        ("space before the colon", with("X : a")),
        ("no version", "GET /healthz\r\n\r\n".to_owned()),
        ("HTTP/3", "GET /healthz HTTP/3.0\r\n\r\n".to_owned()),
        ("HTTP/1.10", "GET /healthz HTTP/1.10\r\n\r\n".to_owned()),
        ("spaces", "GET  /healthz  HTTP/1.1\r\n\r\n".to_owned()),
        ("space in the target", "GET /health z HTTP/1.1\r\n\r\n".to_owned()),
        ("NUL in the target", "GET /healthz\0 HTTP/1.1\r\n\r\n".to_owned()),
        ("odd method", "G(T /healthz HTTP/1.1\r\n\r\n".to_owned()),
        ("not HTTP", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03".to_owned() + &"\0".repeat(200)),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("an endless target", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(200_000))),
        ("an endless header", with(&format!("X: {}", "a".repeat(200_000)))),
        ("a thousand headers", with(&"X: a\r\n".repeat(1_000))),
        ("ten thousand headers", with(&"X: a\r\n".repeat(10_000))),
    ] {
        refused_and_closed(&server, what, request.as_bytes());
        if let Some(reply) = kit::exchange(&server, request.as_bytes()) {
            assert!(matches!(kit::checked(reply).status, 400 | 414 | 431), "{what}");
        }
    }
    // Behind a good request as well.
    let mut connection = Connection::open(&server.address).unwrap();
    connection.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(connection.reply().unwrap().text(), "ok\n");
    connection.write(b"GET /healthz\r\n\r\n").unwrap();
    kit::fault(connection.reply().unwrap(), 400);
    // Odd, but one whole request each; none may take the server down.
    for (request, status) in [
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),
        ("GET http://elsewhere.example/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /d/..%2f..%2fcatalog HTTP/1.1\r\nHost: x\r\n\r\n", 403),
    ] {
        let reply = kit::exchange(&server, request.as_bytes());
        let reply = reply.unwrap_or_else(|| panic!("no reply to {request}"));
        assert_eq!(reply.status, status, "{request}");
    }
    kit::still_well(&server);
}

#[test]
fn rows_10_to_13_odd_forms() {
    let server = kit::start();
    let field = "Content-Disposition: form-data; name=\"x\"";
    let many: Vec<(&str, &[u8])> = vec![(field, b"1"); 1_000];
    let headers = format!("{PURPOSE}\r\n{}", vec!["X: y"; 10_000].join("\r\n"));
    let long = format!("{PURPOSE}\r\nX: {}", "y".repeat(100_000));
    let large = kit::text(1 << 20);
    let long_name = format!("Content-Disposition: form-data; name=\"{}\"", "n".repeat(60_000));
    let preamble = [kit::text(1 << 20), b"\r\n".to_vec(), good_form()].concat();
    let dashes = [b"\r\n--".repeat(300_000), good_form()].concat();
    let epilogue = [good_form(), kit::text(1 << 20)].concat();
    let lf = String::from_utf8(good_form()).unwrap().replace("\r\n", "\n").into_bytes();
    let glued =
        String::from_utf8(good_form()).unwrap().replace("\r\n--XyZ\r\n", "--XyZ\r\n").into_bytes();
    let folded = "Content-Disposition: form-data;\r\n name=\"purpose\"";
    for (what, body) in [
        ("a thousand parts", form_of(&many)),
        ("ten thousand headers", form_of(&[(&headers, b"retrieval"), (FILE, b"x")])),
        ("a long header", form_of(&[(&long, b"retrieval"), (FILE, b"x")])),
        ("a large purpose", form_of(&[(PURPOSE, &large), (FILE, b"x")])),
        ("a large other field", form_of(&[(field, &large), (PURPOSE, b"retrieval"), (FILE, b"x")])),
        ("a long name", form_of(&[(&long_name, b"x"), (PURPOSE, b"retrieval"), (FILE, b"x")])),
        ("a preamble", preamble),
        ("a preamble of almost boundaries", dashes),
        ("an epilogue", epilogue),
        ("LF", lf),
        ("boundaries in mid-line", glued),
        ("folding", form_of(&[(folded, b"retrieval"), (FILE, b"x")])),
        (
            "no disposition",
            form_of(&[("Content-Type: text/plain", b"x"), (PURPOSE, b"retrieval"), (FILE, b"x")]),
        ),
        (
            "two dispositions",
            form_of(&[(&format!("{PURPOSE}\r\n{FILE}"), b"retrieval"), (FILE, b"x")]),
        ),
        (
            "another disposition",
            form_of(&[
                ("Content-Disposition: attachment; name=\"purpose\"", b"retrieval"),
                (FILE, b"x"),
            ]),
        ),
        (
            "no name",
            form_of(&[
                ("Content-Disposition: form-data", b"x"),
                (PURPOSE, b"retrieval"),
                (FILE, b"x"),
            ]),
        ),
        (
            "two names",
            form_of(&[(&format!("{PURPOSE}; name=\"file\""), b"retrieval"), (FILE, b"x")]),
        ),
        (
            "base64",
            form_of(&[
                (PURPOSE, b"retrieval"),
                (&format!("{FILE}\r\nContent-Transfer-Encoding: base64"), b"aGVsbG8="),
            ]),
        ),
        ("only dashes", b"-".repeat(1 << 20)),
        ("only line ends", b"\r\n".repeat(1 << 19)),
        ("nothing", vec![]),
    ] {
        let started = Instant::now();
        let reply = post_form(&server, body);
        assert!(started.elapsed() < Duration::from_secs(5), "{what}: {:?}", started.elapsed());
        assert_eq!(reply.code(), 2013, "{what}: {}", reply.text());
        kit::upload_refused(reply, 2013, "invalid params, ");
    }
    kit::nothing_stored(&server);
    // Names of other fields may be anything; what follows the closing boundary is not read.
    let odd: Vec<_> =
        ["", "__proto__", "constructor", "file[]", "purpose[0]", "%0D%0A", "声", "a.b[c]"]
            .map(|name| format!("Content-Disposition: form-data; name=\"{name}\""))
            .into_iter()
            .collect();
    for head in &odd {
        let body = form_of(&[(head, b"1"), (PURPOSE, b"retrieval"), (FILE, b"hello")]);
        kit::uploaded(post_form(&server, body));
    }
    let second = form_of(&[(PURPOSE, b"assistants"), (&file_head("filename=\"b.txt\""), b"other")]);
    let file = kit::uploaded(post_form(&server, [good_form(), second].concat()));
    assert_eq!((&file["filename"], &file["purpose"]), (&"a.txt".into(), &"retrieval".into()));
    kit::still_well(&server);
}

#[test]
fn rows_20_and_21_lies_about_size_and_coding() {
    let server = kit::start();
    // Ten gigabytes are refused from the head, before any of them.
    for length in ["10000000000", "9223372036854775807", "18446744073709551613"] {
        let length = format!("Content-Length: {length}");
        let head = head_of(&server, "POST", UPLOAD, &[&type_line(), &length]);
        if let Some(reply) = kit::exchange(&server, &head) {
            if reply.body.is_empty() {
                assert_eq!(reply.status, 400);
            } else {
                kit::upload_refused(reply, 2013, "invalid params, the body is ");
            }
        }
    }
    for coding in ["gzip", "br", "deflate", "zstd", "gzip, gzip", "x", "identity, gzip"] {
        let request = server.request("POST", UPLOAD).header("Content-Encoding", coding);
        let reply = request.header("Content-Type", FORM_TYPE).body(good_form()).send();
        kit::upload_refused(reply, 2013, "invalid params, content-encoding is not supported");
    }
    let request = server.request("POST", UPLOAD).header("Content-Encoding", "identity");
    let request = request.header("Content-Encoding", "gzip").header("Content-Type", FORM_TYPE);
    let reply = request.body(good_form()).send();
    kit::upload_refused(reply, 2013, "invalid params, content-encoding is not supported");
    kit::nothing_stored(&server);
    let request = server.request("POST", UPLOAD).header("Content-Encoding", "identity");
    kit::uploaded(request.header("Content-Type", FORM_TYPE).body(good_form()).send());
    kit::still_well(&server);
}

#[test]
fn row_26_clients_that_are_slow_on_purpose() {
    let server = kit::start_with(
        "[limits]\nhead_timeout = \"1s\"\nbody_idle = \"1s\"\nwrite_idle = \"1s\"\n[jobs]\nupload_lease = \"5s\"\n",
    );
    let closes = |what: &str, connection: &mut Connection, started: Instant| {
        assert!(connection.is_closed(), "{what} is still open");
        let took = started.elapsed();
        assert!(took > Duration::from_millis(800), "{what} was closed at once: {took:?}");
        assert!(took < Duration::from_secs(5), "{what} was closed after {took:?}");
    };
    // All at a time, so that the test waits once.
    let started = Instant::now();
    let open = |bytes: &[u8]| {
        let mut connection = Connection::open(&server.address).unwrap();
        connection.write(bytes).unwrap();
        connection
    };
    let mut silent = open(b"");
    let mut head = open(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow:");
    let mut kept = open(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let form = form_of(&[(PURPOSE, b"retrieval"), (FILE, &kit::text(600_000))]);
    let stalled_head = head_of(
        &server,
        "POST",
        UPLOAD,
        &[&type_line(), &format!("Content-Length: {}", form.len())],
    );
    let mut stalled = open(&[&stalled_head, &form[..500_000]].concat());
    let mut chunk = open(
        &[
            head_of(&server, "POST", UPLOAD, &[&type_line(), "Transfer-Encoding: chunked"]),
            b"20\r\n--XyZ".to_vec(),
        ]
        .concat(),
    );
    let mut delete = open(
        &[
            head_of(&server, "POST", "/v1/files/delete", &["Content-Length: 20"]),
            b"{\"file_id\"".to_vec(),
        ]
        .concat(),
    );

    assert_eq!(kept.reply().unwrap().text(), "ok\n");
    for (what, connection) in [("silent", &mut silent), ("head", &mut head), ("kept", &mut kept)] {
        closes(what, connection, started);
    }
    for connection in [&mut stalled, &mut chunk] {
        let reply = connection.reply().unwrap();
        kit::upload_refused(reply, 1001, "request timeout: nothing of the body arrived for 1s");
        assert!(connection.is_closed());
    }
    kit::refused(delete.reply().unwrap(), 1001, "request timeout");
    assert!(delete.is_closed());
    kit::nothing_stored(&server);

    // A body that trickles is not idle.
    let body = good_form();
    let length = format!("Content-Length: {}", body.len());
    let mut slow = open(&head_of(&server, "POST", UPLOAD, &[&type_line(), &length]));
    for piece in body.chunks(body.len() / 4 + 1) {
        std::thread::sleep(Duration::from_millis(400));
        slow.write(piece).unwrap();
    }
    kit::uploaded(slow.reply().unwrap());
    kit::still_well(&server);
}

#[test]
fn row_26_answers_that_nobody_reads() {
    let server = kit::start_with("[limits]\nwrite_idle = \"1s\"\n");
    let id = server.upload("retrieval", "a.txt", &kit::text(24 << 20)).file_id();
    let target = format!("/v1/files/retrieve_content?file_id={id}");
    let mut unread: Vec<_> = (0..3)
        .map(|_| {
            let mut connection = Connection::open(&server.address).unwrap();
            connection.write(&server.request("GET", &target).bytes()).unwrap();
            connection
        })
        .collect();
    eventually("they are downloading", || {
        (server.metric("filegate_downloads_total") >= 3.0).then_some(())
    });
    // All of them: one that is read before it is cut off gets its file. What is left is the question's own.
    eventually("they are cut off", || (server.metric("filegate_connections") < 1.5).then_some(()));
    for connection in &mut unread {
        assert!(connection.reply().is_err(), "the whole file was sent");
    }
    // One who reads slowly gets it all.
    let mut slow = Connection::open(&server.address).unwrap();
    slow.write(&server.request("GET", &target).bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(slow.reply().unwrap().body.len(), 24 << 20);
    kit::still_well(&server);
}

#[test]
fn row_26_half_closed_clients_get_their_answer() {
    let server = kit::start();
    for request in [
        server.request("GET", "/v1/files/list").bytes(),
        server.request("POST", UPLOAD).form("retrieval", "a.txt", b"hello").bytes(),
    ] {
        let mut connection = Connection::open(&server.address).unwrap();
        connection.write(&request).unwrap();
        connection.half_close();
        kit::success(connection.reply().unwrap());
        assert!(connection.is_closed());
    }
    assert_eq!(server.stored("blobs").len(), 1);
    // Gone in the middle of a body: nothing is left of it, in memory or on disk.
    for sent in [100, 400_000] {
        let form = form_of(&[(PURPOSE, b"retrieval"), (FILE, &kit::text(600_000))]);
        let length = format!("Content-Length: {}", form.len());
        let mut connection = Connection::open(&server.address).unwrap();
        connection.write(&head_of(&server, "POST", UPLOAD, &[&type_line(), &length])).unwrap();
        connection.write(&form[..sent]).unwrap();
        eventually("it is in flight", || {
            (server.metric("filegate_uploads_in_flight") > 0.5).then_some(())
        });
        drop(connection);
        eventually("it is given up", || {
            (server.metric("filegate_uploads_in_flight") < 0.5).then_some(())
        });
    }
    eventually("tmp is empty", || server.stored("tmp").is_empty().then_some(()));
    assert_eq!(server.stored("blobs").len(), 1);
    kit::still_well(&server);
}

#[test]
fn row_27_floods_of_connections() {
    let server = kit::start();
    let idle: Vec<_> = (0..500).map(|_| Connection::open(&server.address).unwrap()).collect();
    let started = Instant::now();
    kit::still_well(&server);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    drop(idle);

    // At the cap the next one waits until a place is free; it is not turned away.
    let server = kit::start_with("[limits]\nconnections_max = 4\nhead_timeout = \"1s\"\n");
    let idle: Vec<_> = (0..8).map(|_| Connection::open(&server.address).unwrap()).collect();
    let started = Instant::now();
    kit::success(server.get("/v1/files/list"));
    assert!(started.elapsed() > Duration::from_millis(500), "the cap does nothing");
    drop(idle);
    kit::still_well(&server);
}

#[test]
fn uploads_over_the_cap_are_told_to_wait() {
    let server = kit::start_with("[limits]\nuploads_max = 1\nupload_wait = \"0s\"\n");
    let form = good_form();
    let length = format!("Content-Length: {}", form.len());
    let mut first = Connection::open(&server.address).unwrap();
    first.write(&head_of(&server, "POST", UPLOAD, &[&type_line(), &length])).unwrap();
    first.write(&form[..20]).unwrap();
    eventually("it is in flight", || {
        (server.metric("filegate_uploads_in_flight") > 0.5).then_some(())
    });
    let second = server.upload("retrieval", "a.txt", b"hello");
    assert_eq!(second.header("retry-after"), Some("1"));
    kit::upload_refused(second, 1002, "rate limit: 1 uploads are in progress");
    first.write(&form[20..]).unwrap();
    kit::uploaded(first.reply().unwrap());
    kit::still_well(&server);
}

#[test]
fn row_33_nothing_breaks_or_betrays_the_log() {
    let server = kit::start_with("[log]\nformat = \"json\"\nfilter = \"debug\"\n");
    let evil = "x%0D%0A{%22level%22:%22ERROR%22}%1B[31m";
    for name in [evil, "\u{1b}[2J.txt", "a\u{2028}b.txt", "\"}{.txt", "a%0Ab.pdf"] {
        let head = file_head(&format!("filename=\"{name}\""));
        post_form(&server, form_of(&[(PURPOSE, b"retrieval"), (&head, b"hello")]));
        let head = format!("Content-Disposition: form-data; name=\"{name}\"");
        post_form(&server, form_of(&[(&head, b"1"), (PURPOSE, name.as_bytes()), (FILE, b"hello")]));
        post_form(
            &server,
            form_of(&[(&format!("{FILE}\r\nContent-Transfer-Encoding: {name}"), b"x")]),
        );
    }
    for target in
        [format!("/{evil}"), format!("/v1/files/list?purpose={evil}"), format!("/d/{evil}?{evil}")]
    {
        let request = server
            .request("GET", &target)
            .header("User-Agent", "a\u{1b}[31m")
            .header("Referer", evil);
        request.send();
    }
    Request::new(&server.address, "X-FORGED'LINE", "/").send();
    let id = server.upload("retrieval", "secret-name.txt", b"secret content").file_id();
    let json = kit::success(server.get(&format!("/v1/files/retrieve?file_id={id}"))).json();
    let link = json["file"]["download_url"].as_str().unwrap().to_owned();
    let signature = link.rsplit_once("&s=").unwrap().1.to_owned();
    let path = link.strip_prefix(&server.url()).unwrap();
    kit::content(Request::new(&server.address, "GET", path).send(), 200);
    kit::fault(Request::new(&server.address, "GET", &format!("{path}x")).send(), 403);
    for (name, value) in
        [("Authorization", "Bearer fg-guessed-key"), ("x-api-key", "fg-guessed-key")]
    {
        Request::new(&server.address, "GET", "/v1/files/list").header(name, value).send();
    }
    kit::still_well(&server);

    let log = server.log();
    assert!(!log.contains('\u{1b}'), "an escape reached the log");
    let mut lines = 0;
    for line in log.lines() {
        let note =
            ["filegate ", "admin token, ", "make an API key"].iter().any(|s| line.starts_with(s));
        if !note {
            let json: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
            assert!(json["level"].is_string() && json["timestamp"].is_string(), "{line}");
            assert_ne!(json["level"], "ERROR", "{line}");
            lines += 1;
        }
    }
    assert!(lines > 20, "there is a log: {lines}");
    for secret in
        [server.key.as_str(), "fg-guessed-key", &signature, "secret content", "secret-name"]
    {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn row_38_methods_overrides_and_bypasses() {
    let server = kit::start();
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let list = "/v1/files/list";
    let retrieve = format!("/v1/files/retrieve?file_id={id}");
    for (name, value) in [
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Method-Override", "POST"),
        ("X-HTTP-Method", "TRACE"),
        ("X-Original-URL", "/admin/v1/status"),
        ("X-Rewrite-URL", "/v1/files/delete"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Host", "evil.example"),
        ("Forwarded", "host=evil.example"),
        ("Upgrade", "h2c"),
        ("Origin", "https://evil.example"),
        ("Access-Control-Request-Method", "POST"),
    ] {
        let plain = kit::success(server.get(list));
        let with = kit::success(server.request("GET", list).header(name, value).send());
        assert_eq!(plain.text(), with.text(), "{name}");
        let bare = Request::new(&server.address, "GET", list).header(name, value).send();
        kit::refused(bare, 1004, "login fail");
        let file = kit::success(server.request("GET", &retrieve).header(name, value).send()).json();
        let link = file["file"]["download_url"].as_str().unwrap();
        assert!(link.starts_with(&server.url()), "{name}: {link}");
    }
    // No page of another origin gets leave (the helper refuses every Access-Control header), nor does
    // a preflight.
    let preflight =
        Request::new(&server.address, "OPTIONS", UPLOAD).header("Origin", "https://evil.example");
    kit::fault(preflight.header("Access-Control-Request-Method", "POST").send(), 405);
    let trace = kit::fault(server.request("TRACE", list).header("X-Mark", "mirrored").send(), 405);
    assert!(!trace.text().contains("mirrored"));
    kit::still_well(&server);
}

#[test]
fn many_requests_on_one_connection() {
    let server = kit::start();
    let mut connection = Connection::open(&server.address).unwrap();
    // Sent all at once, answered in order.
    let mut bytes = vec![];
    for i in 0..20 {
        bytes.extend(
            server.request("POST", UPLOAD).form("retrieval", &format!("{i}.txt"), b"hello").bytes(),
        );
        bytes.extend(Request::new(&server.address, "GET", "/healthz").bytes());
    }
    connection.write(&bytes).unwrap();
    let mut traces = vec![];
    for i in 0..20 {
        let reply = connection.reply().unwrap();
        traces.push(reply.header("trace-id").unwrap().to_owned());
        assert_eq!(kit::uploaded(reply)["filename"], format!("{i}.txt"));
        assert_eq!(connection.reply().unwrap().text(), "ok\n");
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 20, "a Trace-Id is of one request");
}
