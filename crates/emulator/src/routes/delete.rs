//! `POST /v1/files/delete`: the id as a number or as digits in a string, the purpose if it is given.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use filegate_types::FileId;
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::body;
use crate::layer::Caller;
use crate::reply::{Note, Refusal, success};

#[derive(Deserialize)]
struct Delete {
    file_id: FileId,
    #[serde(default)]
    purpose: Option<String>,
}

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked: Delete = body::json(&app, request).await?;
    let id = asked.file_id.get();
    app.world().delete_file(ix, id, asked.purpose.as_deref(), app.clock.now())?;
    let mut response = success(json!({"file_id": id}));
    response.extensions_mut().insert(Note(json!({"file_id": id})));
    Ok(response)
}
