//! Streams of events pass while they come: an event that has ended is with the client before the next begins.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::kit::{Upstream, add, call, setup};

/// How long an event may take. Upstream does not go on until the test says so.
const PASSES_MAX: Duration = Duration::from_secs(5);

/// Each is sent alone.
const EVENTS: &[&str] = &[
    "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n",
    "data: 1\n\n",
    "data: -1.5e3\n\n",
    "data: tru\n\n",
    "data: \"mm_file://1\"\n\n",
    "data: \"a string that does not end\n\n",
    "data: {\"file_id\":\n\n",
    "data: {\"usage\":{\"total_tokens\":7\n\n",
    "data:\n\n",
    "data\n\n",
    ": a comment\n",
    ": another\r\n\r\n",
    "event: message_start\ndata: null\n\n",
    "event: ping\r\nid: 7\r\nretry: 10\r\ndata: 12\r\n\r\n",
    "data: [1,2\r\n\r\n",
    "data: not JSON\n\n",
    "data: [DONE]\n\n",
];

#[test]
fn an_event_passes_before_the_next_begins_whatever_its_data_is() {
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    let upstream = Upstream::talking(move |talk, seen| {
        let Some(mut asked) = talk.head() else { return };
        if talk.body(&mut asked).is_err() {
            return;
        }
        let is_asked = asked.line.contains("/chat/completions");
        seen.lock().unwrap().push(asked);
        if !is_asked {
            return;
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        talk.write(head).unwrap();
        for event in EVENTS {
            if talk.write(format!("{:x}\r\n{event}\r\n", event.len())).is_err() {
                return;
            }
            if may_go.lock().unwrap().recv().is_err() {
                return;
            }
        }
        let _the_end = talk.write("0\r\n\r\n");
    });
    let server = setup().start();
    add(&server, "raw", &upstream.url(), json!({}));
    let body = json!({"model": "MiniMax-M2", "stream": true, "messages": []});
    let bytes = call(&server, "/v1/chat/completions", &body).bytes();
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PASSES_MAX)).unwrap();
    (&stream).write_all(&bytes).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
        assert!(!line.starts_with("HTTP/") || line.contains(" 200 "), "{line}");
    }
    for event in EVENTS {
        let mut came = Vec::new();
        while came.len() < event.len() {
            let chunk = chunk(&mut reader);
            let chunk = chunk.unwrap_or_else(|error| {
                panic!("{event:?} is held, but for {:?}: {error}", String::from_utf8_lossy(&came))
            });
            assert!(!chunk.is_empty(), "the stream ended before {event:?}");
            came.extend(chunk);
        }
        assert_eq!(String::from_utf8(came).unwrap(), *event);
        go.send(()).unwrap();
    }
    assert_eq!(chunk(&mut reader).unwrap(), b"");
}

/// The next chunk; the last is empty.
fn chunk(reader: &mut impl std::io::BufRead) -> std::io::Result<Vec<u8>> {
    let mut size = String::new();
    reader.read_line(&mut size)?;
    let size = usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
    let mut chunk = vec![0; size + 2];
    reader.read_exact(&mut chunk)?;
    chunk.truncate(size);
    Ok(chunk)
}
