//! What [`crate::emulated`] needs of a suite.

use filegate_testkit::http::Reply;
use filegate_testkit::server::TestServer;
use serde_json::Value;

/// A change of an operator's, at the replica that was the first to start.
pub(crate) fn operator(server: &TestServer, path: &str, body: &Value) -> Reply {
    server
        .admin("POST", path)
        .header("Content-Type", "application/json")
        .body(body.to_string())
        .send()
}
