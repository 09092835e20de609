//! WebSockets through the gateway.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use filegate_testkit::http::{Connection, Request};
use filegate_testkit::server::TestServer;
use serde_json::{Value, json};

use crate::emulated::Emulated;
use crate::kit::{Talk, Upstream, add, answer, condition, native, setup};

const PATH: &str = "/minimax/ws/v1/t2a_v2";

/// A frame, masked as a client's has to be, or not.
fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    let mask = if masked { 0x80 } else { 0_u8 };
    match payload.len() {
        length @ ..126 => frame.push(mask | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(mask | 0x7E);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(mask | 0x7F);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if masked {
        let key = [7, 1, 9, 4];
        frame.extend_from_slice(&key);
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        frame.extend_from_slice(payload);
    }
    frame
}

/// Reads a frame: opcode and payload.
fn read_frame(stream: &mut impl Read) -> std::io::Result<(u8, Vec<u8>)> {
    let mut exact = |bytes: usize| {
        let mut read = vec![0; bytes];
        stream.read_exact(&mut read).map(|()| read)
    };
    let head = exact(2)?;
    let length = match head[1] & 0x7F {
        126 => u16::from_be_bytes(exact(2)?.try_into().unwrap()).into(),
        127 => u64::from_be_bytes(exact(8)?.try_into().unwrap()) as usize,
        length => usize::from(length),
    };
    let mask = if head[1] & 0x80 == 0 { vec![0; 4] } else { exact(4)? };
    let payload = exact(length)?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    Ok((head[0] & 0x0F, payload.collect()))
}

pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) fn open(server: &TestServer) -> Self {
        Self::with(server, &server.key)
    }

    pub(crate) fn with(server: &TestServer, key: &str) -> Self {
        let mut connection = Connection::open(&server.address).unwrap();
        connection.write(&handshake(server, key).bytes()).unwrap();
        // By hand: what follows the head is frames already.
        let mut stream = connection.stream().try_clone().unwrap();
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        // Of RFC 6455's own example.
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        assert!(!head.contains("sec-websocket-extensions"), "{head}");
        Self(stream)
    }

    pub(crate) fn say(&mut self, event: &Value) {
        self.0.write_all(&frame(1, event.to_string().as_bytes(), true)).unwrap();
    }

    /// The next message, as JSON; a goodbye as its code.
    pub(crate) fn hear(&mut self) -> Value {
        let (opcode, payload) = read_frame(&mut self.0).unwrap();
        match opcode {
            1 => serde_json::from_slice(&payload).unwrap(),
            8 => {
                json!({ "closed": payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]])) })
            }
            other => panic!("opcode {other}"),
        }
    }
}

fn handshake(server: &TestServer, key: &str) -> Request {
    Request::new(&server.address, "GET", PATH)
        .bearer(key)
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// An upstream's side of a handshake; what was asked.
fn switch(talk: &mut Talk) -> Option<crate::kit::Seen> {
    let asked = talk.head()?;
    assert_eq!(asked.header("sec-websocket-extensions"), None);
    talk.write(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    )
    .ok()?;
    Some(asked)
}

fn event(name: &str) -> Value {
    json!({ "event": name, "base_resp": { "status_code": 0, "status_msg": "success" } })
}

fn failed(code: i64) -> Value {
    json!({ "event": "task_failed", "base_resp": { "status_code": code, "status_msg": "upstream" } })
}

fn tell(talk: &mut Talk, event: &Value) {
    talk.write(frame(1, event.to_string().as_bytes(), false)).unwrap();
}

/// The next message of the gateway's; `None` for a goodbye or the end.
fn heard(talk: &mut Talk) -> Option<Value> {
    let (opcode, payload) = read_frame(talk).ok()?;
    (opcode == 1).then(|| serde_json::from_slice(&payload).unwrap())
}

impl Read for Talk {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.exact(buffer.len())?;
        buffer.copy_from_slice(&read);
        Ok(read.len())
    }
}

/// An upstream that speaks each text.
fn speaking() -> Upstream {
    Upstream::talking(|talk, seen| {
        let Some(asked) = switch(talk) else { return };
        seen.lock().unwrap().push(asked);
        tell(talk, &event("connected_success"));
        while let Some(told) = heard(talk) {
            let mut seen = seen.lock().unwrap();
            seen.last_mut().unwrap().body.extend(told.to_string().into_bytes());
            drop(seen);
            match told["event"].as_str().unwrap() {
                "task_start" => tell(talk, &event("task_started")),
                "task_finish" => {
                    tell(talk, &event("task_finished"));
                    talk.write(frame(8, &4001u16.to_be_bytes(), false)).unwrap();
                    return;
                }
                _ => tell(talk, &json!({ "event": "task_continued", "echo": told["text"] })),
            }
        }
    })
}

fn speaks(server: &TestServer) {
    let mut client = Client::open(server);
    assert_eq!(client.hear()["event"], "connected_success");
    client.say(&json!({ "event": "task_start", "model": "speech-2.8-hd" }));
    assert_eq!(client.hear()["event"], "task_started");
    for text in ["a", "b", &"long ".repeat(30_000)] {
        client.say(&json!({ "event": "task_continue", "text": text }));
        let heard = client.hear();
        assert_eq!((&heard["event"], &heard["echo"]), (&json!("task_continued"), &json!(text)));
    }
    client.say(&json!({ "event": "task_finish" }));
    assert_eq!(client.hear()["event"], "task_finished");
    assert_eq!(client.hear(), json!({ "closed": 4001 }), "the code is passed");
}

#[test]
fn messages_pass_both_ways_and_the_goodbye_too() {
    let upstream = speaking();
    let server = setup().start();
    add(&server, "one", &upstream.url(), json!({ "group_id": "g" }));
    speaks(&server);
    let asked = upstream.seen().pop().unwrap();
    assert_eq!(asked.line, "GET /ws/v1/t2a_v2?GroupId=g");
    let bearer = format!("Bearer {}", crate::kit::KEY);
    assert_eq!(asked.header("authorization"), Some(bearer.as_str()));
}

#[test]
fn with_the_real_emulator_a_task_is_spoken() {
    let emulated = Emulated::start(1, &[]);
    let server = setup().start();
    emulated.add_to(&server);
    let mut client = Client::open(&server);
    assert_eq!(client.hear()["event"], "connected_success");
    client.say(&json!({
        "event": "task_start", "model": "speech-2.8-hd",
        "voice_setting": { "voice_id": "English_expressive_narrator" },
        "audio_setting": { "format": "mp3", "sample_rate": 32000, "channel": 1 },
    }));
    let started = client.hear();
    assert_eq!(started["event"], "task_started", "{started}");
    client.say(&json!({ "event": "task_continue", "text": "Hello there." }));
    let mut audio = 0;
    loop {
        let heard = client.hear();
        assert_eq!(heard["event"], "task_continued", "{heard}");
        audio += heard["data"]["audio"].as_str().unwrap_or_default().len();
        if heard["is_final"] == true {
            break;
        }
    }
    assert!(audio > 1000);
    client.say(&json!({ "event": "task_finish" }));
    assert_eq!(client.hear()["event"], "task_finished");
}

#[test]
fn a_channel_that_cannot_is_left_before_the_client_hears_of_it() {
    let well = speaking();
    for (what, at_start) in [("greeting", false), ("start", true)] {
        for code in [1002, 1008, 2049] {
            let limited = Upstream::talking(move |talk, seen| {
                let Some(asked) = switch(talk) else { return };
                seen.lock().unwrap().push(asked);
                if at_start {
                    tell(talk, &event("connected_success"));
                    heard(talk);
                }
                tell(talk, &failed(code));
                heard(talk);
            });
            let server = setup().start();
            add(&server, "first", &limited.url(), json!({ "priority": 1 }));
            add(&server, "second", &well.url(), json!({}));
            speaks(&server);
            assert_eq!(limited.seen().len(), 1, "{what} {code}");
            filegate_testkit::server::eventually("it is noted", || {
                (condition(&server, "first") != "well").then_some(())
            });
        }
    }
}

#[test]
fn a_handshake_that_fails_goes_elsewhere_or_is_answered_in_http() {
    let well = speaking();
    let limited = Upstream::always(answer(429, &[], b""));
    let server = setup().start();
    add(&server, "first", &limited.url(), json!({ "priority": 1 }));
    let reply = handshake(&server, &server.key).send();
    assert_eq!((reply.status, reply.code()), (200, 1002));
    add(&server, "second", &well.url(), json!({}));
    speaks(&server);

    let refusing = Upstream::always(native(2013));
    let server = setup().start();
    add(&server, "one", &refusing.url(), json!({}));
    assert_eq!(handshake(&server, &server.key).send().code(), 2013);
}

#[test]
fn when_no_channel_is_left_the_task_has_failed() {
    let limited = Upstream::talking(|talk, _| {
        let Some(_asked) = switch(talk) else { return };
        tell(talk, &event("connected_success"));
        heard(talk);
        tell(talk, &failed(1002));
        heard(talk);
    });
    let server = setup().start();
    add(&server, "one", &limited.url(), json!({}));
    let mut client = Client::open(&server);
    assert_eq!(client.hear()["event"], "connected_success");
    client.say(&json!({ "event": "task_start" }));
    let told = client.hear();
    assert_eq!(
        (&told["event"], &told["base_resp"]["status_code"]),
        (&json!("task_failed"), &json!(1002))
    );
    assert!(!told.to_string().contains("upstream"), "{told}");
    assert_eq!(client.hear(), json!({ "closed": 1000 }));
}

#[test]
fn what_a_task_says_of_itself_is_the_clients() {
    let upstream = Upstream::talking(|talk, _| {
        let Some(_asked) = switch(talk) else { return };
        tell(talk, &event("connected_success"));
        heard(talk);
        tell(talk, &failed(2013));
        heard(talk);
    });
    let server = setup().start();
    add(&server, "one", &upstream.url(), json!({}));
    let mut client = Client::open(&server);
    client.hear();
    client.say(&json!({ "event": "task_start" }));
    assert_eq!(client.hear(), failed(2013));
}

#[test]
fn both_ends_end_together() {
    let (tell_end, ended) = std::sync::mpsc::channel();
    let upstream = Upstream::talking(move |talk, _| {
        let Some(_asked) = switch(talk) else { return };
        tell(talk, &event("connected_success"));
        while heard(talk).is_some() {}
        tell_end.send(()).unwrap();
    });
    let server = setup().config("[relay]\nanswer_idle = \"1s\"\n").start();
    add(&server, "one", &upstream.url(), json!({}));
    let mut client = Client::open(&server);
    client.hear();
    drop(client);
    ended.recv_timeout(Duration::from_secs(10)).unwrap();
    // And a client that says nothing is told to go.
    let mut client = Client::open(&server);
    client.hear();
    assert_eq!(client.hear(), json!({ "closed": 1008 }));
    ended.recv_timeout(Duration::from_secs(10)).unwrap();
}
