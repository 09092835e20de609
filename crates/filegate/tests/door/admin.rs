//! The admin API: who may do what, and what holds for every call.

use std::thread;

use filegate_server::admin_routes;
use filegate_testkit::http::Reply;
use filegate_testkit::server::{Setup, TestServer};
use filegate_types::AdminScope;
use serde_json::{Value, json};

pub(crate) fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_filegate"))
}

pub(crate) fn get(server: &TestServer, path: &str) -> Value {
    let reply = server.admin("GET", path).send();
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.json()
}

pub(crate) fn send(server: &TestServer, path: &str, body: &Value) -> Reply {
    server.admin("POST", path).body(body.to_string()).send()
}

pub(crate) fn post(server: &TestServer, path: &str, body: &Value) -> Value {
    let reply = send(server, path, body);
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.json()
}

/// A problem of RFC 9457 whose detail has `says`.
pub(crate) fn refused(reply: &Reply, status: u16, says: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem = reply.json();
    assert_eq!(problem["status"], status);
    assert!(problem["title"].is_string() && problem["type"].is_string(), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
}

pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// Every list that shows what could have changed.
fn everything(server: &TestServer) -> Vec<Value> {
    let lists = ["accounts", "keys", "files", "receipts", "ledger", "prices", "tokens", "audit"];
    let more = ["moderation/blocked", "moderation/reviews", "uploads", "jobs"];
    lists.iter().chain(&more).map(|list| get(server, &format!("/{list}"))).collect()
}

#[test]
fn every_route_with_every_token() {
    let server = setup().start();
    let token = |name: &str, scope: &str| {
        let made = post(&server, "/tokens", &json!({"name": name, "scope": scope}));
        (text(&made, "token").to_owned(), made["id"].as_i64().unwrap())
    };
    let (revoked, id) = token("revoked", "full");
    post(&server, &format!("/tokens/{id}/revoke"), &json!({}));
    let expired =
        post(&server, "/tokens", &json!({"name": "expired", "scope": "full", "expires_in": "1ms"}));
    let unknown = format!("fg-admin-{}", "A".repeat(43));
    let bad = ["", &unknown, &revoked, text(&expired, "token"), &server.key, "x", "' OR 1=1/**/--"];
    let scoped = AdminScope::ALL.map(|scope| (scope, token(scope.name(), scope.name()).0));
    let mut routes = 0;
    for (method, path, least) in admin_routes() {
        routes += 1;
        // Tried only: what is let in must not change what the next one finds.
        let query = if method == "POST" { "?dry_run=true" } else { "" };
        let target = format!("{}{query}", path.replace("{name}", "default").replace("{id}", "1"));
        let ask = |token: &str| {
            let request = server.admin_as(token, method.as_str(), &target);
            if method == "POST" { request.body("{}").send() } else { request.send() }
        };
        for token in bad {
            let reply = ask(token);
            refused(&reply, 401, "token");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{target}");
        }
        for (scope, token) in &scoped {
            let reply = ask(token);
            if *scope < least {
                refused(&reply, 403, &format!("the call wants {least}"));
            } else {
                let let_in = ![401, 403, 405, 500, 503].contains(&reply.status);
                assert!(let_in, "{method} {target} as {scope}: {}", reply.text());
            }
        }
        // The same path has nothing on the listener of clients.
        let public = filegate_testkit::http::Request::new(
            &server.address,
            method.as_str(),
            &format!("/admin/v1{target}"),
        );
        assert_eq!(public.bearer(&scoped[2].1).send().status, 404, "{target}");
    }
    assert!(routes > 40);
    refused(&server.admin("GET", "/nothing").send(), 404, "unknown path");
    refused(&server.admin("DELETE", "/accounts").send(), 405, "wrong method");
}

#[test]
fn what_a_call_does_not_know_is_refused() {
    let server = setup().start();
    for (path, body, status, says) in [
        ("/accounts", json!({"name": "a", "colour": "red"}), 400, "colour"),
        ("/accounts", json!({}), 400, "name"),
        ("/accounts", json!({"name": ""}), 422, "name"),
        ("/accounts", json!({"name": "x".repeat(256)}), 422, "256 bytes"),
        ("/accounts", json!({"name": "a", "balance": 5}), 422, "balance"),
        ("/accounts", json!({"name": "a", "balance": "-1"}), 422, "balance"),
        ("/accounts", json!({"name": "a", "balance": "0.0000001"}), 422, "six digits"),
        ("/accounts", json!({"name": "a", "limits": {"requests": 5}}), 400, "requests"),
        (
            "/accounts",
            json!({"name": "a", "limits": {"stored_bytes": "lots"}}),
            422,
            "limits.stored_bytes",
        ),
        (
            "/accounts",
            json!({"name": "a", "settings": {"keep_min": "2d", "keep_max": "1d"}}),
            422,
            "keep_max",
        ),
        ("/accounts?dry=true", json!({"name": "a"}), 400, "dry"),
        ("/accounts?dry_run=yes", json!({"name": "a"}), 422, "dry_run"),
        ("/keys", json!({"name": "k", "scopes": ["files:fly"]}), 422, "files:write"),
        ("/keys", json!({"name": "k", "scopes": []}), 422, "scopes"),
        ("/keys", json!({"name": "k", "purposes": "nonsense"}), 422, "voice_clone"),
        ("/keys", json!({"name": "k", "networks": ["10.0.0.0/33"]}), 422, "10.0.0.0/33"),
        ("/keys", json!({"name": "k", "limits": {"stored_bytes": "1MiB"}}), 422, "accounts"),
        ("/keys", json!({"name": "k", "expires_in": "0s"}), 422, "expires_in"),
        ("/prices", json!({"call": "files.fly", "amount": "1"}), 422, "files.upload"),
        ("/prices", json!({"call": "files.list", "unit": "mib", "amount": "1"}), 422, "unit"),
        ("/prices", json!({"call": "files.list", "amount": "-1"}), 422, "amount"),
        ("/ledger/top-up", json!({"account": "default", "amount": "0"}), 422, "amount"),
        ("/ledger/top-up", json!({"account": "nobody", "amount": "1"}), 404, "nobody"),
        ("/ledger/adjust", json!({"account": "default", "amount": "1"}), 422, "reason"),
        ("/moderation/blocked", json!({"list": "sha256", "value": "abc"}), 422, "64 hex"),
        ("/moderation/blocked", json!({"list": "words", "value": "abc"}), 422, "list"),
        ("/moderation/blocked", json!({"list": "term", "value": " "}), 422, "value"),
        ("/files/1/quarantine", json!({}), 422, "reason"),
        ("/files/1/quarantine", json!({"reason": "why"}), 404, "file 1"),
        ("/keys/abc/revoke", json!({}), 404, "numbers"),
        ("/keys/99/revoke", json!({"reason": "why"}), 400, "reason"),
        ("/tokens", json!({"name": "t", "scope": "god"}), 422, "read-only"),
        ("/tokens/99/revoke", json!({}), 404, "token 99"),
    ] {
        refused(&send(&server, path, &body), status, says);
    }
    refused(&server.admin("POST", "/accounts").body("{").send(), 400, "not JSON");
    refused(&server.admin("POST", "/accounts").body("{\"name\":\"a\"} {}").send(), 400, "not JSON");
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(70_000));
    refused(&server.admin("POST", "/accounts").body(large).send(), 413, "65536");
    for (path, status, says) in [
        ("/accounts?limit=0", 422, "1 to 1000"),
        ("/accounts?limit=1001", 422, "1 to 1000"),
        ("/accounts?limit=1&limit=2", 400, "twice"),
        ("/accounts?after=nobody", 422, "after"),
        ("/accounts?colour=red", 400, "colour"),
        ("/keys?after=x", 422, "after"),
        ("/keys?account=nobody&x=1", 400, "x"),
        ("/files?state=odd", 422, "quarantined"),
        ("/files?sha256=zz", 422, "64 hex"),
        ("/files/123", 404, "file 123"),
        ("/accounts/nobody", 404, "nobody"),
        ("/ledger?kind=odd", 422, "top_up"),
        ("/usage?from=yesterday", 422, "from"),
        ("/usage?by=colour", 422, "day"),
    ] {
        refused(&server.admin("GET", path).send(), status, says);
    }
    // Nothing but the key that the fixture made on the data directory.
    assert_eq!(get(&server, "/audit?actor=token:1")["data"], json!([]));
}

#[test]
fn the_same_request_again_has_the_same_answer() {
    let mut server = setup().start();
    let (admin_token, data_dir) = (server.admin_token(), server.data_dir.clone());
    let body = json!({"name": "k", "account": "acme"}).to_string();
    let ask = |server: &TestServer, key: &str, body: &str| {
        let request = server.admin_as(&admin_token, "POST", "/keys");
        request.header("Idempotency-Key", key).body(body).send()
    };
    let first = ask(&server, "one", &body);
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(ask(&server, "one", &body).json(), first.json());
    refused(&ask(&server, "one", "{\"name\":\"other\"}"), 422, "Idempotency-Key");
    refused(&ask(&server, "", &body), 422, "Idempotency-Key");
    // A refusal is not kept: the same request may do better later.
    refused(&ask(&server, "two", "{}"), 400, "name");
    assert_eq!(ask(&server, "two", &body).status, 200);
    // Another token's key is another key.
    let other = post(&server, "/tokens", &json!({"name": "o", "scope": "full"}));
    let theirs = server.admin_as(text(&other, "token"), "POST", "/keys");
    let theirs = theirs.header("Idempotency-Key", "one").body(body.clone()).send().json();
    assert_ne!(theirs["id"], first.json()["id"]);

    let before = get(&server, "/keys")["data"].as_array().unwrap().len();
    let replies: Vec<Reply> = thread::scope(|scope| {
        let ask = &ask;
        let (server, body) = (&server, &body);
        let threads: Vec<_> =
            (0..16).map(|_| scope.spawn(move || ask(server, "many", body))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let settled = ask(&server, "many", &body).json();
    for reply in &replies {
        match reply.status {
            200 => assert_eq!(reply.json(), settled),
            409 => assert_eq!(reply.header("retry-after"), Some("1")),
            _ => panic!("{}", reply.text()),
        }
    }
    assert_eq!(get(&server, "/keys")["data"].as_array().unwrap().len(), before + 1);

    server.kill();
    let again = setup().start_on(&data_dir);
    assert_eq!(ask(&again, "one", &body).json(), first.json());
    // The answer is kept with its secret sealed.
    let secret = text(&first.json(), "key").as_bytes().to_vec();
    let kept = rows(&again);
    assert!(!kept.is_empty() && !kept.windows(secret.len()).any(|window| window == secret));
}

/// What another reader of the database finds in it.
fn rows(server: &TestServer) -> Vec<u8> {
    if server.place().is_none() {
        let read = |name| filegate_testkit::server::read(&server.data_dir.join(name));
        return [read("catalog.db"), read("catalog.db-wal")].concat();
    }
    let texts = "SELECT (SELECT string_agg(encode(reply, 'escape'), ' ') FROM idempotency)
        || (SELECT string_agg(keys::text, ' ') FROM keys)
        || (SELECT string_agg(audit::text, ' ') FROM audit)";
    server.value::<String>(texts).into_bytes()
}

#[test]
fn a_dry_run_leaves_no_trace() {
    let server = setup().start();
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let before = everything(&server);
    for (path, body) in [
        ("/accounts".to_owned(), json!({"name": "acme", "balance": "5"})),
        ("/accounts/default".to_owned(), json!({"state": "disabled"})),
        ("/keys".to_owned(), json!({"name": "k", "account": "unheard-of"})),
        ("/keys/1".to_owned(), json!({"name": "renamed"})),
        ("/keys/1/revoke".to_owned(), json!({})),
        ("/keys/1/rotate".to_owned(), json!({})),
        ("/files/ID/quarantine".replace("ID", &id.to_string()), json!({"reason": "x"})),
        ("/files/ID/delete".replace("ID", &id.to_string()), json!({"reason": "x"})),
        ("/ledger/top-up".to_owned(), json!({"account": "default", "amount": "5"})),
        ("/ledger/adjust".to_owned(), json!({"account": "default", "amount": "5", "reason": "x"})),
        ("/prices".to_owned(), json!({"call": "files.upload", "amount": "5"})),
        ("/moderation/blocked".to_owned(), json!({"list": "term", "value": "x"})),
        ("/tokens".to_owned(), json!({"name": "t", "scope": "full"})),
        ("/tokens/1/revoke".to_owned(), json!({"force": true})),
    ] {
        let request = server.admin("POST", &format!("{path}?dry_run=true"));
        let reply = request.header("Idempotency-Key", "dry").body(body.to_string()).send();
        assert_eq!((reply.status, &reply.json()["dry_run"]), (200, &json!(true)), "{path}");
        // A secret that opens nothing is not shown.
        assert!(reply.json()["key"].is_null() && reply.json()["token"].is_null(), "{path}");
    }
    // What would be refused is refused.
    let account = json!({"name": "default"});
    refused(&send(&server, "/accounts?dry_run=true", &account), 409, "already");
    assert_eq!(everything(&server), before);
    // And the key was not used up.
    let request = server.admin("POST", "/accounts").header("Idempotency-Key", "dry");
    assert_eq!(request.body("{\"name\":\"acme\"}").send().status, 200);
}

#[test]
fn the_audit_log_says_who_did_what_from_where() {
    let server = setup().start();
    let made = post(&server, "/keys", &json!({"name": "k"}));
    post(&server, "/accounts/default", &json!({"limits": {"concurrent_uploads": 3}}));
    let audit = get(&server, "/audit");
    let entries = audit["data"].as_array().unwrap();
    // The first is the key that the fixture made on the data directory.
    assert_eq!(entries.len(), 3, "{audit}");
    assert_eq!((text(&entries[2], "actor"), text(&entries[2], "origin")), ("local", "local"));
    let newest = &entries[0];
    assert_eq!(
        (text(newest, "actor"), text(newest, "origin"), text(newest, "action")),
        ("token:1", "127.0.0.1", "account.update")
    );
    assert_eq!(text(newest, "target"), "account:default");
    assert_eq!(newest["before"]["limits"], json!({}));
    assert_eq!(newest["after"]["limits"], json!({"concurrent_uploads": 3}));
    let filtered = get(&server, "/audit?actor=token:1&action=key.create");
    assert_eq!(filtered["data"].as_array().unwrap().len(), 1);
    assert!(!audit.to_string().contains(text(&made, "key")));
}
