//! `GET /emulate/faults`, `POST` with a fault or `{"seed": …, "fault": […]}`, `DELETE` of all or of `?id=`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Problem, body};
use crate::app::App;
use crate::body::parameter;
use crate::faults::{FAULTS_MAX, Fault, Script};
use crate::reply::plain_json;

pub(super) async fn show(State(app): State<Arc<App>>) -> Response {
    plain_json(StatusCode::OK, &json!({"faults": app.faults().show()}))
}

pub(super) async fn add(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let asked: Value = body(request).await?;
    let script = if asked.get("fault").is_some() {
        Script::deserialize(asked).map_err(Problem::new)?
    } else {
        let fault = Fault::deserialize(asked).map_err(Problem::new)?;
        Script { seed: None, fault: vec![fault] }
    };
    let script = script.checked().map_err(Problem::new)?;
    let mut faults = app.faults();
    if faults.len() + script.fault.len() > FAULTS_MAX {
        return Err(Problem::new(format_args!("more than {FAULTS_MAX} faults")));
    }
    Ok(plain_json(StatusCode::OK, &json!({"ids": faults.add(script)})))
}

pub(super) async fn remove(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let id = parameter(request.uri().query(), "id");
    let id = id.map(str::parse).transpose().map_err(Problem::new)?;
    Ok(plain_json(StatusCode::OK, &json!({"removed": app.faults().remove(id)})))
}
