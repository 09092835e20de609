//! Channels and copies are the fleet's, whichever replica a call comes to.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use filegate_testkit::http::Reply;
use filegate_testkit::server::eventually;
use serde_json::json;

use crate::emulated::Emulated;
use crate::fleet::{Fleet, within};

/// How long another replica may go by what a channel was.
const KNOWN_MAX: Duration = Duration::from_secs(1);
/// A claim lasts a minute unless it is renewed; then somebody looks at it again.
const TAKEN_OVER_MAX: Duration = Duration::from_secs(90);
const CLONE: &str = "/v1/voice_clone";

#[track_caller]
fn change(fleet: &Fleet, at: usize, what: &str) {
    let reply = fleet.admin(at, "POST", &format!("/channels/a1/{what}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// Three replicas on an emulator of so many accounts, each a channel that all replicas know.
fn start(accounts: usize, arguments: &[&str]) -> (Fleet, Emulated) {
    let fleet = Fleet::start(3, 1);
    let upstream = Emulated::start(accounts, arguments);
    fleet.look(|replica| upstream.add_to(replica));
    thread::sleep(KNOWN_MAX);
    (fleet, upstream)
}

fn upload(fleet: &Fleet) -> i64 {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../samples/voice.mp3");
    let voice = filegate_testkit::server::read(std::path::Path::new(sample));
    let upload = fleet.request_to(0, "POST", "/v1/files/upload");
    upload.form("voice_clone", "voice.mp3", &voice).send().file_id()
}

fn clone(fleet: &Fleet, at: usize, file: i64, name: &str) -> std::io::Result<Reply> {
    let body = json!({ "file_id": file, "voice_id": name });
    let request = fleet.request_to(at, "POST", CLONE).header("Content-Type", "application/json");
    request.body(body.to_string()).try_send()
}

fn speak(fleet: &Fleet, at: usize) -> i64 {
    let body = json!({"model": "speech-02-hd", "text": "Hello",
                      "voice_setting": {"voice_id": "female-shaonv"}});
    let request = fleet.request_to(at, "POST", "/v1/t2a_v2");
    let reply = request.header("Content-Type", "application/json").body(body.to_string()).send();
    reply.code()
}

/// How often upstream was asked to store a file.
fn uploads(upstream: &Emulated) -> usize {
    upstream.calls("/v1/files/upload").len()
}

#[test]
fn first_uses_over_all_replicas_at_once_are_one_upload() {
    let (fleet, upstream) = start(1, &["--record-bodies", "512"]);
    let file = upload(&fleet);
    let (done, told) = (AtomicUsize::new(0), Mutex::new(vec![]));
    thread::scope(|scope| {
        for n in 0..300 {
            let (fleet, done, told) = (&fleet, &done, &told);
            scope.spawn(move || {
                let reply = clone(fleet, n % 3, file, &format!("voice-number-{n}")).unwrap();
                match reply.code() {
                    0 => _ = done.fetch_add(1, Ordering::Relaxed),
                    _ => told.lock().unwrap().push(reply.text()),
                }
            });
        }
    });
    assert_eq!(done.into_inner(), 300, "{:?}", told.lock().unwrap().first());
    assert_eq!(uploads(&upstream), 1);
    assert_eq!(fleet.look(|replica| replica.value::<i64>("SELECT uploads FROM replicas")), 1);
    fleet.fsck_clean();
}

#[test]
fn what_an_operator_does_to_a_channel_all_replicas_obey_within_a_second() {
    let (fleet, _upstream) = start(1, &[]);
    for round in 0..3 {
        for at in 0..3 {
            assert_eq!(speak(&fleet, at), 0, "replica {at} in round {round}");
        }
        change(&fleet, round, "disable");
        let answered = Instant::now();
        assert_ne!(speak(&fleet, round), 0, "the replica that was told");
        for at in 0..3 {
            eventually("it is not used", || (speak(&fleet, at) != 0).then_some(()));
            assert!(answered.elapsed() < KNOWN_MAX, "replica {at}: {:?}", answered.elapsed());
        }
        change(&fleet, round, "enable");
        let answered = Instant::now();
        for at in 0..3 {
            eventually("it is used", || (speak(&fleet, at) == 0).then_some(()));
            assert!(answered.elapsed() < KNOWN_MAX, "replica {at}: {:?}", answered.elapsed());
        }
    }
}

#[test]
fn what_one_replica_finds_of_a_channel_all_know() {
    let (fleet, upstream) = start(2, &[]);
    upstream.control("/accounts", &json!({ "account": "a1", "balance": 0 }));
    let spoken = |account: &str| {
        let calls = upstream.calls("/v1/t2a_v2");
        calls.iter().filter(|call| call["account"] == account).count()
    };
    // One replica calls until it was told.
    let out = || {
        assert_eq!(speak(&fleet, 1), 0, "the other channel is well");
        let why = "SELECT condition FROM channels WHERE name = 'a1'";
        let condition: String = fleet.look(|replica| replica.value(why));
        (condition == "out_of_balance").then_some(())
    };
    eventually("it is found to be without money", out);
    thread::sleep(KNOWN_MAX);
    let before = spoken("a1");
    for n in 0..30 {
        assert_eq!(speak(&fleet, n % 3), 0);
    }
    assert_eq!(spoken("a1"), before, "no replica calls it to find out for itself");
}

#[test]
fn a_copy_whose_replica_was_killed_is_made_by_another() {
    let (fleet, upstream) = start(1, &["--record-bodies", "512"]);
    let file = upload(&fleet);
    let late = json!({"kind": "delay", "path": "/v1/files/upload", "time": "5s", "count": 1});
    upstream.control("/faults", &late);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _cut_off = clone(&fleet, 1, file, "voice-of-the-dead");
            over.store(true, Ordering::Release);
        });
        eventually("it is being copied", || {
            let claims = "SELECT count(*) FROM replicas WHERE state = 'uploading'";
            (fleet.look(|replica| replica.value::<i64>(claims)) == 1).then_some(())
        });
        thread::sleep(Duration::from_millis(500));
        assert!(!over.load(Ordering::Acquire), "it was copied already");
        fleet.kill(1);
    });
    // Who has waited too long for an answer tries again, and the voice may be there by then.
    let tries = AtomicUsize::new(0);
    let made = |at: usize| {
        let name = format!("voice-of-try-{}", tries.fetch_add(1, Ordering::Relaxed));
        let reply = clone(&fleet, at, file, &name).ok()?;
        assert!([0, 1001, 1002, 1013].contains(&reply.code()), "{}", reply.text());
        (reply.code() == 0).then_some(())
    };
    for at in [0, 2] {
        within(TAKEN_OVER_MAX, "another replica copies it", || made(at));
    }
    assert!(uploads(&upstream) <= 2, "{} uploads", uploads(&upstream));
    fleet.start_again(1);
    assert_eq!(made(1), Some(()));
    assert!(uploads(&upstream) <= 2, "{} uploads", uploads(&upstream));
    fleet.fsck_clean();
}
