//! Every fault, as a raw socket sees it.

use std::io::{ErrorKind, Read as _};
use std::time::{Duration, Instant};

use filegate_emulator::Script;
use filegate_testkit::http::{Connection, Field, Reply, Request, form};
use filegate_testkit::server::eventually;
use serde_json::{Value, json};

use crate::{Bench, sample, speech};

fn order(bench: &Bench, fault: &Value) {
    bench.control("POST", "faults", fault);
}

/// All that comes back for `bytes`, and how it ends.
fn raw(bench: &Bench, bytes: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
    let mut connection = Connection::open(&bench.address).unwrap();
    let _may_be_cut = connection.write(bytes);
    let mut answer = Vec::new();
    let ended = connection.stream().read_to_end(&mut answer);
    (answer, ended.err().map(|error| error.kind()))
}

fn list(bench: &Bench) -> Reply {
    bench.get("/v1/files/list")
}

#[test]
fn codes_are_answered_and_nothing_is_carried_out() {
    let bench = Bench::start();
    for (fault, code, start) in [
        (json!({"kind": "rate_limited", "retry_after": "7s"}), 1002, "rate limit"),
        (json!({"kind": "banned"}), 1004, "login fail"),
        (json!({"kind": "out_of_balance"}), 1008, "insufficient balance"),
        (json!({"kind": "unverified"}), 2038, "no voice cloning permission"),
        (json!({"kind": "file_expired"}), 2013, "file expired"),
        (
            json!({"kind": "code", "code": 1039, "message": "token limit", "status": 429}),
            1039,
            "token limit",
        ),
    ] {
        let mut once = fault.clone();
        once["count"] = 1.into();
        order(&bench, &once);
        let reply = bench.upload("voice_clone", "voice.mp3", &sample("voice.mp3"));
        assert_eq!(reply.code(), code);
        assert!(reply.message().starts_with(start), "{}", reply.text());
        assert_eq!(reply.status, if code == 1039 { 429 } else { 200 });
        assert_eq!(reply.header("retry-after"), (code == 1002).then_some("7"));
        let call = bench.calls("/v1/files/upload").pop().unwrap();
        assert_eq!((&call["fault"], &call["code"]), (&fault["kind"], &json!(code)));
        assert!(call["bytes"].as_u64().unwrap() > 36_381, "the body was read to its end");
    }
    assert_eq!(list(&bench).json()["files"], json!([]));
}

#[test]
fn a_rate_limit_of_thirty_seconds_ends_by_the_clock() {
    let bench = Bench::with(|options| {
        let toml = "[[fault]]\nkind = \"rate_limited\"\npath = \"/v1/t2a_v2\"\nfor = \"30s\"\n";
        options.script = Script::from_toml(toml).unwrap();
    });
    let code = || bench.post("/v1/t2a_v2", &speech("x")).code();
    assert_eq!(code(), 1002);
    bench.advance("29s");
    assert_eq!(code(), 1002);
    assert_eq!(list(&bench).code(), 0, "another path");
    bench.advance("1s");
    assert_eq!(code(), 0);
}

#[test]
fn a_load_balancer_answers_html() {
    let bench = Bench::start();
    order(&bench, &json!({"kind": "http", "count": 1}));
    let reply = list(&bench);
    assert_eq!((reply.status, reply.header("content-type")), (502, Some("text/html")));
    order(&bench, &json!({"kind": "http", "status": 504}));
    assert_eq!(list(&bench).status, 504);
    let stranger = Request::new(&bench.address, "GET", "/v1/files/list").send();
    assert_eq!(stranger.status, 504, "it asks for no key");
}

#[test]
fn a_request_is_reset_in_the_middle_of_its_body() {
    let bench = Bench::start();
    order(&bench, &json!({"kind": "reset_request", "after": "1000", "path": "/v1/files/upload"}));
    let (kind, body) = form(&[
        Field::Text("purpose", "voice_clone"),
        Field::File("file", "voice.mp3", &sample("voice.mp3")),
    ]);
    let request =
        bench.request("POST", "/v1/files/upload").header("Content-Type", &kind).body(body);
    let (answer, ended) = raw(&bench, &request.bytes());
    assert_eq!((answer, ended), (vec![], Some(ErrorKind::ConnectionReset)));
    let call = bench.calls("/v1/files/upload").pop().unwrap();
    assert_eq!((&call["status"], &call["ended"]), (&Value::Null, &json!(true)));
    assert_eq!(list(&bench).json()["files"], json!([]));
}

#[test]
fn an_answer_is_reset_in_the_middle_of_its_body() {
    let bench = Bench::start();
    order(&bench, &json!({"kind": "reset_answer", "count": 1}));
    let (kind, body) =
        form(&[Field::Text("purpose", "batch"), Field::File("file", "a.jsonl", b"{}")]);
    let request =
        bench.request("POST", "/v1/files/upload").header("Content-Type", &kind).body(body);
    let (answer, ended) = raw(&bench, &request.bytes());
    assert_eq!(ended, Some(ErrorKind::ConnectionReset));
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let length = head.to_lowercase();
    let length = length.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
    assert_eq!(body.len(), length.parse::<usize>().unwrap() / 2);
    assert_eq!(list(&bench).json()["files"].as_array().unwrap().len(), 1, "it was carried out");
}

#[test]
fn an_answer_is_lost_after_it_was_carried_out() {
    let bench = Bench::start();
    order(&bench, &json!({"kind": "lost_answer", "path": "/v1/files/upload", "count": 1}));
    let (kind, body) =
        form(&[Field::Text("purpose", "batch"), Field::File("file", "a.jsonl", b"{}")]);
    let request =
        bench.request("POST", "/v1/files/upload").header("Content-Type", &kind).body(body);
    let (answer, ended) = raw(&bench, &request.bytes());
    assert_eq!((answer, ended), (vec![], Some(ErrorKind::ConnectionReset)));
    let id = list(&bench).json()["files"][0]["file_id"].as_i64().unwrap();
    let call = bench.calls("/v1/files/upload").pop().unwrap();
    assert_eq!(
        (&call["status"], &call["code"], &call["note"]["file_id"]),
        (&Value::Null, &json!(0), &json!(id))
    );
}

#[test]
fn json_is_cut_in_a_whole_answer() {
    let bench = Bench::start();
    order(&bench, &json!({"kind": "truncated", "count": 1}));
    let reply = list(&bench);
    assert_eq!(reply.status, 200);
    assert!(serde_json::from_slice::<Value>(&reply.body).is_err());
    assert!(reply.text().starts_with("{\"base_resp\""));
}

#[test]
fn a_stall_ends_with_a_reset_or_with_the_client() {
    let bench = Bench::start();
    order(&bench, &json!({"kind": "stall", "time": "200ms", "count": 1}));
    let (answer, ended) = raw(&bench, &bench.request("GET", "/v1/files/list").bytes());
    assert_eq!((answer, ended), (vec![], Some(ErrorKind::ConnectionReset)));

    order(&bench, &json!({"kind": "stall", "path": "/v1/files/list", "count": 1}));
    let mut connection = Connection::open(&bench.address).unwrap();
    connection.write(&bench.request("GET", "/v1/files/list").bytes()).unwrap();
    let last = || bench.calls("/v1/files/list").pop().unwrap();
    eventually("the call is there", || (last()["nth"].as_u64()? == 2).then_some(()));
    assert_eq!(last()["ended"], false);
    connection.stream().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let waited = connection.stream().read(&mut [0; 1]).unwrap_err();
    assert!(matches!(waited.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waited}");
    drop(connection);
    eventually("its end is seen", || (last()["ended"] == true).then_some(()));
}

#[test]
fn slow_bodies_take_their_time() {
    let bench = Bench::start();
    let took = |reply: &dyn Fn() -> Reply| {
        let started = Instant::now();
        assert_eq!(reply().code(), 0);
        started.elapsed()
    };
    let fault =
        |kind: &str, rate: &str| json!({"kind": kind, "bytes_per_second": rate, "count": 1});
    order(&bench, &fault("slow_request", "60000"));
    let upload = || bench.upload("voice_clone", "voice.mp3", &sample("voice.mp3"));
    assert!(took(&upload) >= Duration::from_millis(500), "36 KB at 60 KB/s");
    order(&bench, &fault("slow_answer", "300"));
    assert!(took(&|| list(&bench)) >= Duration::from_millis(500), "some 200 bytes at 300 B/s");
    order(&bench, &json!({"kind": "delay", "time": "300ms", "count": 1}));
    assert!(took(&|| list(&bench)) >= Duration::from_millis(300));
}

#[test]
fn a_fault_can_be_one_accounts_and_be_taken_back() {
    let bench = Bench::start();
    let added = bench.control(
        "POST",
        "faults",
        &json!({"seed": 3, "fault": [
        {"kind": "banned", "account": "a2"}, {"kind": "banned", "account": "a1"}]}),
    );
    assert_eq!(list(&bench).code(), 1004);
    let shown = bench.control("GET", "faults", &Value::Null);
    assert_eq!((&shown["faults"][0]["hits"], &shown["faults"][1]["hits"]), (&json!(0), &json!(1)));
    let id = &added["ids"][1];
    assert_eq!(bench.control("DELETE", &format!("faults?id={id}"), &Value::Null)["removed"], 1);
    assert_eq!(list(&bench).code(), 0);
    assert_eq!(bench.control("DELETE", "faults", &Value::Null)["removed"], 1);
    let wrong = bench.request("POST", "/emulate/faults").body(r#"{"kind":"explode"}"#).send();
    assert_eq!(wrong.status, 400);
    assert!(wrong.text().contains("explode"), "{}", wrong.text());
}

#[test]
fn downloads_meet_faults_too() {
    let bench = Bench::start();
    let id = bench.sample("voice_clone", "voice.mp3");
    let file = bench.get(&format!("/v1/files/retrieve?file_id={id}")).json();
    order(&bench, &json!({"kind": "reset_answer", "path": "/emulate/oss/*", "after": "10000"}));
    let target = crate::target_of(&file["file"]["download_url"]);
    let (answer, ended) = raw(&bench, &bench.request("GET", &target).bytes());
    assert_eq!(ended, Some(ErrorKind::ConnectionReset));
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(answer[head..], sample("voice.mp3")[..10_000]);
}
