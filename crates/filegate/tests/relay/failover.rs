//! Where a call goes when a channel fails, and what its client is told when nothing is left.

use std::time::{Duration, Instant};

use filegate_testkit::http::Reply;
use filegate_testkit::server::TestServer;
use serde_json::{Value, json};

use crate::kit::{Upstream, add, add_for, answer, call, native, nowhere, setup};

/// Something that may be made twice.
const HARMLESS: &str = "/v1/t2a_v2";
/// Something that may not.
const LASTING: &str = "/v1/image_generation";

/// A server with a channel that is asked first, and perhaps one after it.
fn with(first: &str, second: Option<&str>) -> TestServer {
    let server = setup().config("[relay]\nanswer_timeout = \"1s\"\n").start();
    add(&server, "first", first, json!({ "priority": 2 }));
    if let Some(second) = second {
        add(&server, "second", second, json!({ "priority": 1 }));
    }
    server
}

fn ask(server: &TestServer, path: &str, key: bool) -> Reply {
    let request = call(server, path, &json!({ "prompt": "x" }));
    if key { request.header("Idempotency-Key", "k1").send() } else { request.send() }
}

type Failing = fn() -> Upstream;

fn silent() -> Upstream {
    Upstream::talking(|talk, seen| {
        if let Some(mut asked) = talk.head() {
            talk.body(&mut asked).unwrap();
            seen.lock().unwrap().push(asked);
            std::thread::sleep(Duration::from_secs(30));
        }
    })
}

fn of_status(status: u16) -> Upstream {
    let body = json!({ "error": "secret of upstream" }).to_string();
    Upstream::always(answer(status, &[("content-type", "application/json")], body.as_bytes()))
}

#[test]
fn what_did_nothing_goes_elsewhere_whatever_it_is() {
    let failing: [(&str, Failing); 11] = [
        ("1002", || Upstream::always(native(1002))),
        ("1039", || Upstream::always(native(1039))),
        ("1041", || Upstream::always(native(1041))),
        ("2045", || Upstream::always(native(2045))),
        ("1008", || Upstream::always(native(1008))),
        ("1004", || Upstream::always(native(1004))),
        ("2049", || Upstream::always(native(2049))),
        ("429", || of_status(429)),
        ("402", || of_status(402)),
        ("401", || of_status(401)),
        ("403", || of_status(403)),
    ];
    let well = Upstream::always(native(0));
    for (what, failing) in failing {
        let failing = failing();
        for path in [HARMLESS, LASTING] {
            let server = with(&failing.url(), Some(&well.url()));
            assert_eq!(ask(&server, path, false).code(), 0, "{what} {path}");
        }
        assert_eq!(failing.seen().len(), 2, "{what}");
    }
    let server = with(&nowhere(), Some(&well.url()));
    assert_eq!(ask(&server, LASTING, false).code(), 0);
}

#[test]
fn what_may_have_been_done_goes_elsewhere_only_if_it_may_be_done_twice() {
    let failing: [(&str, Failing, i64); 4] = [
        ("500", || of_status(500), 0),
        ("529", || of_status(529), 0),
        ("closed", || Upstream::answering(|_| None), 1013),
        ("silent", silent, 1013),
    ];
    let well = Upstream::always(native(0));
    for (what, failing, code) in failing {
        for (path, key, again) in
            [(HARMLESS, false, true), (LASTING, false, false), (LASTING, true, true)]
        {
            let failing = failing();
            let server = with(&failing.url(), Some(&well.url()));
            let before = well.seen().len();
            let reply = ask(&server, path, key);
            assert_eq!(well.seen().len() - before, usize::from(again), "{what} {path} {key}");
            if again {
                assert_eq!(reply.code(), 0, "{what} {path} {key}");
            } else if code == 0 {
                // Upstream's own words.
                assert!(reply.text().contains("secret of upstream"), "{}", reply.text());
                assert_eq!(reply.status.to_string(), what);
            } else {
                assert_eq!(reply.code(), code);
                assert!(reply.message().contains("may have been done"), "{}", reply.message());
            }
            assert_eq!(failing.seen().len(), 1, "{what}");
        }
    }
}

#[test]
fn a_kept_connection_that_was_closed_costs_nobody_anything() {
    let upstream = Upstream::talking(|talk, seen| {
        if let Some(mut asked) = talk.head() {
            talk.body(&mut asked).unwrap();
            seen.lock().unwrap().push(asked);
            // It says that it keeps the connection, and does not.
            talk.write(native(0)).unwrap();
        }
    });
    let server = with(&upstream.url(), None);
    for _ in 0..20 {
        assert_eq!(ask(&server, LASTING, false).code(), 0);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(upstream.seen().len(), 20);
}

#[test]
fn anything_else_is_upstreams_answer() {
    let well = Upstream::always(native(0));
    for code in [1000, 1001, 1013, 1024, 1026, 1027, 1033, 2013, 2038, 2056, 99999] {
        let failing = Upstream::always(native(code));
        let server = with(&failing.url(), Some(&well.url()));
        let reply = ask(&server, HARMLESS, false);
        assert_eq!((reply.code(), reply.message()), (code, format!("upstream {code}")));
    }
    assert_eq!(well.seen().len(), 0);
}

#[test]
fn an_event_stream_that_begins_with_a_limit_goes_elsewhere() {
    let well = Upstream::always(native(0));
    let limited = Upstream::always(answer(
        200,
        &[("content-type", "text/event-stream")],
        b"data: {\"base_resp\":{\"status_code\":1002,\"status_msg\":\"x\"}}\n\n",
    ));
    let server = with(&limited.url(), Some(&well.url()));
    assert_eq!(ask(&server, "/v1/chat/completions", false).code(), 0);
    assert_eq!(well.seen().len(), 1);
}

#[test]
fn when_nothing_is_left_the_client_is_told_once_and_no_secrets() {
    let limited = Upstream::always(answer(
        429,
        &[("content-type", "application/json"), ("retry-after", "7")],
        b"{}",
    ));
    let failing = of_status(500);
    let server = with(&limited.url(), None);
    let reply = ask(&server, HARMLESS, false);
    assert_eq!((reply.code(), reply.header("retry-after")), (1002, Some("7")));
    assert!(reply.message().contains("1 channel: 1 limited"), "{}", reply.message());
    // The channel is left alone, and the answer is the same.
    let reply = ask(&server, HARMLESS, false);
    assert_eq!(reply.code(), 1002);
    assert_eq!(limited.seen().len(), 1);

    add(&server, "second", &failing.url(), json!({}));
    add(&server, "third", &nowhere(), json!({}));
    let reply = ask(&server, HARMLESS, false);
    assert_eq!(reply.code(), 1013);
    let message = reply.message();
    assert!(message.contains("3 channels: 1 failed, 1 limited, 1 unreachable"), "{message}");
    for secret in ["first", "second", "127.0.0.1", "secret of upstream"] {
        assert!(!reply.text().contains(secret), "{}", reply.text());
    }
}

#[test]
fn on_a_channel_of_its_own_an_account_hears_upstream() {
    let server = setup().start();
    let operators = Upstream::always(native(0));
    add(&server, "operators", &operators.url(), json!({ "priority": 9 }));
    let own = Upstream::always(native(1008));
    add_for(&server, "own", &own.url(), json!({}), Some("default"));
    let reply = ask(&server, HARMLESS, false);
    assert_eq!((reply.code(), reply.message()), (1008, "upstream 1008".to_owned()));
    assert_eq!(operators.seen().len(), 0);
    // Another account does not see it.
    server.command(&["account", "create", "--name", "other"]);
    let key = server.make_key("k", "other");
    let request = filegate_testkit::http::Request::new(&server.address, "POST", HARMLESS);
    let reply = request.bearer(&key).header("Content-Type", "application/json").body("{}").send();
    assert_eq!((reply.code(), operators.seen().len()), (0, 1));
}

#[test]
fn no_more_channels_are_tried_than_is_set() {
    let server = setup().config("[relay]\nattempts_max = 2\n").start();
    let failing: Vec<Upstream> = (0..4).map(|_| of_status(503)).collect();
    for (n, upstream) in failing.iter().enumerate() {
        add(&server, &format!("c{n}"), &upstream.url(), json!({}));
    }
    assert_eq!(ask(&server, HARMLESS, false).code(), 1013);
    assert_eq!(failing.iter().map(|upstream| upstream.seen().len()).sum::<usize>(), 2);
}

#[test]
fn when_all_fail_few_calls_are_sent_again() {
    let server = setup().config("[relay]\nretry_percent = 10\nbreaker_failures = 100000\n").start();
    let failing: Vec<Upstream> = (0..2).map(|_| of_status(500)).collect();
    for (n, upstream) in failing.iter().enumerate() {
        add(&server, &format!("c{n}"), &upstream.url(), json!({}));
    }
    let began = Instant::now();
    for _ in 0..60 {
        assert_eq!(ask(&server, HARMLESS, false).code(), 1013);
    }
    let calls: usize = failing.iter().map(|upstream| upstream.seen().len()).sum();
    // Ten always may be, in ten seconds.
    let windows = 1 + began.elapsed().as_secs() as usize / 10;
    assert!((70..=60 + 10 * windows).contains(&calls), "{calls}");
}

#[test]
fn the_channels_of_an_account_are_all_it_uses() {
    let server = setup().start();
    let (one, two) = (Upstream::always(native(0)), Upstream::always(native(0)));
    add(&server, "one", &one.url(), json!({}));
    add(&server, "two", &two.url(), json!({}));
    let settings: Value = json!({ "channels": ["two"] });
    let set = crate::kit::operator(&server, "/accounts/default", &json!({ "settings": settings }));
    assert_eq!(set.status, 200, "{}", set.text());
    for _ in 0..10 {
        assert_eq!(ask(&server, HARMLESS, false).code(), 0);
    }
    assert_eq!((one.seen().len(), two.seen().len()), (0, 10));
}
