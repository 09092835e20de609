//! `GET /emulate/clock`, and `POST /emulate/clock` with `{"advance": "10m"}`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use filegate_types::units::Span;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{Problem, body};
use crate::app::App;
use crate::clock::ADVANCE_MAX;
use crate::reply::plain_json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance: Span,
}

pub(super) async fn show(State(app): State<Arc<App>>) -> Response {
    plain_json(StatusCode::OK, &json!({"now_ms": app.clock.now()}))
}

pub(super) async fn advance(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let asked: Advance = body(request).await?;
    if asked.advance.0 > ADVANCE_MAX {
        return Err(Problem::new("advance by ten years at most"));
    }
    app.clock.advance(asked.advance.0);
    Ok(show(State(app)).await)
}
