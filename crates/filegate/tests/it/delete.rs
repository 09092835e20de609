//! `POST …/v1/files/delete` and its old form.

use filegate_testkit::http::Reply;
use filegate_testkit::server::{TestServer, eventually};
use serde_json::json;

use crate::kit::{self, MOUNTS};

const DELETE: &str = "/v1/files/delete";

fn send(server: &TestServer, content_type: &str, body: &[u8]) -> Reply {
    let request = server.request("POST", DELETE).header("Content-Type", content_type);
    request.body(body).send()
}

#[test]
fn deleted_bytes_leave_the_disk_soon() {
    let server = kit::start();
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let kept = server.upload("retrieval", "b.txt", b"stays").file_id();
    let reply = kit::success(server.delete(id));
    assert_eq!(
        reply.json(),
        json!({"file_id": id, "base_resp": {"status_code": 0, "status_msg": "success"}})
    );
    eventually("the bytes are gone", || (server.stored("blobs").len() == 1).then_some(()));
    let target = format!("/v1/files/retrieve_content?file_id={kept}");
    assert_eq!(kit::content(server.get(&target), 200).body, b"stays");
}

#[test]
fn every_way_to_name_the_file() {
    let server = kit::start();
    let upload = || server.upload("t2a_async_input", "a.txt", b"hello").file_id();
    for (content_type, template) in [
        ("application/json", r#"{"file_id":ID}"#),
        ("application/json; charset=utf-8", r#"{"file_id":"ID"}"#),
        ("", r#"{"file_id":ID,"purpose":null}"#),
        ("text/plain", r#"{"file_id":ID,"purpose":""}"#),
        ("application/json", r#" {"purpose":"t2a_async_input","file_id":"ID"} "#),
        ("application/json", r#"{"file_id":ID,"purpose":"t2a_async"}"#),
        ("application/json", r#"{"file_id":ID,"GroupId":"1","more":[1,{"a":null}]}"#),
        ("application/x-www-form-urlencoded", "file_id=ID"),
        ("application/x-www-form-urlencoded; charset=utf-8", "purpose=t2a_async&file_id=ID&x=y"),
        ("Application/X-WWW-Form-Urlencoded", "file_id=ID&purpose="),
    ] {
        let id = upload();
        let body = template.replace("ID", &id.to_string());
        let reply = kit::success(send(&server, content_type, body.as_bytes()));
        assert_eq!(reply.json()["file_id"], id, "{template}");
    }
    for mount in MOUNTS {
        let id = upload();
        let request = server.request("POST", &format!("{mount}{DELETE}?GroupId=1"));
        kit::success(request.body(format!(r#"{{"file_id":{id}}}"#)).send());
    }
    for mount in ["/minimax", "/minimaxi"] {
        let id = upload();
        let target = format!("{mount}/v1/files?file_id={id}");
        let json = kit::success(server.request("DELETE", &target).send()).json();
        assert_eq!((&json["file_id"], &json["id"]), (&json!(id), &json!(id)));
        assert_eq!(json["deleted"], true);
        let again = server.request("DELETE", &target).send();
        let again = kit::refused(again, 2013, "invalid params, file not found").json();
        assert_eq!(again["deleted"], false);
    }
    let id = upload();
    let bare = server.request("DELETE", &format!("/v1/files?file_id={id}")).send();
    assert_ne!(bare.status, 200, "the bare path is OpenAI's: {}", bare.text());
    kit::success(server.get(&format!("/v1/files/retrieve?file_id={id}")));
}

#[test]
fn a_purpose_that_is_given_must_match() {
    let server = kit::start();
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    for (purpose, says) in [
        ("voice_clone", "invalid params, purpose is not the purpose of this file"),
        ("t2a_async", "invalid params, purpose is not the purpose of this file"),
        ("vision", "invalid params, invalid file purpose"),
        ("retrieval ", "invalid params, invalid file purpose"),
    ] {
        let body = json!({"file_id": id, "purpose": purpose}).to_string();
        let reply = kit::refused(send(&server, "application/json", body.as_bytes()), 2013, says);
        assert_eq!(kit::keys(&reply.json()), ["base_resp"]);
    }
    let body = json!({"file_id": id, "purpose": "retrieval"}).to_string();
    kit::success(send(&server, "application/json", body.as_bytes()));
}

#[test]
fn what_is_no_request() {
    let server = kit::start();
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let deep = format!("{{\"file_id\":{id},\"x\":{}{}}}", "[".repeat(30_000), "]".repeat(30_000));
    let utf16: Vec<u8> =
        format!("{{\"file_id\":{id}}}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bom = format!("\u{feff}{{\"file_id\":{id}}}");
    let twice = format!("{{\"file_id\":{id},\"file_id\":{id}}}");
    let trailing = format!("{{\"file_id\":{id}}} x");
    let large = format!("{{\"file_id\":{id},\"x\":\"{}\"}}", "x".repeat(64 << 10));
    let latin = [format!("{{\"file_id\":{id},\"x\":\"").as_bytes(), b"\xff\"}"].concat();
    for body in [
        b"" as &[u8],
        b"{",
        b"[]",
        b"null",
        b"1",
        b"{}",
        b"file_id=1",
        br#"{"file_id":}"#,
        deep.as_bytes(),
        &utf16,
        bom.as_bytes(),
        twice.as_bytes(),
        trailing.as_bytes(),
        large.as_bytes(),
        &latin,
    ] {
        let reply = send(&server, "application/json", body);
        let reply = kit::refused(reply, 2013, "invalid params, the body ");
        assert_eq!(kit::keys(&reply.json()), ["base_resp"]);
    }
    for value in [
        "0",
        "-1",
        "1.0",
        "1.5",
        "1e3",
        "9223372036854775808",
        "18446744073709551616",
        "99999999999999999999999",
        "[1]",
        "{}",
        "null",
        "true",
        "NaN",
        "Infinity",
        "0x1",
        "01",
        r#""""#,
        r#""0""#,
        r#""-1""#,
        r#""01""#,
        r#""1.0""#,
        r#"" 1""#,
        r#""1 ""#,
        r#""+1""#,
        r#""1e3""#,
        r#""٣""#,
        r#""9223372036854775808""#,
        r#""1 OR 1=1""#,
        r#""1\u0000""#,
        r#"["1"]"#,
    ] {
        let body = format!("{{\"file_id\":{value}}}");
        let reply = send(&server, "application/json", body.as_bytes());
        kit::refused(reply, 2013, "invalid params, ");
    }
    for form in
        ["", "purpose=retrieval", "file_id=", "file_id=01", "file_id=1&file_id=2", "file_id=%ff"]
    {
        let reply = send(&server, "application/x-www-form-urlencoded", form.as_bytes());
        kit::refused(reply, 2013, "invalid params, ");
    }
    for absent in ["1", "9223372036854775807"] {
        let body = format!("{{\"file_id\":{absent}}}");
        let reply = send(&server, "application/json", body.as_bytes());
        kit::refused(reply, 2013, "invalid params, file not found");
    }
    let zipped = server.request("POST", DELETE).header("Content-Encoding", "gzip");
    let reply = zipped.body(format!("{{\"file_id\":{id}}}")).send();
    kit::refused(reply, 2013, "invalid params, content-encoding is not supported");
    kit::success(server.get(&format!("/v1/files/retrieve?file_id={id}")));
    kit::still_well(&server);
}
