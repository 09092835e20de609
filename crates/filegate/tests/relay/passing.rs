//! What passes, in each direction, and when.

use std::io::{Read as _, Write as _};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use filegate_testkit::http::Connection;
use serde_json::json;

use crate::kit::{KEY, Upstream, a_while, add, answer, call, native, setup};

#[test]
fn without_a_channel_it_is_an_unknown_path() {
    let server = setup().start();
    for path in ["/v1/t2a_v2", "/minimax/v1/anything", "/anthropic/v1/messages"] {
        let reply = call(&server, path, &json!({})).send();
        assert_eq!((reply.status, reply.code()), (404, 2013));
    }
}

#[test]
fn a_call_goes_with_the_channels_key_and_comes_back_byte_for_byte() {
    let server = setup().start();
    let body = b"{ \"audio\" : \"00ff\" ,\"base_resp\":{\"status_code\":0} }";
    let upstream = Upstream::always(answer(
        201,
        &[
            ("Content-Type", "application/json"),
            ("Trace-Id", "upstream-trace"),
            ("X-Mm-Request-Id", "77_a"),
            ("Set-Cookie", "acw_tc=1"),
            ("Connection", "X-Hop"),
            ("X-Hop", "1"),
        ],
        body,
    ));
    add(&server, "one", &upstream.url(), json!({ "group_id": "g1" }));
    let sent = "{\"model\": \"speech-2.8\",  \"text\":\"x\"}";
    let reply = server
        .request("POST", "/minimax/v1/t2a_v2?GroupId=client&a=%20b")
        .header("Content-Type", "application/json")
        .header("MM-API-Source", "Minimax-MCP")
        .header("Cookie", "a=b")
        .header("X-Forwarded-For", "1.2.3.4")
        .header("Idempotency-Key", "k")
        .body(sent)
        .send();
    assert_eq!((reply.status, reply.body.as_slice()), (201, body.as_slice()));
    assert_eq!(reply.header("trace-id"), Some("upstream-trace"));
    assert_eq!(reply.header("x-mm-request-id"), Some("77_a"));
    assert_eq!((reply.header("set-cookie"), reply.header("x-hop")), (None, None));

    let seen = upstream.seen().pop().unwrap();
    assert_eq!(seen.line, "POST /v1/t2a_v2?a=%20b&GroupId=g1");
    assert_eq!(String::from_utf8_lossy(&seen.body), sent);
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(seen.header("host"), Some(upstream.address.to_string().as_str()));
    assert_eq!(seen.header("mm-api-source"), Some("Minimax-MCP"));
    for name in ["cookie", "x-forwarded-for", "idempotency-key", "x-api-key"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[test]
fn any_method_and_any_mount_and_none_of_files() {
    let server = setup().start();
    let upstream = Upstream::always(native(0));
    add(&server, "one", &upstream.url(), json!({}));
    for (method, path, there) in [
        ("PUT", "/minimaxi/v1/whatever/x", "PUT /v1/whatever/x"),
        ("DELETE", "/v2/something/5", "DELETE /v2/something/5"),
        ("PATCH", "/minimax/anthropic/v1/messages", "PATCH /anthropic/v1/messages"),
        ("GET", "/v1/models", "GET /v1/models"),
    ] {
        assert_eq!(server.request(method, path).send().status, 200, "{path}");
        assert_eq!(upstream.seen().pop().unwrap().line, there);
    }
    let before = upstream.seen().len();
    for (method, path, status) in [
        ("GET", "/v1/files", 404),
        ("PUT", "/minimax/v1/files/upload", 405),
        ("GET", "/minimax/v1/files/other", 404),
        ("GET", "/minimax/v1/%66iles/list?purpose=voice_clone", 404),
        ("GET", "/minimax/v1/x/../files/list?purpose=voice_clone", 404),
        ("TRACE", "/v1/models", 404),
        ("GET", "/elsewhere", 404),
    ] {
        assert_eq!(server.request(method, path).send().status, status, "{method} {path}");
    }
    assert_eq!(upstream.seen().len(), before);
}

#[test]
fn a_caller_needs_a_key_with_the_scope() {
    let server = setup().start();
    let upstream = Upstream::always(native(0));
    add(&server, "one", &upstream.url(), json!({}));
    let narrow = server.command(&["key", "create", "--name", "narrow", "--scopes", "files:read"]);
    let request = filegate_testkit::http::Request::new(&server.address, "POST", "/v1/t2a_v2");
    let reply = request.bearer(&narrow).body("{}").send();
    assert_eq!(reply.code(), 1004);
    assert_eq!(upstream.seen().len(), 0);
}

#[test]
fn an_answer_is_sent_on_as_it_comes() {
    let server = setup().start();
    let (tell, told) = channel::<()>();
    let told = std::sync::Mutex::new(told);
    let upstream = Upstream::talking(move |talk, _| {
        let Some(mut asked) = talk.head() else { return };
        talk.body(&mut asked).unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        talk.write(head).unwrap();
        talk.write("f\r\ndata: {\"n\":1}\n\n\r\n").unwrap();
        // Not before the client has seen the first.
        told.lock().unwrap().recv_timeout(Duration::from_secs(20)).unwrap();
        talk.write("f\r\ndata: {\"n\":2}\n\n\r\n0\r\n\r\n").unwrap();
    });
    add(&server, "one", &upstream.url(), json!({}));
    let mut client = Connection::open(&server.address).unwrap();
    client
        .write(&call(&server, "/v1/chat/completions", &json!({ "stream": true })).bytes())
        .unwrap();
    let mut got = String::new();
    let mut piece = [0; 4096];
    while !got.contains("{\"n\":1}") {
        let n = client.stream().read(&mut piece).unwrap();
        assert!(n > 0, "{got}");
        got.push_str(&String::from_utf8_lossy(&piece[..n]));
    }
    assert!(!got.contains("{\"n\":2}"));
    tell.send(()).unwrap();
    while !got.contains("{\"n\":2}") {
        let n = client.stream().read(&mut piece).unwrap();
        assert!(n > 0, "{got}");
        got.push_str(&String::from_utf8_lossy(&piece[..n]));
    }
}

#[test]
fn a_body_is_sent_on_as_it_comes() {
    let server = setup().start();
    let (tell, told) = channel();
    let upstream = Upstream::talking(move |talk, _| {
        let Some(asked) = talk.head() else { return };
        assert_eq!(asked.header("expect"), None);
        tell.send(talk.exact(5).unwrap()).unwrap();
        talk.exact(300_000 - 5).unwrap();
        talk.write(native(0)).unwrap();
    });
    add(&server, "one", &upstream.url(), json!({}));
    let mut client = Connection::open(&server.address).unwrap();
    let head = server
        .request("POST", "/v1/speech_to_text")
        .header("Content-Type", "application/octet-stream")
        .header("Expect", "100-continue")
        .header("Content-Length", "300000");
    client.write(&head.bytes()).unwrap();
    assert_eq!(client.interim().unwrap().status, 100);
    client.write(b"first").unwrap();
    assert_eq!(told.recv_timeout(Duration::from_secs(20)).unwrap(), b"first");
    client.write(&vec![b'x'; 300_000 - 5]).unwrap();
    assert_eq!(client.reply().unwrap().code(), 0);
}

#[test]
fn a_large_body_with_rules_goes_through_disk_and_leaves_nothing() {
    let server = setup().config("[relay]\nbody_memory = \"16KiB\"\n").start();
    let upstream = Upstream::always(native(0));
    add(&server, "one", &upstream.url(), json!({}));
    let body = json!({ "text": "x".repeat(3 << 20) });
    assert_eq!(call(&server, "/v1/t2a_v2", &body).send().code(), 0);
    assert_eq!(upstream.seen().pop().unwrap().body, body.to_string().into_bytes());
    assert_eq!(server.stored("tmp"), []);
}

#[test]
fn a_body_over_the_limit_is_refused_with_its_name() {
    let server = setup().config("[relay]\nbody_max = \"100KiB\"\n").start();
    let upstream = Upstream::always(native(0));
    add(&server, "one", &upstream.url(), json!({}));
    let body = json!({ "text": "x".repeat(200 << 10) });
    let reply = call(&server, "/v1/t2a_v2", &body).send();
    assert_eq!(reply.code(), 2013);
    assert!(reply.message().contains("relay.body_max (100KiB)"), "{}", reply.message());
    let mut chunked = Connection::open(&server.address).unwrap();
    let head = server
        .request("POST", "/v1/speech_to_text")
        .header("Content-Type", "application/octet-stream")
        .header("Transfer-Encoding", "chunked");
    chunked.write(&head.bytes()).unwrap();
    for _ in 0..4 {
        let chunk =
            [format!("{:x}\r\n", 50 << 10).as_bytes(), &vec![b'x'; 50 << 10], b"\r\n"].concat();
        let _cut_off_when_over = chunked.stream().write_all(&chunk);
    }
    let reply = chunked.reply().unwrap();
    assert_eq!(reply.code(), 2013, "{}", reply.text());
    assert_eq!(upstream.seen().len(), 0);
}

#[test]
fn heads_without_bodies_keep_what_they_say() {
    let server = setup().start();
    let upstream = Upstream::answering(|seen| {
        let text = match seen.line.split(' ').next()? {
            "HEAD" => {
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1234\r\n\r\n"
            }
            "PUT" => "HTTP/1.1 204 No Content\r\nx-kept: 1\r\n\r\n",
            _ => {
                "HTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 304 Not Modified\r\netag: \"e\"\r\n\r\n"
            }
        };
        Some(text.as_bytes().to_vec())
    });
    add(&server, "one", &upstream.url(), json!({}));
    for _ in 0..2 {
        let head = server.request("HEAD", "/v1/models").send();
        assert_eq!((head.status, head.header("content-length")), (200, Some("1234")));
        let put = server.request("PUT", "/v1/x").send();
        assert_eq!((put.status, put.header("x-kept"), put.body.len()), (204, Some("1"), 0));
        let get = server.request("GET", "/v1/x").send();
        assert_eq!((get.status, get.header("etag")), (304, Some("\"e\"")));
    }
}

#[test]
fn a_slow_client_slows_upstream() {
    let server = setup().start();
    let (tell, told) = channel();
    let upstream = Upstream::talking(move |talk, _| {
        let Some(_asked) = talk.head() else { return };
        talk.write(
            "HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 200000000\r\n\r\n",
        )
        .unwrap();
        talk.stream().set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let piece = vec![0; 100_000];
        let mut written = 0;
        while written < 200_000_000 && talk.write(&piece).is_ok() {
            written += piece.len();
        }
        tell.send(written).unwrap();
    });
    add(&server, "one", &upstream.url(), json!({}));
    let mut client = Connection::open(&server.address).unwrap();
    client.write(&server.request("GET", "/v1/audio").bytes()).unwrap();
    // Nothing is read: what fits the buffers of three sockets is all that upstream can write.
    let written = told.recv_timeout(Duration::from_mins(1)).unwrap();
    assert!(written < 40_000_000, "{written}");
}

#[test]
fn a_call_that_nobody_waits_for_is_given_up() {
    let server = setup().start();
    let (tell, told) = channel();
    let upstream = Upstream::talking(move |talk, _| {
        let Some(_asked) = talk.head() else { return };
        talk.write("HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\n\r\n").unwrap();
        while talk.write("data: x\n\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        tell.send(()).unwrap();
    });
    add(&server, "one", &upstream.url(), json!({}));
    let mut client = Connection::open(&server.address).unwrap();
    client.write(&server.request("GET", "/v1/audio").bytes()).unwrap();
    let mut piece = [0; 64];
    assert!(client.stream().read(&mut piece).unwrap() > 0);
    drop(client);
    told.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn an_answer_that_breaks_off_is_cut_off() {
    let server = setup().start();
    let upstream = Upstream::answering(|_| {
        Some(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 10\r\n\r\nhalf"
                .to_vec(),
        )
    });
    add(&server, "one", &upstream.url(), json!({}));
    // The upstream keeps the connection open; the answer's silence is what ends it.
    drop(upstream);
    let upstream = Upstream::talking(|talk, _| {
        let Some(_asked) = talk.head() else { return };
        let _ = talk
            .write("HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 10\r\n\r\nhalf");
    });
    add(&server, "two", &upstream.url(), json!({ "priority": 1 }));
    let began = Instant::now();
    let mut client = Connection::open(&server.address).unwrap();
    client.write(&server.request("GET", "/v1/audio").bytes()).unwrap();
    let mut got = vec![];
    let _cut = client.stream().read_to_end(&mut got);
    let text = String::from_utf8_lossy(&got);
    assert!(text.contains("content-length: 10") && text.ends_with("half"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn connections_to_a_channel_are_kept() {
    let server = setup().start();
    let connections = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = std::sync::Arc::clone(&connections);
    let upstream = Upstream::talking(move |talk, _| {
        let mut first = true;
        while let Some(mut asked) = talk.head() {
            if std::mem::take(&mut first) {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
            talk.body(&mut asked).unwrap();
            talk.write(native(0)).unwrap();
        }
    });
    add(&server, "one", &upstream.url(), json!({}));
    let mut client = Connection::open(&server.address).unwrap();
    for _ in 0..20 {
        client.write(&call(&server, "/v1/t2a_v2", &json!({})).bytes()).unwrap();
        assert_eq!(client.reply().unwrap().code(), 0);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 1);
    a_while();
}
