//! `/admin/v1/…` on the operators' listener.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use filegate_types::wire::BaseResp;
use filegate_types::{ApiError, ErrorCode, KeyHash};
use http::StatusCode;
use http::header::AUTHORIZATION;
use serde::Serialize;

use super::reply;
use crate::app::App;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/admin/v1/status", get(status))
}

/// How the gateway is.
#[derive(Serialize)]
struct Status {
    version: &'static str,
    ready: bool,
    files: u64,
    bytes: u64,
    uploads_in_progress: u64,
    jobs_waiting: u64,
    base_resp: BaseResp,
}

async fn status(State(app): State<Arc<App>>, request: Request) -> Response {
    if let Err(error) = admit(&app, &request) {
        return reply::fault(StatusCode::UNAUTHORIZED, &error);
    }
    let ready = app.unready().await.is_none();
    match app.catalog.counts().await {
        Ok(counts) => reply::success(&Status {
            version: env!("CARGO_PKG_VERSION"),
            ready,
            files: counts.files,
            bytes: counts.bytes,
            uploads_in_progress: counts.uploads,
            jobs_waiting: counts.jobs,
            base_resp: BaseResp::success(),
        }),
        Err(error) => reply::fault(StatusCode::SERVICE_UNAVAILABLE, &reply::store_failed(&error)),
    }
}

fn admit(app: &App, request: &Request) -> Result<(), ApiError> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let presented = header
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .ok_or(ErrorCode::NotAuthorized)?
        .1;
    if KeyHash::of(presented.trim()).matches(&app.admin_token_hash) {
        Ok(())
    } else {
        Err(ErrorCode::InvalidKey.into())
    }
}
