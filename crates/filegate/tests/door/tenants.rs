//! Accounts and keys as an operator has set them up, written into the catalog of a running server.

use filegate_testkit::http::{Reply, Request};
use filegate_testkit::place::quoted;
use filegate_testkit::server::{Setup, TestServer};
use serde_json::Value;

pub(crate) const UPLOAD: &str = "/minimax/v1/files/upload";
pub(crate) const LIST: &str = "/minimax/v1/files/list";

pub(crate) fn start(toml: &str) -> TestServer {
    Setup::new(env!("CARGO_BIN_EXE_filegate")).config(toml).start()
}

/// Sets a column of JSON of the key or account with this name.
#[track_caller]
pub(crate) fn set(server: &TestServer, table: &str, name: &str, column: &str, value: &Value) {
    let (value, name) = (quoted(&value.to_string()), quoted(name));
    let count = format!("SELECT count(*) FROM {table} WHERE name = {name}");
    assert_eq!(server.value::<i64>(&count), 1);
    server.sql(&format!("UPDATE {table} SET {column} = {value} WHERE name = {name}"));
}

/// Limits of the key that the server was started with.
#[track_caller]
pub(crate) fn key_limits(server: &TestServer, limits: &Value) {
    set(server, "keys", "test", "limits", limits);
}

/// Limits of its account.
#[track_caller]
pub(crate) fn account_limits(server: &TestServer, limits: &Value) {
    set(server, "accounts", "default", "limits", limits);
}

pub(crate) fn get(server: &TestServer, key: &str, target: &str) -> Reply {
    Request::new(&server.address, "GET", target).bearer(key).send()
}

pub(crate) fn upload(server: &TestServer, key: &str, content: &[u8]) -> Reply {
    let request = Request::new(&server.address, "POST", UPLOAD).bearer(key);
    request.form("retrieval", "a.txt", content).send()
}

#[track_caller]
pub(crate) fn refused(reply: &Reply, code: i64, message: &str) {
    assert_eq!((reply.code(), reply.message().as_str()), (code, message));
}

#[track_caller]
pub(crate) fn accepted(reply: &Reply) {
    assert_eq!(reply.code(), 0, "{}", reply.text());
}

/// Seconds of `Retry-After`, which the message has to say as well.
#[track_caller]
pub(crate) fn over_limit(reply: &Reply, message: &str) -> u64 {
    let seconds: u64 = reply.header("retry-after").expect("Retry-After").parse().unwrap();
    refused(reply, 1002, &format!("rate limit: {message}, retry in {seconds} s"));
    assert!(seconds > 0);
    seconds
}
