//! `GET …/v1/files/retrieve_content`: bytes, ranges, conditions, headers.

use filegate_testkit::http::{Connection, Reply};
use filegate_testkit::samples;
use filegate_testkit::server::TestServer;

use crate::kit::{self, MOUNTS};

/// A file of `len` bytes and the target of its content.
fn stored(server: &TestServer, len: usize) -> (Vec<u8>, String) {
    let content = kit::text(len);
    let id = server.upload("retrieval", "a.txt", &content).file_id();
    (content, format!("/minimax/v1/files/retrieve_content?file_id={id}"))
}

fn ask(server: &TestServer, target: &str, headers: &[(&str, &str)]) -> Reply {
    let request = server.request("GET", target);
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

#[test]
fn the_bytes_and_what_is_said_of_them() {
    let server = kit::start();
    for (purpose, name, content, media_type) in [
        ("voice_clone", "a.mp3", samples::sample_bytes("mp3"), "audio/mpeg"),
        ("voice_clone", "a.m4a", samples::sample_bytes("m4a"), "audio/mp4"),
        ("voice_clone", "a.wav", kit::wav(10_000), "audio/wav"),
        ("video_generation_input", "a.png", samples::sample_bytes("png"), "image/png"),
        ("retrieval", "a.json", b"{\"base_resp\":1}".to_vec(), "application/octet-stream"),
        ("retrieval", "a.jsonl", b"{}\n".to_vec(), "application/octet-stream"),
        ("retrieval", "a.md", b"<script>alert(1)</script>".to_vec(), "text/plain; charset=utf-8"),
    ] {
        let id = server.upload(purpose, name, &content).file_id();
        for mount in MOUNTS {
            let target = format!("{mount}/v1/files/retrieve_content?file_id={id}&GroupId=1");
            let reply = kit::content(server.get(&target), 200);
            assert_eq!(reply.body, content, "{name}");
            assert_eq!(reply.header("content-type"), Some(media_type));
            assert_eq!(reply.header("content-length"), Some(&*content.len().to_string()));
            let disposition = format!("attachment; filename=\"{name}\"; filename*=UTF-8''{name}");
            assert_eq!(reply.header("content-disposition"), Some(&*disposition));
        }
    }
}

#[test]
fn the_digest_is_the_files() {
    let server = kit::start();
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let target = format!("/v1/files/retrieve_content?file_id={id}");
    let whole = kit::content(server.get(&target), 200);
    let digest = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    assert_eq!(whole.header("repr-digest"), Some(digest));
    let etag = whole.header("etag").unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 32, "{etag} is strong");
    // The same on a part, which is of the same representation, and for the same bytes again.
    let part = kit::content(ask(&server, &target, &[("Range", "bytes=1-2")]), 206);
    assert_eq!((part.header("repr-digest"), part.header("etag")), (Some(digest), Some(&*etag)));
    let other = server.upload("retrieval", "b.txt", b"hellp").file_id();
    let other =
        kit::content(server.get(&format!("/v1/files/retrieve_content?file_id={other}")), 200);
    assert_ne!(other.header("etag"), Some(&*etag));
}

#[test]
fn ranges_over_block_borders() {
    let server = kit::start();
    let (content, target) = stored(&server, 1_300_000);
    let len = content.len();
    for (asked, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, len - 1),
        ("bytes=-1", len - 1, len - 1),
        ("bytes=-9999999", 0, len - 1),
        ("bytes=5-99999999999999999999", 5, len - 1),
        ("bytes=65535-65536", 65_535, 65_536),
        ("bytes=262143-262145", 262_143, 262_145),
        ("bytes=1048570-1048580", 1_048_570, 1_048_580),
        ("bytes=100-1299999", 100, len - 1),
        ("BYTES=1299999-", len - 1, len - 1),
    ] {
        let reply = kit::content(ask(&server, &target, &[("Range", asked)]), 206);
        assert_eq!(reply.body, content[first..=last], "{asked}");
        let shown = format!("bytes {first}-{last}/{len}");
        assert_eq!(reply.header("content-range"), Some(&*shown));
        assert_eq!(reply.header("content-length"), Some(&*(last - first + 1).to_string()));
    }
    for asked in ["bytes=1300000-", "bytes=-0", "bytes=1300000-1300001,9999999-"] {
        let reply = ask(&server, &target, &[("Range", asked)]);
        assert_eq!(reply.status, 416, "{asked}");
        assert_eq!(reply.header("content-range"), Some("bytes */1300000"));
        assert_eq!(reply.code(), 2013);
    }
    // Not understood, or more than it is worth: the whole.
    let many =
        format!("bytes={}", (0..500).map(|i| format!("{i}-{i}")).collect::<Vec<_>>().join(","));
    for asked in ["bytes=", "bytes=b-a", "bytes=2-1", "items=0-1", "bytes=0-,0-,0-,0-", &many, ""] {
        let reply = kit::content(ask(&server, &target, &[("Range", asked)]), 200);
        assert_eq!(reply.body.len(), len, "{asked}");
        assert_eq!(reply.header("content-range"), None);
    }
}

#[test]
fn several_ranges_at_once() {
    let server = kit::start();
    let (content, target) = stored(&server, 300_000);
    let reply = ask(&server, &target, &[("Range", "bytes=0-9, 262140-262149,-5")]);
    let reply = kit::content(reply, 206);
    let content_type = reply.header("content-type").unwrap().to_owned();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    assert_eq!(reply.header("content-range"), None);
    assert_eq!(reply.header("content-length"), Some(&*reply.body.len().to_string()));
    let text = reply.text();
    let parts: Vec<_> = text.split(&format!("\r\n--{boundary}")).collect();
    assert_eq!((parts.len(), parts[0], parts[4]), (5, "", "--\r\n"));
    for (part, range) in parts[1..4].iter().zip([0..10, 262_140..262_150, 299_995..300_000]) {
        let (head, body) = part.split_once("\r\n\r\n").unwrap();
        let shown = format!("content-range: bytes {}-{}/300000", range.start, range.end - 1);
        assert!(head.contains(&shown), "{head}");
        assert!(head.contains("content-type: text/plain; charset=utf-8"), "{head}");
        assert_eq!(body.as_bytes(), &content[range]);
    }
}

/// Content that reads like an answer is content all the same, in whichever write it leaves.
#[test]
fn a_file_that_looks_like_an_answer() {
    let server = kit::start();
    let looks = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    for filler in [0, 65_536, 262_144, 1 << 20] {
        let content = [&kit::text(filler), looks as &[u8]].concat();
        let id = server.upload("retrieval", "a.txt", &content).file_id();
        let target = format!("/v1/files/retrieve_content?file_id={id}");
        let parts = format!("bytes={filler}-,0-0");
        let mut connection = Connection::open(&server.address).unwrap();
        for (asked, status) in
            [("", 200), ("bytes=0-", 206), (parts.as_str(), if filler == 0 { 200 } else { 206 })]
        {
            let request = server.request("GET", &target).header("Range", asked);
            connection.write(&request.bytes()).unwrap();
            let reply = kit::content(connection.reply().unwrap(), status);
            let whole = reply.body.windows(looks.len()).any(|window| window == looks);
            assert!(whole, "{asked} of {}: {}", content.len(), reply.text().len());
        }
        connection.write(&server.request("GET", "/healthz").bytes()).unwrap();
        assert_eq!(connection.reply().unwrap().text(), "ok\n");
    }
}

#[test]
fn conditions() {
    let server = kit::start();
    let (content, target) = stored(&server, 1000);
    let whole = server.get(&target);
    let etag = whole.header("etag").unwrap();
    let weak = format!("W/{etag}");
    let among = format!("\"x\", {weak} , \"y\"");
    for (name, value, status) in [
        ("If-None-Match", etag, 304),
        ("If-None-Match", weak.as_str(), 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", among.as_str(), 304),
        ("If-None-Match", "\"x\"", 200),
        ("If-None-Match", "", 200),
    ] {
        let reply = kit::content(ask(&server, &target, &[(name, value)]), status);
        assert_eq!(reply.body.len(), if status == 304 { 0 } else { 1000 }, "{value}");
        assert_eq!(reply.header("etag"), Some(etag));
    }
    for (value, status) in
        [(etag, 206), (&weak, 200), ("\"x\"", 200), ("Wed, 21 Oct 2037 07:28:00 GMT", 200)]
    {
        let headers = [("Range", "bytes=0-4"), ("If-Range", value)];
        let reply = kit::content(ask(&server, &target, &headers), status);
        assert_eq!(reply.body, if status == 206 { &content[..5] } else { &content }, "{value}");
    }
    // A range that cannot be had of something else is no error.
    let headers = [("Range", "bytes=5000-"), ("If-Range", "\"x\"")];
    assert_eq!(kit::content(ask(&server, &target, &headers), 200).body, content);
}

#[test]
fn head_is_the_head_of_get() {
    let server = kit::start();
    let (_, target) = stored(&server, 1000);
    let got = kit::content(server.get(&target), 200);
    let head = kit::content(server.request("HEAD", &target).send(), 200);
    assert_eq!(head.body, b"");
    let plain = |reply: &Reply| -> Vec<_> {
        let own = ["trace-id", "date"];
        reply.headers.iter().filter(|(n, _)| !own.contains(&n.as_str())).cloned().collect()
    };
    assert_eq!(plain(&got), plain(&head));
    // RFC 9110 §14.2: ranges are GET's.
    let ranged = server.request("HEAD", &target).header("Range", "bytes=0-1").send();
    assert_eq!(plain(&kit::content(ranged, 200)), plain(&got));
    let absent = server.request("HEAD", "/v1/files/retrieve_content?file_id=1").send();
    assert_eq!((absent.status, absent.header("content-type")), (200, Some("application/json")));
}
