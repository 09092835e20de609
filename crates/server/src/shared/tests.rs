//! Gates of several replicas on a real Redis, and the rules that hold for a gate with one and without.
//!
//! Limits here are such that the next request comes free in half a minute or more: what is counted is then
//! exact, however slow the machine is.

use std::time::{Duration, Instant};

use filegate_store::catalog::KeySelector;
use filegate_store::{Caller, KeyDraft};
use filegate_testkit::redis::Redis;
use filegate_types::units::{Bytes, Span};
use filegate_types::{Call, KeyHash, KeyId, Money, Principal, Scopes};
use http::{HeaderMap, Method};

use super::*;
use crate::Server;
use crate::admin::LocalAdmin;
use crate::gate::Gate;
use crate::gate::limits::Allowance;
use crate::gate::tests::principal;

/// A replica, as far as limits are concerned. Its connection and leases are kept by the test.
struct Replica {
    gate: Arc<Gate>,
    link: Arc<Link>,
    tasks: Tasks,
}

impl Replica {
    fn of(config: &Config) -> Self {
        let link = Link::new(config).unwrap().unwrap();
        let tasks = Tasks::default();
        let shared = Shared::new(config, Some(&link), &tasks);
        Self { gate: Arc::new(Gate::new(config, shared)), link, tasks }
    }

    async fn on(redis: &Redis) -> Self {
        let replica = Self::of(&settings(redis, Span::seconds(5)));
        replica.link.check().await;
        assert!(replica.link.is_up());
        replica
    }

    fn leases(&self) -> &Arc<Leases> {
        &self.gate.shared().unwrap().leases
    }
}

fn settings(redis: &Redis, timeout: Span) -> Config {
    let mut config = Config::default();
    let url = serde_json::Value::from(redis.url());
    config.redis_url = serde_json::from_value(url).unwrap();
    redis.prefix().clone_into(&mut config.redis.prefix);
    config.redis.timeout = timeout;
    config
}

/// Somebody with one request in a minute, and so many at once.
fn limited(burst: u32) -> Principal {
    let mut limited = principal(1, 1);
    limited.key_limits.requests_per_minute = Some(1);
    limited.key_limits.request_burst = Some(burst);
    limited
}

fn gate_without() -> Arc<Gate> {
    Arc::new(Gate::new(&Config::default(), None))
}

async fn requests_are_counted(gate: &Gate) {
    let limited = limited(3);
    for (remaining, reset_s) in [(2, 60), (1, 120), (0, 180)] {
        let left = Some(Allowance { per_minute: 1, remaining, reset_s });
        assert_eq!(gate.request(&limited).await, (left, Ok(())));
    }
    let (left, over) = gate.request(&limited).await;
    assert_eq!(left, Some(Allowance { per_minute: 1, remaining: 0, reset_s: 180 }));
    let over = over.unwrap_err();
    let wait = over.retry_after_s.unwrap();
    assert!((50..=60).contains(&wait), "{over}");
    let says = "rate limit: 1 requests per minute of this key are used up, retry in";
    assert_eq!(over.message(), format!("{says} {wait} s"));
    // One that was changed starts anew, and no limit is none.
    let mut changed = limited.clone();
    changed.key_limits.request_burst = Some(1);
    assert!(gate.request(&changed).await.1.is_ok());
    changed.key_limits.requests_per_minute = Some(0);
    let (left, none) = gate.request(&changed).await;
    assert_eq!(left, Some(Allowance { per_minute: 0, remaining: 0, reset_s: 60 }));
    assert!(none.unwrap_err().message().ends_with("retry in 60 s"));
    assert_eq!(gate.request(&principal(1, 1)).await, (None, Ok(())));
}

async fn a_flooding_key_does_not_use_up_its_account(gate: &Gate) {
    let mut flooding = limited(2);
    flooding.account_limits.requests_per_minute = Some(1);
    flooding.account_limits.request_burst = Some(5);
    let mut other = flooding.clone();
    other.key_id = KeyId(2);
    other.key_limits.requests_per_minute = None;
    for _ in 0..20 {
        let _ = gate.request(&flooding).await;
    }
    for remaining in [2, 1, 0] {
        let (left, counted) = gate.request(&other).await;
        assert_eq!((left.unwrap().remaining, counted), (remaining, Ok(())));
    }
    let over = gate.request(&other).await.1.unwrap_err();
    assert!(over.message().contains("1 requests per minute of this account"), "{over}");
    // What is refused by the account is charged to the key alone.
    let mut third = flooding.clone();
    third.key_id = KeyId(3);
    for says in ["this account", "this account", "this key"] {
        let over = gate.request(&third).await.1.unwrap_err();
        assert!(over.message().contains(says), "{over}");
    }
    // Also by an account that has none.
    third.key_id = KeyId(4);
    third.account_limits.requests_per_minute = Some(0);
    for says in ["0 requests per minute of this account", "this account", "this key"] {
        let over = gate.request(&third).await.1.unwrap_err();
        assert!(over.message().contains(says), "{over}");
    }
}

async fn extremes_neither_fail_nor_let_everything_through(gate: &Arc<Gate>) {
    let mut most = principal(1, 1);
    for (per_minute, burst, second) in
        [(u32::MAX, None, true), (1, Some(u32::MAX), true), (1, Some(0), false)]
    {
        most.key_limits.requests_per_minute = Some(per_minute);
        most.key_limits.request_burst = burst;
        assert!(gate.request(&most).await.1.is_ok());
        assert_eq!(gate.request(&most).await.1.is_ok(), second, "{per_minute} {burst:?}");
    }
    let mut bytes = principal(1, 1);
    for (per_minute, first) in [(u64::MAX, u64::MAX), (1, 1), (1 << 30, u64::MAX)] {
        bytes.key_limits.bytes_per_minute = Some(Bytes(per_minute));
        drop(gate.upload(&bytes, Some(first)).await.unwrap());
        assert!(gate.upload(&bytes, Some(u64::MAX)).await.is_err(), "{per_minute}");
    }
    bytes.key_limits.bytes_per_minute = Some(Bytes(0));
    let none = gate.upload(&bytes, None).await.unwrap_err();
    assert!(none.message().ends_with("retry in 60 s"), "{none}");
}

async fn bytes_are_charged(gate: &Arc<Gate>) {
    let mut who = principal(1, 1);
    who.account_limits.bytes_per_minute = Some(Bytes::kib(60));
    let upload = async |bytes: u64| gate.upload(&who, Some(bytes)).await.map(drop);
    upload(40 << 10).await.unwrap();
    let over = upload(59 << 10).await.unwrap_err();
    let wait = over.retry_after_s.unwrap();
    assert!((30..=39).contains(&wait), "{over}");
    let says = "rate limit: 60KiB of uploads per minute of this account are used up, retry in";
    assert_eq!(over.message(), format!("{says} {wait} s"));
    upload(20 << 10).await.unwrap();
    assert!(upload(50 << 10).await.is_err());
}

async fn what_came_without_a_length_is_charged_afterwards(gate: &Arc<Gate>) {
    let mut who = principal(7, 7);
    who.key_limits.bytes_per_minute = Some(Bytes::kib(60));
    let begin = async || {
        let (place, tally) = gate.upload(&who, None).await?;
        place.leave().await;
        Ok::<_, ApiError>(tally.unwrap())
    };
    let (mut first, mut second) = (begin().await.unwrap(), begin().await.unwrap());
    first.add(50 << 10);
    second.add(1 << 30);
    // One is settled and the other is dropped, as an upload that was cut off.
    first.settle().await;
    drop(second);
    let over = eventually(async || begin().await.err()).await;
    // 50 KiB were used, and a minute's worth is owed.
    assert!((40..=51).contains(&over.retry_after_s.unwrap()), "{over}");
}

async fn places_of_key_and_account(gate: &Arc<Gate>) {
    let mut one = principal(1, 1);
    one.key_limits.concurrent_uploads = Some(1);
    one.account_limits.concurrent_uploads = Some(2);
    let mut two = one.clone();
    two.key_id = KeyId(2);
    let enter = async |who: &Principal| gate.upload(who, Some(1)).await.map(|(place, _)| place);
    let first = enter(&one).await.unwrap();
    let refused = enter(&one).await.unwrap_err();
    assert_eq!(refused.message(), "rate limit: 1 uploads at a time of this key, retry in 1 s");
    let second = enter(&two).await.unwrap();
    two.key_id = KeyId(3);
    let refused = enter(&two).await.unwrap_err();
    assert!(refused.message().contains("2 uploads at a time of this account"), "{refused}");
    first.leave().await;
    let again = enter(&one).await.unwrap();
    // Refused by its bytes it holds nothing.
    second.leave().await;
    two.account_limits.bytes_per_minute = Some(Bytes(0));
    assert!(enter(&two).await.is_err());
    two.account_limits.bytes_per_minute = None;
    let third = enter(&two).await.unwrap();
    // Cut off.
    drop((again, third));
    eventually(async || enter(&one).await.ok()).await.leave().await;
}

async fn eventually<T>(mut check: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1000 {
        if let Some(value) = check().await {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within ten seconds");
}

macro_rules! on_both {
    ($($rule:ident),+) => { $(mod $rule {
        #[tokio::test]
        async fn here() {
            super::$rule(&super::gate_without()).await;
        }

        #[tokio::test]
        async fn in_redis() {
            let redis = super::Redis::shared();
            super::$rule(&super::Replica::on(&redis).await.gate).await;
        }
    })+ };
}

on_both!(
    requests_are_counted,
    a_flooding_key_does_not_use_up_its_account,
    extremes_neither_fail_nor_let_everything_through,
    bytes_are_charged,
    what_came_without_a_length_is_charged_afterwards,
    places_of_key_and_account
);

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_over_two_replicas_lets_in_as_many_as_one_would() {
    let redis = Redis::shared();
    let replicas = [Replica::on(&redis).await, Replica::on(&redis).await];
    let limited = limited(10);
    let calls: Vec<_> = (0..1000)
        .map(|i| {
            let (gate, limited) = (Arc::clone(&replicas[i % 2].gate), limited.clone());
            replicas[i % 2].tasks.spawn(async move { gate.request(&limited).await.1 })
        })
        .collect();
    let mut passed = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(()) => passed += 1,
            Err(over) => assert_eq!(over.code, ErrorCode::RateLimit, "{over}"),
        }
    }
    assert_eq!(passed, 10);
    assert!(replicas.iter().all(|replica| replica.link.is_up()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_uploads_at_a_time_over_two_replicas_than_there_are_places() {
    let redis = Redis::shared();
    let replicas = [Replica::on(&redis).await, Replica::on(&redis).await];
    let mut who = principal(1, 1);
    who.account_limits.concurrent_uploads = Some(7);
    let enter = |i: usize| {
        let (gate, who) = (Arc::clone(&replicas[i % 2].gate), who.clone());
        replicas[i % 2].tasks.spawn(async move { gate.upload(&who, Some(1)).await })
    };
    for _round in 0..3 {
        let calls: Vec<_> = (0..200).map(enter).collect();
        let mut places = vec![];
        for call in calls {
            places.extend(call.await.unwrap().ok());
        }
        assert_eq!(places.len(), 7);
        for (place, _) in places {
            place.leave().await;
        }
    }
}

#[tokio::test]
async fn places_of_a_dead_replica_come_back_and_those_of_a_living_one_stay() {
    let redis = Redis::shared();
    let mut config = settings(&redis, Span::seconds(5));
    config.redis.lease = Span::seconds(1);
    let (living, dead) = (Replica::of(&config), Replica::of(&config));
    living.link.check().await;
    dead.link.check().await;
    let mut who = principal(1, 1);
    who.key_limits.concurrent_uploads = Some(2);
    living.tasks.spawn(leases::keep(Arc::clone(living.leases()), living.tasks.clone()));
    let (mine, _) = living.gate.upload(&who, Some(1)).await.unwrap();
    let (its, _) = dead.gate.upload(&who, Some(1)).await.unwrap();
    assert!(living.gate.upload(&who, Some(1)).await.is_err());
    // It dies: nobody renews its lease, and nobody gives it back.
    std::mem::forget(its);
    let second = eventually(async || living.gate.upload(&who, Some(1)).await.ok()).await;
    // By now the lease of the first would have ended as well.
    assert!(living.gate.upload(&who, Some(1)).await.is_err());
    mine.leave().await;
    second.0.leave().await;
    let key = format!("{}u:k1", redis.prefix());
    assert_eq!(redis.command(&["ZCARD", &key]), "0");
    living.tasks.stop(Duration::from_secs(5)).await;
}

type Turn = fn(&mut Redis);

/// Ways in which Redis can be away, each with its end.
const WAYS: [(&str, Turn, Turn); 6] = [
    ("killed", Redis::stop, Redis::start_again),
    ("silent", Redis::pause, Redis::resume),
    (
        "full",
        |redis| drop(redis.command(&["CONFIG", "SET", "maxmemory", "1"])),
        |redis| drop(redis.command(&["CONFIG", "SET", "maxmemory", "0"])),
    ),
    (
        "read-only",
        |redis| drop(redis.command(&["REPLICAOF", "127.0.0.1", "1"])),
        |redis| drop(redis.command(&["REPLICAOF", "NO", "ONE"])),
    ),
    ("locked", |redis| redis.set_password("geheim"), |redis| redis.set_password("")),
    (
        "broken",
        |redis| {
            // Keys that somebody else has written.
            for key in ["r:k1:1:3", "b:k1:61440", "u:k1"] {
                redis.command(&["DEL", &format!("filegate:{key}")]);
                redis.command(&["HSET", &format!("filegate:{key}"), "a", "b"]);
            }
        },
        |redis| drop(redis.command(&["FLUSHALL"])),
    ),
];

/// A replica whose Redis goes in one of the [`WAYS`] while an upload is in progress.
async fn without_redis(
    on_failure: LimitFailure,
    while_away: impl AsyncFn(&Replica, &Principal, &str),
) {
    let mut redis = Redis::start();
    for (way, goes, comes) in WAYS {
        let mut config = settings(&redis, Span::seconds(1));
        config.limits.on_failure = on_failure;
        let replica = Replica::of(&config);
        replica.link.check().await;
        let mut who = limited(3);
        who.key_limits.concurrent_uploads = Some(2);
        let (ends, _) = replica.gate.upload(&who, Some(1)).await.unwrap();
        who.key_limits.bytes_per_minute = Some(Bytes::kib(60));
        let (place, _) = replica.gate.upload(&who, Some(60 << 10)).await.unwrap();
        // A Redis that cannot write could still say that a limit is used up.
        redis.command(&["DEL", "filegate:b:k1:61440"]);
        goes(&mut redis);
        ends.leave().await;
        while_away(&replica, &who, way).await;
        // Whoever has no limits sees nothing of it.
        let free = principal(9, 9);
        assert_eq!(replica.gate.request(&free).await, (None, Ok(())), "{way}");
        replica.gate.upload(&free, None).await.unwrap().0.leave().await;
        assert!(!replica.link.is_up(), "{way}");
        // That it answers is not enough, but all that is broken is a few keys.
        replica.link.check().await;
        assert_eq!(replica.link.is_up(), way == "broken");

        comes(&mut redis);
        eventually(async || {
            replica.link.check().await;
            replica.link.is_up().then_some(())
        })
        .await;
        replica.leases().renew().await.unwrap();
        assert_eq!(redis.command(&["ZCARD", "filegate:u:k1"]), "1", "{way}");
        who.key_limits.bytes_per_minute = None;
        let (second, _) = replica.gate.upload(&who, Some(1)).await.unwrap();
        assert!(replica.gate.upload(&who, Some(1)).await.is_err(), "{way}");
        place.leave().await;
        second.leave().await;
        assert_eq!(redis.command(&["ZCARD", "filegate:u:k1"]), "0", "{way}");
        redis.command(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn without_redis_each_replica_counts_by_itself() {
    without_redis(LimitFailure::Local, async |replica, who, way| {
        for remaining in [2, 1, 0] {
            let (left, counted) = replica.gate.request(who).await;
            assert_eq!((left.unwrap().remaining, counted), (remaining, Ok(())), "{way}");
        }
        let over = replica.gate.request(who).await.1.unwrap_err();
        assert_eq!(over.code, ErrorCode::RateLimit, "{way}: {over}");
        // But the upload that goes on is known, and counts.
        let (second, _) = replica.gate.upload(who, Some(60 << 10)).await.unwrap();
        let over = replica.gate.upload(who, Some(1)).await.unwrap_err();
        assert!(over.message().contains("2 uploads at a time of this key"), "{way}: {over}");
        second.leave().await;
        let over = replica.gate.upload(who, Some(60 << 10)).await.unwrap_err();
        assert!(over.message().contains("60KiB of uploads per minute"), "{way}: {over}");
    })
    .await;
}

#[tokio::test]
async fn without_redis_limited_calls_are_refused_if_that_is_the_policy() {
    without_redis(LimitFailure::Refuse, async |replica, who, way| {
        let limits = &who.key_limits;
        for part in ["requests", "bytes", "places"] {
            let mut who = principal(1, 1);
            let refused = match part {
                "requests" => {
                    who.key_limits.requests_per_minute = limits.requests_per_minute;
                    who.key_limits.request_burst = limits.request_burst;
                    let (left, refused) = replica.gate.request(&who).await;
                    assert_eq!(left, None);
                    refused.unwrap_err()
                }
                "bytes" => {
                    who.key_limits.bytes_per_minute = limits.bytes_per_minute;
                    replica.gate.upload(&who, Some(1)).await.unwrap_err()
                }
                _ => {
                    who.key_limits.concurrent_uploads = limits.concurrent_uploads;
                    replica.gate.upload(&who, Some(1)).await.unwrap_err()
                }
            };
            assert_eq!(refused.message(), "internal service error", "{way} {part}");
            assert_eq!(refused.retry_after_s, Some(1), "{way} {part}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_replica_starts_without_redis_and_asks_it_when_it_is_there() {
    let mut redis = Redis::start();
    redis.stop();
    let replica = Replica::of(&settings(&redis, Span::seconds(5)));
    replica.link.check().await;
    assert!(!replica.link.is_up());
    let limited = limited(1);
    assert!(replica.gate.request(&limited).await.1.is_ok());
    assert!(replica.gate.request(&limited).await.1.is_err());
    redis.start_again();
    replica.link.check().await;
    assert!(replica.gate.request(&limited).await.1.is_ok());
    assert_eq!(redis.command(&["EXISTS", "filegate:r:k1:1:1"]), "1");
    let life: i64 = redis.command(&["PTTL", "filegate:r:k1:1:1"]).parse().unwrap();
    assert!((1..=61_000).contains(&life), "{life}");
}

/// A server that hears of changes, with a key, and the command line beside it.
struct Company {
    server: Server,
    admin: LocalAdmin,
    key: KeyHash,
    _home: tempfile::TempDir,
}

impl Company {
    async fn on(redis: &Redis) -> Self {
        let home = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let mut config = settings(redis, Span(Duration::from_millis(500)));
        config.data_dir = home.path().join("data");
        config.listen = any;
        config.admin_listen = any;
        let server = Server::start(config.clone()).await.unwrap();
        let app = &server.app;
        let link = Arc::clone(app.redis.as_ref().unwrap());
        app.tasks.spawn(changes::listen(link, Arc::clone(&app.callers), app.tasks.clone()));
        let admin = LocalAdmin::open(config).await.unwrap();
        let key = KeyHash::of("fg-test");
        let draft = KeyDraft {
            account: "default".to_owned(),
            name: "test".to_owned(),
            hash: key,
            hint: String::new(),
            scopes: Scopes::all(),
            expires_at: None,
        };
        app.catalog.create_key(draft, app.clock.now()).await.unwrap();
        let company = Self { server, admin, key, _home: home };
        company.hears().await;
        company
    }

    async fn hears(&self) {
        let callers = &self.server.app.callers;
        eventually(async || callers.ticket(Instant::now())).await;
    }

    async fn asks(&self, at: Instant) -> Option<Caller> {
        callers::authenticate(&self.server.app, self.key, Call::List, at).await.unwrap()
    }

    fn knows(&self, at: Instant) -> bool {
        self.server.app.callers.get(self.key, Call::List, at).is_some()
    }

    async fn changes(&self, path: &str, body: &'static str) {
        let path = format!("/admin/v1{path}");
        let reply = self.admin.call(Method::POST, &path, HeaderMap::new(), body.into()).await;
        assert_eq!(reply.status(), 200, "{path}: {:?}", reply.body());
    }
}

#[tokio::test]
async fn a_change_is_heard_of_by_all_replicas() {
    let redis = Redis::shared();
    let company = Company::on(&redis).await;
    for (path, body, forgets) in [
        ("/keys/1?dry_run=true", "{\"name\":\"x\"}", false),
        ("/keys/1", "{\"limits\":{\"requests_per_minute\":5}}", true),
        ("/accounts/default", "{\"limits\":{\"concurrent_uploads\":5}}", true),
        ("/keys/1/revoke", "{}", true),
    ] {
        let now = Instant::now();
        assert!(matches!(company.asks(now).await, Some(Caller::Active(_))));
        assert!(company.knows(now), "{path}");
        company.changes(path, body).await;
        if forgets {
            // At the time of the read: it is the message that makes it forget, not the second.
            eventually(async || (!company.knows(now)).then_some(())).await;
        }
    }
    assert!(company.asks(Instant::now()).await.is_none());
    company.admin.close().await;
    assert!(company.server.stop().await);
}

#[tokio::test]
async fn a_change_that_nobody_was_told_of_is_missed_for_a_second_at_most() {
    let redis = Redis::shared();
    let company = Company::on(&redis).await;
    let app = &company.server.app;
    let now = Instant::now();
    assert!(company.asks(now).await.is_some());
    let revoked = app.catalog.revoke_key(KeySelector::Hash(company.key), app.clock.now()).await;
    assert!(revoked.unwrap());
    assert!(company.asks(now + Duration::from_millis(999)).await.is_some());
    assert!(company.asks(now + Duration::from_secs(1)).await.is_none());
    // Strangers are not kept.
    assert!(company.asks(now + Duration::from_secs(5)).await.is_none());
    assert!(!company.knows(now + Duration::from_secs(5)));
}

#[tokio::test]
async fn who_could_not_pay_a_moment_ago_is_looked_up_again() {
    let redis = Redis::shared();
    let company = Company::on(&redis).await;
    let callers = &company.server.app.callers;
    let now = Instant::now();
    let mut poor = principal(1, 1);
    poor.least_price = Money(5);
    callers.put(callers.ticket(now).unwrap(), company.key, Call::List, &poor);
    match company.asks(now).await {
        Some(Caller::Active(fresh)) => assert_eq!(fresh.least_price, Money(0)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nobody_is_kept_while_the_subscription_is_dead() {
    let mut redis = Redis::start();
    let company = Company::on(&redis).await;
    let now = Instant::now();
    let deaf = async || {
        eventually(async || company.server.app.callers.ticket(now).is_none().then_some(())).await;
        assert!(!company.knows(now));
        assert!(company.asks(now).await.is_some());
        assert!(!company.knows(now));
    };
    assert!(company.asks(now).await.is_some() && company.knows(now));
    redis.pause();
    deaf().await;
    redis.resume();
    company.hears().await;
    // The catalog of this test is the embedded one, which remembers callers by itself until it is changed.
    company.server.app.catalog.meta_set("changed", vec![1]).await.unwrap();
    assert!(company.asks(now).await.is_some() && company.knows(now));
    redis.stop();
    deaf().await;
    redis.start_again();
    company.hears().await;
}
