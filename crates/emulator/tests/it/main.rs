//! The emulator from outside: real sockets, and ffmpeg as the judge of what it makes.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod control;
mod faults;
mod files;
mod media;
mod socket;
mod speech;
mod tasks;
mod voices;

use std::fs;

use filegate_emulator::{ClockMode, Emulator, Options};
use filegate_testkit::http::{Reply, Request};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

const KEY: &str = "sk-test";

/// An emulator of the test's own, with one account unless told otherwise and a clock that stands.
struct Bench {
    address: String,
    _emulator: Emulator,
    _runtime: Runtime,
}

impl Bench {
    fn start() -> Self {
        Self::with(|_as_usual| {})
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new(KEY);
        options.clock = ClockMode::Standing;
        change(&mut options);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let emulator = runtime.block_on(Emulator::start(options)).unwrap();
        Self { address: emulator.address.to_string(), _emulator: emulator, _runtime: runtime }
    }

    fn request(&self, method: &str, target: &str) -> Request {
        Request::new(&self.address, method, target).bearer(KEY)
    }

    fn get(&self, target: &str) -> Reply {
        self.request("GET", target).send()
    }

    fn post(&self, target: &str, body: &Value) -> Reply {
        self.prepared(target, body).send()
    }

    fn prepared(&self, target: &str, body: &Value) -> Request {
        self.request("POST", target)
            .header("Content-Type", "application/json")
            .body(body.to_string())
    }

    fn upload(&self, purpose: &str, name: &str, content: &[u8]) -> Reply {
        self.request("POST", "/v1/files/upload").form(purpose, name, content).send()
    }

    /// A file of the repository's samples, uploaded.
    fn sample(&self, purpose: &str, name: &str) -> i64 {
        self.upload(purpose, name, &sample(name)).file_id()
    }

    /// A control call that succeeds.
    fn control(&self, method: &str, target: &str, body: &Value) -> Value {
        let request = Request::new(&self.address, method, &format!("/emulate/{target}"));
        let reply =
            request.body(if body.is_null() { String::new() } else { body.to_string() }).send();
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    fn advance(&self, by: &str) {
        self.control("POST", "clock", &json!({"advance": by}));
    }

    /// The calls that were recorded for a path.
    fn calls(&self, path: &str) -> Vec<Value> {
        let found = self.control("GET", &format!("calls?path={path}"), &Value::Null);
        found["calls"].as_array().unwrap().clone()
    }
}

fn sample(name: &str) -> Vec<u8> {
    fs::read(format!("{}/../../samples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The least that a request to speak has.
fn speech(text: &str) -> Value {
    json!({"model": "speech-02-hd", "text": text, "voice_setting": {"voice_id": "female-shaonv"}})
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

#[track_caller]
fn refused(reply: &Reply, code: i64, message: &str) {
    assert_eq!((reply.status, reply.code(), &reply.message()[..]), (200, code, message));
}

/// The path and query of an absolute link.
fn target_of(link: &Value) -> String {
    let link = link.as_str().unwrap();
    let rest = link.strip_prefix("http://").unwrap();
    rest[rest.find('/').unwrap()..].to_owned()
}
