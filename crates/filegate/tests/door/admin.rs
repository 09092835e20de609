//! The admin API: who may do what, each resource, and what holds for every change.

use std::thread;

use filegate_server::admin_routes;
use filegate_testkit::http::Reply;
use filegate_testkit::server::{Setup, TestServer, eventually};
use filegate_types::AdminScope;
use serde_json::{Value, json};

pub(crate) fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_filegate"))
}

fn get(server: &TestServer, path: &str) -> Value {
    let reply = server.admin("GET", path).send();
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.json()
}

fn send(server: &TestServer, path: &str, body: &Value) -> Reply {
    server.admin("POST", path).body(body.to_string()).send()
}

fn post(server: &TestServer, path: &str, body: &Value) -> Value {
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

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
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
    refused(&server.admin("POST", "/accounts").body("{} {}").send(), 400, "JSON");
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
    assert_eq!(get(&server, "/audit")["data"], json!([]));
}

#[test]
fn accounts_and_their_money() {
    let server = setup().start();
    let made = post(&server, "/accounts", &json!({"name": "acme", "balance": "0.01"}));
    assert_eq!((text(&made, "balance"), text(&made, "available")), ("0.01", "0.01"));
    refused(&send(&server, "/accounts", &json!({"name": "acme"})), 409, "already");
    let entry = json!({"account": "acme", "amount": "2.5", "reason": "invoice 7"});
    let entry = post(&server, "/ledger/top-up", &entry);
    assert_eq!((text(&entry, "kind"), text(&entry, "balance")), ("top_up", "2.51"));
    let less = |amount: &str| json!({"account": "acme", "amount": amount, "reason": "refund"});
    refused(&send(&server, "/ledger/adjust", &less("-2.510001")), 409, "2.51");
    let entry = post(&server, "/ledger/adjust", &less("-2.51"));
    assert_eq!((text(&entry, "amount"), text(&entry, "balance")), ("-2.51", "0"));
    let ledger = get(&server, "/ledger?account=acme");
    let amounts: Vec<_> =
        ledger["data"].as_array().unwrap().iter().map(|entry| text(entry, "amount")).collect();
    assert_eq!(amounts, ["-2.51", "2.5", "0.01"]);
    assert_eq!(get(&server, "/ledger?kind=adjustment")["data"].as_array().unwrap().len(), 1);

    let limits = json!({"limits": {"stored_bytes": "1MiB"}, "settings": {"keep_max": "1d"}});
    let changed = post(&server, "/accounts/acme", &limits);
    assert_eq!(changed["limits"], json!({"stored_bytes": "1MiB"}));
    let key = server.make_key("k", "acme");
    let upload = || {
        filegate_testkit::http::Request::new(&server.address, "POST", "/v1/files/upload")
            .bearer(&key)
            .form("retrieval", "a.txt", b"hello")
            .send()
    };
    upload().file_id();
    let shown = get(&server, "/accounts/acme");
    assert_eq!(shown["stored"], json!({"retrieval": {"files": 1, "bytes": 5}}));
    assert_eq!((&shown["stored_files"], &shown["keys"]), (&json!(1), &json!(1)));
    post(&server, "/accounts/acme", &json!({"state": "disabled"}));
    assert_eq!(upload().code(), 1004);
    post(&server, "/accounts/acme", &json!({"state": "active"}));
    assert_eq!(upload().code(), 0);

    // Pages, newest first.
    let page = get(&server, "/accounts?limit=1");
    assert_eq!((text(&page["data"][0], "name"), &page["has_more"]), ("acme", &json!(true)));
    let page = get(&server, "/accounts?limit=1&after=acme");
    assert_eq!((text(&page["data"][0], "name"), &page["has_more"]), ("default", &json!(false)));
    assert_eq!(get(&server, "/accounts?name=acme")["data"].as_array().unwrap().len(), 1);
}

#[test]
fn prices_are_charged_from_the_next_upload_on() {
    let server = setup().start();
    post(&server, "/accounts/default", &json!({}));
    let price = post(&server, "/prices", &json!({"call": "files.upload", "amount": "0.001"}));
    assert_eq!((text(&price, "unit"), text(&price, "amount")), ("call", "0.001"));
    assert_eq!(server.upload("retrieval", "a.txt", b"hello").code(), 1008);
    post(&server, "/ledger/top-up", &json!({"account": "default", "amount": "0.001"}));
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    assert_eq!(server.upload("retrieval", "a.txt", b"hello").code(), 1008);
    let explained = get(&server, &format!("/files/{id}/explain"));
    assert_eq!(text(&explained["ledger"][0], "amount"), "-0.001");
    let removed = json!({"call": "files.upload"});
    post(&server, "/prices/remove", &removed);
    refused(&send(&server, "/prices/remove", &removed), 404, "files.upload/call/");
    server.upload("retrieval", "a.txt", b"hello").file_id();
}

#[test]
fn keys_are_changed_rotated_and_revoked() {
    let server = setup().start();
    let works = |key: &str| {
        let list = filegate_testkit::http::Request::new(&server.address, "GET", "/v1/files/list");
        list.bearer(key).send().code()
    };
    let made = post(
        &server,
        "/keys",
        &json!({"name": "k", "account": "new", "scopes": ["files:list"], "purposes": "voice_clone",
                "networks": ["127.0.0.1", "10.0.0.0/8"], "expires_in": "1h"}),
    );
    assert_eq!(made["scopes"], json!(["files:list"]));
    assert_eq!(made["networks"], json!(["127.0.0.1/32", "10.0.0.0/8"]));
    assert_eq!((text(&made, "account"), made["expires_at"].is_i64()), ("new", true));
    let (key, id) = (text(&made, "key").to_owned(), made["id"].as_i64().unwrap());
    assert_eq!(works(&key), 0);
    let changed = post(
        &server,
        &format!("/keys/{id}"),
        &json!({"purposes": null, "networks": null, "expires_in": null, "name": "renamed"}),
    );
    assert_eq!((&changed["purposes"], &changed["expires_at"]), (&Value::Null, &Value::Null));
    assert_eq!((text(&changed, "name"), &changed["scopes"]), ("renamed", &json!(["files:list"])));

    let rotated = post(&server, &format!("/keys/{id}/rotate"), &json!({}));
    assert_eq!((&rotated["replaces"], &rotated["scopes"]), (&json!(id), &json!(["files:list"])));
    assert_eq!((works(&key), works(text(&rotated, "key"))), (0, 0));
    let next = rotated["id"].as_i64().unwrap();
    let last = post(&server, &format!("/keys/{next}/rotate"), &json!({"overlap": "0s"}));
    assert_eq!((works(text(&rotated, "key")), works(text(&last, "key"))), (2049, 0));
    refused(&send(&server, &format!("/keys/{next}/rotate"), &json!({})), 409, "expired");
    let last_id = last["id"].as_i64().unwrap();
    let revoked = post(&server, &format!("/keys/{last_id}/revoke"), &json!({}));
    assert_eq!(works(text(&last, "key")), 2049);
    let again = post(&server, &format!("/keys/{last_id}/revoke"), &json!({}));
    assert_eq!(again["revoked_at"], revoked["revoked_at"]);
    refused(&send(&server, &format!("/keys/{last_id}"), &json!({"name": "x"})), 409, "revoked");
    assert_eq!(get(&server, "/keys?account=new")["data"].as_array().unwrap().len(), 3);
}

#[test]
fn files_are_found_held_back_and_deleted() {
    let server = setup().start();
    let id = server.upload("retrieval", "100%_a.txt", b"hello").file_id();
    server.upload("retrieval", "other.txt", b"other").file_id();
    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    for query in [
        "filename=100%25_a.txt".to_owned(),
        format!("sha256={sha256}"),
        format!("sha256={}&account=default&purpose=retrieval", sha256.to_uppercase()),
    ] {
        let found = get(&server, &format!("/files?{query}"));
        assert_eq!(found["data"].as_array().unwrap().len(), 1, "{query}: {found}");
        assert_eq!(found["data"][0]["id"], id);
    }
    // Exactly the name, never a pattern.
    assert_eq!(get(&server, "/files?filename=%25.txt")["data"], json!([]));
    let act = |verb: &str, body: &Value| send(&server, &format!("/files/{id}/{verb}"), body);
    let explain = || get(&server, &format!("/files/{id}/explain"));
    assert_eq!((&explain()["readable"], &explain()["reasons"]), (&json!(true), &json!([])));
    assert_eq!(
        act("quarantine", &json!({"reason": "complaint 12"})).json()["state"],
        "quarantined"
    );
    refused(&act("quarantine", &json!({"reason": "again"})), 409, "already");
    assert_eq!(get(&server, "/files?state=quarantined")["data"][0]["id"], id);
    assert_eq!(explain()["reasons"], json!(["it is quarantined"]));
    assert_eq!(act("release", &json!({})).json()["state"], "ready");
    let audit = get(&server, &format!("/audit?target=file:{id}&action=file.quarantine"));
    assert_eq!(audit["data"][0]["after"]["reason"], "complaint 12");
    assert_eq!(audit["data"][0]["before"]["state"], "ready");

    assert_eq!(act("delete", &json!({"reason": "court"})).json()["cause"], "operator");
    refused(&server.admin("GET", &format!("/files/{id}")).send(), 404, "file");
    assert_eq!(server.get(&format!("/v1/files/retrieve?file_id={id}")).code(), 2013);
    eventually("the bytes are purged", || {
        get(&server, &format!("/receipts/{id}"))["purged_at"].as_i64()
    });
    assert_eq!(explain()["reasons"], json!(["it is deleted (operator)"]));
    assert_eq!(get(&server, "/receipts?account=default")["data"].as_array().unwrap().len(), 1);
    assert_eq!(get(&server, "/jobs")["data"], json!([]));
}

#[test]
fn the_blocked_lists_are_kept() {
    let server = setup().start();
    let sha256 = "A".repeat(64);
    let block = json!({"list": "sha256", "value": sha256, "note": "case 9"});
    let made = post(&server, "/moderation/blocked", &block);
    assert_eq!(text(&made, "value"), sha256.to_lowercase());
    refused(&send(&server, "/moderation/blocked", &block), 409, "already");
    post(&server, "/moderation/blocked", &json!({"list": "term", "value": "forbidden words"}));
    assert_eq!(get(&server, "/moderation/blocked")["data"].as_array().unwrap().len(), 2);
    assert_eq!(get(&server, "/moderation/blocked?list=sha256")["data"][0]["note"], "case 9");
    let remove = format!("/moderation/blocked/{}/remove", made["id"]);
    post(&server, &remove, &json!({}));
    refused(&send(&server, &remove, &json!({})), 404, "blocked entry");
    assert_eq!(get(&server, "/moderation/reviews")["data"], json!([]));
}

#[test]
fn an_upload_in_progress_is_seen_and_ended() {
    let server = setup().start();
    let (content_type, body) = filegate_testkit::http::form(&[
        filegate_testkit::http::Field::Text("purpose", "retrieval"),
        filegate_testkit::http::Field::File("file", "a.txt", &vec![b'a'; 600_000]),
    ]);
    let request = server
        .request("POST", "/v1/files/upload")
        .header("Content-Type", &content_type)
        .body(body)
        .bytes();
    let mut connection = filegate_testkit::http::Connection::open(&server.address).unwrap();
    let half = request.len() - 100_000;
    connection.write(&request[..half]).unwrap();
    let blob_key = eventually("the upload is in progress", || {
        get(&server, "/uploads")["data"][0]["blob_key"].as_str().map(str::to_owned)
    });
    post(&server, &format!("/uploads/{blob_key}/abort"), &json!({}));
    assert_eq!(get(&server, "/uploads")["data"], json!([]));
    refused(&send(&server, &format!("/uploads/{blob_key}/abort"), &json!({})), 404, &blob_key);
    connection.write(&request[half..]).unwrap();
    assert_ne!(connection.reply().unwrap().code(), 0);
    assert_eq!(get(&server, "/files")["data"], json!([]));
    let job = get(&server, "/jobs")["data"][0]["id"].as_i64().unwrap();
    assert_eq!(post(&server, &format!("/jobs/{job}/run"), &json!({}))["attempts"], 0);
    eventually("the job is done", || {
        get(&server, "/jobs")["data"].as_array().unwrap().is_empty().then_some(())
    });
    refused(&send(&server, &format!("/jobs/{job}/run"), &json!({})), 404, "may be done");
}

#[test]
fn the_last_full_token_stays_unless_forced() {
    let server = setup().start();
    let read = post(&server, "/tokens", &json!({"name": "r", "scope": "read-only"}));
    assert!(text(&read, "token").starts_with("fg-admin-"));
    post(&server, &format!("/tokens/{}/revoke", read["id"]), &json!({}));
    refused(&send(&server, "/tokens/1/revoke", &json!({})), 409, "last");
    let full = post(&server, "/tokens", &json!({"name": "f", "scope": "full"}));
    post(&server, "/tokens/1/revoke", &json!({}));
    refused(&server.admin("GET", "/tokens").send(), 401, "revoked");
    let token = text(&full, "token");
    let listed = server.admin_as(token, "GET", "/tokens").send();
    assert_eq!(listed.json()["data"].as_array().unwrap().len(), 3);
    assert!(!listed.text().contains(token));
    let revoke = format!("/tokens/{}/revoke", full["id"]);
    let revoke = server.admin_as(token, "POST", &revoke).body("{\"force\":true}").send();
    assert_eq!(revoke.status, 200);
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
    let catalog = filegate_testkit::server::read(&data_dir.join("catalog.db"));
    let log = filegate_testkit::server::read(&data_dir.join("catalog.db-wal"));
    let secret = text(&first.json(), "key").as_bytes().to_vec();
    for bytes in [catalog, log] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
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
    assert_eq!(entries.len(), 2, "{audit}");
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

#[test]
fn usage_is_summed_and_safe_in_a_spreadsheet() {
    let server = setup().start();
    let evil = server.make_key("k", "=cmd|' /C calc'!A0,\"x\"");
    for key in [&server.key, &server.key, &evil] {
        let request =
            filegate_testkit::http::Request::new(&server.address, "POST", "/v1/files/upload");
        request.bearer(key).form("retrieval", "a.txt", b"hello").send().file_id();
    }
    server.get("/v1/files/list");
    let by_call = get(&server, "/usage?by=call,purpose");
    let expected = json!([
        {"purpose": "", "call": "files.list", "calls": 1, "bytes": 0, "charged": "0"},
        {"purpose": "retrieval", "call": "files.upload", "calls": 3, "bytes": 15, "charged": "0"},
    ]);
    assert_eq!(by_call["data"], expected);
    let mine = get(&server, "/usage?account=default&by=&from=2020-01-01&to=9999-12-31");
    assert_eq!(mine["data"], json!([{"calls": 3, "bytes": 10, "charged": "0"}]));
    assert_eq!(get(&server, "/usage?to=2020-01-01")["data"], json!([]));
    let page = get(&server, "/usage?by=account&limit=1");
    assert_eq!(page["has_more"], true);
    assert_eq!(get(&server, "/usage?by=account&limit=1&after=1")["has_more"], false);

    let csv = server.admin("GET", "/usage?by=account,call&account=default&format=csv").send();
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    let lines = "account,call,calls,bytes,charged\r\ndefault,files.list,1,0,0\r\n\
                 default,files.upload,2,10,0\r\n";
    assert_eq!(csv.text(), lines);
    let csv = server.admin("GET", "/usage?by=account").header("Accept", "text/csv").send();
    assert!(csv.text().contains("\"'=cmd|' /C calc'!A0,\"\"x\"\"\",1,5,0\r\n"), "{}", csv.text());
}

#[test]
fn settings_are_shown_with_their_origin() {
    let server = setup()
        .config("[limits]\nuploads_max = 7\n")
        .env("FILEGATE_LIMITS__BODY_IDLE", "50s")
        .start();
    let config = get(&server, "/config");
    let setting = |name: &str| {
        let all = config["data"].as_array().unwrap();
        all.iter().find(|one| one["setting"] == name).unwrap_or_else(|| panic!("{name}: {config}"))
    };
    for (name, value, origin) in [
        ("limits.uploads_max", json!(7), "file "),
        ("limits.body_idle", json!("50s"), "environment"),
        ("listen", json!(server.address), "command line"),
        ("limits.connections_max", json!(10_000), "default"),
        ("purposes.voice_clone.keep", json!("until_deleted"), "default"),
    ] {
        assert_eq!(setting(name)["value"], value, "{name}");
        assert!(text(setting(name), "origin").starts_with(origin), "{}", setting(name));
    }
    let policies = get(&server, "/policies");
    let names: Vec<_> =
        policies["data"].as_array().unwrap().iter().map(|one| text(one, "purpose")).collect();
    assert!(names.contains(&"voice_clone") && names.contains(&"video_generation"));
}
