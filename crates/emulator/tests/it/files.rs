//! The Files API with upstream's quirks.

use filegate_emulator::AccountOptions;
use filegate_testkit::http::{Field, Request, form};
use serde_json::{Value, json};

use crate::{Bench, KEY, refused, sample, target_of};

#[test]
fn an_upload_is_shown_listed_fetched_and_deleted() {
    let bench = Bench::start();
    let reply = bench.upload("voice_clone", "voice.mp3", &sample("voice.mp3"));
    assert_eq!(reply.header("trace-id").unwrap().len(), 32);
    let file = reply.json()["file"].clone();
    let id = reply.file_id();
    assert_eq!(id.to_string().len(), 15);
    assert_eq!(
        file,
        json!({"file_id": id, "bytes": 36_381, "created_at": 1_767_225_600,
        "filename": "voice.mp3", "purpose": "voice_clone"})
    );

    let listed = bench.get("/v1/files/list?purpose=voice_clone").json();
    assert_eq!(listed["files"], json!([file]));
    assert_eq!(bench.get("/v1/files/list").json()["files"], json!([file]));
    assert_eq!(bench.get("/v1/files/list?purpose=prompt_audio").json()["files"], json!([]));

    let content = bench.get(&format!("/v1/files/retrieve_content?file_id={id}"));
    assert_eq!(content.header("content-type"), Some("application/octet-stream"));
    assert_eq!(content.body, sample("voice.mp3"));

    let shown = bench.get(&format!("/v1/files/retrieve?file_id={id}")).json();
    let target = target_of(&shown["file"]["download_url"]);
    let linked = || Request::new(&bench.address, "GET", &target).send();
    assert_eq!(linked().body, sample("voice.mp3"));
    bench.advance("9h");
    assert_eq!(linked().status, 403, "a link ends after nine hours");
    let forged = target.replace("Expires=1", "Expires=2");
    assert_eq!(Request::new(&bench.address, "GET", &forged).send().status, 403);

    let delete = |body: Value| bench.post("/v1/files/delete", &body);
    refused(
        &delete(json!({"file_id": id, "purpose": "prompt_audio"})),
        2013,
        "invalid params, invalid file purpose",
    );
    let deleted = delete(json!({"file_id": id.to_string(), "purpose": "voice_clone"}));
    assert_eq!((deleted.code(), &deleted.json()["file_id"]), (0, &json!(id)));
    refused(&delete(json!({"file_id": id})), 2013, "invalid params, file not found");
    let second = bench.sample("voice_clone", "voice.mp3");
    assert_eq!(delete(json!({"file_id": second})).code(), 0, "the purpose may be left out");
    refused(
        &bench.get(&format!("/v1/files/retrieve?file_id={id}")),
        2013,
        "invalid params, file not found",
    );
}

#[test]
fn uploads_are_refused_in_upstreams_words() {
    let bench = Bench::start();
    for (purpose, name, message) in [
        ("vision", "a.png", "invalid params, invalid file purpose"),
        ("video_generation", "a.mp4", "invalid params, invalid file purpose"),
        ("voice_clone", "a.ogg", "invalid params, invalid file ext for voice clone"),
        ("voice_clone", "voice", "invalid params, invalid file ext for voice clone"),
        ("retrieval", "a.mp4", "invalid params, invalid file ext for retrieval"),
        ("batch", "a.mp4", "invalid params, invalid file ext for batch"),
    ] {
        let reply = bench.upload(purpose, name, b"anything");
        refused(&reply, 2013, message);
        assert!(reply.json()["file"].is_null() && reply.json().get("file").is_some());
    }
    assert_eq!(bench.get("/v1/files/list").json()["files"], json!([]));
    refused(
        &bench.get("/v1/files/list?purpose=vision"),
        2013,
        "invalid params, invalid file purpose",
    );
}

#[test]
fn fields_come_in_either_order_and_content_is_not_looked_at() {
    let bench = Bench::start();
    let (kind, body) = form(&[
        Field::File("file", "no-audio.WAV", b"text"),
        Field::Text("purpose", "voice_clone"),
    ]);
    let reply =
        bench.request("POST", "/v1/files/upload").header("Content-Type", &kind).body(body).send();
    assert!(reply.file_id() > 0);
    for fields in
        [&[Field::Text("purpose", "voice_clone")][..], &[Field::File("file", "a.mp3", b"x")]]
    {
        let (kind, body) = form(fields);
        let reply = bench
            .request("POST", "/v1/files/upload")
            .header("Content-Type", &kind)
            .body(body)
            .send();
        assert_eq!(reply.code(), 2013, "{}", reply.text());
    }
}

#[test]
fn inputs_of_videos_are_looked_at_at_once() {
    let bench = Bench::start();
    let reply = bench.upload("video_generation_input", "a.png", b"no picture");
    assert_eq!((reply.status, reply.code()), (400, 2013));
    assert_eq!(bench.get("/v1/files/list").json()["files"], json!([]));
}

#[test]
fn sizes_have_their_limit_at_it_and_above() {
    let bench = Bench::start();
    let mut content = vec![0; 20 << 20];
    assert!(bench.upload("voice_clone", "a.mp3", &content).file_id() > 0);
    content.push(0);
    refused(
        &bench.upload("voice_clone", "a.mp3", &content),
        2013,
        "invalid params, file size exceeds limit",
    );
}

#[test]
fn inputs_of_videos_expire_after_seven_days() {
    let bench = Bench::start();
    let id = bench.upload("video_understanding", "a.mp4", b"\0\0\0\x20ftypisom").file_id();
    let target = format!("/v1/files/retrieve?file_id={id}");
    bench.advance("6d 23h 59m 59s");
    assert_eq!(bench.get(&target).code(), 0);
    bench.advance("1s");
    refused(&bench.get(&target), 2013, "file expired");
    assert_eq!(bench.get("/v1/files/list").json()["files"], json!([]));
}

#[test]
fn keys_are_told_apart() {
    let bench = Bench::with(|options| {
        let other = AccountOptions { name: "a2".to_owned(), key: "sk-other".to_owned() };
        options.accounts.push(other);
    });
    let id = bench.sample("voice_clone", "voice.mp3");
    let ask = |name: &str, value: &str, target: &str| {
        Request::new(&bench.address, "GET", target).header(name, value).send()
    };
    let target = format!("/v1/files/retrieve?file_id={id}");
    assert_eq!(ask("x-api-key", KEY, &target).code(), 0);
    assert_eq!(ask("Authorization", &format!("bearer {KEY}"), &target).code(), 0);
    let foreign = ask("Authorization", "Bearer sk-other", &target);
    refused(&foreign, 2013, "invalid params, file not found");
    assert_eq!(ask("x-api-key", "sk-other", "/v1/files/list").json()["files"], json!([]));

    refused(&ask("x-api-key", "sk-nobody", &target), 2049, "invalid api key");
    for value in ["", "Bearer", "Basic abc", "Bearer a b"] {
        let reply = ask("Authorization", value, &target);
        assert_eq!(reply.code(), 1004);
        assert!(reply.message().starts_with("login fail: Please carry the API secret key"));
    }
}

#[test]
fn other_paths_are_not_there() {
    let bench = Bench::start();
    for path in ["/v1/files", "/", "/v2/video_generation", "/minimax/v1/files/list"] {
        let reply = bench.get(path);
        assert_eq!((reply.status, &reply.text()[..]), (404, "404 page not found"), "{path}");
    }
    let wrong_method = bench.get("/v1/files/upload");
    assert_eq!((wrong_method.status, &wrong_method.text()[..]), (404, "404 page not found"));
    let calls = bench.calls("*");
    let paths: Vec<&str> = calls.iter().map(|call| call["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths,
        ["/v1/files", "/", "/v2/video_generation", "/minimax/v1/files/list", "/v1/files/upload"],
        "tests see what was asked in vain"
    );
    assert!(calls.iter().all(|call| call["status"] == 404));
}

#[test]
fn memory_is_bounded_and_deletes_give_it_back() {
    let bench = Bench::with(|options| options.memory_max = filegate_types::units::Bytes(100_000));
    let first = bench.upload("voice_clone", "a.mp3", &vec![1; 60_000]).file_id();
    let held = || bench.control("GET", "accounts", &Value::Null)["bytes_held"].as_u64().unwrap();
    assert_eq!(held(), 60_000);
    let full = bench.upload("voice_clone", "b.mp3", &vec![1; 60_000]);
    assert_eq!(full.code(), 1013, "{}", full.text());
    assert!(full.message().contains("--memory-max"));
    let long = bench.post("/v1/t2a_v2", &crate::speech(&"x".repeat(60_000)));
    assert_eq!(long.code(), 1013, "JSON that arrives counts, too");
    assert_eq!(held(), 60_000);
    bench.post("/v1/files/delete", &json!({"file_id": first}));
    assert_eq!(held(), 0);
    assert!(bench.upload("voice_clone", "b.mp3", &vec![1; 100_000]).file_id() > 0);
}
