//! What bodies cost that are read for ids.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use filegate_testkit::http::Connection;
use filegate_testkit::server::{TestServer, eventually};
use serde_json::json;

use crate::kit::{Seen, Talk, Upstream, add, answer, native, setup};

const CALLS: usize = 64;
const BYTES: usize = 20 << 20;
/// All bodies together are 1,280 MiB.
const MIB_MAX: u64 = 128;
const CHAT: &str = "/v1/chat/completions";
const UPSTREAM_ID: &str = "987654321";

/// Peak resident memory in MiB.
fn peak_mib(server: &TestServer) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Reads a body and keeps none of it; gives its length and whether upstream's id was in its first piece.
fn swallow(talk: &mut Talk, seen: &Seen) -> (usize, bool) {
    let (mut read, mut named) = (0, false);
    let mut take = |piece: &[u8]| {
        named |= read == 0 && String::from_utf8_lossy(piece).contains(UPSTREAM_ID);
        read += piece.len();
    };
    if let Some(length) = seen.header("content-length") {
        let mut left: usize = length.parse().unwrap();
        while left > 0 {
            let piece = talk.exact(left.min(64 << 10)).unwrap();
            left -= piece.len();
            take(&piece);
        }
    } else {
        let mut first = Vec::new();
        while let Some(chunk) = talk.chunk().unwrap() {
            if first.len() < 1024 {
                first.extend_from_slice(&chunk[..chunk.len().min(1024)]);
            }
            take(&chunk);
        }
        named |= String::from_utf8_lossy(&first).contains(UPSTREAM_ID);
    }
    (read, named)
}

#[test]
fn bodies_that_are_read_for_ids_cost_disk_and_no_memory() {
    let server = setup().config("[log]\nfilter = \"warn\"").start();
    // Nobody is answered before all are there, so that all of them lie in tmp/ at the same time.
    let all_here = Arc::new((Mutex::new(0), Condvar::new()));
    let named = Arc::new(AtomicUsize::new(0));
    let (waits, counts) = (Arc::clone(&all_here), Arc::clone(&named));
    let upstream = Upstream::talking(move |talk, _| {
        while let Some(mut asked) = talk.head() {
            if !asked.line.contains(CHAT) {
                if talk.body(&mut asked).is_err() {
                    return;
                }
                let stored = json!({"file": {"file_id": 987_654_321, "bytes": 5, "created_at": 1, "filename": "a.mp4",
                                    "purpose": "video_understanding"},
                                    "base_resp": {"status_code": 0, "status_msg": "success"}});
                let json = [("content-type", "application/json")];
                let bytes = if asked.line.contains("/files/upload") {
                    answer(200, &json, stored.to_string().as_bytes())
                } else {
                    native(0)
                };
                talk.write(bytes).unwrap();
                continue;
            }
            let (read, is_named) = swallow(talk, &asked);
            assert!(read >= BYTES, "{read}");
            counts.fetch_add(usize::from(is_named), Ordering::Relaxed);
            let (count, changed) = &*waits;
            let mut count = count.lock().unwrap();
            *count += 1;
            changed.notify_all();
            while *count < CALLS {
                count = changed.wait_timeout(count, Duration::from_secs(1)).unwrap().0;
            }
            drop(count);
            let body = json!({"choices": [], "usage": {"total_tokens": 1}});
            talk.write(answer(
                200,
                &[("content-type", "application/json")],
                body.to_string().as_bytes(),
            ))
            .unwrap();
        }
    });
    add(&server, "one", &upstream.url(), json!({}));
    let sample = filegate_testkit::samples::sample_bytes("mp4");
    let file = server.upload("video_understanding", "a.mp4", &sample).file_id();
    let content = json!([{"type": "video_url", "video_url": {"url": format!("mm_file://{file}")}}]);
    let body = json!({"messages": [{"content": content, "role": "user"}], "model": "MiniMax-M3",
                      "padding": "x".repeat(BYTES)});
    let body = Arc::new(body.to_string());
    let head = server
        .request("POST", CHAT)
        .header("Content-Type", "application/json")
        .header("Content-Length", &body.len().to_string())
        .bytes();
    let idle = peak_mib(&server);
    thread::scope(|scope| {
        for _ in 0..CALLS {
            let (server, head, body) = (&server, &head, &body);
            scope.spawn(move || {
                let mut connection = Connection::open(&server.address).unwrap();
                connection.write(head).unwrap();
                connection.write(body.as_bytes()).unwrap();
                let reply = connection.reply().unwrap();
                assert_eq!(reply.status, 200, "{}", reply.text());
            });
        }
        let all = || (*all_here.0.lock().unwrap() > CALLS / 2).then_some(());
        eventually("bodies are there", all);
        assert!(!server.stored("tmp").is_empty(), "they lie in tmp/");
    });
    let peak = peak_mib(&server);
    eprintln!("{CALLS} bodies of {} MiB: {idle} MiB before, {peak} MiB at most", BYTES >> 20);
    assert!(peak <= MIB_MAX, "{peak} MiB for {CALLS} bodies");
    assert_eq!(named.load(Ordering::Relaxed), CALLS, "each named the copy on the channel");
    eventually("their disk is given back", || server.stored("tmp").is_empty().then_some(()));
}
