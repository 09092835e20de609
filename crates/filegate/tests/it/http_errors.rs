//! The setting `http_errors = "status"`.

use filegate_testkit::http::{Connection, Reply, Request};
use filegate_testkit::server::eventually;

use crate::kit;

/// The status that is answered, and that the body is the same as without the setting.
fn compare(body_server: Reply, status_server: Reply, status: u16, code: i64) {
    let (plain, with) = (kit::checked(body_server), kit::checked(status_server));
    assert_eq!((plain.status, plain.code()), (200, code), "{}", plain.text());
    assert_eq!(with.status, status, "{}", with.text());
    assert_eq!(plain.text(), with.text());
}

#[test]
fn each_code_has_its_status() {
    let plain = kit::start();
    let with = kit::start_with("http_errors = \"status\"");
    let both =
        |send: &dyn Fn(&filegate_testkit::server::TestServer) -> Reply| (send(&plain), send(&with));
    let bare = |server: &filegate_testkit::server::TestServer, key: &str| {
        Request::new(&server.address, "GET", "/v1/files/list").bearer(key).send()
    };
    let upload = "/v1/files/upload";
    let narrow = |server: &filegate_testkit::server::TestServer| {
        let key = server.command(&["key", "create", "--name", "n", "--scopes", "files:read"]);
        bare(server, &key)
    };
    for ((one, other), status, code) in [
        (both(&|s| bare(s, "")), 401, 1004),
        (both(&|s| bare(s, "fg-unknown")), 401, 2049),
        (both(&|s| narrow(s)), 403, 1004),
        (both(&|s| s.get("/v1/files/retrieve?file_id=1")), 404, 2013),
        (both(&|s| s.get("/v1/files/retrieve_content?file_id=1")), 404, 2013),
        (both(&|s| s.delete(1)), 404, 2013),
        (both(&|s| s.get("/v1/files/retrieve?file_id=x")), 422, 2013),
        (both(&|s| s.upload("vision", "a.txt", b"x")), 422, 2013),
        (both(&|s| s.upload("voice_clone", "a.wav", &kit::wav(3000))), 422, 2037),
        (both(&|s| s.upload("prompt_audio", "a.wav", &kit::wav(9000))), 422, 2048),
        (both(&|s| s.upload("voice_clone", "a.wav", &kit::wav((20 << 20) / 8))), 413, 2013),
        (
            both(&|s| s.request("POST", "/v1/files/delete").body(vec![b' '; 70_000]).send()),
            413,
            2013,
        ),
        (
            both(&|s| s.request("POST", upload).header("Content-Encoding", "br").body("x").send()),
            422,
            2013,
        ),
    ] {
        compare(one, other, status, code);
    }
    for server in [&plain, &with] {
        kit::success(server.get("/v1/files/list"));
        assert_eq!(server.upload("retrieval", "a.txt", b"x").status, 200);
    }
}

#[test]
fn what_may_be_tried_again_says_so() {
    let server = kit::start_with(
        "http_errors = \"status\"\n[limits]\nuploads_max = 1\nupload_wait = \"0s\"\nbody_idle = \"1s\"\n\
         [jobs]\nupload_lease = \"5s\"\n",
    );
    let form_type = format!("Content-Type: {}", kit::FORM_TYPE);
    let lines = [form_type.as_str(), "Content-Length: 100"];
    let mut stalled = Connection::open(&server.address).unwrap();
    stalled.write(&kit::head_of(&server, "POST", "/v1/files/upload", &lines)).unwrap();
    stalled.write(b"--XyZ").unwrap();
    eventually("it is in flight", || {
        (server.metric("filegate_uploads_in_flight") > 0.5).then_some(())
    });
    let second = kit::checked(server.upload("retrieval", "a.txt", b"hello"));
    assert_eq!((second.status, second.code()), (429, 1002), "{}", second.text());
    assert_eq!(second.header("retry-after"), Some("1"));
    let first = kit::checked(stalled.reply().unwrap());
    assert_eq!((first.status, first.code()), (504, 1001), "{}", first.text());
    kit::still_well(&server);
}

#[test]
fn faults_of_http_keep_their_status_and_the_body() {
    for toml in ["", "http_errors = \"status\""] {
        let server = kit::start_with(toml);
        for (method, target, status) in [
            ("GET", "/minimax/v1/nothing", 404),
            ("POST", "/minimaxi/v1/files/uploads", 404),
            ("GET", "/v1/files/list/", 404),
            ("GET", "/v1//files/list", 404),
            ("GET", "/V1/files/list", 404),
            ("GET", "/minimax/minimax/v1/files/list", 404),
            ("GET", "/minimax/v1/files/%6cist/..", 404),
            ("GET", "/", 404),
            ("GET", "/admin/v1/status", 404),
            ("GET", "/minimax/v1/files/upload", 405),
            ("POST", "/minimax/v1/files/list", 405),
            ("PUT", "/v1/files/upload", 405),
            ("DELETE", "/v1/files/delete", 405),
            ("OPTIONS", "/v1/files/upload", 405),
            ("PATCH", "/minimax/v1/files", 405),
            ("TRACE", "/v1/files/list", 405),
            ("FOO", "/v1/files/list", 405),
        ] {
            let reply = kit::fault(server.request(method, target).send(), status);
            assert_eq!(reply.code(), 2013, "{method} {target}");
            assert_eq!(reply.header("allow").is_some(), status == 405, "{method} {target}");
        }
    }
}
