//! `POST /v1/delete_voice`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::body;
use crate::layer::Caller;
use crate::reply::{Refusal, success};

#[derive(Deserialize)]
struct DeleteVoice {
    voice_type: String,
    voice_id: String,
}

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked: DeleteVoice = body::json(&app, request).await?;
    if !["voice_cloning", "voice_generation"].contains(&asked.voice_type.as_str()) {
        return Err(Refusal::invalid("voice_type must be voice_cloning or voice_generation"));
    }
    // Designed voices are not made here, so there are none.
    let deleted = (asked.voice_type == "voice_cloning")
        .then(|| app.world().delete_voice(ix, &asked.voice_id, app.clock.now()));
    let voice = deleted.flatten().ok_or_else(|| Refusal::invalid("voice_id not exist"))?;
    Ok(success(json!({"voice_id": asked.voice_id, "created_time": voice.created_at.date()})))
}
