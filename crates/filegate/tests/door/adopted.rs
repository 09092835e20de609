//! Files that were born upstream: listed, read through, linked to, deleted, and kept when the account says so.

use filegate_testkit::http::{Reply, Request};
use filegate_testkit::server::{TestServer, clean_environment, eventually};
use serde_json::{Value, json};

use crate::admin::{get, post};
use crate::channels::{Upstream, add, relaying};
use crate::kit::{books_balance, refused};

const KEY: &str = "sk-api-upstream-of-the-test";
/// Ids as the gateway mints them.
const VIDEO: i64 = 462_000_000_000_001;
const SPEECH: i64 = VIDEO + 1;
const LOST: i64 = VIDEO + 2;

/// Upstream with a clock of the test's own, and a gateway before it.
struct Both {
    upstream: Upstream,
    server: TestServer,
}

impl Both {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(environment: &[(&str, &str)]) -> Self {
        let upstream = Upstream::start(&["--key", KEY, "--clock", "standing"]);
        let mut setup = relaying(&[&upstream]).env("FILEGATE_JOBS__INTERVAL", "200ms");
        for (name, value) in environment {
            setup = setup.env(name, value);
        }
        let server = setup.start();
        add(&server, "one", &upstream.url, KEY);
        Self { upstream, server }
    }

    fn upstream(&self, method: &str, target: &str, body: Option<&Value>) -> Reply {
        let address = self.upstream.url.strip_prefix("http://").unwrap();
        let request = Request::new(address, method, target).bearer(KEY);
        match body {
            Some(body) => {
                request.header("Content-Type", "application/json").body(body.to_string()).send()
            }
            None => request.send(),
        }
    }

    /// A video and a speech that upstream has made, with their ids there.
    fn born(&self) -> (String, String) {
        let call = |path, body| self.upstream("POST", path, Some(&body)).json();
        let video =
            call("/v1/video_generation", json!({"model": "MiniMax-Hailuo-02", "prompt": "a cat"}));
        let speech = call(
            "/v1/t2a_async_v2",
            json!({"model": "speech-02-hd", "text": "Hello there", "voice_setting": {"voice_id": "female-shaonv"}}),
        );
        call("/emulate/clock", json!({"advance": "60s"}));
        let query =
            format!("/v1/query/video_generation?task_id={}", video["task_id"].as_str().unwrap());
        let video = self.upstream("GET", &query, None).json();
        (video["file_id"].as_str().unwrap().to_owned(), speech["file_id"].to_string())
    }

    fn adopt(&self, id: i64, purpose: &str, filename: &str, upstream_id: &str) {
        self.server.sql(&format!(
            "INSERT INTO adopted (file_id, account_id, key_id, purpose, filename, channel_id,
                                  upstream_id, created_at)
             VALUES ({id}, 1, 1, '{purpose}', '{filename}', 1, '{upstream_id}', 1700000000000)"
        ));
    }

    fn content_upstream(&self, id: &str) -> Vec<u8> {
        let reply = self.upstream("GET", &format!("/v1/files/retrieve_content?file_id={id}"), None);
        assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
        reply.body
    }
}

fn ids(listed: &Value) -> Vec<i64> {
    listed["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["file_id"].as_i64().unwrap())
        .collect()
}

fn files(call: &str) -> String {
    format!("/minimax/v1/files/{call}")
}

#[test]
fn what_was_born_upstream_is_listed_retrieved_and_read_under_ids_of_ours() {
    let both = Both::start();
    let (video, speech) = both.born();
    both.adopt(VIDEO, "video_generation", "output.mp4", &video);
    both.adopt(SPEECH, "t2a_async", "speech.tar", &speech);
    let server = &both.server;
    let uploaded = server.upload("retrieval", "a.txt", b"hello").file_id();
    let call = |call: &str| server.get(&files(call));

    // Newest first, and in pages.
    let mut newest = [VIDEO, SPEECH, uploaded];
    newest.sort_unstable_by(|one, other| other.cmp(one));
    assert_eq!(ids(&call("list").json()), newest);
    let page = call("list?limit=1").json();
    assert_eq!((ids(&page), &page["has_more"]), (newest[..1].to_vec(), &json!(true)));
    let page = call(&format!("list?limit=2&after={}", newest[0])).json();
    assert_eq!((ids(&page), &page["has_more"]), (newest[1..].to_vec(), &json!(false)));
    assert_eq!(ids(&call("list?purpose=t2a_async_input").json()), [SPEECH]);
    assert_eq!(ids(&call("list?purpose=video_generation").json()), [VIDEO]);

    // A link of ours, and nothing of upstream's.
    let retrieved = call(&format!("retrieve?file_id={VIDEO}"));
    let file = &retrieved.json()["file"];
    assert_eq!((&file["file_id"], &file["bytes"]), (&json!(VIDEO), &json!(0)));
    assert_eq!(file["purpose"], "video_generation");
    let text = retrieved.text();
    for word in ["backup_download_url", &video, &both.upstream.url] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    let url = file["download_url"].as_str().unwrap();
    let path = &url[url.find("/d/").unwrap()..];
    let bytes = server.get(path);
    assert_eq!(
        (bytes.status, bytes.header("content-type")),
        (200, Some("video/mp4")),
        "{}",
        bytes.text()
    );
    assert_eq!(&bytes.body[4..8], b"ftyp");
    assert_eq!(bytes.header("x-content-type-options"), Some("nosniff"));
    assert!(bytes.header("content-disposition").unwrap().starts_with("attachment;"));
    let forged = server.get(&path.replace(&VIDEO.to_string(), &SPEECH.to_string()));
    assert_eq!(forged.status, 403);

    // The content: of speech its bytes, of videos upstream's own refusal.
    let speech_bytes = call(&format!("retrieve_content?file_id={SPEECH}"));
    assert_eq!(speech_bytes.body, both.content_upstream(&speech));
    assert_eq!(speech_bytes.header("content-length"), Some(&*speech_bytes.body.len().to_string()));
    let head = server.request("HEAD", &files(&format!("retrieve_content?file_id={SPEECH}"))).send();
    assert_eq!((head.status, head.body.len()), (200, 0));
    let said = refused(&call(&format!("retrieve_content?file_id={VIDEO}")), 2013);
    assert_eq!(said, "invalid params, invalid file purpose");

    // Nobody else's.
    let other = server.make_key("other", "other");
    for name in ["retrieve", "retrieve_content"] {
        let target = files(&format!("{name}?file_id={SPEECH}"));
        let theirs = Request::new(&server.address, "GET", &target).bearer(&other).send();
        assert_eq!(refused(&theirs, 2013), "invalid params, file not found");
    }
}

#[test]
fn a_delete_takes_it_from_upstream_and_what_is_gone_there_is_gone_here() {
    let both = Both::start();
    let (video, speech) = both.born();
    both.adopt(VIDEO, "video_generation", "output.mp4", &video);
    both.adopt(SPEECH, "t2a_async", "speech.tar", &speech);
    both.adopt(LOST, "t2a_async", "speech.tar", "99");
    let server = &both.server;
    let call = |call: &str| server.get(&files(call));

    for name in ["retrieve", "retrieve_content"] {
        let lost = call(&format!("{name}?file_id={LOST}"));
        assert_eq!(refused(&lost, 2013), "invalid params, file not found");
    }
    assert_eq!(ids(&call("list").json()), [SPEECH, VIDEO]);

    // While upstream limits us, the answer is ours, and nothing is forgotten.
    let fault = json!({"kind": "rate_limited", "path": "/v1/files/retrieve", "count": 1});
    both.upstream("POST", "/emulate/faults", Some(&fault));
    refused(&call(&format!("retrieve?file_id={VIDEO}")), 1002);
    assert_eq!(call(&format!("retrieve?file_id={VIDEO}")).code(), 0);

    assert_eq!(server.delete(SPEECH).code(), 0);
    assert_eq!(
        refused(&call(&format!("retrieve?file_id={SPEECH}")), 2013),
        "invalid params, file not found"
    );
    assert_eq!(server.delete(SPEECH).code(), 2013);
    let there =
        || both.upstream("GET", &format!("/v1/files/retrieve?file_id={speech}"), None).code();
    eventually("it is deleted upstream", || (there() == 2013).then_some(()));
    eventually("no job is left", || {
        (server.value::<i64>("SELECT count(*) FROM jobs") == 0).then_some(())
    });

    let removed = server.admin("POST", "/channels/one/remove").body("{}").send();
    assert!(removed.status < 300, "{}", removed.text());
    let said = refused(&call(&format!("retrieve?file_id={VIDEO}")), 2013);
    assert_eq!(said, "invalid params, file not found: the upstream account it was on is gone");
    books_balance(server);
}

#[test]
fn outputs_are_kept_when_they_are_to_be_and_outlive_upstream() {
    let both = Both::start();
    let (video, speech) = both.born();
    both.adopt(VIDEO, "video_generation", "output.mp4", &video);
    both.adopt(SPEECH, "t2a_async", "speech.tar", &speech);
    let server = &both.server;
    let expected = both.content_upstream(&speech);
    // The first try breaks off in the middle; a part of a file is no file.
    let fault = json!({"kind": "truncated", "path": "/v1/files/retrieve_content", "count": 1});
    both.upstream("POST", "/emulate/faults", Some(&fault));
    let fault = json!({"kind": "reset_answer", "path": "/emulate/oss/*", "count": 1});
    both.upstream("POST", "/emulate/faults", Some(&fault));
    for id in [VIDEO, SPEECH] {
        server.sql(&format!(
            "INSERT INTO jobs (kind, target, run_at) VALUES ('keep_adopted', '1/{id}', 0)"
        ));
    }
    eventually("both are kept", || {
        (server.value::<i64>("SELECT count(*) FROM adopted") == 0).then_some(())
    });
    eventually("no job is left", || {
        (server.value::<i64>("SELECT count(*) FROM jobs") == 0).then_some(())
    });
    // A day later upstream has neither.
    both.upstream("POST", "/emulate/clock", Some(&json!({"advance": "24h"})));
    let kept = server.get(&files(&format!("retrieve_content?file_id={SPEECH}")));
    assert!(kept.body == expected, "{} bytes of {}", kept.body.len(), expected.len());
    let kept = server.get(&files(&format!("retrieve_content?file_id={VIDEO}")));
    assert_eq!(&kept.body[4..8], b"ftyp");
    assert_eq!(ids(&server.get(&files("list")).json()), [SPEECH, VIDEO]);
    let file = server.get(&files(&format!("retrieve?file_id={SPEECH}"))).json();
    assert_eq!(
        (&file["file"]["bytes"], &file["file"]["created_at"]),
        (&json!(expected.len()), &json!(1_700_000_000))
    );
    assert_eq!(server.value::<i64>("SELECT count(*) FROM replicas WHERE state = 'ready'"), 2);
    books_balance(server);
}

#[test]
fn a_drain_copies_what_is_there_and_explain_says_where_everything_is() {
    let both = Both::start();
    let other = Upstream::start(&["--key", KEY]);
    let server = &both.server;
    let file = server.upload("retrieval", "a.txt", b"hello").file_id();
    both.adopt(VIDEO, "video_generation", "output.mp4", "77");
    server.sql(&format!(
        "INSERT INTO jobs (kind, target, run_at) VALUES ('replicate', '1/{file}', 0)"
    ));
    let copies = |state: &str| {
        server.value::<i64>(&format!("SELECT count(*) FROM replicas WHERE state = '{state}'"))
    };
    eventually("it is copied", || (copies("ready") == 1).then_some(()));
    let explain = |id: i64| get(server, &format!("/files/{id}/explain"));
    let told = explain(file);
    let copy = &told["relay"]["copies"][0];
    assert_eq!(
        (&copy["channel"], &copy["state"], &copy["uploads"]),
        (&json!("one"), &json!("ready"), &json!(1))
    );
    let upstream_id = copy["upstream_id"].as_str().unwrap().to_owned();
    assert_eq!(told["relay"]["next"], json!(["one"]));
    let told = explain(VIDEO);
    assert_eq!((&told["readable"], &told["file"]["account"]), (&json!(true), &json!("default")));
    assert_eq!(told["relay"]["born_on"], json!({"channel": "one", "upstream_id": "77"}));

    add(server, "two", &other.url, KEY);
    post(server, "/channels/one/drain", &json!({}));
    eventually("it is copied elsewhere", || (copies("ready") == 2).then_some(()));
    let told = explain(file);
    assert_eq!(told["relay"]["next"], json!(["two"]));
    let one =
        told["relay"]["channels"].as_array().unwrap().iter().find(|one| one["channel"] == "one");
    assert_eq!(one.unwrap()["why"], "it is draining: only what is there goes there");
    let progress = get(server, "/channels/one/drain");
    assert_eq!(
        (&progress["files"], &progress["moved"], &progress["done"]),
        (&json!(1), &json!(1), &json!(true))
    );

    // A channel that is silent holds up no purge of ours.
    let fault = json!({"kind": "stall", "path": "/v1/files/delete", "count": 1, "for": "60s"});
    both.upstream("POST", "/emulate/faults", Some(&fault));
    assert_eq!(server.delete(file).code(), 0);
    eventually("the purge is done", || {
        let purges = "SELECT count(*) FROM jobs WHERE kind = 'purge_blob'";
        (server.value::<i64>(purges) == 0).then_some(())
    });
    let address = other.url.strip_prefix("http://").unwrap();
    eventually("its copy is deleted", || {
        let target = "/v1/files/list?purpose=retrieval";
        let listed = Request::new(address, "GET", target).bearer(KEY).send().json();
        ids(&listed).is_empty().then_some(())
    });
    assert_eq!(copies("ready"), 0);
    let told = explain(file);
    assert_eq!(told["readable"], false);
    assert!(!told.to_string().contains(&upstream_id));
    books_balance(server);
}

#[test]
fn with_on_upload_upstream_says_at_once_what_it_will_not_have() {
    let both = Both::with(&[
        ("FILEGATE_RELAY__REPLICATE", "on_upload"),
        ("FILEGATE_RELAY__COOL_DOWN", "1s"),
    ]);
    let server = &both.server;
    let price = json!({"call": "files.upload", "unit": "call", "amount": "1"});
    post(server, "/prices", &price);
    post(
        server,
        "/ledger/top-up",
        &json!({"account": "default", "amount": "10", "reason": "a test"}),
    );
    let balance = || server.value::<i64>("SELECT balance FROM accounts WHERE account_id = 1");
    let held = || server.value::<i64>("SELECT held FROM accounts WHERE account_id = 1");
    let copies = || server.value::<i64>("SELECT count(*) FROM replicas WHERE state = 'ready'");
    let there =
        || ids(&both.upstream("GET", "/v1/files/list?purpose=retrieval", None).json()).len();

    assert_eq!(server.upload("retrieval", "a.txt", b"hello").code(), 0);
    assert_eq!((copies(), there(), balance()), (1, 1, 9_000_000));

    // Its own code and words, and nothing is stored or charged.
    let fault = json!({"kind": "code", "path": "/v1/files/upload", "count": 1, "code": 2099,
                       "message": "invalid params, upstream will not have this"});
    both.upstream("POST", "/emulate/faults", Some(&fault));
    let reply = server.upload("retrieval", "b.txt", b"not this");
    assert_eq!(refused(&reply, 2099), "invalid params, upstream will not have this");
    assert_eq!(reply.json()["file"], Value::Null);
    eventually("nothing is held", || (held() == 0).then_some(()));
    assert_eq!((copies(), there(), balance()), (1, 1, 9_000_000));
    assert_eq!(ids(&server.get(&files("list")).json()).len(), 1);

    // What is of the channel and not of the file: stored, and copied later.
    let fault = json!({"kind": "rate_limited", "path": "/v1/files/upload", "count": 1});
    both.upstream("POST", "/emulate/faults", Some(&fault));
    assert_eq!(server.upload("retrieval", "c.txt", b"this one").code(), 0);
    assert_eq!(balance(), 8_000_000);
    eventually("it is copied later", || (copies() == 2).then_some(()));
    assert_eq!(there(), 2);
    books_balance(server);
}

/// A command of an operator's, at the running gateway.
fn command(server: &TestServer, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_filegate"));
    clean_environment(&mut command);
    command.env("FILEGATE_ADMIN_TOKEN", server.admin_token());
    command.env("FILEGATE_ADMIN_URL", format!("http://{}", server.admin_address));
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn operators_see_explain_and_delete_what_is_only_upstream() {
    let both = Both::start();
    let server = &both.server;
    let (video, _) = both.born();
    both.adopt(VIDEO, "video_generation", "output.mp4", &video);
    let stored = server.upload("retrieval", "a.txt", b"hello").file_id().to_string();
    let id = VIDEO.to_string();

    let said = command(server, &["file", "explain", &stored]);
    for words in [
        format!("File {stored} of account default can be read."),
        "Its bytes are here.".to_owned(),
        "Its next call would go to channel one.".to_owned(),
        "it is next".to_owned(),
    ] {
        assert!(said.contains(&words), "{words}: {said}");
    }
    let table = said.lines().find(|line| line.starts_with("CHANNEL")).unwrap();
    assert!(table.contains("NEXT") && table.ends_with("WHY"), "{table}");
    let said = command(server, &["file", "explain", &id]);
    let where_it_is = format!("Its bytes are upstream only: on channel one, as {video}.");
    assert!(said.contains(&where_it_is), "{said}");
    let json = command(server, &["file", "explain", &id, "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["relay"]["born_on"], json!({"channel": "one", "upstream_id": video}));
    let help = command(server, &["file", "explain", "--help"]);
    assert!(help.contains("where its next call would go") && help.contains("--json"), "{help}");

    let shown = get(server, &format!("/files/{id}"));
    assert_eq!(
        (&shown["state"], &shown["channel"], &shown["upstream_id"], &shown["account"]),
        (&json!("upstream"), &json!("one"), &json!(video), &json!("default"))
    );
    let held_back = format!("/files/{id}/quarantine");
    let reply = crate::admin::send(server, &held_back, &json!({"reason": "odd"}));
    crate::admin::refused(&reply, 409, "is not here, but upstream");
    post(server, &format!("/files/{id}/delete"), &json!({"reason": "asked to"}));
    assert_eq!(server.get(&files(&format!("retrieve?file_id={id}"))).code(), 2013);
    eventually("it is deleted upstream", || {
        let there = both.upstream("GET", &format!("/v1/files/retrieve?file_id={video}"), None);
        (there.code() != 0).then_some(())
    });
    let audit = format!("SELECT count(*) FROM audit WHERE target = 'file:{id}'");
    assert_eq!(server.value::<i64>(&audit), 1);
    books_balance(server);
}
