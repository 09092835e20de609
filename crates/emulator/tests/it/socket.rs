//! Speech over a WebSocket, by hand.

use filegate_testkit::http::{Connection, Request};
use serde_json::{Value, json};
use std::io::Read as _;

use crate::media::decoded;
use crate::{Bench, KEY, speech, unhex};

/// A client's side. The mask is all zeros, which a client may choose.
struct Client(Connection);

impl Client {
    fn open(bench: &Bench) -> Self {
        let mut connection = Connection::open(&bench.address).unwrap();
        let request = Request::new(&bench.address, "GET", "/ws/v1/t2a_v2")
            .bearer(KEY)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        connection.write(&request.bytes()).unwrap();
        // Byte by byte, so that nothing of what follows is taken away.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.stream().read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        Self(connection)
    }

    fn send(&mut self, event: &Value) {
        let text = event.to_string();
        let mut frame = vec![0x81, 0xFE];
        frame.extend_from_slice(&(text.len() as u16).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        self.0.write(&frame).unwrap();
    }

    /// The next event; `None` for a close.
    fn next(&mut self) -> Option<Value> {
        let mut stream = self.0.stream();
        let mut read = |count: usize| {
            let mut bytes = vec![0; count];
            stream.read_exact(&mut bytes).unwrap();
            bytes
        };
        let head = read(2);
        let length = match head[1] {
            126 => read(2).iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            127 => read(8).iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            length => usize::from(length),
        };
        let payload = read(length);
        match head[0] {
            0x81 => Some(serde_json::from_slice(&payload).unwrap()),
            0x88 => None,
            other => panic!("frame {other:x}"),
        }
    }

    #[track_caller]
    fn expect(&mut self, event: &str) -> Value {
        let found = self.next().unwrap();
        assert_eq!(found["event"], event, "{found}");
        found
    }
}

fn start() -> Value {
    let mut start = speech("");
    start["event"] = "task_start".into();
    start
}

#[test]
fn a_task_is_started_spoken_and_finished() {
    let bench = Bench::start();
    let mut client = Client::open(&bench);
    let connected = client.expect("connected_success");
    assert_eq!(connected["base_resp"]["status_code"], 0);
    client.send(&start());
    client.expect("task_started");
    let text =
        "Said over a socket, and long enough for two pieces of audio at the least, of course.";
    let mut audio = Vec::new();
    for _twice in 0..2 {
        client.send(&json!({"event": "task_continue", "text": text}));
        let mut pieces = 0;
        loop {
            let event = client.expect("task_continued");
            audio.extend(unhex(event["data"]["audio"].as_str().unwrap()));
            pieces += 1;
            if event["is_final"] == true {
                assert!(event["extra_info"]["audio_length"].as_u64().unwrap() > 1000);
                break;
            }
        }
        assert!(pieces >= 2);
    }
    client.send(&json!({"event": "task_finish"}));
    client.expect("task_finished");
    assert_eq!(client.next(), None);
    assert!(decoded(&audio, "mp3", "codec_name,sample_rate").starts_with("mp3,32000,"));
    let [call] = &bench.calls("/ws/v1/t2a_v2")[..] else { panic!("one call") };
    assert_eq!((&call["status"], &call["account"]), (&json!(101), &json!("a1")));
}

#[test]
fn what_is_wrong_fails_the_task() {
    let bench = Bench::start();
    let mut unknown = start();
    unknown["voice_setting"]["voice_id"] = "nobody-0001".into();
    for (event, code) in [
        (json!({"event": "task_continue", "text": "too early"}), 2013),
        (json!({"no": "event"}), 2013),
        (unknown, 20132),
    ] {
        let mut client = Client::open(&bench);
        client.expect("connected_success");
        client.send(&event);
        assert_eq!(client.expect("task_failed")["base_resp"]["status_code"], code);
        assert_eq!(client.next(), None);
    }
}

#[test]
fn faults_with_codes_are_told_as_events() {
    let bench = Bench::start();
    bench.control("POST", "faults", &json!({"kind": "rate_limited", "path": "/ws/*", "count": 1}));
    let mut client = Client::open(&bench);
    client.expect("connected_success");
    client.send(&start());
    assert_eq!(client.expect("task_failed")["base_resp"]["status_code"], 1002);
    let mut client = Client::open(&bench);
    client.expect("connected_success");
    client.send(&start());
    client.expect("task_started");
}

#[test]
fn other_requests_and_keys_are_answered_in_http() {
    let bench = Bench::start();
    assert_eq!(bench.get("/ws/v1/t2a_v2").code(), 2013);
    let stranger = Request::new(&bench.address, "GET", "/ws/v1/t2a_v2").bearer("sk-nobody").send();
    assert_eq!(stranger.code(), 2049);
}
