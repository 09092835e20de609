//! `GET /v1/files/retrieve`: the file and a link to its content, which ends after nine hours.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::json;

use crate::app::App;
use crate::body::id_parameter;
use crate::layer::Caller;
use crate::reply::{Refusal, success};

/// How long the link lives.
const LINK_LIFE_S: i64 = 9 * 3600;

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    let id = id_parameter(request.uri().query(), "file_id");
    let id = id.ok_or_else(|| Refusal::file_not_found().file_null())?;
    let now = app.clock.now();
    let world = app.world();
    let file = world.file(ix, id, now).map_err(Refusal::file_null)?;
    let object = format!("file/{}/{id}", world.account(ix).name);
    let mut shown = file.object();
    shown["download_url"] = app.links.link(&object, now.seconds() + LINK_LIFE_S).into();
    Ok(success(json!({"file": shown})))
}
