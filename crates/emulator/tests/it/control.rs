//! The calls of tests: counting, resetting, expiring, and runs that repeat.

use std::collections::BTreeSet;

use filegate_emulator::{AccountOptions, Script, made_key};
use filegate_testkit::http::{Connection, Request};
use filegate_testkit::server::eventually;
use filegate_types::units::Bytes;
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
fn headers_and_bodies_are_recorded_if_asked_for() {
    let bench = Bench::with(|options| options.record_body_max = Bytes(20));
    let body = r#"{"model":"MiniMax-M3","messages":[]}"#;
    let request = bench.request("POST", "/v1/chat/completions").header("X-Mine", "7").body(body);
    assert_eq!(request.send().status, 404);
    let call = bench.calls("/v1/chat/*").pop().unwrap();
    assert_eq!((&call["body"], &call["bytes"]), (&json!(body[..20]), &json!(body.len())));
    let headers = call["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["x-mine", "7"])));
    assert!(!call.to_string().contains(crate::KEY), "keys are not in the record");

    let bench = Bench::start();
    bench.get("/v1/files/list");
    let call = bench.calls("*").pop().unwrap();
    assert_eq!((&call["body"], &call["headers"]), (&Value::Null, &json!([])));
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

#[test]
fn many_clients_at_once_are_all_counted_and_nothing_is_kept_of_what_is_deleted() {
    let bench = Bench::with(|options| {
        let named = |nth| AccountOptions { name: format!("a{nth}"), key: format!("sk-{nth}") };
        options.accounts = (0..5).map(named).collect();
    });
    let voice = sample("voice.mp3");
    let request = |nth: usize, method: &str, target: &str| {
        Request::new(&bench.address, method, target).bearer(&format!("sk-{}", nth % 5))
    };
    let ids: Vec<i64> = std::thread::scope(|scope| {
        let client = |nth: usize| {
            let upload =
                request(nth, "POST", "/v1/files/upload").form("voice_clone", "v.mp3", &voice);
            move || (0..20).map(|_| upload.send().file_id()).collect::<Vec<i64>>()
        };
        let clients: Vec<_> = (0..10).map(|nth| scope.spawn(client(nth))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 200, "no id is used twice");
    assert_eq!(bench.calls("/v1/files/upload").len(), 200);
    let state = || bench.control("GET", "accounts", &Value::Null);
    assert_eq!(state()["bytes_held"], 200 * voice.len());
    for nth in 0..5 {
        let count = |calls: &Value| calls["count"].as_u64().unwrap();
        assert_eq!(
            count(&bench.control("GET", &format!("calls?account=a{nth}"), &Value::Null)),
            40
        );
        let listed = request(nth, "GET", "/v1/files/list").send().json();
        let files = listed["files"].as_array().unwrap();
        let order: Vec<i64> = files.iter().map(|file| file["file_id"].as_i64().unwrap()).collect();
        assert!(order.len() == 40 && order.is_sorted_by(|one, next| one > next), "newest first");
        for id in order {
            let body = json!({"file_id": id}).to_string();
            assert_eq!(request(nth, "POST", "/v1/files/delete").body(body).send().code(), 0);
        }
    }
    assert_eq!(state()["bytes_held"], 0);
}

#[test]
fn a_client_that_hangs_up_in_an_upload_leaves_nothing() {
    let bench = Bench::start();
    let bytes = bench
        .request("POST", "/v1/files/upload")
        .form("voice_clone", "v.mp3", &sample("voice.mp3"))
        .bytes();
    let mut connection = Connection::open(&bench.address).unwrap();
    connection.write(&bytes[..20_000]).unwrap();
    let held = || bench.control("GET", "accounts", &Value::Null)["bytes_held"].as_u64().unwrap();
    eventually("it arrives", || (held() > 10_000).then_some(()));
    drop(connection);
    eventually("its end is seen", || (held() == 0).then_some(()));
    let call = bench.calls("/v1/files/upload").pop().unwrap();
    assert_eq!((&call["ended"], &call["note"]), (&json!(true), &Value::Null));
    assert!(call["bytes"].as_u64().unwrap() > 10_000);
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
