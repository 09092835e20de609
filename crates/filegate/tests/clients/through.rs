//! Published clients, unmodified: they upload, clone a voice and speak through the gateway, which has a stand-in for
//! MiniMax behind it.

use std::process::Command;

use filegate_testkit::http::Request;
use filegate_testkit::samples;
use filegate_testkit::server::Setup;
use serde_json::{Value, json};

use crate::emulate::{Emulated, plays};
use crate::{Bench, FILEGATE, SCRIPTS, packages, run, succeed};

/// The gateway with both accounts of `emulated` as channels.
fn gateway(emulated: &Emulated, keys: &[&str]) -> Bench {
    // 32 times the byte 1: replicas share no directory for a secret of their own.
    let sealing = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let settings = format!("[relay]\nsecret_key = '{sealing}'\n");
    let bench = Bench::of(&Setup::new(FILEGATE).config(&settings));
    for (n, key) in keys.iter().enumerate() {
        let body = json!({"name": format!("c{n}"), "base_url": emulated.url(), "key": key});
        let reply = bench
            .server
            .admin("POST", "/channels")
            .header("Content-Type", "application/json")
            .body(body.to_string())
            .send();
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    bench
}

/// What upstream was asked at `path`, and that it was never asked with a key or an id of ours.
fn asked(emulated: &Emulated, path: &str, bench: &Bench) -> Vec<Value> {
    let target = format!("/emulate/calls?path={path}");
    let reply = Request::new(emulated.address(), "GET", &target).send();
    let text = reply.text();
    assert!(!text.contains(&bench.server.key), "the gateway's own key went upstream");
    for file in bench.files() {
        assert!(!text.contains(&file["file_id"].to_string()), "an id of ours went upstream");
    }
    reply.json()["calls"].as_array().unwrap().clone()
}

const KEYS: [&str; 2] = ["sk-of-the-first-account", "sk-of-the-second-account"];

fn start(more: &[&str]) -> Emulated {
    let keys = ["--key", KEYS[0], "--key", KEYS[1], "--record-bodies", "64KiB"];
    Emulated::start(&[&keys, more].concat())
}

#[test]
fn minimax_mcp_clones_and_speaks_through_the_gateway() {
    let emulated = start(&["--seed", "7", "--clock", "standing"]);
    let bench = gateway(&emulated, &KEYS);
    let told = succeed(
        bench
            .command(packages::python())
            .arg(format!("{SCRIPTS}/mcp_emulated.py"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("EMULATOR_URL", emulated.url())
            .env("MINIMAX_API_HOST", bench.base())
            .env("MINIMAX_API_KEY", &bench.server.key)
            .env("MINIMAX_API_RESOURCE_MODE", "local")
            .env("MINIMAX_MCP_BASE_PATH", bench.work.path()),
    );
    let lines: Vec<&str> = told.lines().collect();
    let [preview, speech, video] = lines[..] else { panic!("{told}") };
    plays(&bench, preview, 300);
    plays(&bench, speech, 1500);
    let video = samples::ffprobe(&bench.path(video));
    assert_eq!(video["streams"][0]["codec_name"], "h264");

    // The script uploads the same sample twice, as two files; the one that is too long never gets there.
    let uploads = asked(&emulated, "/v1/files/upload", &bench);
    assert!(uploads.iter().all(|upload| upload["code"] == 0), "{uploads:?}");
    let clones = asked(&emulated, "/v1/voice_clone", &bench);
    assert_eq!(clones[0]["code"], 0);
    let body: Value = serde_json::from_str(clones[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["file_id"], uploads[0]["note"]["file_id"], "the copy's own id");
    assert_eq!(clones[0]["account"], uploads[0]["account"]);
    let speeches = asked(&emulated, "/v1/t2a_v2", &bench);
    assert_eq!(speeches[0]["account"], clones[0]["account"], "where the voice is");
}

#[test]
fn mmx_uploads_clones_speaks_and_makes_a_video_through_the_gateway() {
    let emulated = start(&["--task-time", "1ms"]);
    let bench = gateway(&emulated, &KEYS);
    let program = packages::mmx();
    let mmx = |words: &[&str]| -> Command {
        let mut command = bench.command(&program);
        let base = bench.base();
        command.args(["--base-url", &base, "--region", "global", "--output", "json"]);
        command.args(["--api-key", &bench.server.key, "--non-interactive"]).args(words);
        command
    };
    let parsed = |text: String| serde_json::from_str::<Value>(&text).unwrap();

    let upload = ["file", "upload", "--file", "samples/voice.mp3", "--purpose", "voice_clone"];
    let id = parsed(succeed(&mut mmx(&upload)))["file_id"].as_i64().unwrap();
    let clone = bench
        .server
        .request("POST", "/minimax/v1/voice_clone")
        .body(format!(r#"{{"file_id":{id},"voice_id":"my-voice-1"}}"#))
        .send();
    assert_eq!(clone.code(), 0, "{}", clone.text());

    let speak = ["speech", "synthesize", "--text", "Hello from a test", "--voice", "my-voice-1"];
    let spoken = parsed(succeed(mmx(&speak).args(["--out", "hello.mp3"])));
    plays(&bench, "hello.mp3", spoken["duration_ms"].as_u64().unwrap() - 100);
    assert!(succeed(&mut mmx(&["speech", "voices"])).contains("female-shaonv"));

    let video = ["video", "generate", "--model", "MiniMax-Hailuo-2.3", "--prompt", "a cat"];
    let task = parsed(succeed(mmx(&video).arg("--no-wait")))["taskId"].as_str().unwrap().to_owned();
    let shown = parsed(succeed(&mut mmx(&["video", "task", "get", "--task-id", &task])));
    assert_eq!(shown["status"], "Success", "{shown}");
    let files = bench.files();
    assert_eq!(files[0]["purpose"], "video_generation", "it is a file of the caller's: {files:?}");

    let nobody = run(mmx(&speak).args(["--voice", "nobody-0001", "--out", "x.mp3"]));
    assert!(!nobody.status.success());
    let deleted = parsed(succeed(&mut mmx(&["file", "delete", "--file-id", &id.to_string()])));
    assert_eq!(deleted["deleted"], true);
    assert!(!asked(&emulated, "*", &bench).is_empty());
}
