//! Moderation by services: the virus scanner, the webhook, and what is held for review.

use filegate_testkit::http::Request;
use filegate_testkit::server::{TestServer, eventually};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::moderation_kit::{
    Asked, Clamd, Hook, SECRET, answer, block, eicar, nothing_kept, refused, setup, start, verdict,
};

const UNAVAILABLE: &str = "internal service error: moderation is not available";

fn upload(server: &TestServer, content: &[u8]) -> filegate_testkit::http::Reply {
    server.upload("retrieval", "a.txt", content)
}

fn stages(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

#[test]
fn clamd_refuses_what_it_knows() {
    let clamd = Clamd::start();
    let server = start(&format!("[moderation.clamd]\naddress = '{}'", clamd.address()));
    let told = "input sensitive: the virus scanner refused the file";
    let mut hidden = vec![b' '; 700_000];
    hidden.extend_from_slice(&eicar());
    refused(&upload(&server, &eicar()), 1026, told);
    refused(&upload(&server, &hidden), 1026, told);
    nothing_kept(&server);
    assert!(server.log().contains("Test.Signature"), "{}", server.log());

    let harmless = vec![b'h'; 1 << 20];
    upload(&server, &harmless).file_id();
    assert_eq!(verdict(&server), ("ready".to_owned(), stages(&["clamd passed"])));

    // The daemon takes 1 MiB, whatever our setting says.
    let told = "input sensitive: the file is too large for the virus scanner";
    refused(&upload(&server, &vec![b'h'; (1 << 20) + 1]), 1026, told);
    refused(&upload(&server, &vec![b'h'; 8 << 20]), 1026, told);
    refused(&upload(&server, &vec![b'h'; 26 << 20]), 1026, told);

    drop(clamd);
    let reply = upload(&server, &harmless);
    refused(&reply, 1013, UNAVAILABLE);
    assert_eq!(reply.header("retry-after"), Some("5"));
    assert_eq!(server.stored("blobs").len(), 1);
}

#[test]
fn a_file_too_large_to_scan_can_be_taken_and_clamd_may_be_at_a_port() {
    let clamd = Clamd::start();
    let settings = format!(
        "[moderation.clamd]\naddress = '{}'\nstream_max = '64KiB'\non_too_large = 'open'",
        clamd.tcp_address()
    );
    let server = start(&settings);
    upload(&server, &vec![b'h'; (64 << 10) + 1]).file_id();
    assert_eq!(verdict(&server).1, stages(&["clamd not_asked"]));
    upload(&server, &vec![b'h'; 64 << 10]).file_id();
    assert_eq!(verdict(&server).1, stages(&["clamd passed"]));
    refused(
        &upload(&server, &eicar()),
        1026,
        "input sensitive: the virus scanner refused the file",
    );
}

#[test]
fn without_clamd_the_policy_decides() {
    let down = |policy: &str| {
        start(&format!(
            "[moderation.clamd]\naddress = 'unix:/nowhere/clamd'\non_failure = '{policy}'"
        ))
    };
    let server = down("closed");
    refused(&upload(&server, b"anything"), 1013, UNAVAILABLE);
    nothing_kept(&server);
    let server = down("open");
    upload(&server, b"anything").file_id();
    assert_eq!(verdict(&server), ("ready".to_owned(), stages(&["clamd not_asked"])));
    let server = down("review");
    upload(&server, b"anything").file_id();
    assert_eq!(verdict(&server), ("review".to_owned(), stages(&["clamd review"])));
}

/// The bytes behind a link, and the HTTP status.
fn fetch(url: &str) -> (u16, Vec<u8>) {
    let rest = url.strip_prefix("http://").expect("an http link");
    let (host, path) = rest.split_once('/').expect("a path");
    let reply = Request::new(host, "GET", &format!("/{path}")).send();
    (reply.status, reply.body)
}

fn link(asked: &Asked) -> String {
    asked.json()["download_url"].as_str().expect("a link").to_owned()
}

#[test]
fn the_webhook_is_told_of_a_file_and_can_fetch_it() {
    // It answers with the SHA-256 of what the link gave.
    let hook = Hook::start(|asked| {
        let (status, bytes) = fetch(&link(asked));
        let sha256 = filegate_types::hex(&Sha256::digest(&bytes));
        let same = status == 200 && asked.json()["sha256"] == sha256.as_str();
        let verdict = if same { "allow" } else { "deny" };
        answer("200 OK", &format!("{{\"verdict\":\"{verdict}\"}}"))
    });
    let server = start(&hook.settings(""));
    let large: Vec<u8> = (0..900_000u32).map(|i| b'a' + (i % 23) as u8).collect();
    for content in [b"small".to_vec(), large] {
        let id = upload(&server, &content).file_id();
        assert_eq!(verdict(&server), ("ready".to_owned(), stages(&["webhook passed"])));
        let stored = server.get(&format!("/v1/files/retrieve_content?file_id={id}"));
        assert_eq!(stored.body, content);
        let asked = hook.asked().pop().expect("it was asked");
        let json = asked.json();
        assert_eq!(json["bytes"], content.len());
        for (name, value) in [
            ("purpose", "retrieval"),
            ("filename", "a.txt"),
            ("media_type", "text/plain; charset=utf-8"),
        ] {
            assert_eq!(json[name], value);
        }
        assert_eq!(json["media"]["format"], "txt");
        assert!(json["account_id"].is_i64() && json["key_id"].is_i64() && json["sent_at"].is_i64());
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any key");
        mac.update(&asked.body);
        let signature = format!("sha256={}", filegate_types::hex(&mac.finalize().into_bytes()));
        assert_eq!(asked.header("x-filegate-signature"), Some(signature.as_str()));
        assert!(asked.head.starts_with("POST /decide HTTP/1.1"), "{}", asked.head);
        // It has landed: the link has nothing to give any more, and no other was ever good.
        assert_eq!(fetch(&link(&asked)).0, 404);
        assert_eq!(fetch(&link(&asked).replace("&s=", "&s=A")).0, 403);
        assert_eq!(fetch(link(&asked).split_once('?').expect("a query").0).0, 403);
    }
    let target = "/v1/files/upload?validate_only=true";
    let form = server.request("POST", target).form("retrieval", "a.txt", b"only looked at");
    assert_eq!(form.send().code(), 0);
    assert_eq!(hook.asked().len(), 2);
}

#[test]
fn the_webhook_denies_and_is_asked_last() {
    let hook = Hook::saying("deny");
    let server = start(&hook.settings(""));
    block(&server, "term", "blocked");
    let told = "input sensitive: the moderation service refused the file";
    refused(&upload(&server, b"something"), 1026, told);
    refused(&upload(&server, &vec![b'x'; 900_000]), 1026, told);
    refused(&upload(&server, b"blocked"), 1026, "input sensitive: the text has a blocked term");
    assert_eq!(hook.asked().len(), 2);
    nothing_kept(&server);
    assert_eq!(fetch(&link(&hook.asked()[0])).0, 404);
}

#[test]
fn a_file_held_for_review_is_shown_and_not_given_out() {
    let hook = Hook::saying("review");
    let server = start(&hook.settings(""));
    let reply = upload(&server, b"something");
    let id = reply.file_id();
    assert_eq!(reply.json()["file"]["state"], "review");
    assert_eq!(verdict(&server), ("review".to_owned(), stages(&["webhook review"])));
    let file = server.get(&format!("/v1/files/retrieve?file_id={id}")).json()["file"].clone();
    assert_eq!(file["state"], "review");
    assert!(file.get("download_url").is_none() && file["media"].is_object(), "{file}");
    assert_eq!(server.get("/v1/files/list").json()["files"][0]["state"], "review");
    let content = server.get(&format!("/v1/files/retrieve_content?file_id={id}"));
    let told = "input sensitive: the file is held for review";
    assert_eq!((content.code(), content.message().as_str()), (1026, told));

    // Released it is like any other; its link ends to work when it is quarantined.
    let set = |state: &str| {
        assert_eq!(server.value::<i64>("SELECT count(*) FROM files"), 1);
        server.sql(&format!("UPDATE files SET state = '{state}'"));
    };
    set("ready");
    let file = server.get(&format!("/v1/files/retrieve?file_id={id}")).json()["file"].clone();
    assert!(file.get("state").is_none(), "{file}");
    let url = file["download_url"].as_str().expect("a link").to_owned();
    assert_eq!(fetch(&url), (200, b"something".to_vec()));
    set("quarantined");
    let (status, body) = fetch(&url);
    let body = String::from_utf8(body).expect("UTF-8");
    assert!(status == 422 && body.contains("the file is quarantined"), "{status} {body}");
    assert_eq!(server.delete(id).code(), 0);
    assert_eq!(server.get("/v1/files/list").json()["files"], serde_json::json!([]));
}

#[test]
fn a_webhook_that_fails_leaves_it_to_the_policy() {
    let elsewhere = Hook::saying("allow");
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:{}/\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
        elsewhere.port()
    );
    let long = format!("{{\"verdict\":\"allow\",\"x\":\"{}\"}}", "x".repeat(70_000));
    for wrong in [
        answer("200 OK", "<p>yes</p>"),
        answer("200 OK", r#"{"verdict":"perhaps"}"#),
        answer("500 Oops", r#"{"verdict":"allow"}"#),
        answer("200 OK", &long),
        redirect,
        String::new(),
    ] {
        let hook = Hook::start(move |_| wrong.clone());
        let server = start(&hook.settings("timeout = '1s'"));
        refused(&upload(&server, b"something"), 1013, UNAVAILABLE);
        assert_eq!(hook.asked().len(), 1);
        nothing_kept(&server);
    }
    assert_eq!(elsewhere.asked().len(), 0);
    for (policy, state, said) in
        [("open", "ready", "webhook not_asked"), ("review", "review", "webhook review")]
    {
        let hook = Hook::start(|_| answer("503 Down", ""));
        let server = start(&hook.settings(&format!("on_failure = '{policy}'")));
        upload(&server, b"something").file_id();
        assert_eq!(verdict(&server), (state.to_owned(), stages(&[said])));
    }
}

#[test]
fn the_webhook_is_at_no_private_address() {
    let hook = Hook::saying("allow");
    let server = start(&format!(
        "[moderation.webhook]\nurl = 'https://localhost:{}/'\nsecret = '{SECRET}'",
        hook.port()
    ));
    refused(&upload(&server, b"something"), 1013, UNAVAILABLE);
    eventually("it is in the log", || server.log().contains("not public").then_some(()));
    assert_eq!(hook.asked().len(), 0);
    nothing_kept(&server);
    for (settings, says) in [
        ("url = 'https://127.0.0.1/'\nsecret = 'sixteen bytes of it'", "not a public address"),
        ("url = 'http://hook.example/'\nsecret = 'sixteen bytes of it'", "needs allow_private"),
        ("url = 'https://hook.example/'", "needs a secret"),
    ] {
        let home = tempfile::tempdir().expect("a temporary directory");
        let setup = setup(&format!("[moderation.webhook]\n{settings}"));
        let error = setup.try_start_on(home.path()).expect_err("it does not start");
        assert!(error.contains(says), "{error}");
    }
}
