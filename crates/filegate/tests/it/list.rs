//! `GET …/v1/files/list`.

use filegate_testkit::http::Reply;
use serde_json::{Value, json};

use crate::kit::{self, MOUNTS};

fn ids(reply: Reply) -> Vec<i64> {
    let json = kit::success(reply).json();
    json["files"].as_array().unwrap().iter().map(|f| f["file_id"].as_i64().unwrap()).collect()
}

#[test]
fn an_empty_list_is_a_list() {
    let server = kit::start();
    for mount in MOUNTS {
        for query in ["", "?purpose=voice_clone", "?GroupId=1", "?purpose="] {
            let reply = server.get(&format!("{mount}/v1/files/list{query}"));
            let expected =
                json!({"files": [], "base_resp": {"status_code": 0, "status_msg": "success"}});
            assert_eq!(kit::success(reply).json(), expected);
        }
    }
    for mount in ["/minimax", "/minimaxi"] {
        let json = kit::success(server.get(&format!("{mount}/v1/files"))).json();
        assert_eq!((&json["files"], &json["data"]), (&json!([]), &json!([])));
    }
    let bare = server.get("/v1/files");
    assert!(bare.status != 200 || bare.json().get("files").is_none(), "{}", bare.text());
}

#[test]
fn newest_first_and_in_pages() {
    let server = kit::start();
    let mut all: Vec<i64> = (0..7)
        .map(|i| {
            // Ids of the same millisecond are in no order among themselves.
            std::thread::sleep(std::time::Duration::from_millis(2));
            server.upload("retrieval", &format!("{i}.txt"), b"hello").file_id()
        })
        .collect();
    all.reverse();
    let unpaged = kit::success(server.get("/v1/files/list"));
    assert!(unpaged.json().get("has_more").is_none());
    assert_eq!(ids(unpaged), all);
    let json = kit::success(server.get("/minimax/v1/files?limit=2")).json();
    assert_eq!(json["data"], json["files"]);
    assert_eq!(json["has_more"], true);
    let newest = kit::success(server.get("/v1/files/list?limit=1")).json()["files"][0].clone();
    assert_eq!(kit::keys(&newest), ["bytes", "created_at", "file_id", "filename", "purpose"]);
    assert_eq!((&newest["filename"], &newest["bytes"]), (&json!("6.txt"), &json!(5)));

    for limit in [1, 2, 3, 6, 7, 8, 10_000] {
        let (mut found, mut after) = (vec![], String::new());
        loop {
            let reply = server.get(&format!("/v1/files/list?limit={limit}{after}"));
            let more = kit::success(reply.clone()).json()["has_more"].clone();
            let page = ids(reply);
            assert!(page.len() <= limit);
            found.extend(page);
            if more == json!(false) {
                break;
            }
            after = format!("&after={}", found.last().unwrap());
        }
        assert_eq!(found, all, "pages of {limit}");
    }
    // `after` need not be there any more.
    server.delete(all[2]);
    let rest = server.get(&format!("/v1/files/list?after={}", all[2]));
    assert_eq!(kit::success(rest.clone()).json()["has_more"], json!(false));
    assert_eq!(ids(rest), all[3..]);
}

#[test]
fn by_purpose() {
    let server = kit::start();
    let text = server.upload("t2a_async_input", "a.txt", b"hello").file_id();
    let document = server.upload("retrieval", "a.txt", b"hello").file_id();
    for (query, expected) in [
        ("purpose=t2a_async_input", vec![text]),
        ("purpose=t2a_async", vec![text]),
        ("purpose=retrieval", vec![document]),
        ("purpose=retriev%61l", vec![document]),
        ("purpose=voice_clone", vec![]),
        ("purpose=video_generation", vec![]),
        ("purpose=retrieval&limit=1&after=1", vec![]),
        ("purpose=", vec![document, text]),
    ] {
        let mut found = ids(server.get(&format!("/v1/files/list?{query}")));
        let mut expected = expected;
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{query}");
    }
}

#[test]
fn bad_questions() {
    let server = kit::start();
    server.upload("retrieval", "a.txt", b"hello");
    for (query, says) in [
        ("purpose=vision", "invalid params, invalid file purpose"),
        ("purpose=%25", "invalid params, invalid file purpose"),
        ("purpose=%25retrieval%25", "invalid params, invalid file purpose"),
        ("purpose=retrieva_", "invalid params, invalid file purpose"),
        ("purpose=%ff", "invalid params, invalid file purpose"),
        ("purpose=retrieval&purpose=retrieval", "invalid params, purpose is given twice"),
        ("limit=0", "invalid params, limit is not from 1 to 10000"),
        ("limit=10001", "invalid params, limit is not from 1 to 10000"),
        ("limit=-1", "invalid params, limit is not from 1 to 10000"),
        ("limit=1e3", "invalid params, limit is not from 1 to 10000"),
        ("limit=99999999999999999999", "invalid params, limit is not from 1 to 10000"),
        ("limit=", "invalid params, limit is not from 1 to 10000"),
        ("limit=1&limit=1", "invalid params, limit is given twice"),
        ("after=0", "invalid params, after is not a file_id"),
        ("after=x", "invalid params, after is not a file_id"),
        ("after=9223372036854775808", "invalid params, after is not a file_id"),
        ("after=1%20OR%201=1", "invalid params, after is not a file_id"),
    ] {
        let reply = kit::refused(server.get(&format!("/v1/files/list?{query}")), 2013, says);
        assert_eq!(reply.json()["files"], Value::Array(vec![]), "{query}");
    }
}
