//! `Idempotency-Key`: the same upload again is one file and one charge.

use std::thread;

use crate::kit::{books_balance, refused, setup, text, upload_with};
use filegate_testkit::http::Connection;
use filegate_testkit::server::eventually;

#[test]
fn the_same_request_has_the_first_answer_even_after_a_restart() {
    let mut server = setup().start();
    let mut before = Vec::new();
    for size in [2_000, 700_000] {
        let key = format!("key {size}");
        let content = text(size as u64, size);
        let send =
            |server: &_| upload_with(server, &content, &[]).header("Idempotency-Key", &key).send();
        let first = send(&server);
        first.file_id();
        assert_eq!(send(&server).json(), first.json());
        server.kill();
        let again = setup().start_on(&server.data_dir);
        let data_key = server.key.clone();
        // What it has stored goes with it.
        before.push(std::mem::replace(&mut server, again));
        server.key = data_key;
        assert_eq!(send(&server).json(), first.json());
    }
    assert_eq!(server.get("/v1/files/list").json()["files"].as_array().unwrap().len(), 2);
    assert_eq!(server.stored("blobs").len(), 2);
    books_balance(&server);
}

#[test]
fn a_repetition_is_not_paid_again_even_without_money() {
    let server = setup().start();
    server.sql(
        "INSERT INTO prices VALUES ('files.upload', '', 'call', 1000);
         INSERT INTO ledger (account_id, at, kind, amount, balance)
         VALUES (1, 0, 'top_up', 1000, 1000);
         UPDATE accounts SET balance = 1000",
    );
    let content = text(1, 700_000);
    let send = || upload_with(&server, &content, &[]).header("Idempotency-Key", "k").send();
    let first = send();
    first.file_id();
    assert_eq!(send().json(), first.json());
    assert_eq!(server.value::<i64>("SELECT balance FROM accounts"), 0);
    refused(&upload_with(&server, &content, &[]).send(), 1008);
    books_balance(&server);
}

#[test]
fn another_request_with_the_key_is_refused() {
    let server = setup().start();
    let content = text(1, 2_000);
    let send = |content: &[u8], more: &[(&str, &str)]| {
        upload_with(&server, content, more).header("Idempotency-Key", "k").send()
    };
    send(&content, &[]).file_id();
    for reply in [send(&text(2, 2_000), &[]), send(&content, &[("expires_after", "1d")])] {
        let message = refused(&reply, 2013);
        assert!(message.contains("Idempotency-Key was used for another upload"), "{message}");
    }
    // The key is of the account: another account's is another key.
    let other = server.make_key("other", "other");
    let reply = filegate_testkit::http::Request::new(&server.address, "POST", "/v1/files/upload")
        .bearer(&other)
        .header("Idempotency-Key", "k")
        .form("retrieval", "b.txt", &text(3, 100))
        .send();
    reply.file_id();
    books_balance(&server);
}

#[test]
fn what_was_refused_may_be_tried_again_with_the_key() {
    let server = setup().start();
    let send = |content: &[u8]| {
        server
            .request("POST", "/v1/files/upload")
            .header("Idempotency-Key", "k")
            .form("voice_clone", "a.mp3", content)
            .send()
    };
    refused(&send(b"no audio"), 2013);
    let mp3 = filegate_testkit::samples::sample_bytes("mp3");
    send(&mp3).file_id();
}

#[test]
fn a_key_in_flight_is_refused_for_a_moment_and_parallel_ones_store_once() {
    let server = setup().start();
    let upload = upload_with(&server, &text(1, 700_000), &[]).header("Idempotency-Key", "k");
    let bytes = upload.bytes();
    let mut first = Connection::open(&server.address).unwrap();
    first.write(&bytes[..400_000]).unwrap();
    eventually("the first has begun", || {
        (server.metric("filegate_uploads_in_flight") >= 1.0).then_some(())
    });
    let second = eventually("it has taken its key", || {
        let reply = upload.send();
        (reply.code() == 1002).then_some(reply)
    });
    assert!(second.message().contains("Idempotency-Key is in progress"), "{}", second.text());
    assert_eq!(second.header("retry-after"), Some("1"));
    first.write(&bytes[400_000..]).unwrap();
    let stored = first.reply().unwrap();
    let id = stored.file_id();
    assert_eq!(upload.send().file_id(), id);

    let parallel = upload_with(&server, &text(2, 3_000), &[]).header("Idempotency-Key", "p");
    let ids: Vec<i64> = thread::scope(|scope| {
        let workers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    eventually("it is not in flight", || {
                        let reply = parallel.send();
                        (reply.code() != 1002).then(|| reply.file_id())
                    })
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(server.stored("blobs").len(), 2);
}

#[test]
fn a_key_that_is_none_is_refused() {
    let server = setup().start();
    let long = "x".repeat(256);
    for bad in ["", &long, "t\u{e4}b"] {
        let reply = upload_with(&server, &text(1, 100), &[]).header("Idempotency-Key", bad).send();
        assert!(refused(&reply, 2013).contains("Idempotency-Key is not one text"), "{bad}");
    }
}
