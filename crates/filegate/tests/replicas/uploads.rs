//! Uploads whose content is known from their number, by clients that try again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use filegate_testkit::http::Request;
use filegate_testkit::random::Random;
use filegate_testkit::samples::sample_bytes;
use serde_json::Value;

use crate::fleet::Fleet;

/// How long a client tries.
const TRY_MAX: Duration = Duration::from_mins(2);

/// Codes after which the same request may do better later: late, over a limit or in flight, unavailable.
const AGAIN: [i64; 3] = [1001, 1002, 1013];

/// What clients were told.
#[derive(Default)]
pub(crate) struct Uploads {
    next: AtomicU64,
    /// The id of each acknowledged upload, by its number.
    pub(crate) stored: Mutex<BTreeMap<u64, i64>>,
    /// Requests that were made again.
    pub(crate) repeated: AtomicU64,
}

/// Purpose, name and content of upload `number`: small texts, real audio now and then, and a body that takes
/// several parts once in a while.
pub(crate) fn file(number: u64) -> (&'static str, String, Vec<u8>) {
    let mut random = Random::new(number);
    if number % 8 == 3 {
        // ID3v1, which stands behind the sound and makes each one another.
        let mut audio = sample_bytes("mp3");
        audio.extend_from_slice(b"TAG");
        audio.extend_from_slice(format!("{number:0>125}").as_bytes());
        return ("voice_clone", format!("u{number}.mp3"), audio);
    }
    let len = match number % 100 {
        50 => 11 << 20,
        10 | 60 => 600_000,
        _ => 1000 + random.below(60_000) as usize,
    };
    let mut text = format!("{number:020}\n").into_bytes();
    while text.len() < len {
        text.extend_from_slice(format!("{:016x}\n", random.number()).as_bytes());
    }
    text.truncate(len);
    ("retrieval", format!("u{number}.txt"), text)
}

/// The upload, as often as it is sent.
pub(crate) fn upload_of(fleet: &Fleet, number: u64) -> Request {
    let (purpose, name, content) = file(number);
    fleet
        .request("POST", "/minimax/v1/files/upload")
        .header("Idempotency-Key", &format!("upload {number}"))
        .form(purpose, &name, &content)
}

impl Uploads {
    /// Uploads one after another while `more` says so for the number.
    pub(crate) fn run(&self, fleet: &Fleet, more: impl Fn(u64) -> bool) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if !more(number) {
                return;
            }
            let id = self.until_answered(&upload_of(fleet, number))["file"]["file_id"].as_i64();
            let id = id.unwrap();
            // A client that did not hear the answer asks again, elsewhere.
            if number % 16 == 5 {
                let again = self.until_answered(&upload_of(fleet, number));
                assert_eq!(again["file"]["file_id"], id, "the same key, another file");
            }
            self.stored.lock().unwrap().insert(number, id);
            if number % 4 == 1 {
                self.check(fleet, number, id);
            }
        }
    }

    /// Sends it until it is answered with success.
    pub(crate) fn until_answered(&self, request: &Request) -> Value {
        let started = Instant::now();
        loop {
            let told = match request.try_send() {
                Ok(reply) if reply.status == 200 && reply.code() == 0 => return reply.json(),
                Ok(reply) => {
                    let again = reply.status == 200 && AGAIN.contains(&reply.code());
                    assert!(again, "{} {}", reply.status, reply.text());
                    reply.text()
                }
                Err(error) => error.to_string(),
            };
            assert!(started.elapsed() < TRY_MAX, "still not answered: {told}");
            self.repeated.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What was acknowledged can be looked at and read, and is what was sent.
    pub(crate) fn check(&self, fleet: &Fleet, number: u64, id: i64) {
        let (purpose, name, content) = file(number);
        let retrieve = fleet.request("GET", &format!("/v1/files/retrieve?file_id={id}"));
        let found = self.until_answered(&retrieve)["file"].clone();
        assert_eq!((&found["filename"], &found["purpose"]), (&name.into(), &purpose.into()));
        assert_eq!(found["bytes"], content.len());
        let request = fleet.request("GET", &format!("/v1/files/retrieve_content?file_id={id}"));
        let started = Instant::now();
        loop {
            match request.try_send() {
                Ok(reply) if reply.header("repr-digest").is_some() => {
                    assert_eq!(reply.status, 200);
                    assert!(reply.body == content, "the content of upload {number} is wrong");
                    return;
                }
                Ok(reply) => assert!(AGAIN.contains(&reply.code()), "{number}: {}", reply.text()),
                Err(_) => {}
            }
            assert!(started.elapsed() < TRY_MAX, "upload {number} cannot be read");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Checks all of them, by several clients.
    pub(crate) fn check_all(&self, fleet: &Fleet) {
        let stored = self.stored.lock().unwrap().clone();
        let all: Vec<(u64, i64)> = stored.into_iter().collect();
        thread::scope(|scope| {
            for part in all.chunks(all.len().div_ceil(4).max(1)) {
                scope.spawn(move || {
                    for (number, id) in part {
                        self.check(fleet, *number, *id);
                    }
                });
            }
        });
    }
}

/// The ids of all files that a replica lists, page by page.
pub(crate) fn listed(fleet: &Fleet, at: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    loop {
        let after = ids.last().map(|id| format!("&after={id}")).unwrap_or_default();
        let reply =
            fleet.request_to(at, "GET", &format!("/v1/files/list?limit=1000{after}")).send();
        assert_eq!(reply.code(), 0, "{}", reply.text());
        let page = reply.json()["files"].as_array().unwrap().clone();
        if page.is_empty() {
            ids.sort_unstable();
            return ids;
        }
        ids.extend(page.iter().map(|file| file["file_id"].as_i64().unwrap()));
    }
}
