//! Where a key may be used from, and for which purposes.

use filegate_testkit::http::Reply;
use filegate_testkit::server::{TestServer, eventually};
use serde_json::{Value, json};

use crate::tenants::{LIST, accepted, get, key_limits, over_limit, refused, set, start};

/// A list with these `X-Forwarded-For`.
fn from(server: &TestServer, forwarded: &[&str]) -> Reply {
    let mut request = server.request("GET", LIST);
    for value in forwarded {
        request = request.header("X-Forwarded-For", value);
    }
    request.send()
}

fn not_from(reply: &Reply, address: &str) {
    let expected = format!(
        "login fail: Please carry the API secret key in the 'Authorization' field of the request header: this key may not be used from {address}"
    );
    refused(reply, 1004, &expected);
}

fn networks(server: &TestServer, networks: &Value) {
    set(server, "keys", "test", "networks", networks);
}

#[test]
fn a_key_works_from_its_networks_alone() {
    let server = start("");
    for allowed in [json!(["127.0.0.0/8"]), json!(["10.0.0.0/8", "127.0.0.1/32"]), json!([])] {
        networks(&server, &allowed);
        accepted(&server.get(LIST));
    }
    networks(&server, &json!(["10.0.0.0/8", "2001:db8::/32", "::/0"]));
    not_from(&server.get(LIST), "127.0.0.1");
    not_from(&server.upload("retrieval", "a.txt", &vec![b'x'; 1 << 20]), "127.0.0.1");
    not_from(&server.delete(5), "127.0.0.1");
    assert!(server.stored("blobs").is_empty());
    // Other keys are not bound by it.
    let other = server.make_key("other", "default");
    accepted(&get(&server, &other, LIST));
}

#[test]
fn a_forged_header_changes_nothing() {
    let server = start("");
    networks(&server, &json!(["10.0.0.0/8"]));
    for forged in [&["10.0.0.1"] as &[&str], &["10.0.0.1, 127.0.0.1"], &["127.0.0.1", "10.0.0.1"]] {
        not_from(&from(&server, forged), "127.0.0.1");
    }
    networks(&server, &json!(["127.0.0.1/32"]));
    accepted(&from(&server, &["9.9.9.9"]));
}

#[test]
fn a_trusted_proxy_is_believed_as_far_as_it_knows() {
    let server = start("[network]\ntrusted_proxies = [\"127.0.0.0/8\", \"fd00::/8\"]\n");
    networks(&server, &json!(["192.0.2.0/24", "2001:db8:1::/48"]));
    for good in [
        &["192.0.2.7"] as &[&str],
        &["6.6.6.6, 192.0.2.7"],
        &["6.6.6.6", "192.0.2.7"],
        &["192.0.2.7, 127.0.0.5", "fd00::1"],
        &["::ffff:192.0.2.7"],
        &["2001:db8:1::9"],
        &["[2001:db8:1::9]:443"],
    ] {
        accepted(&from(&server, good));
    }
    for (bad, client) in [
        (&[] as &[&str], "127.0.0.1"),
        (&["192.0.2.7, 6.6.6.6"], "6.6.6.6"),
        (&["192.0.2.7", "6.6.6.6, 127.0.0.5"], "6.6.6.6"),
        (&["192.0.2.7, unknown"], "127.0.0.1"),
        (&["2001:db8:2::9"], "2001:db8:2::9"),
        (&["192.0.3.7"], "192.0.3.7"),
    ] {
        not_from(&from(&server, bad), client);
    }
    eventually("the log says where a request came from", || {
        server.log().contains("client=2001:db8:2::9").then_some(())
    });
}

#[test]
fn a_stolen_key_does_not_use_up_its_owners_requests() {
    let server = start("[network]\ntrusted_proxies = [\"127.0.0.1/32\"]\n");
    networks(&server, &json!(["192.0.2.0/24"]));
    key_limits(&server, &json!({"requests_per_minute": 1}));
    for _ in 0..5 {
        not_from(&from(&server, &["6.6.6.6"]), "6.6.6.6");
    }
    accepted(&from(&server, &["192.0.2.7"]));
    over_limit(&from(&server, &["192.0.2.7"]), "1 requests per minute of this key are used up");
}

#[test]
fn a_key_touches_its_purposes_alone() {
    let server = start("");
    let free = server.make_key("free", "default");
    let batch = server.upload("batch", "a.jsonl", b"{}\n").file_id();
    let documents = server.upload("retrieval", "a.txt", b"x").file_id();
    let input = server.upload("t2a_async_input", "a.txt", b"x").file_id();
    let ids = |reply: &Reply| {
        accepted(reply);
        let files = reply.json()["files"].as_array().unwrap().clone();
        files.iter().map(|file| file["file_id"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    let not_for = |reply: &Reply, purpose: &str| {
        assert_eq!(reply.code(), 1004, "{}", reply.text());
        let end = format!("this key may not use the purpose {purpose}");
        assert!(reply.message().ends_with(&end), "{}", reply.message());
    };
    set(&server, "keys", "test", "purposes", &json!(["batch"]));
    assert_eq!(ids(&server.get(LIST)), [batch]);
    assert_eq!(ids(&server.get("/v1/files/list?purpose=batch")), [batch]);
    not_for(&server.get("/v1/files/list?purpose=retrieval"), "retrieval");
    refused(
        &server.get("/v1/files/list?purpose=vision"),
        2013,
        "invalid params, invalid file purpose",
    );
    for call in ["retrieve", "retrieve_content"] {
        not_for(&server.get(&format!("/v1/files/{call}?file_id={documents}")), "retrieval");
        assert_eq!(server.get(&format!("/v1/files/{call}?file_id={batch}")).status, 200);
        refused(
            &server.get(&format!("/v1/files/{call}?file_id=77")),
            2013,
            "invalid params, file not found",
        );
    }
    not_for(&server.delete(documents), "retrieval");
    refused(&server.delete(77), 2013, "invalid params, file not found");
    let blobs = server.stored("blobs").len();
    not_for(&server.upload("retrieval", "b.txt", b"x"), "retrieval");
    not_for(&server.upload("retrieval", "b.txt", &vec![b'x'; 3 << 20]), "retrieval");
    assert_eq!(server.stored("blobs").len(), blobs);
    accepted(&server.upload("batch", "b.jsonl", b"{}\n"));
    accepted(&server.delete(batch));
    // One of two twins is not the other, and three are as good as one.
    let three = json!(["t2a_async_input", "retrieval", "assistants"]);
    set(&server, "keys", "test", "purposes", &three);
    assert_eq!(ids(&server.get(LIST)), [input, documents]);
    assert_eq!(ids(&server.get("/v1/files/list?purpose=t2a_async_input")), [input]);
    not_for(&server.get("/v1/files/list?purpose=t2a_async"), "t2a_async");
    // None at all is none.
    set(&server, "keys", "test", "purposes", &json!([]));
    assert!(ids(&server.get(LIST)).is_empty());
    not_for(&server.delete(input), "t2a_async_input");
    assert_eq!(ids(&get(&server, &free, LIST)).len(), 3);
}
