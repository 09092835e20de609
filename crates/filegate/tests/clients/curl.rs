//! curl, with the ways of sending a body that it has and others have not.

use std::fs;
use std::process::Command;

use filegate_testkit::http::{Field, form};
use serde_json::Value;

use crate::{Bench, run, succeed, told};

/// A body for which curl asks `Expect: 100-continue` by itself.
const BYTES_WITH_EXPECT: usize = 3 << 20;

fn curl(bench: &Bench) -> Command {
    let mut command = bench.command("curl");
    command.args(["--silent", "--show-error", "--verbose", "--max-time", "60"]);
    command
}

fn upload(bench: &Bench, key: &str, words: &[&str]) -> Command {
    let mut command = curl(bench);
    command.arg(format!("{}/v1/files/upload", bench.base()));
    command.args(["-H", &format!("Authorization: Bearer {key}")]).args(words);
    command
}

/// The reply, and what `--verbose` said.
#[track_caller]
fn answer(command: &mut Command) -> (Value, String) {
    let output = run(command);
    assert!(output.status.success(), "{}", told(command, &output));
    let reply = serde_json::from_slice(&output.stdout).unwrap();
    (reply, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[track_caller]
fn accepted(command: &mut Command) -> (i64, String) {
    let (reply, said) = answer(command);
    assert_eq!(reply["base_resp"]["status_code"], 0, "{reply}");
    (reply["file"]["file_id"].as_i64().unwrap(), said)
}

#[test]
fn either_order_and_odd_names() {
    let bench = Bench::start();
    let key = bench.server.key.clone();
    for words in [
        ["-F", "purpose=voice_clone", "-F", "file=@samples/voice.mp3"],
        ["-F", "file=@samples/voice.mp3", "-F", "purpose=voice_clone"],
        [
            "-F",
            "purpose=voice_clone",
            "-F",
            "file=@samples/voice.mp3;filename=\"a \\\"b\\\" ü 声.mp3\"",
        ],
        ["-F", "purpose=voice_clone", "-F", "file=@samples/voice.mp3;type=text/plain"],
    ] {
        accepted(&mut upload(&bench, &key, &words));
    }
    let names: Vec<_> = bench.files().iter().map(|file| file["filename"].clone()).collect();
    assert_eq!(names, ["voice.mp3", "a \"b\" ü 声.mp3", "voice.mp3", "voice.mp3"]);
}

#[test]
fn chunked_bodies() {
    let bench = Bench::start();
    let key = bench.server.key.clone();
    let chunked = ["-H", "Transfer-Encoding: chunked"];
    let words = [&chunked[..], &["-F", "purpose=voice_clone", "-F", "file=@samples/voice.mp3"]];
    accepted(&mut upload(&bench, &key, &words.concat()));

    // -T sends what it is given as it is.
    let story = fs::read(bench.path("samples/story.txt")).unwrap();
    let fields =
        [Field::File("file", "story.txt", &story), Field::Text("purpose", "t2a_async_input")];
    let (content_type, body) = form(&fields);
    bench.write("body", &body);
    let kind = format!("Content-Type: {content_type}");
    let words = [&chunked[..], &["-X", "POST", "-T", "body", "-H", &kind]];
    let (id, _) = accepted(&mut upload(&bench, &key, &words.concat()));
    let back = bench.server.get(&format!("/v1/files/retrieve_content?file_id={id}"));
    assert_eq!(back.body, story);
}

#[test]
fn a_large_body_is_asked_for_and_comes_back() {
    let bench = Bench::start();
    let key = bench.server.key.clone();
    bench.write("large.txt", &b"word ".repeat(BYTES_WITH_EXPECT / 5));
    let words = ["-F", "purpose=retrieval", "-F", "file=@large.txt"];
    let (id, said) = accepted(&mut upload(&bench, &key, &words));
    assert!(said.contains("> Expect: 100-continue"), "{said}");
    assert!(said.contains("< HTTP/1.1 100 Continue"), "{said}");

    // Half of it, then the rest, the way `curl -C -` goes on after a cut.
    let url = format!("{}/v1/files/retrieve_content?file_id={id}", bench.base());
    let with_key = format!("Authorization: Bearer {key}");
    succeed(curl(&bench).args([&url, "-H", &with_key, "-o", "back.txt", "-r", "0-1499999"]));
    succeed(curl(&bench).args([&url, "-H", &with_key, "-o", "back.txt", "-C", "-"]));
    let (sent, back) = (fs::read(bench.path("large.txt")), fs::read(bench.path("back.txt")));
    assert!(sent.unwrap() == back.unwrap());
}

/// With `Expect` the answer comes instead of the 100, and nothing is sent.
#[test]
fn a_refusal_comes_instead_of_the_100() {
    let bench = Bench::start();
    bench.write("large.txt", &b"word ".repeat(BYTES_WITH_EXPECT / 5));
    let unknown = format!("fg-{}", "0".repeat(43));
    let words = ["-F", "purpose=retrieval", "-F", "file=@large.txt"];
    let (reply, said) = answer(&mut upload(&bench, &unknown, &words));
    assert_eq!(reply["base_resp"]["status_code"], 2049, "{reply}");
    assert!(said.contains("> Expect: 100-continue"), "{said}");
    assert!(!said.contains("100 Continue"), "{said}");
}

/// Without it the client is still writing when the answer comes. curl may call a connection that is
/// closed behind the bound of the drain a failure to send, but it shows the answer.
#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let bench = Bench::start();
    let key = bench.server.key.clone();
    for (mebibytes, within_drain) in [(2, true), (7, true), (40, false)] {
        bench.write("large.mp3", &vec![0xff; mebibytes << 20]);
        for (purpose, message) in [
            ("no_such_purpose", "invalid params, invalid file purpose"),
            ("voice_clone", "invalid params, "),
        ] {
            let purpose = format!("purpose={purpose}");
            let words = ["-H", "Expect:", "-F", &purpose, "-F", "file=@large.mp3"];
            let mut command = upload(&bench, &key, &words);
            let output = run(&mut command);
            let told = told(&command, &output);
            assert!(String::from_utf8_lossy(&output.stdout).contains(message), "{told}");
            assert!(output.status.success() || !within_drain, "{told}");
        }
    }
    assert!(bench.files().is_empty());
}
