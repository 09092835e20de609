//! `/healthz`, `/readyz`, `/metrics`, `/openapi.json`, `/docs`, and the admin API.

use std::io::Write as _;
use std::path::Path;

use filegate_testkit::http::{Reply, Request};
use filegate_testkit::server::read;

use crate::kit;

fn get(address: &str, target: &str) -> Reply {
    Request::new(address, "GET", target).send()
}

#[test]
fn health_on_both_listeners() {
    let server = kit::start();
    for address in [&server.address, &server.admin_address] {
        for (target, says) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
            let reply = get(address, target);
            assert_eq!((reply.status, reply.text().as_str()), (200, says));
            assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
            assert_eq!(reply.header("trace-id").map(str::len), Some(32));
            let head = Request::new(address, "HEAD", target).send();
            assert_eq!((head.status, head.body.len()), (200, 0));
            kit::fault(Request::new(address, "POST", target).body("x").send(), 405);
        }
    }
    // The operators' listener has no files, whatever the key.
    let reply = Request::new(&server.admin_address, "GET", "/v1/files/list").bearer(&server.key);
    kit::fault(reply.send(), 404);
}

/// What containers run to see whether they are well.
#[test]
fn the_health_command_asks_readyz() {
    let health = |url: &str, more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_filegate"));
        filegate_testkit::server::clean_environment(&mut command);
        let output = command.args(["health", "--url", url]).args(more).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let mut server = kit::start();
    let mounted = format!("{}/minimax/v1", server.url());
    assert_eq!(health(&mounted, &[]), (Some(0), "ready\n".to_owned()));
    assert_eq!(health(&server.url(), &["--live"]), (Some(0), "alive\n".to_owned()));
    assert_eq!(health(&server.url(), &["--quiet"]), (Some(0), String::new()));
    server.kill();
    let (code, said) = health(&server.url(), &["--json"]);
    assert_eq!(code, Some(3));
    assert!(said.starts_with("{\"ready\":false,\"text\":\"no answer from http://"), "{said}");
}

#[test]
fn metrics_count_what_happens() {
    let server = kit::start();
    assert!(server.metric("filegate_uploads_total{").abs() < f64::EPSILON);
    let id = server.upload("retrieval", "a.txt", b"hello").file_id();
    kit::upload_refused(server.upload("retrieval", "a.pdf", b"hello"), 2013, "invalid params");
    kit::upload_refused(server.upload("voice_clone", "a.wav", &kit::wav(1000)), 2037, "voice");
    kit::upload_refused(server.upload("made-up-by-a-client", "a.wav", b"x"), 2013, "invalid");
    server.get(&format!("/v1/files/retrieve_content?file_id={id}"));
    kit::fault(server.get("/made/up/by/a/client"), 404);
    server.delete(id);
    for (line, value) in [
        ("filegate_uploads_total{purpose=\"retrieval\",outcome=\"stored\"}", 1.0),
        ("filegate_uploads_total{purpose=\"retrieval\",outcome=\"2013\"}", 1.0),
        ("filegate_uploads_total{purpose=\"voice_clone\",outcome=\"2037\"}", 1.0),
        ("filegate_uploads_total{purpose=\"(unknown)\",outcome=\"2013\"}", 1.0),
        ("filegate_upload_stored_bytes_total{purpose=\"retrieval\"}", 5.0),
        ("filegate_uploads_in_flight", 0.0),
        ("filegate_downloads_total", 1.0),
        ("filegate_deletes_total", 1.0),
        ("filegate_upload_stage_seconds_count{stage=\"receive\"}", 3.0),
        ("filegate_upload_stage_seconds_count{stage=\"inspect\"}", 1.0),
        ("filegate_upload_stage_seconds_count{stage=\"land\"}", 1.0),
        ("filegate_upload_stage_seconds_count{stage=\"commit\"}", 1.0),
        ("filegate_requests_total{route=\"(none)\",status=\"404\",code=\"2013\"}", 1.0),
        (
            "filegate_requests_total{route=\"/minimax/v1/files/upload\",status=\"200\",code=\"0\"}",
            1.0,
        ),
    ] {
        let page = get(&server.admin_address, "/metrics").text();
        assert!(page.lines().any(|l| l.starts_with(line)), "no {line} in\n{page}");
        assert!((server.metric(line) - value).abs() < f64::EPSILON, "{line}\n{page}");
    }
    let public = get(&server.address, "/metrics");
    assert_eq!(public.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    // What clients make up must not become a series.
    assert!(!public.text().contains("made"), "{}", public.text());
    assert!(public.text().contains("# HELP filegate_uploads_total "));
}

/// Run with `UPDATE_SNAPSHOTS=1` to write the file after a change of the API.
#[test]
fn the_openapi_document_is_the_checked_in_one() {
    let server = kit::start();
    let document = get(&server.address, "/openapi.json");
    assert_eq!(document.header("content-type"), Some("application/json"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|value| value == "1") {
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&document.body).unwrap();
    }
    let kept = String::from_utf8(read(&path)).unwrap();
    assert_eq!(document.text(), kept, "docs/openapi.json is old: run with UPDATE_SNAPSHOTS=1");
    let parsed = document.json();
    assert!(parsed["openapi"].as_str().unwrap().starts_with("3."));
    for (path, methods) in parsed["paths"].as_object().unwrap() {
        for (method, call) in methods.as_object().unwrap() {
            assert!(call["summary"].is_string(), "{method} {path} has no summary");
            let open = path.starts_with("/d/");
            assert_eq!(call.get("security").is_none(), open, "{method} {path}");
        }
    }
}

#[test]
fn the_docs_page_needs_nothing_from_outside() {
    let server = kit::start();
    for address in [&server.address, &server.admin_address] {
        let page = get(address, "/docs");
        assert_eq!(page.status, 200);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"));
        let text = page.text();
        assert!(text.contains("openapi.json") && text.contains("</html>"));
        for outside in ["http:", "https:", "src=", "@import", "<link", "url(", "=\"//", "'//"] {
            assert!(!text.contains(outside), "{outside} on the page");
        }
    }
}

#[test]
fn the_admin_token_is_shown_once_and_opens_the_admin_api() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let shown = "admin token, shown only this once: ";
    let first = kit::setup().start_on(&data);
    let token = filegate_testkit::server::eventually("the token is printed", || {
        first.log().split_once(shown)?.1.split_once('\n').map(|(token, _)| token.to_owned())
    });
    assert!(token.starts_with("fg-admin-") && token.len() == 52, "{token}");
    let status = |address: &str, headers: &[(&str, &str)]| {
        let request = Request::new(address, "GET", "/admin/v1/status");
        headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
    };
    let good = format!("Bearer {token}");
    let api_key = first.make_key("test", "default");
    let (as_bearer, longer) = (format!("Bearer {api_key}"), format!("{good}x"));
    for headers in [
        &[] as &[(&str, &str)],
        &[("Authorization", "Bearer")],
        &[("Authorization", &token)],
        &[("Cookie", &good)],
        &[("Authorization", &as_bearer)],
        &[("Authorization", &longer)],
        &[("Authorization", &good), ("Authorization", &good)],
        &[("Authorization", "Bearer fg-admin-")],
    ] {
        let reply = status(&first.admin_address, headers);
        assert_eq!(reply.status, 401, "{headers:?}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    }
    let json = kit::success(status(&first.admin_address, &[("Authorization", &good)])).json();
    assert_eq!((&json["ready"], &json["files"]), (&true.into(), &0.into()));
    // Not on the public listener, and no key for files.
    kit::fault(status(&first.address, &[("Authorization", &good)]), 404);
    let files = Request::new(&first.address, "GET", "/v1/files/list").bearer(&token).send();
    kit::refused(files, 2049, "invalid api key");
    assert_eq!(first.log().matches(token.as_str()).count(), 1);

    let mut first = first;
    assert!(first.terminate().success());
    let second = kit::setup().start_on(&data);
    kit::success(status(&second.admin_address, &[("Authorization", &good)]));
    assert!(!second.log().contains(shown) && !second.log().contains(&token), "{}", second.log());
}
