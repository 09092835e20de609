//! Limits that two processes count together in one Redis, and what becomes of them when a process or
//! Redis dies.
//!
//! The processes have a data directory each, with the same key in it: to Redis they are two replicas.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use filegate_testkit::http::Reply;
use filegate_testkit::redis::Redis;
use filegate_testkit::server::{TestServer, eventually};
use serde_json::{Value, json};

use crate::kit::setup;
use crate::limits::{begin, in_flight};
use crate::tenants::{LIST, accepted, get, key_limits, over_limit, upload};

/// A server that counts in `redis`; `more` goes on in its section.
fn start(redis: &Redis, more: &str) -> TestServer {
    setup().embedded().config(&format!("{}{more}", redis.settings())).start()
}

/// Two servers with the same key, whose limits are `limits`.
fn pair(redis: &Redis, more: &str, limits: &Value) -> [TestServer; 2] {
    let first = start(redis, more);
    let mut second = start(redis, more);
    let hash: String = first.value("SELECT key_hash FROM keys WHERE name = 'test'");
    let hash = hash.trim_start_matches("\\x");
    second.sql(&format!("UPDATE keys SET key_hash = X'{hash}' WHERE name = 'test'"));
    second.key.clone_from(&first.key);
    for server in [&first, &second] {
        let id: i64 = server.value("SELECT key_id FROM keys WHERE name = 'test'");
        assert_eq!(id, 1);
        key_limits(server, limits);
    }
    [first, second]
}

/// A Redis that answers within it is none that is away, however busy the machine is.
const PATIENT: &str = "timeout = \"4s\"\n";

#[test]
fn a_flood_over_two_processes_lets_in_what_the_limit_says() {
    let redis = Redis::shared();
    let limits = json!({"requests_per_minute": 1, "request_burst": 10});
    let servers = pair(&redis, PATIENT, &limits);
    let passed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for i in 0..16 {
            let (server, passed) = (&servers[i % 2], &passed);
            scope.spawn(move || {
                for _ in 0..8 {
                    let reply = server.get(LIST);
                    assert_eq!(reply.header("ratelimit-policy"), Some("\"requests\";q=1;w=60"));
                    if reply.code() == 0 {
                        passed.fetch_add(1, Ordering::Relaxed);
                    } else {
                        over_limit(&reply, "1 requests per minute of this key are used up");
                        assert_eq!(reply.header("ratelimit"), Some("\"requests\";r=0;t=600"));
                    }
                }
            });
        }
    });
    assert_eq!(passed.into_inner(), 10);
    for server in &servers {
        assert!((server.metric("filegate_redis_up") - 1.0).abs() < 0.5);
        assert_eq!(server.admin("GET", "/status").send().json()["redis_up"], true);
    }
}

#[test]
fn bytes_of_a_minute_are_those_of_both_processes() {
    let redis = Redis::shared();
    let [first, second] = pair(&redis, PATIENT, &json!({"bytes_per_minute": "1MiB"}));
    accepted(&upload(&first, &first.key, &vec![b'x'; 600 << 10]));
    let message = "1MiB of uploads per minute of this key are used up";
    over_limit(&upload(&second, &second.key, &vec![b'x'; 900 << 10]), message);
    accepted(&upload(&second, &second.key, &vec![b'x'; 300 << 10]));
    over_limit(&upload(&first, &first.key, &vec![b'x'; 900 << 10]), message);
}

#[test]
fn uploads_at_a_time_are_those_of_both_processes() {
    let redis = Redis::shared();
    let [first, second] = pair(&redis, PATIENT, &json!({"concurrent_uploads": 2}));
    let message = "2 uploads at a time of this key";
    let (mut one, rest) = begin(&first, &first.key);
    in_flight(&first, 1);
    let (other, _) = begin(&second, &second.key);
    in_flight(&second, 1);
    for server in [&first, &second] {
        over_limit(&upload(server, &server.key, b"x"), message);
    }
    // One that has been answered is free at once, whoever is asked next.
    one.write(&rest).unwrap();
    accepted(&one.reply().unwrap());
    for _ in 0..10 {
        for server in [&second, &first] {
            accepted(&upload(server, &server.key, b"x"));
        }
    }
    // One that was cut off a moment later.
    drop(other);
    in_flight(&second, 0);
    let _one = begin(&first, &first.key);
    in_flight(&first, 1);
    eventually("the place of the upload that was cut off is free", || {
        (upload(&first, &first.key, b"x").code() == 0).then_some(())
    });
}

#[test]
fn places_of_a_killed_process_come_back() {
    let redis = Redis::shared();
    let limits = json!({"concurrent_uploads": 2});
    let [first, mut second] = pair(&redis, "timeout = \"600ms\"\nlease = \"4s\"\n", &limits);
    let _living = begin(&first, &first.key);
    in_flight(&first, 1);
    let _dead = begin(&second, &second.key);
    in_flight(&second, 1);
    over_limit(&upload(&first, &first.key, b"x"), "2 uploads at a time of this key");
    second.kill();
    eventually("the lease of the dead has ended", || {
        (upload(&first, &first.key, b"x").code() == 0).then_some(())
    });
    // That of the living, which is as old, has not.
    let _another = begin(&first, &first.key);
    in_flight(&first, 2);
    over_limit(&upload(&first, &first.key, b"x"), "2 uploads at a time of this key");
}

/// What one client sees while Redis dies and comes back under load.
fn under_load(server: &TestServer, key: &str, ends: &AtomicBool) -> Vec<Reply> {
    let mut replies = vec![];
    while !ends.load(Ordering::Relaxed) {
        replies.push(get(server, key, LIST));
        replies.push(upload(server, key, b"a file"));
    }
    replies
}

fn redis_dies_under_load(on_failure: &str, refused: bool) {
    let mut redis = Redis::start();
    let more =
        format!("timeout = \"2s\"\nlease = \"20s\"\n[limits]\non_failure = \"{on_failure}\"\n");
    let plenty = json!({"requests_per_minute": 900_000, "bytes_per_minute": "100GiB", "concurrent_uploads": 1000});
    let servers = pair(&redis, &more, &plenty);
    let free = servers.each_ref().map(|server| server.make_key("free", "free"));
    let ends = AtomicBool::new(false);
    let up = |expected: bool| {
        for server in &servers {
            eventually("the server sees how Redis is", || {
                let status = server.admin("GET", "/status").send().json();
                assert_eq!(status["ready"], true, "{status}");
                (status["redis_up"] == expected).then_some(())
            });
            assert_eq!(server.metric("filegate_redis_up") > 0.5, expected);
        }
    };
    let (limited, unlimited) = thread::scope(|scope| {
        let run = |i: usize, key: String| {
            let (server, ends) = (&servers[i], &ends);
            scope.spawn(move || under_load(server, &key, ends))
        };
        let limited = [0, 1].map(|i| run(i, servers[i].key.clone()));
        let unlimited = [0, 1].map(|i| run(i, free[i].clone()));
        up(true);
        redis.stop();
        up(false);
        for server in &servers {
            let reply = get(server, &server.key, LIST);
            assert_eq!(reply.code(), if refused { 1013 } else { 0 }, "{}", reply.text());
        }
        redis.start_again();
        up(true);
        redis.pause();
        up(false);
        redis.resume();
        up(true);
        ends.store(true, Ordering::Relaxed);
        let join = |clients: [thread::ScopedJoinHandle<'_, Vec<Reply>>; 2]| {
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
        };
        (join(limited), join(unlimited))
    });
    unlimited.iter().for_each(accepted);
    let mut away = 0;
    for reply in &limited {
        if refused && reply.code() == 1013 {
            assert_eq!(reply.message(), "internal service error");
            assert_eq!(reply.header("retry-after"), Some("1"));
            away += 1;
        } else {
            accepted(reply);
        }
    }
    assert_eq!(away > 0, refused, "{away} of {}", limited.len());
    for server in &servers {
        accepted(&get(server, &server.key, LIST));
        let log = server.log();
        // Killed and paused: twice it went, and twice it came back.
        assert_eq!(log.matches("redis.away").count(), 2, "{log}");
        assert_eq!(log.matches("redis.back").count(), 2, "{log}");
    }
}

#[test]
fn redis_dies_under_load_and_each_process_counts_by_itself() {
    redis_dies_under_load("local", false);
}

#[test]
fn redis_dies_under_load_and_limited_calls_are_refused() {
    redis_dies_under_load("refuse", true);
}

#[test]
fn redis_over_tls_has_to_show_a_certificate_that_is_trusted() {
    let redis = Redis::start_tls();
    let config = format!("redis_url = \"{}\"\n[redis]\n{PATIENT}", redis.tls_url());
    let authority = redis.authority();
    let trusting = setup()
        .embedded()
        .config(&config)
        .env("SSL_CERT_FILE", authority.to_str().unwrap())
        .start();
    assert_eq!(trusting.admin("GET", "/status").send().json()["redis_up"], true);
    key_limits(&trusting, &json!({"requests_per_minute": 1}));
    accepted(&trusting.get(LIST));
    assert_eq!(redis.command(&["EXISTS", "filegate:r:k1:1:1"]), "1");
    let stranger = setup().embedded().config(&config).start();
    assert_eq!(stranger.admin("GET", "/status").send().json()["redis_up"], false);
    assert!(stranger.log().contains("UnknownIssuer"), "{}", stranger.log());
}

#[test]
fn a_server_starts_without_redis_and_not_with_a_wrong_url() {
    let mut redis = Redis::start();
    redis.stop();
    let begun = Instant::now();
    let server = start(&redis, "");
    assert!(begun.elapsed() < Duration::from_secs(10));
    accepted(&server.get(LIST));
    assert_eq!(server.admin("GET", "/status").send().json()["redis_up"], false);
    assert_eq!(server.log().matches("redis.away").count(), 1, "{}", server.log());
    let home = tempfile::tempdir().unwrap();
    let wrong = setup().embedded().env("FILEGATE_REDIS_URL", "redis://me:geheim@localhost:port/0");
    let log = wrong.try_start_on(home.path()).unwrap_err();
    assert!(log.contains("setting redis_url: redis://…@localhost:port/0: "), "{log}");
    assert!(!log.contains("geheim"), "{log}");
}
