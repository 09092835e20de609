//! `/healthz`, `/readyz`, `/metrics`, `/openapi.json`, `/docs`: on both listeners.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use filegate_types::{ApiError, ErrorCode};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderName, StatusCode};

use super::{openapi, reply};
use crate::app::App;

/// A page that renders `/openapi.json` with nothing from outside.
const DOCS: &str = include_str!("docs.html");
/// It may run its own script and fetch from its own origin, and nothing else.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .route("/openapi.json", get(openapi_json))
        .route("/docs", get(docs))
}

/// The process answers.
async fn healthz() -> Response {
    text("text/plain; charset=utf-8", "ok\n")
}

/// Requests may be sent here.
async fn readyz(State(app): State<Arc<App>>) -> Response {
    match app.unready().await {
        None => text("text/plain; charset=utf-8", "ready\n"),
        Some(why) => {
            let error = ApiError::detailed(ErrorCode::Internal, why);
            reply::fault(StatusCode::SERVICE_UNAVAILABLE, &error)
        }
    }
}

async fn metrics_page(State(app): State<Arc<App>>) -> Response {
    text("text/plain; version=0.0.4; charset=utf-8", app.metrics.render())
}

async fn openapi_json() -> Response {
    text("application/json", openapi::document())
}

async fn docs() -> Response {
    let policy = [(CONTENT_SECURITY_POLICY, DOCS_POLICY)];
    (policy, text("text/html; charset=utf-8", DOCS)).into_response()
}

fn text(content_type: &'static str, body: impl IntoResponse) -> Response {
    let headers: [(HeaderName, &'static str); 2] =
        [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}
