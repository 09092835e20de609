//! `POST /emulate/files/expire` with `{"account": "a1", "file_id": 1}`: from now on upstream says "file expired".

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use filegate_types::FileId;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{Problem, body};
use crate::app::App;
use crate::reply::plain_json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expire {
    account: String,
    file_id: FileId,
}

pub(super) async fn expire(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let asked: Expire = body(request).await?;
    let now = app.clock.now();
    let mut world = app.world();
    let ix = world.account_named(&asked.account);
    let ix = ix.ok_or_else(|| Problem::new("no account of this name"))?;
    let file = world.account_mut(ix).files.get_mut(&asked.file_id.get());
    file.ok_or_else(|| Problem::new("no file of this id"))?.expire(now);
    Ok(plain_json(StatusCode::OK, &json!({})))
}
