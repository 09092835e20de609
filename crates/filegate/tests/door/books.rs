//! What calls cost: held, captured, never more than there is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use filegate_testkit::place::blob;
use filegate_testkit::server::{TestServer, eventually};

use crate::kit::{books_balance, refused, setup, text, upload_with};

fn priced(config: &str, balance: i64, prices: &str) -> TestServer {
    let server = setup().config(config).start();
    server.sql(&format!("INSERT INTO prices (call, purpose, unit, amount) VALUES {prices}"));
    top_up(&server, balance);
    server
}

fn top_up(server: &TestServer, amount: i64) {
    server.sql(&format!(
        "UPDATE accounts SET balance = balance + {amount} WHERE account_id = 1;
             INSERT INTO ledger (account_id, at, kind, amount, balance)
             SELECT 1, 0, 'top_up', {amount}, balance FROM accounts WHERE account_id = 1"
    ));
}

fn balance(server: &TestServer) -> i64 {
    server.value("SELECT balance FROM accounts WHERE account_id = 1")
}

fn held(server: &TestServer) -> i64 {
    server.value("SELECT held FROM accounts WHERE account_id = 1")
}

#[test]
fn a_thousand_parallel_uploads_on_a_balance_for_ten() {
    let server = priced("", 10_500, "('files.upload', '', 'call', 1000)");
    let (stored, short) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for seed in 0..1_000 {
            let (server, stored, short) = (&server, &stored, &short);
            scope.spawn(move || {
                let reply = upload_with(server, &text(seed, 2_000), &[]).send();
                match reply.code() {
                    0 => stored.fetch_add(1, Ordering::Relaxed),
                    1008 => short.fetch_add(1, Ordering::Relaxed),
                    _ => panic!("{}", reply.text()),
                };
            });
        }
    });
    assert_eq!((stored.into_inner(), short.into_inner()), (10, 990));
    assert_eq!(server.get("/v1/files/list").json()["files"].as_array().unwrap().len(), 10);
    eventually("the others have stored nothing", || {
        (server.stored("blobs").len() == 10 && server.stored("tmp").is_empty()).then_some(())
    });
    assert_eq!((balance(&server), held(&server)), (500, 0));
    let charged: i64 = server.value("SELECT count(*) FROM ledger WHERE kind = 'charge'");
    assert_eq!(charged, 10);
    books_balance(&server);
}

#[test]
fn bytes_are_paid_as_they_were_stored_and_held_as_they_may_become() {
    let server =
        priced("", 100, "('files.upload', '', 'call', 10), ('files.upload', '', 'mib', 8)");
    // Two MiB and a half at 8, and 10 for the call.
    upload_with(&server, &text(1, 5 << 19), &[]).send().file_id();
    assert_eq!((balance(&server), held(&server)), (70, 0));
    // 9 MiB would cost 82: refused when its first bytes were to be stored.
    let message = refused(&upload_with(&server, &text(2, 9 << 20), &[]).send(), 1008);
    assert!(message.starts_with("insufficient balance: the call costs 0.000083,"), "{message}");
    assert!(message.ends_with("the account can spend 0.00007"), "{message}");
    assert_eq!((balance(&server), held(&server)), (70, 0));
    books_balance(&server);
}

#[test]
fn what_is_refused_or_only_checked_or_cut_off_costs_nothing() {
    let server =
        priced("", 1_000, "('files.upload', '', 'call', 10), ('files.upload', '', 'mib', 10)");
    refused(&server.upload("voice_clone", "a.mp3", b"no audio"), 2013);
    refused(&server.upload("voice_clone", "a.mp3", &text(1, 600_000)), 2013);
    let checked = server
        .request("POST", "/v1/files/upload?validate_only=true")
        .form("retrieval", "a.txt", &text(1, 600_000))
        .send();
    assert_eq!(checked.code(), 0, "{}", checked.text());
    let bytes = upload_with(&server, &text(3, 900_000), &[]).bytes();
    let mut connection = filegate_testkit::http::Connection::open(&server.address).unwrap();
    connection.write(&bytes[..600_000]).unwrap();
    eventually("its price is held", || (held(&server) > 0).then_some(()));
    assert_eq!(balance(&server), 1_000);
    drop(connection);
    eventually("and given back", || (held(&server) == 0).then_some(()));
    assert_eq!(balance(&server), 1_000);
    books_balance(&server);
}

#[test]
fn every_call_has_its_price_and_without_money_there_is_no_answer() {
    let server = priced(
        "",
        100,
        "('files.list', '', 'call', 1), ('files.retrieve', '', 'call', 2),
         ('files.content', '', 'call', 3), ('files.delete', '', 'call', 4),
         ('files.delete', 'batch', 'call', 0)",
    );
    let content = text(1, 3_000);
    let id = upload_with(&server, &content, &[]).send().file_id();
    assert_eq!(server.get("/v1/files/list").code(), 0);
    assert_eq!(balance(&server), 99);
    let retrieved = server.get(&format!("/v1/files/retrieve?file_id={id}"));
    assert_eq!(balance(&server), 97);
    let body = server.get(&format!("/v1/files/retrieve_content?file_id={id}")).body;
    assert_eq!(body, content);
    assert_eq!(balance(&server), 94);
    // The link was paid with the retrieve that made it.
    let url = retrieved.json()["file"]["download_url"].as_str().unwrap().to_owned();
    let path = url.split_once(&server.address).unwrap().1.to_owned();
    assert_eq!(server.get(&path).body, content);
    // What fails is free.
    assert_eq!(server.get("/v1/files/retrieve?file_id=1").code(), 2013);
    assert_eq!(server.delete(1).code(), 2013);
    assert_eq!(balance(&server), 94);
    assert_eq!(server.delete(id).code(), 0);
    assert_eq!(balance(&server), 90);

    let id = upload_with(&server, &content, &[]).send().file_id();
    server.sql("UPDATE prices SET amount = 91");
    for target in
        ["list", &format!("retrieve?file_id={id}"), &format!("retrieve_content?file_id={id}")]
    {
        let reply = server.get(&format!("/v1/files/{target}"));
        let message = refused(&reply, 1008);
        assert!(message.contains("costs 0.000091"), "{message}");
    }
    refused(&server.delete(id), 1008);
    server.sql("UPDATE prices SET amount = 0");
    assert_eq!(server.delete(id).code(), 0);
    assert_eq!(balance(&server), 90);
    for (call, used) in [("files.delete", "2 4"), ("files.upload", "2 0")] {
        let query = "SELECT sum(calls) || ' ' || sum(charged) FROM usage WHERE call =";
        assert_eq!(server.value::<String>(&format!("{query} '{call}'")), used);
    }
    eventually("reads are written down", || {
        let reads: i64 = server.value(
            "SELECT coalesce(sum(charged), 0) FROM usage
             WHERE call IN ('files.list', 'files.retrieve', 'files.content')",
        );
        (reads == 6).then_some(())
    });
    books_balance(&server);
}

#[test]
fn a_disabled_account_comes_no_further() {
    let server = setup().start();
    let id = upload_with(&server, &text(1, 100), &[]).send().file_id();
    server.sql("UPDATE accounts SET state = 'disabled'");
    for reply in [
        server.get("/v1/files/list"),
        server.get(&format!("/v1/files/retrieve?file_id={id}")),
        server.delete(id),
        upload_with(&server, &text(2, 100), &[]).send(),
    ] {
        let message = refused(&reply, 1004);
        assert!(message.ends_with("the account is disabled"), "{message}");
    }
    server.sql("UPDATE accounts SET state = 'active'");
    assert_eq!(server.get("/v1/files/list").code(), 0);
}

#[test]
fn an_account_stores_no_more_than_it_may() {
    let server = setup().start();
    let limit = |json: &str| server.sql(&format!("UPDATE accounts SET limits = '{json}'"));
    limit(r#"{"stored_bytes":"1MiB"}"#);
    let first = upload_with(&server, &text(1, 700_000), &[]).send().file_id();
    let reply = upload_with(&server, &text(2, 700_000), &[]).send();
    let message = refused(&reply, 1002);
    assert!(message.starts_with("rate limit: the account may store 1MiB and has"), "{message}");
    assert_eq!(reply.header("retry-after"), Some("60"));
    assert_eq!(server.delete(first).code(), 0);
    upload_with(&server, &text(2, 700_000), &[]).send().file_id();

    limit(r#"{"files_per_purpose":{"retrieval":2}}"#);
    upload_with(&server, &text(3, 700), &[]).send().file_id();
    let message = refused(&upload_with(&server, &text(4, 700), &[]).send(), 1002);
    assert!(message.contains("may store 2 files of retrieval"), "{message}");
    assert_eq!(server.upload("batch", "a.txt", &text(5, 700)).code(), 0);
    books_balance(&server);
}

#[test]
fn days_that_nobody_charged_are_made_up_for_once() {
    const DAY_MS: i64 = 86_400_000;
    let config = "[jobs]\ninterval = \"100ms\"";
    let server = priced(config, 1_000_000, "('files.storage', '', 'gib_day', 1000000)");
    upload_with(&server, &text(1, 1 << 20), &[]).send().file_id();
    let charged = || server.value::<i64>("SELECT count(*) FROM ledger WHERE kind = 'storage'");
    let last_day = || {
        let value: String =
            server.value("SELECT value FROM meta WHERE name = 'storage_charged_day'");
        i64::from_str_radix(value.trim_start_matches("\\x"), 16).unwrap()
    };
    let yesterday = eventually("it has begun to count days", || {
        let day = last_day();
        (day > 0).then_some(day)
    });
    assert_eq!(charged(), 0);
    let stopped_days_ago = |days: i64| {
        let day = blob(&format!("{:016x}", yesterday - days));
        server.sql(&format!("UPDATE meta SET value = {day} WHERE name = 'storage_charged_day'"));
        eventually("all days are looked at", || (last_day() == yesterday).then_some(()));
    };
    // It was not there yet on any of them.
    stopped_days_ago(3);
    assert_eq!(charged(), 0);
    // Now it was, on the last three of five.
    let then = (yesterday - 2) * DAY_MS;
    server.sql(&format!("UPDATE files SET created_at = {then}"));
    stopped_days_ago(5);
    assert_eq!(charged(), 3);
    stopped_days_ago(5);
    assert_eq!(charged(), 3);
    let days: i64 =
        server.value("SELECT count(DISTINCT reason) FROM ledger WHERE kind = 'storage'");
    assert_eq!(days, 3);
    // A MiB is the 1024th part of a GiB: 976.5625, rounded up.
    assert_eq!(balance(&server), 1_000_000 - 3 * 977);
    books_balance(&server);
}
