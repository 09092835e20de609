//! `GET /v1/query/t2a_async_query_v2`: how a long text is doing; ids are numbers.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::json;

use super::video_query::status_word;
use crate::app::App;
use crate::body::id_parameter;
use crate::layer::Caller;
use crate::reply::{Refusal, success};
use crate::world::Status;

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    let id = id_parameter(request.uri().query(), "task_id");
    let world = app.world();
    let task = id.and_then(|id| world.task(ix, id, true));
    let task = task.ok_or_else(|| Refusal::invalid("task_id not exist"))?;
    let status = task.status(app.clock.now());
    // Videos say "Fail", long texts "Failed".
    let said = if status == Status::Fail { "Failed" } else { status_word(status) };
    Ok(success(json!({"task_id": task.id, "status": said, "file_id": task.file_id})))
}
