//! Calls of tests to the emulator itself, under a path that MiniMax does not have, without a key.
//!
//! They answer plain JSON; what is wrong is a 400 with `{"error": …}`.

mod accounts;
mod calls;
mod clock;
mod faults;
mod files;
mod reset;

use std::fmt::Display;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::app::App;
use crate::reply::plain_json;

/// Bytes of the body of a control call.
const BODY_BYTES_MAX: usize = 1 << 20;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/emulate/accounts", get(accounts::show).post(accounts::change))
        .route("/emulate/calls", get(calls::show).delete(calls::clear))
        .route("/emulate/clock", get(clock::show).post(clock::advance))
        .route("/emulate/faults", get(faults::show).post(faults::add).delete(faults::remove))
        .route("/emulate/files/expire", post(files::expire))
        .route("/emulate/reset", post(reset::reset))
}

/// A control call that cannot be done.
#[derive(Debug)]
pub(super) struct Problem(String);

impl Problem {
    fn new(text: impl Display) -> Self {
        Self(format!("{text}"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        plain_json(StatusCode::BAD_REQUEST, &json!({"error": self.0}))
    }
}

async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let bytes = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await;
    serde_json::from_slice(&bytes.map_err(Problem::new)?).map_err(Problem::new)
}
