//! `POST /v1/get_voice`: everybody's voices, and the account's own once they have been used.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::body;
use crate::layer::Caller;
use crate::reply::{Refusal, success};
use crate::world::system_voices;

#[derive(Deserialize)]
struct GetVoice {
    voice_type: String,
}

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked: GetVoice = body::json(&app, request).await?;
    let (system, cloned) = match asked.voice_type.as_str() {
        "all" => (true, true),
        "system" => (true, false),
        "voice_cloning" => (false, true),
        "voice_generation" => (false, false),
        _ => {
            return Err(Refusal::invalid(
                "voice_type must be system, voice_cloning, voice_generation or all",
            ));
        }
    };
    let mut reply = json!({"system_voice": [], "voice_cloning": [], "voice_generation": []});
    if system {
        reply["system_voice"] = system_voices()
            .map(|id| json!({"voice_id": id, "voice_name": id.replace(['_', '-'], " "), "description": []}))
            .collect();
    }
    if cloned {
        let world = app.world();
        let used = world.voices(ix, app.clock.now()).filter(|(_, voice)| voice.used_at.is_some());
        reply["voice_cloning"] = used
            .map(|(id, voice)| json!({"voice_id": id, "description": [], "created_time": voice.created_at.date()}))
            .collect::<Value>();
    }
    Ok(success(reply))
}
