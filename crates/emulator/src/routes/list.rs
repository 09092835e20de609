//! `GET /v1/files/list`. The documentation wants a purpose; clients leave it out and get all files here.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use filegate_types::purpose::{PurposeName, defaults};
use serde_json::{Value, json};

use crate::app::App;
use crate::body::parameter;
use crate::layer::Caller;
use crate::reply::{Refusal, success};
use crate::world::File;

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    let purpose = parameter(request.uri().query(), "purpose").filter(|purpose| !purpose.is_empty());
    let known = |purpose: &str| {
        purpose.parse::<PurposeName>().is_ok_and(|name| defaults().contains_key(&name))
    };
    if purpose.is_some_and(|purpose| !known(purpose)) {
        return Err(Refusal::invalid_purpose());
    }
    let world = app.world();
    let files = world.files(ix, app.clock.now());
    let files = files.filter(|file| purpose.is_none_or(|purpose| file.purpose == purpose));
    let files: Vec<Value> = files.map(File::object).collect();
    Ok(success(json!({"files": files})))
}
