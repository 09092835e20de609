//! The calls of tests: counting, resetting, expiring, and runs that repeat.

use filegate_emulator::{Script, made_key};
use serde_json::{Value, json};

use crate::{Bench, refused, sample, speech};

#[test]
fn calls_are_recorded_with_what_was_sent() {
    let bench = Bench::start();
    let id = bench.sample("voice_clone", "voice.mp3");
    bench.upload("vision", "a.png", b"x");
    let calls = bench.calls("/v1/files/*");
    assert_eq!(calls.len(), 2);
    let (good, bad) = (&calls[0], &calls[1]);
    assert_eq!(
        (&good["method"], &good["account"], &good["code"]),
        (&json!("POST"), &json!("a1"), &json!(0))
    );
    assert_eq!((&good["note"]["file_id"], &good["note"]["bytes"]), (&json!(id), &json!(36_381)));
    assert_eq!(
        good["note"]["sha256"],
        "c00963fba6d4791439c2a86d2db891d2dd7f41d062af6748a9a00be7dd79d209"
    );
    assert_eq!((&bad["code"], &bad["status"]), (&json!(2013), &json!(200)));
    let refusals = bench.control("GET", "calls?code=2013", &Value::Null);
    assert_eq!((&refusals["count"], &refusals["total"]), (&json!(1), &json!(2)));
    bench.control("DELETE", "calls", &Value::Null);
    assert!(bench.calls("/v1/files/*").is_empty());
}

#[test]
fn a_file_expires_on_order_and_a_reset_forgets_all() {
    let bench = Bench::start();
    let id = bench.sample("voice_clone", "voice.mp3");
    bench.control("POST", "files/expire", &json!({"account": "a1", "file_id": id}));
    refused(&bench.get(&format!("/v1/files/retrieve?file_id={id}")), 2013, "file expired");
    let clone = json!({"file_id": id, "voice_id": "my-voice-1"});
    refused(&bench.post("/v1/voice_clone", &clone), 2013, "file expired");

    bench.sample("voice_clone", "voice.mp3");
    bench.control("POST", "faults", &json!({"kind": "banned"}));
    bench.control("POST", "reset", &Value::Null);
    let state = bench.control("GET", "accounts", &Value::Null);
    assert_eq!((&state["accounts"][0]["files"], &state["bytes_held"]), (&json!(0), &json!(0)));
    assert_eq!(bench.get("/v1/files/list").code(), 0);
}

/// What a run answers, all of it: ids, Trace-Ids, links, luck.
fn run(seed: u64) -> Vec<String> {
    let bench = Bench::with(|options| {
        let toml = "[[fault]]\nkind = \"rate_limited\"\nprobability = 0.4\n";
        (options.seed, options.script) = (seed, Script::from_toml(toml).unwrap());
        options.public_url = Some("https://minimax.test".to_owned());
    });
    let mut told = Vec::new();
    for nth in 0..12 {
        for reply in [
            bench.upload("voice_clone", "voice.mp3", &sample("voice.mp3")),
            bench.post("/v1/t2a_v2", &{
                let mut body = speech(&format!("number {nth}"));
                body["output_format"] = "url".into();
                body
            }),
        ] {
            told.push(format!("{} {}", reply.header("trace-id").unwrap(), reply.text()));
        }
        bench.advance("1s");
    }
    told
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let (one, again, other) = (run(1), run(1), run(2));
    assert_eq!(one, again);
    assert_ne!(one, other);
    assert_eq!(run(2), other);
    let limited = |run: &[String]| run.iter().map(|told| told.contains("1002")).collect::<Vec<_>>();
    assert_ne!(limited(&one), limited(&other), "the luck differs");
    assert!(limited(&one).contains(&true) && limited(&one).contains(&false));
    assert!(one.iter().any(|told| told.contains("https://minimax.test/emulate/oss/made/")));
    assert_eq!(made_key(1, 0), made_key(1, 0));
    assert_ne!(made_key(1, 0), made_key(1, 1));
}
