//! `GET /emulate/calls[?path=…&account=…&code=…]`: what was asked; `DELETE` forgets it.
//!
//! `path` is a path, or how it begins when it ends in `*`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use crate::app::App;
use crate::body::parameter;
use crate::calls::Call;
use crate::reply::plain_json;

pub(super) async fn show(State(app): State<Arc<App>>, request: Request) -> Response {
    let query = request.uri().query();
    let (path, account) = (parameter(query, "path"), parameter(query, "account"));
    let code = parameter(query, "code").and_then(|code| code.parse::<i64>().ok());
    let fits = |call: &&Call| {
        path.is_none_or(|path| match path.strip_suffix('*') {
            Some(start) => call.path.starts_with(start),
            None => call.path == path,
        }) && account.is_none_or(|account| call.account.as_deref() == Some(account))
            && code.is_none_or(|code| call.code == Some(code))
    };
    let calls = app.calls();
    let found: Vec<&Call> = calls.kept().filter(fits).collect();
    let reply = json!({"count": found.len(), "total": calls.total(), "calls": found});
    drop(calls);
    plain_json(StatusCode::OK, &reply)
}

pub(super) async fn clear(State(app): State<Arc<App>>) -> Response {
    app.calls().clear();
    plain_json(StatusCode::OK, &json!({}))
}
