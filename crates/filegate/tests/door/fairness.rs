//! One account floods, another goes on as before: what that costs it, in figures.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use filegate_testkit::http::{Connection, Request};
use filegate_testkit::server::TestServer;
use serde_json::json;

use crate::tenants::{UPLOAD, account_limits, start};

/// Connections of the flooding account.
const FLOOD: usize = 32;
/// Uploads of the polite one, and how often it sends one.
const POLITE: usize = 200;
const EVERY: Duration = Duration::from_millis(10);
/// What no upload of the polite account may take, on the slowest machine.
const LONGEST: Duration = Duration::from_secs(5);

struct Figures {
    p50: Duration,
    p99: Duration,
    flooded: u64,
    refused: u64,
}

fn small_upload(server: &TestServer, key: &str) -> Vec<u8> {
    let request = Request::new(&server.address, "POST", UPLOAD).bearer(key);
    request.form("retrieval", "a.txt", &[b'x'; 2048]).bytes()
}

/// The polite account's latencies beside so many flooding connections.
fn run(server: &TestServer, polite: &str, flood: usize) -> Figures {
    let stop = AtomicBool::new(false);
    let (flooded, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let times = std::thread::scope(|scope| {
        for _ in 0..flood {
            scope.spawn(|| {
                let bytes = small_upload(server, &server.key);
                let mut connection = Connection::open(&server.address).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    connection.write(&bytes).unwrap();
                    let code = connection.reply().unwrap().code();
                    assert!(code == 0 || code == 1002, "{code}");
                    let count = if code == 0 { &flooded } else { &refused };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Also when something here fails: the scope waits for its threads.
        let _stop = StopAtEnd(&stop);
        let bytes = small_upload(server, polite);
        let mut connection = Connection::open(&server.address).unwrap();
        let mut times = vec![];
        let begun = Instant::now();
        for i in 0..POLITE {
            let due = begun + EVERY * i as u32;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let sent = Instant::now();
            connection.write(&bytes).unwrap();
            let reply = connection.reply().unwrap();
            times.push(sent.elapsed());
            assert_eq!(reply.code(), 0, "{}", reply.text());
        }
        times.sort_unstable();
        times
    });
    let slowest = times[POLITE - 1];
    assert!(slowest < LONGEST, "one took {slowest:?}");
    let (p50, p99) = (times[POLITE / 2], times[POLITE * 99 / 100]);
    Figures { p50, p99, flooded: flooded.into_inner(), refused: refused.into_inner() }
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_flood_does_not_keep_a_polite_account_out() {
    let server = start("[log]\nfilter = \"warn\"\n");
    let polite = server.make_key("polite", "polite");
    run(&server, &polite, 0);
    let alone = run(&server, &polite, 0);
    let beside = run(&server, &polite, FLOOD);
    account_limits(&server, &json!({"requests_per_minute": 60, "request_burst": 1}));
    let limited = run(&server, &polite, FLOOD);
    for (what, figures) in
        [("alone", &alone), ("beside a flood", &beside), ("beside a limited flood", &limited)]
    {
        eprintln!(
            "{what}: p50 {:.2} ms, p99 {:.2} ms; the flood: {} stored, {} refused",
            figures.p50.as_secs_f64() * 1e3,
            figures.p99.as_secs_f64() * 1e3,
            figures.flooded,
            figures.refused,
        );
    }
    assert!(beside.flooded > 0 && beside.refused == 0);
    assert!(limited.refused > limited.flooded, "the limit holds");
}
