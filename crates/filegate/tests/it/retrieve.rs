//! `GET …/v1/files/retrieve`, and ids wherever one is read.

use filegate_testkit::http::Request;
use serde_json::{Value, json};

use crate::kit::{self, MOUNTS};

/// What is not an id, as it stands in a query string.
pub(crate) const NOT_IDS: [&str; 22] = [
    "",
    "0",
    "-1",
    "+1",
    "01",
    "1.0",
    "1e3",
    "0x10",
    "1_000",
    "9223372036854775808",
    "18446744073709551617",
    "99999999999999999999999999",
    "%D9%A1%D9%A2",
    "1%00",
    "%201",
    "1%20",
    "1%20OR%201=1",
    "1;DELETE",
    "[1]",
    "NaN",
    "null",
    "%ff",
];

#[test]
fn the_file_with_its_link() {
    let server = kit::start();
    let uploaded = kit::uploaded(server.upload("retrieval", "声.txt", b"hello"));
    let id = &uploaded["file_id"];
    for mount in MOUNTS {
        let target = format!("{mount}/v1/files/retrieve?GroupId=9&file_id={id}");
        let json = kit::success(server.get(&target)).json();
        assert_eq!(kit::keys(&json), ["base_resp", "file"]);
        let mut file = json["file"].clone();
        let link = file.as_object_mut().unwrap().remove("download_url").unwrap();
        let media = file.as_object_mut().unwrap().remove("media").unwrap();
        assert_eq!(file, uploaded);
        assert_eq!(media["format"], "txt");
        let prefix = format!("http://{}/d/{id}?", server.address);
        assert!(link.as_str().unwrap().starts_with(&prefix), "{link}");
    }
}

#[test]
fn the_link_names_the_host_that_was_asked() {
    let server = kit::start();
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let link = |host: &str| {
        let head = format!(
            "GET /v1/files/retrieve?file_id={id} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\r\n",
            server.key
        );
        let reply = kit::success(kit::exchange(&server, head.as_bytes()).unwrap());
        reply.json()["file"]["download_url"].as_str().unwrap().to_owned()
    };
    assert!(link("files.example.com").starts_with("http://files.example.com/d/"));
    assert!(link("files.example.com:81").starts_with("http://files.example.com:81/d/"));
    let own = format!("http://{}/d/", server.address);
    for odd in ["a.example/x?", "user@a.example", "a.example#", "<script>", "a b"] {
        assert!(link(odd).starts_with(&own), "{}", link(odd));
    }
    let server = kit::start_with("public_url = \"https://files.example.com/base/\"");
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let reply = kit::success(server.get(&format!("/v1/files/retrieve?file_id={id}"))).json();
    let link = reply["file"]["download_url"].as_str().unwrap().to_owned();
    assert!(link.starts_with(&format!("https://files.example.com/base/d/{id}?")), "{link}");
}

#[test]
fn what_is_no_id_and_what_is_not_there() {
    let server = kit::start();
    for path in ["/v1/files/retrieve", "/minimax/v1/files/retrieve_content"] {
        let refused = |query: &str, says: &str| {
            let reply = kit::refused(server.get(&format!("{path}{query}")), 2013, says);
            if path.ends_with("retrieve") {
                assert_eq!(reply.json()["file"], Value::Null);
            } else {
                assert_eq!(kit::keys(&reply.json()), ["base_resp"]);
            }
        };
        for bad in NOT_IDS {
            let says = "invalid params, file_id must be a positive integer";
            refused(&format!("?file_id={bad}"), says);
        }
        refused("", "invalid params, file_id is missing");
        refused("?file_ID=1", "invalid params, file_id is missing");
        refused("?file_id=1&file_id=1", "invalid params, file_id is given twice");
        for absent in ["1", "426586401755526", "9007199254740993", "9223372036854775807"] {
            refused(&format!("?file_id={absent}"), "invalid params, file not found");
        }
    }
    let purpose = server.get("/v1/files/retrieve?purpose=voice_clone&file_id=1");
    assert_eq!(
        kit::refused(purpose, 2013, "").json(),
        json!({"file": null, "base_resp": {"status_code": 2013, "status_msg": "invalid params, file not found"}})
    );
}

#[test]
fn a_deleted_file_is_gone_from_every_call() {
    let server = kit::start();
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let retrieve = format!("/v1/files/retrieve?file_id={id}");
    let json = kit::success(server.get(&retrieve)).json();
    let link = json["file"]["download_url"].as_str().unwrap().to_owned();
    let path = link.strip_prefix(&server.url()).unwrap().to_owned();
    kit::success(server.delete(id));
    kit::refused(server.get(&retrieve), 2013, "invalid params, file not found");
    let content = server.get(&format!("/v1/files/retrieve_content?file_id={id}"));
    kit::refused(content, 2013, "invalid params, file not found");
    kit::refused(server.delete(id), 2013, "invalid params, file not found");
    kit::fault(Request::new(&server.address, "GET", &path).send(), 404);
    assert_eq!(kit::success(server.get("/v1/files/list")).json()["files"], json!([]));
}
