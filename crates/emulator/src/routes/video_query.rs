//! `GET /v1/query/video_generation`: how a video is doing; ids are strings.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::app::App;
use crate::body::id_parameter;
use crate::layer::Caller;
use crate::reply::{Refusal, success};
use crate::world::{Product, Status, Task};

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    let id = id_parameter(request.uri().query(), "task_id");
    let world = app.world();
    let task = id.and_then(|id| world.task(ix, id, false));
    let task = task.ok_or_else(|| Refusal::invalid("task_id not exist"))?;
    let status = task.status(app.clock.now());
    Ok(success(shown(task, status, status_word(status))))
}

/// A video task in `word`s: as queries and callbacks show it.
pub(crate) fn shown(task: &Task, status: Status, word: &str) -> Value {
    let mut reply = json!({"task_id": task.id.to_string(), "status": word, "file_id": ""});
    if let (Status::Success, Product::Video { width, height }) = (status, task.product) {
        reply["file_id"] = task.file_id.to_string().into();
        reply["video_width"] = width.into();
        reply["video_height"] = height.into();
    }
    reply
}

pub(crate) fn status_word(status: Status) -> &'static str {
    match status {
        Status::Preparing => "Preparing",
        Status::Queueing => "Queueing",
        Status::Processing => "Processing",
        Status::Success => "Success",
        Status::Fail => "Fail",
        Status::Expired => "Expired",
    }
}
