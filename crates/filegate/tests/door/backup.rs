//! Backups of a server at work.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use filegate_testkit::http::Request;
use filegate_testkit::place::only_embedded;
use serde_json::json;

use crate::admin::{refused, setup};

#[test]
fn a_backup_taken_while_clients_are_busy_is_served_whole() {
    if only_embedded("backup copies a data directory; PostgreSQL and S3 have their own") {
        return;
    }
    let server = setup().start();
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("snapshot");
    let settled: Vec<(i64, String)> = (0..20)
        .map(|n| {
            let text = format!("settled {n}");
            (server.upload("retrieval", "a.txt", text.as_bytes()).file_id(), text)
        })
        .collect();
    let busy = AtomicBool::new(true);
    let made: Mutex<HashMap<i64, String>> = Mutex::default();
    thread::scope(|scope| {
        for worker in 0..4 {
            let (server, busy, made) = (&server, &busy, &made);
            scope.spawn(move || {
                let mut last = None;
                for n in 0.. {
                    if !busy.load(Ordering::Relaxed) {
                        return;
                    }
                    let text = format!("worker {worker} file {n} ").repeat(50);
                    let id = server.upload("retrieval", "b.txt", text.as_bytes()).file_id();
                    made.lock().unwrap().insert(id, text);
                    if let Some(old) = last.replace(id).filter(|_| n % 2 == 0) {
                        assert_eq!(server.delete(old).code(), 0);
                    }
                }
            });
        }
        let body = json!({"directory": target}).to_string();
        let dry = server.admin("POST", "/backup?dry_run=true").body(body.clone()).send();
        assert_eq!((dry.status, &dry.json()["dry_run"]), (200, &json!(true)), "{}", dry.text());
        assert!(!target.try_exists().unwrap());
        let reply = server.admin("POST", "/backup").body(body.clone()).send();
        busy.store(false, Ordering::Relaxed);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.json()["files"].as_i64().unwrap() >= 20, "{}", reply.text());
        // Never into what is there already.
        refused(&server.admin("POST", "/backup").body(body).send(), 422, "is there already");
    });
    refused(
        &server.admin("POST", "/backup").body(json!({"directory": "here"}).to_string()).send(),
        422,
        "absolute",
    );
    assert_eq!(server.admin("GET", "/audit").send().json()["data"][0]["action"], "backup.create");

    // The original may do what it likes: the copy is a copy.
    for (id, _) in &settled {
        assert_eq!(server.delete(*id).code(), 0);
    }
    let copy = setup().start_on(&target);
    let get = |target: &str| Request::new(&copy.address, "GET", target).bearer(&server.key).send();
    for (id, text) in &settled {
        let content = get(&format!("/v1/files/retrieve_content?file_id={id}"));
        assert_eq!((content.status, &content.text()), (200, text));
    }
    let made = made.into_inner().unwrap();
    let listed = get("/v1/files/list").json();
    for file in listed["files"].as_array().unwrap() {
        let id = file["file_id"].as_i64().unwrap();
        let content = get(&format!("/v1/files/retrieve_content?file_id={id}"));
        if let Some(text) = made.get(&id) {
            assert_eq!(&content.text(), text);
        }
    }
    let mut copy = copy;
    copy.terminate();
    // Without a server even the youngest stranger among the blobs is found.
    let report = copy.command(&["fsck", "--repair", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["clean"], true, "{report}");
}
