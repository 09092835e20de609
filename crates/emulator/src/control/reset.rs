//! `POST /emulate/reset`: as after the start, but for the clock: no files, voices, tasks, calls; the script's faults.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use crate::app::App;
use crate::faults::Faults;
use crate::reply::plain_json;

pub(super) async fn reset(State(app): State<Arc<App>>) -> Response {
    app.world().clear(&app.options);
    *app.faults() = Faults::new(app.options.seed, app.options.script.clone());
    app.calls().clear();
    plain_json(StatusCode::OK, &json!({}))
}
