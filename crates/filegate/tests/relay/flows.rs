//! Whole flows through the gateway to the emulator: ids, copies, tenants, dead accounts, money.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use filegate_testkit::http::{Reply, Request};
use filegate_testkit::server::{TestServer, eventually};
use serde_json::{Value, json};

use crate::emulated::Emulated;
use crate::kit::{Upstream, call, native, operator, setup};
use crate::socket::Client;

fn voice() -> Vec<u8> {
    filegate_testkit::server::read(&sample("voice.mp3"))
}

fn sample(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples").join(name)
}

/// A gateway on an emulator of so many accounts.
fn start(accounts: usize, arguments: &[&str]) -> (TestServer, Emulated) {
    let server = setup().start();
    let emulated = Emulated::start(accounts, &[&["--record-bodies", "64KiB"], arguments].concat());
    emulated.add_to(&server);
    (server, emulated)
}

#[track_caller]
fn ok(reply: &Reply) -> Value {
    assert_eq!(reply.code(), 0, "{}", reply.text());
    reply.json()
}

fn upload(server: &TestServer) -> i64 {
    server.upload("voice_clone", "voice.mp3", &voice()).file_id()
}

fn clone(server: &TestServer, file: i64, name: &str) -> Reply {
    call(server, "/minimax/v1/voice_clone", &json!({"file_id": file, "voice_id": name})).send()
}

fn speak(server: &TestServer, name: &str) -> Reply {
    call(server, "/v1/t2a_v2", &speech(name)).send()
}

fn speech(name: &str) -> Value {
    json!({"model": "speech-02-hd", "text": "Hello", "voice_setting": {"voice_id": name}})
}

fn as_other(server: &TestServer, key: &str, path: &str, body: &Value) -> Reply {
    Request::new(&server.address, "POST", path)
        .bearer(key)
        .header("Content-Type", "application/json")
        .body(body.to_string())
        .send()
}

#[test]
fn a_voice_is_cloned_and_speaks_where_it_is() {
    let (server, emulated) = start(3, &[]);
    let file = upload(&server);
    ok(&clone(&server, file, "my-voice-01"));
    let clones = emulated.calls("/v1/voice_clone");
    assert_eq!(clones.len(), 1);
    let body = clones[0].to_string();
    assert!(!body.contains(&file.to_string()), "upstream got an id of ours: {body}");
    for _ in 0..6 {
        ok(&speak(&server, "my-voice-01"));
    }
    let here = &clones[0]["account"];
    let spoken = emulated.calls("/v1/t2a_v2");
    assert!(spoken.len() == 6 && spoken.iter().all(|one| one["account"] == *here));
    assert_eq!(emulated.calls("/v1/files/upload").len(), 1);
    let mine = ok(&call(&server, "/v1/get_voice", &json!({"voice_type": "all"})).send());
    assert!(mine.to_string().contains("my-voice-01"));
    let stranger = server.make_key("stranger", "other");
    let theirs = ok(&as_other(&server, &stranger, "/v1/get_voice", &json!({"voice_type": "all"})));
    assert!(!theirs.to_string().contains("my-voice-01"), "{theirs}");
    let delete = json!({"voice_type": "voice_cloning", "voice_id": "my-voice-01"});
    assert_eq!(as_other(&server, &stranger, "/v1/delete_voice", &delete).code(), 20132);
    ok(&call(&server, "/v1/delete_voice", &delete).send());
    assert_ne!(speak(&server, "my-voice-01").code(), 0);
}

#[test]
fn long_texts_and_videos_become_files_of_the_account() {
    let (server, emulated) = start(3, &["--task-time", "1ms"]);
    let text = server.upload("t2a_async_input", "story.txt", b"A long story.").file_id();
    let asked = json!({"model": "speech-02-hd", "text_file_id": text,
                       "voice_setting": {"voice_id": "female-shaonv"}});
    let begun = ok(&call(&server, "/v1/t2a_async_v2", &asked).send());
    let upstream = &emulated.calls("/v1/t2a_async_v2")[0];
    let (task, file) = (begun["task_id"].as_i64().unwrap(), begun["file_id"].as_i64().unwrap());
    assert!(!upstream.to_string().contains(&task.to_string()));
    let query = format!("/minimax/v1/query/t2a_async_query_v2?task_id={task}");
    let told = eventually("the text is spoken", || {
        let told = ok(&server.get(&query));
        (told["status"] == "Success").then_some(told)
    });
    assert_eq!((&told["task_id"], &told["file_id"]), (&json!(task), &json!(file)));
    let content = server.get(&format!("/v1/files/retrieve_content?file_id={file}"));
    assert_eq!(content.status, 200);
    assert!(content.body.windows(5).any(|bytes| bytes == b"ustar"), "it is no tar");

    let video = json!({"model": "MiniMax-Hailuo-02", "prompt": "a cat"});
    let begun = ok(&call(&server, "/v1/video_generation", &video).send());
    let task = begun["task_id"].as_str().expect("a string, as upstream's").to_owned();
    let told = eventually("the video is made", || {
        let told = ok(&server.get(&format!("/v1/query/video_generation?task_id={task}")));
        (told["status"] == "Success").then_some(told)
    });
    assert_eq!(told["task_id"].as_str(), Some(task.as_str()));
    let file = told["file_id"].as_str().expect("a string, as upstream's");
    let retrieved = ok(&server.get(&format!("/v1/files/retrieve?file_id={file}")));
    assert!(retrieved["file"]["download_url"].as_str().is_some_and(|url| url.contains("http")));
    // The same under another id would be another file: it is the same however often it is asked for.
    let again = ok(&server.get(&format!("/v1/query/video_generation?task_id={task}")));
    assert_eq!(again["file_id"].as_str(), Some(file));
}

#[test]
fn a_thousand_first_uses_at_once_are_one_upload() {
    let (server, emulated) = start(1, &[]);
    let file = upload(&server);
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for n in 0..1000 {
            let (server, done) = (&server, &done);
            scope.spawn(move || {
                ok(&clone(server, file, &format!("voice-number-{n}")));
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(done.into_inner(), 1000);
    assert_eq!(emulated.calls("/v1/files/upload").len(), 1);
    assert_eq!(server.value::<i64>("SELECT uploads FROM replicas"), 1);
}

#[test]
fn what_upstream_has_forgotten_is_copied_again_and_the_call_made_once_more() {
    let (server, emulated) = start(1, &[]);
    let file = upload(&server);
    ok(&clone(&server, file, "voice-before"));
    let upstream: i64 = server.value("SELECT upstream_id FROM replicas");
    emulated.control("/files/expire", &json!({"account": "a1", "file_id": upstream}));
    ok(&clone(&server, file, "voice-after-1"));
    assert_eq!(emulated.calls("/v1/files/upload").len(), 2);
    let codes: Vec<_> =
        emulated.calls("/v1/voice_clone").iter().map(|one| one["code"].clone()).collect();
    assert_eq!(codes, [json!(0), json!(2013), json!(0)]);
    let now: i64 = server.value("SELECT upstream_id FROM replicas");
    assert_ne!(now, upstream);
    // A copy that is there is used.
    ok(&clone(&server, file, "voice-after-2"));
    assert_eq!(emulated.calls("/v1/files/upload").len(), 2);
}

#[test]
fn ids_of_others_and_of_upstream_are_ids_that_do_not_exist() {
    let (server, emulated) = start(1, &["--task-time", "1ms"]);
    let file = upload(&server);
    ok(&clone(&server, file, "their-voice-1"));
    let video = json!({"model": "MiniMax-Hailuo-02", "prompt": "a cat"});
    let task = ok(&call(&server, "/v1/video_generation", &video).send())["task_id"].clone();
    let task = task.as_str().unwrap().to_owned();
    let told = eventually("the video is made", || {
        let told = ok(&server.get(&format!("/v1/query/video_generation?task_id={task}")));
        (told["status"] == "Success").then_some(told)
    });
    let born = told["file_id"].as_str().unwrap().to_owned();
    let raw_file: String = server.value("SELECT upstream_id FROM replicas");
    let raw_born: String = server.value("SELECT upstream_id FROM adopted");
    let raw_task: String = server.value("SELECT upstream_id FROM tasks");
    let before = emulated.calls("*").len();

    let stranger = server.make_key("stranger", "other");
    let refused = |path: &str, body: Value| as_other(&server, &stranger, path, &body).text();
    let never = "426586401755527";
    for (owner, ids) in [
        ("another account's", vec![file.to_string(), born.clone()]),
        ("upstream's own", vec![raw_file.clone(), raw_born.clone()]),
    ] {
        for id in ids {
            let number: i64 = id.parse().unwrap();
            let places = |text: &str, number: i64| {
                [
                    ("/v1/voice_clone", json!({"file_id": number, "voice_id": "new-voice-1"})),
                    ("/v1/voice_clone", json!({"file_id": text, "voice_id": "new-voice-1"})),
                    (
                        "/v1/t2a_async_v2",
                        json!({"model": "x", "text_file_id": number, "voice_setting": {}}),
                    ),
                    ("/v1/coding_plan/vlm", json!({"file_id": text, "prompt": "x"})),
                    ("/v1/unheard_of", json!({"deep": [{"any_file_id": text}]})),
                    ("/v1/unheard_of", json!({"deep": [{"file_ids": [number]}]})),
                    (
                        "/v1/chat/completions",
                        json!({"messages": [{"content": [{"type": "video_url",
                            "video_url": {"url": format!("mm_file://{text}")}}]}]}),
                    ),
                    (
                        "/v2/video_generation",
                        json!({"content": [{"image_url": {"url": format!("mm_file://{text}")}}]}),
                    ),
                ]
            };
            let as_never = places(never, never.parse().unwrap());
            for ((path, body), (_, other)) in places(&id, number).into_iter().zip(as_never) {
                let got = refused(path, body.clone());
                assert!(got.contains("not exist"), "{owner} id in {path} {body}: {got}");
                let strip = |text: String| {
                    serde_json::from_str::<Value>(&text).map(|mut value| {
                        value["request_id"] = Value::Null;
                        value
                    })
                };
                let (got, never) = (strip(got).unwrap(), strip(refused(path, other)).unwrap());
                assert_eq!(got, never, "{owner} id in {path}");
            }
        }
    }
    for id in [&task, &raw_task, &never.to_owned()] {
        for path in [
            format!("/v1/query/video_generation?task_id={id}"),
            format!("/minimax/v1/query/video_generation?task%5Fid={id}"),
            format!("/v1/query/t2a_async_query_v2?task_id={id}"),
            format!("/v2/query/video_generation/{id}"),
        ] {
            let reply = Request::new(&server.address, "GET", &path).bearer(&stranger).send();
            assert!(reply.text().contains("task_id not exist"), "{path}: {}", reply.text());
        }
    }
    let spoken = as_other(&server, &stranger, "/v1/t2a_v2", &speech("their-voice-1"));
    assert_eq!(spoken.code(), 20132, "{}", spoken.text());
    let timbre = json!({"model": "speech-02-hd", "text": "Hello",
                        "timber_weights": [{"voice_id": "their-voice-1", "weight": 1}]});
    assert_eq!(as_other(&server, &stranger, "/v1/t2a_v2", &timbre).code(), 20132);
    let mine = server_upload_as(&server, &stranger);
    let taken = json!({"file_id": mine, "voice_id": "their-voice-1"});
    assert_eq!(as_other(&server, &stranger, "/v1/voice_clone", &taken).code(), 2039);
    let asked = emulated.calls("*");
    let since: Vec<_> = asked[before..].iter().map(|one| one["path"].clone()).collect();
    assert!(
        since.iter().all(|path| path == "/v1/files/upload" || path.to_string().contains("query")),
        "upstream was asked: {since:?}"
    );
}

fn server_upload_as(server: &TestServer, key: &str) -> i64 {
    Request::new(&server.address, "POST", "/v1/files/upload")
        .bearer(key)
        .form("voice_clone", "voice.mp3", &voice())
        .send()
        .file_id()
}

#[test]
fn files_outlive_their_accounts_and_voices_say_that_they_did_not() {
    let (server, emulated) = start(2, &["--task-time", "1ms"]);
    let file = upload(&server);
    ok(&clone(&server, file, "dead-voice-1"));
    let first = emulated.calls("/v1/voice_clone")[0]["account"].as_str().unwrap().to_owned();
    let token = json!({"account": first, "banned": true});
    emulated.control("/accounts", &token);
    // The refused key is noticed by the call itself.
    let gone = speak(&server, "dead-voice-1");
    assert!(
        gone.message().contains("the upstream account of this voice is gone"),
        "{}",
        gone.text()
    );
    for n in 0..4 {
        ok(&clone(&server, file, &format!("next-voice-{n}")));
    }
    let others = emulated.calls("/v1/voice_clone");
    assert!(
        others[1..]
            .iter()
            .filter(|one| one["code"] == 0)
            .all(|one| one["account"] != first.as_str())
    );
    // One more upload for one newly used account.
    assert_eq!(emulated.calls("/v1/files/upload").len(), 2);
    // The name is free again where the voice can be made.
    ok(&clone(&server, file, "dead-voice-1"));
    ok(&speak(&server, "dead-voice-1"));
}

#[test]
fn books_are_exact_on_a_balance_for_ten() {
    let (server, emulated) = start(2, &[]);
    server.sql(
        "INSERT INTO prices (call, purpose, unit, amount) VALUES ('relay', '/v1/t2a_v2', 'call', 1000);
         UPDATE accounts SET balance = balance + 10500 WHERE account_id = 1;
         INSERT INTO ledger (account_id, at, kind, amount, balance)
             SELECT 1, 0, 'top_up', 10500, balance FROM accounts WHERE account_id = 1",
    );
    let (spoken, short) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..100 {
            let (server, spoken, short) = (&server, &spoken, &short);
            scope.spawn(move || match speak(server, "female-shaonv").code() {
                0 => spoken.fetch_add(1, Ordering::Relaxed),
                1008 => short.fetch_add(1, Ordering::Relaxed),
                code => panic!("{code}"),
            });
        }
    });
    assert_eq!((spoken.into_inner(), short.into_inner()), (10, 90));
    assert_eq!(emulated.calls("/v1/t2a_v2").len(), 10);
    eventually("nothing is held", || {
        let (balance, held): (i64, i64) = (
            server.value("SELECT balance FROM accounts WHERE account_id = 1"),
            server.value("SELECT held FROM accounts WHERE account_id = 1"),
        );
        (balance == 500 && held == 0).then_some(())
    });
    assert_eq!(server.value::<i64>("SELECT count(*) FROM ledger WHERE kind = 'charge'"), 10);
    // What is refused by upstream costs nothing.
    assert_ne!(speak(&server, "no-such-voice").code(), 0);
}

#[test]
fn the_same_key_is_one_task_and_one_charge() {
    let (server, emulated) = start(1, &[]);
    server.sql(
        "INSERT INTO prices (call, purpose, unit, amount) VALUES ('relay', '/v1/video_generation', 'call', 1000);
         UPDATE accounts SET balance = balance + 10000 WHERE account_id = 1;
         INSERT INTO ledger (account_id, at, kind, amount, balance)
             SELECT 1, 0, 'top_up', 10000, balance FROM accounts WHERE account_id = 1",
    );
    let video = |prompt: &str| {
        call(
            &server,
            "/v1/video_generation",
            &json!({"model": "MiniMax-Hailuo-02", "prompt": prompt}),
        )
        .header("Idempotency-Key", "video-1")
        .send()
    };
    let lost = json!({"kind": "lost_answer", "path": "/v1/video_generation", "count": 1});
    emulated.control("/faults", &lost);
    // Nobody knows what became of it, and there is no other account to ask.
    assert_ne!(video("a cat").code(), 0);
    let first = ok(&video("a cat"));
    let again = ok(&video("a cat"));
    assert_eq!(first, again);
    assert_eq!(video("a dog").code(), 2013);
    assert_eq!(emulated.calls("/v1/video_generation").len(), 2);
    assert_eq!(server.value::<i64>("SELECT count(*) FROM ledger WHERE kind = 'charge'"), 1);
    assert_eq!(server.value::<i64>("SELECT count(*) FROM tasks"), 1);
    assert_eq!(server.value::<i64>("SELECT held FROM accounts WHERE account_id = 1"), 0);
}

#[test]
fn a_socket_speaks_with_the_voice_where_it_is_and_with_nobody_elses() {
    let (server, emulated) = start(3, &[]);
    ok(&clone(&server, upload(&server), "my-voice-01"));
    let here = emulated.calls("/v1/voice_clone")[0]["account"].clone();
    let begin = json!({"event": "task_start", "model": "speech-02-hd",
                       "voice_setting": {"voice_id": "my-voice-01"}});
    for _ in 0..6 {
        let mut client = Client::open(&server);
        assert_eq!(client.hear()["event"], "connected_success");
        client.say(&begin);
        let started = client.hear();
        assert_eq!(started["event"], "task_started", "{started}");
        client.say(&json!({"event": "task_continue", "text": "Hello"}));
        assert_eq!(client.hear()["event"], "task_continued");
    }
    assert!(here.is_string());
    let stranger = server.make_key("stranger", "other");
    let mut client = Client::with(&server, &stranger);
    assert_eq!(client.hear()["event"], "connected_success");
    client.say(&begin);
    let refused = client.hear();
    assert_eq!(refused["event"], "task_failed", "{refused}");
}

#[test]
fn what_a_removed_channel_had_is_made_again_or_said_to_be_gone() {
    let (server, emulated) = start(2, &["--task-time", "1ms"]);
    let file = upload(&server);
    let mut tasks = vec![];
    for _ in 0..6 {
        let video = json!({"model": "MiniMax-Hailuo-02", "prompt": "a cat"});
        let begun = ok(&call(&server, "/v1/video_generation", &video).send());
        tasks.push(begun["task_id"].as_str().unwrap().to_owned());
    }
    ok(&clone(&server, file, "dead-voice-1"));
    let first = emulated.calls("/v1/voice_clone")[0]["account"].as_str().unwrap().to_owned();
    let reply = operator(&server, &format!("/channels/{first}/remove"), &json!({}));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let spoken = speak(&server, "dead-voice-1");
    assert!(spoken.message().contains("of this voice is gone"), "{}", spoken.text());
    let (mut alive, mut gone) = (0, 0);
    for task in tasks {
        let reply = server.get(&format!("/v1/query/video_generation?task_id={task}"));
        if reply.code() == 0 {
            alive += 1;
        } else {
            assert!(reply.message().contains("of this task is gone"), "{}", reply.text());
            gone += 1;
        }
    }
    let there = emulated.calls("/v1/video_generation");
    let there = there.iter().filter(|one| one["account"] == first.as_str()).count();
    assert_eq!((alive, gone), (6 - there, there));
    for n in 0..3 {
        ok(&clone(&server, file, &format!("next-voice-{n}")));
    }
}

/// Takes connections at an address that is known before `server` is, and hands them on.
fn stand_before(listener: TcpListener, address: String) {
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(&address).unwrap();
            for (mut from, mut to) in
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
            {
                thread::spawn(move || {
                    let _until_it_ends = io::copy(&mut from, &mut to);
                    let _gone_already = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
}

#[test]
fn a_client_is_called_back_with_its_own_ids() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let public = format!("http://{}", listener.local_addr().unwrap());
    let config = format!("public_url = \"{public}\"\n[relay]\ncallback_private = true\n");
    let server = setup().config(&config).start();
    stand_before(listener, server.address.clone());
    let emulated = Emulated::start(1, &["--record-bodies", "64KiB", "--task-time", "1ms"]);
    emulated.add_to(&server);
    let client = Upstream::answering(|_| Some(native(0)));
    let video = json!({"model": "MiniMax-Hailuo-02", "prompt": "a cat",
                       "callback_url": format!("{}/told?secret=1", client.url())});
    let task = ok(&call(&server, "/v1/video_generation", &video).send())["task_id"].clone();
    let asked = emulated.calls("/v1/video_generation")[0].to_string();
    assert!(!asked.contains("secret"), "upstream knows the client's address: {asked}");
    let news = eventually("the client is told", || {
        client.seen().iter().find_map(|seen| {
            let told: Value = serde_json::from_slice(&seen.body).ok()?;
            (told["status"] == "success").then_some(told)
        })
    });
    assert_eq!(news["task_id"], task);
    let query = format!("/v1/query/video_generation?task_id={}", task.as_str().unwrap());
    assert_eq!(ok(&server.get(&query))["file_id"], news["file_id"]);
    assert!(client.seen().iter().all(|seen| seen.line.ends_with("/told?secret=1")));
}
