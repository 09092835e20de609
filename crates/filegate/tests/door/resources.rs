//! The admin API: each resource.

use filegate_testkit::http::{Connection, Field, Request, form};
use filegate_testkit::server::eventually;
use serde_json::{Value, json};

use crate::admin::{get, post, refused, send, setup, text};

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
        Request::new(&server.address, "POST", "/v1/files/upload")
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
        let list = Request::new(&server.address, "GET", "/v1/files/list");
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
    let (content_type, body) = form(&[
        Field::Text("purpose", "retrieval"),
        Field::File("file", "a.txt", &vec![b'a'; 600_000]),
    ]);
    let request = server
        .request("POST", "/v1/files/upload")
        .header("Content-Type", &content_type)
        .body(body)
        .bytes();
    let mut connection = Connection::open(&server.address).unwrap();
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
fn usage_is_summed_and_safe_in_a_spreadsheet() {
    let server = setup().start();
    let evil = server.make_key("k", "=cmd|' /C calc'!A0,\"x\"");
    for key in [&server.key, &server.key, &evil] {
        let request = Request::new(&server.address, "POST", "/v1/files/upload");
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
