//! `/d/{file_id}`: what `download_url` points to.

use filegate_testkit::http::Request;
use filegate_testkit::server::{TestServer, eventually};

use crate::kit;

/// The path and query of the link of a file.
fn link(server: &TestServer, file_id: i64) -> String {
    let json = kit::success(server.get(&format!("/v1/files/retrieve?file_id={file_id}"))).json();
    let url = json["file"]["download_url"].as_str().unwrap();
    url.strip_prefix(&server.url()).unwrap().to_owned()
}

fn open(server: &TestServer, method: &str, path: &str) -> Request {
    Request::new(&server.address, method, path)
}

#[test]
fn a_link_works_with_any_key_and_with_none() {
    let server = kit::start();
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let path = link(&server, id);
    let other = server.make_key("other", "elsewhere");
    for key in ["", &server.key, &other, "fg-nonsense"] {
        let reply = kit::content(open(&server, "GET", &path).bearer(key).send(), 200);
        assert_eq!(reply.body, b"hello");
    }
    let basic = open(&server, "GET", &path).header("Authorization", "Basic eDp5").send();
    assert_eq!(kit::content(basic, 200).body, b"hello");
    let tracked = kit::content(open(&server, "GET", &format!("{path}&utm_source=x")).send(), 200);
    assert_eq!(tracked.body, b"hello");

    let head = kit::content(open(&server, "HEAD", &path).send(), 200);
    assert_eq!((head.header("content-length"), head.body.len()), (Some("5"), 0));
    let part = open(&server, "GET", &path).header("Range", "bytes=1-2").send();
    let part = kit::content(part, 206);
    assert_eq!((part.text().as_str(), part.header("content-range")), ("el", Some("bytes 1-2/5")));
    let outside = open(&server, "GET", &path).header("Range", "bytes=5-").send();
    assert_eq!(outside.status, 416);
    let etag = head.header("etag").unwrap();
    kit::content(open(&server, "GET", &path).header("If-None-Match", etag).send(), 304);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let reply = kit::fault(open(&server, method, &path).body("x").send(), 405);
        assert_eq!(reply.header("allow"), Some("GET,HEAD"));
    }
}

#[test]
fn every_change_to_a_link_is_refused() {
    let server = kit::start();
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let other_id = server.upload("retrieval", "b.txt", b"other").file_id();
    let path = link(&server, id);
    let (base, query) = path.split_once('?').unwrap();
    let pairs: Vec<_> = query.split('&').collect();
    let value = |name: &str| {
        pairs.iter().find_map(|p| p.strip_prefix(&format!("{name}="))).unwrap().to_owned()
    };
    let (account, expiry, signature) = (value("a"), value("e"), value("s"));
    let later = (expiry.parse::<i64>().unwrap() + 1).to_string();
    let mut forged = vec![
        base.to_owned(),
        format!("{base}?"),
        format!("/d/{other_id}?{query}"),
        format!("/d/0{id}?{query}"),
        format!("/d/x?{query}"),
        format!("/d/-{id}?{query}"),
        format!("/d/%ff?{query}"),
        path.replacen(&format!("a={account}"), "a=2", 1),
        path.replacen(&format!("e={expiry}"), &format!("e={later}"), 1),
        path.replacen(&format!("e={expiry}"), "e=99999999999999999999", 1),
        format!("{path}&a={account}"),
        format!("{path}&e={later}"),
        format!("{path}&s={signature}"),
        format!("{base}?{}", query.to_uppercase()),
    ];
    for i in 0..3 {
        let mut fewer = pairs.clone();
        fewer.remove(i);
        forged.push(format!("{base}?{}", fewer.join("&")));
    }
    // Every character of the signature counts.
    for i in 0..signature.len() {
        let mut changed = signature.clone().into_bytes();
        changed[i] = if changed[i] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        forged.push(path.replacen(&signature, &changed, 1));
    }
    forged.push(path.replacen(&signature, "", 1));
    forged.push(path.replacen(&signature, &signature[..signature.len() - 1], 1));
    for path in forged {
        let reply = kit::fault(open(&server, "GET", &path).send(), 403);
        assert_eq!(reply.code(), 1004, "{path}");
        assert!(reply.message().contains("the link is not valid"), "{path}");
    }
    assert_eq!(kit::content(open(&server, "GET", &path).send(), 200).body, b"hello");
    // Nor does another server's secret open it.
    let stranger = kit::start();
    kit::fault(open(&stranger, "GET", &path).send(), 403);
}

#[test]
fn a_link_ends() {
    let server = kit::start_with("[downloads]\nlink_life = \"2s\"");
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let path = link(&server, id);
    kit::content(open(&server, "GET", &path).send(), 200);
    let ended = eventually("the link ends", || {
        Some(open(&server, "GET", &path).send()).filter(|reply| reply.status != 200)
    });
    let ended = kit::fault(ended, 403);
    assert!(ended.message().contains("the link has ended"), "{}", ended.message());
    // A fresh one works.
    kit::content(open(&server, "GET", &link(&server, id)).send(), 200);
}
