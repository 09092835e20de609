//! Long texts and videos, on a clock that the test moves.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::media::decoded;
use crate::{Bench, refused, speech, target_of};

fn video(bench: &Bench, more: &Value) -> filegate_testkit::http::Reply {
    let mut body = json!({"model": "MiniMax-Hailuo-02", "prompt": "a cat"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    bench.post("/v1/video_generation", &body)
}

#[test]
fn a_video_goes_through_its_states_and_plays() {
    let bench = Bench::start();
    for (more, shape) in [
        (json!({"resolution": "512P"}), "h264,910,512,150,6.000000"),
        (json!({"duration": 10}), "h264,1366,768,250,10.000000"),
        (json!({"resolution": "1080P"}), "h264,1920,1080,150,6.000000"),
    ] {
        let task = video(&bench, &more).json()["task_id"].as_str().unwrap().to_owned();
        let query = || bench.get(&format!("/v1/query/video_generation?task_id={task}")).json();
        let mut seen = vec![];
        for wait in ["999ms", "1ms", "2s", "6s 999ms", "1ms"] {
            seen.push(query()["status"].as_str().unwrap().to_owned());
            assert_eq!(query()["file_id"], "");
            bench.advance(wait);
        }
        assert_eq!(seen, ["Preparing", "Preparing", "Queueing", "Processing", "Processing"]);
        let done = query();
        assert_eq!((&done["status"], &done["task_id"]), (&json!("Success"), &json!(task)));
        let id: i64 = done["file_id"].as_str().unwrap().parse().unwrap();

        let file = bench.get(&format!("/v1/files/retrieve?file_id={id}")).json()["file"].clone();
        assert_eq!((&file["file_id"], &file["bytes"]), (&json!(id), &json!(0)));
        assert_eq!(
            (&file["purpose"], &file["filename"]),
            (&json!("video_generation"), &json!("output.mp4"))
        );
        let reply = bench.get(&target_of(&file["download_url"]));
        assert_eq!(reply.header("content-type"), Some("video/mp4"));
        assert_eq!(decoded(&reply.body, "mp4", "codec_name,width,height,nb_frames"), shape);
        let content = bench.get(&format!("/v1/files/retrieve_content?file_id={id}"));
        refused(&content, 2013, "invalid params, invalid file purpose");
    }
}

#[test]
fn the_file_of_a_video_is_not_there_before_its_time() {
    let bench = Bench::start();
    let _task = video(&bench, &json!({}));
    let files = || bench.get("/v1/files/list").json()["files"].as_array().unwrap().len();
    assert_eq!(files(), 0);
    bench.advance("10s");
    assert_eq!(files(), 1);
}

#[test]
fn wrong_videos_and_unknown_tasks_are_refused() {
    let bench = Bench::start();
    for more in [
        json!({"duration": 7}),
        json!({"resolution": "4K"}),
        json!({"prompt": ""}),
        json!({"model": 1}),
    ] {
        assert_eq!(video(&bench, &more).code(), 2013, "{more}");
    }
    for query in ["video_generation?task_id=1", "video_generation", "t2a_async_query_v2?task_id=1"]
    {
        refused(
            &bench.get(&format!("/v1/query/{query}")),
            2013,
            "invalid params, task_id not exist",
        );
    }
    let task = video(&bench, &json!({})).json()["task_id"].as_str().unwrap().to_owned();
    assert_eq!(bench.get(&format!("/v1/query/t2a_async_query_v2?task_id={task}")).code(), 2013);
}

#[test]
fn a_long_text_becomes_an_archive_that_tar_unpacks() {
    let bench = Bench::start();
    let text_file = bench.sample("t2a_async_input", "story.txt");
    let mut from_file = speech("");
    from_file.as_object_mut().unwrap().remove("text");
    from_file["text_file_id"] = text_file.into();
    for body in [speech("A text given inline."), from_file] {
        let reply = bench.post("/v1/t2a_async_v2", &body).json();
        let (task, id) = (reply["task_id"].as_i64().unwrap(), reply["file_id"].as_i64().unwrap());
        assert!(reply["usage_characters"].as_u64().unwrap() >= 20);
        let query = || bench.get(&format!("/v1/query/t2a_async_query_v2?task_id={task}")).json();
        let content = || bench.get(&format!("/v1/files/retrieve_content?file_id={id}"));
        assert_eq!(query()["status"], "Processing");
        refused(&content(), 2013, "invalid params, file not found");
        bench.advance("10s");
        let done = query();
        assert_eq!(
            (&done["status"], &done["file_id"], &done["task_id"]),
            (&json!("Success"), &json!(id), &json!(task))
        );

        let work = tempfile::tempdir().unwrap();
        let archive = work.path().join("result.tar");
        fs::File::create(&archive).unwrap().write_all(&content().body).unwrap();
        let told =
            Command::new("tar").arg("xvf").arg(&archive).current_dir(work.path()).output().unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let names = String::from_utf8(told.stdout).unwrap();
        assert_eq!(names, "content_audio.mp3\ncontent_audio.titles\ncontent_audio.extra\n");
        let audio = fs::read(work.path().join("content_audio.mp3")).unwrap();
        assert!(decoded(&audio, "mp3", "codec_name,sample_rate").starts_with("mp3,32000,"));
        let titles = fs::read(work.path().join("content_audio.titles")).unwrap();
        assert!(serde_json::from_slice::<Value>(&titles).unwrap()[0]["text"].is_string());

        bench.advance("9h");
        assert_eq!(query()["status"], "Expired");
        refused(&content(), 2013, "invalid params, file not found");
    }
}

#[test]
fn long_texts_have_their_limits() {
    let bench = Bench::start();
    assert_eq!(bench.post("/v1/t2a_async_v2", &speech(&"x".repeat(50_000))).code(), 0);
    assert_eq!(bench.post("/v1/t2a_async_v2", &speech(&"x".repeat(50_001))).code(), 2013);
    let mut both = speech("x");
    both["text_file_id"] = 7.into();
    assert_eq!(bench.post("/v1/t2a_async_v2", &both).code(), 2013);
    let voice = bench.sample("voice_clone", "voice.mp3");
    for (id, message) in [(7, "text_file_id not exist"), (voice, "invalid file purpose")] {
        let mut body = speech("");
        body.as_object_mut().unwrap().remove("text");
        body["text_file_id"] = id.into();
        refused(
            &bench.post("/v1/t2a_async_v2", &body),
            2013,
            &format!("invalid params, {message}"),
        );
    }
}

/// A client's endpoint for callbacks: gives out what it is told, and returns challenges if it is honest.
fn endpoint(honest: bool) -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/news", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let body = loop {
                let mut piece = [0; 4096];
                let count = stream.read(&mut piece).unwrap();
                request.extend_from_slice(&piece[..count]);
                let text = String::from_utf8_lossy(&request);
                let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
                if let Some(body) = body.and_then(|body| serde_json::from_str::<Value>(&body).ok())
                {
                    break body;
                }
                assert!(count > 0);
            };
            let answer = if honest { body.to_string() } else { "{}".to_owned() };
            let length = answer.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
            )
            .unwrap();
            if sender.send(body).is_err() {
                return;
            }
        }
    });
    (url, receiver)
}

#[test]
fn news_of_a_video_go_to_whoever_returns_the_challenge() {
    let bench = Bench::start();
    let (url, told) = endpoint(true);
    let next = || told.recv_timeout(Duration::from_secs(10)).unwrap();
    let task = video(&bench, &json!({"callback_url": url})).json()["task_id"].clone();
    assert!(next()["challenge"].is_string());
    let first = next();
    assert_eq!((&first["task_id"], &first["status"]), (&task, &json!("processing")));
    bench.advance("10s");
    let last = next();
    assert_eq!((&last["task_id"], &last["status"]), (&task, &json!("success")));
    assert!(last["file_id"].as_str().unwrap().parse::<i64>().unwrap() > 0);

    let (url, _told) = endpoint(false);
    let reply = video(&bench, &json!({"callback_url": url}));
    refused(&reply, 2013, "invalid params, callback_url did not return the challenge");
}

#[test]
fn a_task_can_be_made_to_fail() {
    let bench = Bench::start();
    bench.control("POST", "faults", &json!({"kind": "task_fails", "count": 2}));
    let task = video(&bench, &json!({})).json()["task_id"].as_str().unwrap().to_owned();
    let long = bench.post("/v1/t2a_async_v2", &speech("x")).json()["task_id"].clone();
    bench.advance("10s");
    assert_eq!(
        bench.get(&format!("/v1/query/video_generation?task_id={task}")).json()["status"],
        "Fail"
    );
    assert_eq!(
        bench.get(&format!("/v1/query/t2a_async_query_v2?task_id={long}")).json()["status"],
        "Failed"
    );
}
