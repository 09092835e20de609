//! Channels that ail, rest and come back, and what operators do to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use filegate_testkit::server::{TestServer, eventually};
use serde_json::json;

use crate::kit::{Upstream, add, answer, call, condition, native, nowhere, operator, setup};

fn code(server: &TestServer) -> i64 {
    call(server, "/v1/t2a_v2", &json!({ "text": "x" })).send().code()
}

/// An upstream that answers as the number says at the moment: a code, or a status over 100 000.
fn changing(now: &Arc<AtomicU64>) -> Upstream {
    let now = Arc::clone(now);
    Upstream::answering(move |_| {
        let says = now.load(Ordering::SeqCst);
        Some(match says.checked_sub(100_000) {
            Some(status) => answer(status as u16, &[("content-type", "application/json")], b"{}"),
            None => native(says as i64),
        })
    })
}

#[test]
fn a_channel_that_fails_rests_and_one_call_shows_that_it_is_well_again() {
    let now = Arc::new(AtomicU64::new(100_500));
    let upstream = changing(&now);
    let server = setup()
        .config("[relay]\nbreaker_failures = 3\nbreaker_pause = \"2s\"\nprobe_interval = \"0s\"\n")
        .start();
    add(&server, "one", &upstream.url(), json!({}));
    for _ in 0..3 {
        assert_eq!(code(&server), 1013);
    }
    for _ in 0..5 {
        assert_eq!(code(&server), 1013);
    }
    assert_eq!(upstream.seen().len(), 3, "it rests");
    eventually("the row says so", || (condition(&server, "one") == "cooling").then_some(()));
    now.store(0, Ordering::SeqCst);
    thread::sleep(Duration::from_millis(2100));
    assert_eq!(code(&server), 0);
    eventually("the row says so", || (condition(&server, "one") == "well").then_some(()));
    for _ in 0..5 {
        assert_eq!(code(&server), 0);
    }
}

#[test]
fn a_pause_that_was_asked_for_is_kept() {
    let limited = Upstream::always(answer(
        200,
        &[("content-type", "application/json"), ("retry-after", "2")],
        br#"{"base_resp":{"status_code":1002,"status_msg":"limit"}}"#,
    ));
    let server = setup().start();
    add(&server, "one", &limited.url(), json!({}));
    let began = Instant::now();
    assert_eq!(code(&server), 1002);
    while began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(code(&server), 1002);
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(limited.seen().len(), 1);
    thread::sleep(Duration::from_millis(800));
    assert_eq!(code(&server), 1002);
    assert_eq!(limited.seen().len(), 2);
}

#[test]
fn without_money_and_with_a_bad_key_a_channel_is_out_until_it_is_well() {
    let now = Arc::new(AtomicU64::new(1008));
    let upstream = changing(&now);
    let well = Upstream::always(native(0));
    let server =
        setup().config("[relay]\nunusable_pause = \"1s\"\nprobe_interval = \"0s\"\n").start();
    add(&server, "one", &upstream.url(), json!({ "priority": 1 }));
    add(&server, "two", &well.url(), json!({}));
    for (says, is) in [(1008, "out_of_balance"), (2049, "key_refused")] {
        now.store(says, Ordering::SeqCst);
        let before = upstream.seen().len();
        assert_eq!(code(&server), 0);
        assert_eq!(code(&server), 0);
        assert_eq!(upstream.seen().len(), before + 1, "it is out");
        eventually("the row says so", || (condition(&server, "one") == is).then_some(()));
        now.store(0, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(1100));
        assert_eq!(code(&server), 0);
        assert_eq!(upstream.seen().len(), before + 2, "it is tried again");
        eventually("the row says so", || (condition(&server, "one") == "well").then_some(()));
    }
}

#[test]
fn a_channel_that_rests_is_asked_whether_it_is_well() {
    let now = Arc::new(AtomicU64::new(2049));
    let upstream = changing(&now);
    let server =
        setup().config("[relay]\nunusable_pause = \"5m\"\nprobe_interval = \"1s\"\n").start();
    add(&server, "one", &upstream.url(), json!({}));
    assert_eq!(code(&server), 1013);
    eventually("the row says so", || (condition(&server, "one") == "key_refused").then_some(()));
    now.store(0, Ordering::SeqCst);
    eventually("it was asked", || (condition(&server, "one") == "well").then_some(()));
    let probe = upstream.seen().pop().unwrap();
    assert_eq!(probe.line, "GET /v1/files/list?purpose=voice_clone");
    assert_eq!(code(&server), 0);
}

#[test]
fn what_operators_do_holds_at_once_and_from_another_process_within_a_second() {
    let upstream = Upstream::always(native(0));
    let server = setup().start();
    add(&server, "one", &upstream.url(), json!({}));
    assert_eq!(code(&server), 0);
    assert_eq!(operator(&server, "/channels/one/disable", &json!({})).status, 200);
    assert_eq!(code(&server), 1013);
    assert_eq!(operator(&server, "/channels/one/enable", &json!({})).status, 200);
    assert_eq!(code(&server), 0);
    assert_eq!(operator(&server, "/channels/one/drain", &json!({})).status, 200);
    assert_eq!(code(&server), 1013);
    server.sql("UPDATE channels SET state = 'active'");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(code(&server), 0);
    server.sql("UPDATE channels SET state = 'disabled'");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(code(&server), 1013);
}

#[test]
fn a_channel_takes_as_many_calls_as_it_may() {
    let (most, now) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (high, at) = (Arc::clone(&most), Arc::clone(&now));
    let narrow = Upstream::answering(move |_| {
        let here = at.fetch_add(1, Ordering::SeqCst) + 1;
        high.fetch_max(here, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(300));
        at.fetch_sub(1, Ordering::SeqCst);
        Some(native(0))
    });
    let wide = Upstream::always(native(0));
    let server = setup().start();
    add(&server, "narrow", &narrow.url(), json!({ "priority": 1, "max_concurrency": 2 }));
    add(&server, "wide", &wide.url(), json!({}));
    thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| code(&server))).collect();
        for call in calls {
            assert_eq!(call.join().unwrap(), 0);
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert_eq!(wide.seen().len(), 6);
}

#[test]
fn a_channel_takes_as_many_calls_in_a_minute_as_it_may() {
    let narrow = Upstream::always(native(0));
    let server = setup().start();
    add(&server, "narrow", &narrow.url(), json!({ "max_rpm": 30 }));
    let codes: Vec<i64> = (0..8).map(|_| code(&server)).collect();
    let taken = codes.iter().filter(|code| **code == 0).count();
    assert!((3..=4).contains(&taken), "{codes:?}");
    assert!(codes.iter().all(|code| [0, 1002].contains(code)), "{codes:?}");
    assert_eq!(narrow.seen().len(), taken);
}

#[test]
fn weights_are_shares() {
    let (one, three) = (Upstream::always(native(0)), Upstream::always(native(0)));
    let server = setup().start();
    add(&server, "one", &one.url(), json!({ "weight": 1 }));
    add(&server, "three", &three.url(), json!({ "weight": 3 }));
    for _ in 0..200 {
        assert_eq!(code(&server), 0);
    }
    // 150 of 200 with a deviation of 6: ten of them is never.
    assert!((90..=200).contains(&three.seen().len()), "{}", three.seen().len());
    assert!(one.seen().len() > 5);
    drop(nowhere());
}
