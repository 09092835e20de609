//! Cloning, listing and deleting voices.

use serde_json::{Value, json};

use crate::{Bench, refused, sample, speech, target_of};

fn clone(
    bench: &Bench,
    file_id: impl Into<Value>,
    voice_id: &str,
) -> filegate_testkit::http::Reply {
    bench.post("/v1/voice_clone", &json!({"file_id": file_id.into(), "voice_id": voice_id}))
}

#[test]
fn a_voice_is_cloned_used_listed_and_deleted() {
    let bench = Bench::start();
    let id = bench.sample("voice_clone", "voice.mp3");
    let body = json!({"file_id": id, "voice_id": "my-voice-1", "text": "hello", "model": "speech-02-hd",
        "clone_prompt": {"prompt_audio": bench.sample("prompt_audio", "prompt.m4a"), "prompt_text": "So."}});
    let reply = bench.post("/v1/voice_clone", &body);
    assert_eq!(reply.code(), 0, "{}", reply.text());
    assert!(reply.json().get("voice_id").is_none(), "upstream does not say it again");
    let preview = bench.get(&target_of(&reply.json()["demo_audio"]));
    assert_eq!(preview.header("content-type"), Some("audio/mpeg"));
    refused(&clone(&bench, id, "my-voice-1"), 2039, "voice clone voice id duplicate");

    let cloned = || {
        let reply = bench.post("/v1/get_voice", &json!({"voice_type": "all"})).json();
        assert!(reply["system_voice"].as_array().unwrap().len() > 10);
        let voices = reply["voice_cloning"].as_array().unwrap();
        voices
            .iter()
            .map(|voice| voice["voice_id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert!(cloned().is_empty(), "listed only after its first use");
    let mut said = speech("with my voice");
    said["voice_setting"]["voice_id"] = "my-voice-1".into();
    assert_eq!(bench.post("/v1/t2a_v2", &said).code(), 0);
    assert_eq!(cloned(), ["my-voice-1"]);

    let delete = json!({"voice_type": "voice_cloning", "voice_id": "my-voice-1"});
    assert_eq!(bench.post("/v1/delete_voice", &delete).json()["voice_id"], "my-voice-1");
    assert_eq!(bench.post("/v1/delete_voice", &delete).code(), 2013);
    refused(&bench.post("/v1/t2a_v2", &said), 20132, "invalid samples or voice_id");
}

#[test]
fn a_voice_that_nobody_uses_is_gone_after_seven_days() {
    let bench = Bench::start();
    let id = bench.sample("voice_clone", "voice.mp3");
    for (voice, wait) in [("my-voice-1", "167h"), ("my-voice-2", "168h")] {
        assert_eq!(clone(&bench, id, voice).code(), 0);
        bench.advance(wait);
        let mut said = speech("late");
        said["voice_setting"]["voice_id"] = voice.into();
        let code = bench.post("/v1/t2a_v2", &said).code();
        assert_eq!(code, if wait == "168h" { 20132 } else { 0 }, "{wait}");
    }
}

#[test]
fn samples_are_looked_at_here_and_not_at_the_upload() {
    let bench = Bench::start();
    let prompt = bench.upload("voice_clone", "short.m4a", &sample("prompt.m4a")).file_id();
    let long = bench.sample("voice_clone", "too-long.mp3");
    let noise = bench.upload("voice_clone", "noise.mp3", &vec![7; 50_000]).file_id();
    let purpose = bench.sample("prompt_audio", "voice.mp3");
    refused(&clone(&bench, prompt, "my-voice-1"), 2037, "voice duration too short");
    refused(&clone(&bench, long, "my-voice-1"), 2037, "voice duration too long");
    refused(&clone(&bench, noise, "my-voice-1"), 1000, "unknown error");
    refused(&clone(&bench, purpose, "my-voice-1"), 2013, "invalid params, invalid file purpose");
    refused(&clone(&bench, 1, "my-voice-1"), 2013, "invalid params, file_id not exist");
    assert_eq!(
        clone(&bench, prompt.to_string(), "my-voice-1").code(),
        2013,
        "ids are numbers here"
    );

    let good = bench.sample("voice_clone", "voice.mp3");
    for voice in ["short", "1-voice-1", "my-voice-", "my voice"] {
        assert_eq!(clone(&bench, good, voice).code(), 2013, "{voice}");
    }
    let with_prompt = |prompt: Value| {
        let body = json!({"file_id": good, "voice_id": "my-voice-1", "clone_prompt": prompt});
        bench.post("/v1/voice_clone", &body)
    };
    let reply = with_prompt(json!({}));
    refused(&reply, 2013, "invalid params, prompt_audio or audio_url is required");
    let reply = with_prompt(json!({"prompt_audio": purpose, "prompt_text": "x"}));
    refused(&reply, 2048, "prompt audio too long");
    assert_eq!(clone(&bench, good, "my-voice-1").code(), 0, "nothing was made of the others");
}

#[test]
fn accounts_can_be_unverified_poor_or_banned() {
    let bench = Bench::with(|options| options.balance = Some(1010));
    let id = bench.sample("voice_clone", "voice.mp3");
    let change = |body: Value| bench.control("POST", "accounts", &body);
    change(json!({"account": "a1", "verified": false}));
    assert_eq!(clone(&bench, id, "my-voice-1").code(), 2038);
    change(json!({"account": "a1", "verified": true}));
    assert_eq!(clone(&bench, id, "my-voice-1").code(), 0);
    assert_eq!(bench.post("/v1/t2a_v2", &speech("0123456789")).code(), 0);
    refused(&bench.post("/v1/t2a_v2", &speech("0")), 1008, "insufficient balance");
    let state = change(json!({"account": "a1", "balance": null, "banned": true}));
    assert_eq!(state["accounts"][0]["balance"], Value::Null);
    assert_eq!(bench.get("/v1/files/list").code(), 1004);
    change(json!({"account": "a1", "banned": false}));
    assert_eq!(bench.post("/v1/t2a_v2", &speech("0")).code(), 0);
}
