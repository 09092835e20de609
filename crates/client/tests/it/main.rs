//! The client against a fake server that answers canned HTTP.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod content;
mod fake;
mod upload;

use filegate_client::{Client, ClientConfig, Error, Key, ListQuery};
use filegate_types::FileId;
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::fake::{Answer, Fake};

fn client(url: &str) -> Client {
    client_with(url, |_config| {})
}

fn client_with(url: &str, change: impl FnOnce(&mut ClientConfig)) -> Client {
    // Only the first call installs it; the others find it installed.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let mut config = ClientConfig::new(url, Some(Key::new("fg-secret").unwrap()));
    change(&mut config);
    Client::new(&config).unwrap()
}

fn id(number: i64) -> FileId {
    FileId::new(number).unwrap()
}

fn file_json(id: i64) -> String {
    format!(
        r#"{{"file_id":{id},"bytes":5,"created_at":1700469398,"filename":"a.wav","purpose":"voice_clone"}}"#
    )
}

#[tokio::test]
async fn calls_carry_the_key_and_name_themselves() {
    let fake = Fake::start(|_request| {
        Answer::json(&format!(
            r#"{{"file":{},"base_resp":{{"status_code":0,"status_msg":"success"}}}}"#,
            file_json(7)
        ))
    });
    let file = client(&format!("{}/minimax/v1/", fake.url)).retrieve(id(7)).await.unwrap();
    assert_eq!(file.file_id, id(7));
    let request = fake.request();
    assert_eq!(request.line, "GET /minimax/v1/files/retrieve?file_id=7 HTTP/1.1");
    assert_eq!(request.header("authorization"), Some("Bearer fg-secret"));
    assert!(request.header("user-agent").unwrap().starts_with("filegate/"));
    assert_eq!(request.header("accept-encoding"), None);
}

#[tokio::test]
async fn refusals_come_through_under_any_status() {
    for status in ["200 OK", "422 Unprocessable Content", "503 Service Unavailable"] {
        let fake = Fake::start(move |_request| {
            Answer::json(
                r#"{"base_resp":{"status_code":2013,"status_msg":"invalid params, file not found"}}"#,
            )
            .status(status)
            .header("Trace-Id: 0123456789abcdef0123456789abcdef")
            .header("Retry-After: 7")
        });
        let error = client(&fake.url).delete(id(7), Some("voice_clone")).await.unwrap_err();
        assert_eq!(error.trace_id(), Some("0123456789abcdef0123456789abcdef"));
        let Error::Refused { code, message, retry_after_s, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!((code, retry_after_s), (2013, Some(7)));
        assert_eq!(message, "invalid params, file not found");
        assert_eq!(fake.request().body, br#"{"file_id":7,"purpose":"voice_clone"}"#);
    }
}

#[tokio::test]
async fn what_is_no_file_gateway_is_told_apart() {
    for (status, body, http) in [
        ("502 Bad Gateway", "<html>", Some(502)),
        ("301 Moved\r\nLocation: http://127.0.0.1:1/", "", Some(301)),
        ("404 Not Found", r#"{"error":"no"}"#, Some(404)),
        ("200 OK", "<html>", None),
        ("200 OK", "{}", None),
        ("200 OK", r#"{"base_resp":{"status_code":0,"status_msg":"success"}}"#, None),
        ("200 OK", r#"{"file":1,"base_resp":{"status_code":0,"status_msg":"success"}}"#, None),
    ] {
        let fake = Fake::start(move |_request| Answer::new("text/html", body).status(status));
        let error = client(&fake.url).retrieve(id(7)).await.unwrap_err();
        match (&error, http) {
            (Error::Http { status, .. }, Some(expected)) => assert_eq!(*status, expected),
            (Error::Protocol { .. }, None) => {}
            _ => panic!("{status} {body}: {error:?}"),
        }
        assert!(error.is_unavailable());
    }
}

#[tokio::test]
async fn a_closed_port_is_a_connect_error_with_its_cause() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = client(&url).health().await.unwrap_err();
    assert!(error.is_connect());
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn health_is_outside_the_prefix() {
    let fake = Fake::start(|_request| Answer::new("text/plain", "ok"));
    client(&format!("{}/minimaxi/v1", fake.url)).health().await.unwrap();
    assert_eq!(fake.request().line, "GET /healthz HTTP/1.1");
}

#[tokio::test]
async fn all_pages_are_listed_in_order() {
    let fake = Fake::start(|request| {
        let (files, more) = if request.line.contains("after=8") {
            (file_json(7), false)
        } else {
            (format!("{},{}", file_json(9), file_json(8)), true)
        };
        Answer::json(&format!(
            r#"{{"files":[{files}],"has_more":{more},"base_resp":{{"status_code":0,"status_msg":"success"}}}}"#
        ))
    });
    let client = client(&fake.url);
    let ids: Vec<_> = client
        .list_all(Some("voice_clone"))
        .map_ok(|file| file.file_id.get())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(ids, [9, 8, 7]);
    assert_eq!(fake.request().line, "GET /v1/files/list?purpose=voice_clone&limit=1000 HTTP/1.1");
}

#[tokio::test]
async fn a_server_that_repeats_a_page_does_not_keep_the_client_forever() {
    let fake = Fake::start(|_request| {
        Answer::json(&format!(
            r#"{{"files":[{}],"has_more":true,"base_resp":{{"status_code":0,"status_msg":"success"}}}}"#,
            file_json(9)
        ))
    });
    let all: Vec<_> = client(&fake.url).list_all(None).collect().await;
    assert!(matches!(all.as_slice(), [Ok(_), Err(Error::Protocol { .. })]), "{all:?}");
    let page = client(&fake.url).list(&ListQuery::default()).await.unwrap();
    assert_eq!((page.files.len(), page.has_more), (1, Some(true)));
}
