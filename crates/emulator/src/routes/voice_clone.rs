//! `POST /v1/voice_clone`: samples become a voice. Here, not at the upload, are they looked at.

use std::io::Cursor;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use filegate_media::{Format, Limits, probe};
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::body;
use crate::layer::Caller;
use crate::reply::{Refusal, success};
use crate::speech::{Speaker, link_to, units};
use crate::world::{AccountIx, is_voice_id};

/// Characters of the text of a preview.
const TEXT_MAX: usize = 1000;
/// What a voice costs.
const UNITS: u64 = 1000;
/// The bounds of a sample, as documented.
const SAMPLE_MS: std::ops::RangeInclusive<u64> = 10_000..=300_000;
/// The bounds of a prompt, as observed.
const PROMPT_MS: std::ops::RangeInclusive<u64> = 5_000..=10_000;

#[derive(Deserialize)]
struct VoiceClone {
    /// A number: upstream's typed parser takes no string for it.
    file_id: i64,
    voice_id: String,
    #[serde(default)]
    clone_prompt: Option<ClonePrompt>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    model: Option<String>,
}

#[derive(Deserialize)]
struct ClonePrompt {
    #[serde(default)]
    prompt_audio: Option<i64>,
    #[serde(default)]
    prompt_text: Option<String>,
}

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked: VoiceClone = body::json(&app, request).await?;
    asked.check()?;
    if !app.world().account(ix).verified {
        return Err(Refusal::new(2038, "no voice cloning permission"));
    }
    let sample = lasting_ms(&app, ix, asked.file_id, "voice_clone").await?;
    if sample < *SAMPLE_MS.start() {
        return Err(Refusal::new(2037, "voice duration too short"));
    }
    if sample > *SAMPLE_MS.end() {
        return Err(Refusal::new(2037, "voice duration too long"));
    }
    if let Some(prompt) = &asked.clone_prompt {
        check_prompt(&app, ix, prompt).await?;
    }
    let text = asked.text.as_deref().filter(|text| !text.is_empty());
    {
        let now = app.clock.now();
        let mut world = app.world();
        if world.has_voice(ix, &asked.voice_id, now) {
            return Err(Refusal::new(2039, "voice clone voice id duplicate"));
        }
        world.account_mut(ix).pay(UNITS + text.map_or(0, units))?;
        world.add_voice(ix, &asked.voice_id, now)?;
    }
    let mut reply = json!({"input_sensitive": false, "input_sensitive_type": 0, "demo_audio": ""});
    if let Some(text) = text {
        let speaker = Speaker::preview(&asked.voice_id);
        let sound = speaker.say(&app, text).await?;
        reply["extra_info"] = speaker.info(&sound, text);
        reply["demo_audio"] = link_to(&app, "demo.mp3", sound.bytes)?.into();
    }
    Ok(success(reply))
}

impl VoiceClone {
    fn check(&self) -> Result<(), Refusal> {
        if !is_voice_id(&self.voice_id) {
            return Err(Refusal::invalid(
                "voice_id must have 8 to 256 letters, digits, - and _, begin with a letter and not end with - or _",
            ));
        }
        let text = self.text.as_deref().unwrap_or_default();
        if text.chars().count() > TEXT_MAX {
            return Err(Refusal::invalid("text is too long"));
        }
        if !text.is_empty() && self.model.as_deref().unwrap_or_default().is_empty() {
            return Err(Refusal::invalid("model is required with text"));
        }
        Ok(())
    }
}

async fn check_prompt(app: &App, ix: AccountIx, prompt: &ClonePrompt) -> Result<(), Refusal> {
    let Some(id) = prompt.prompt_audio else {
        return Err(Refusal::invalid("prompt_audio or audio_url is required"));
    };
    if prompt.prompt_text.as_deref().unwrap_or_default().is_empty() {
        return Err(Refusal::invalid("prompt_text is required"));
    }
    let lasts = lasting_ms(app, ix, id, "prompt_audio").await?;
    if lasts < *PROMPT_MS.start() {
        return Err(Refusal::new(2037, "voice duration too short"));
    }
    if lasts > *PROMPT_MS.end() {
        return Err(Refusal::new(2048, "prompt audio too long"));
    }
    Ok(())
}

/// How long a sample really lasts; 1000 for what cannot be decoded.
async fn lasting_ms(app: &App, ix: AccountIx, id: i64, purpose: &str) -> Result<u64, Refusal> {
    let found = app.world().file(ix, id, app.clock.now()).cloned();
    let file = found.map_err(|refusal| match &refusal.message[..] {
        "file expired" => refusal,
        _ => Refusal::invalid("file_id not exist"),
    })?;
    if file.purpose != purpose {
        return Err(Refusal::invalid_purpose());
    }
    let probed = app.tasks.blocking(move || {
        let extension = file.filename.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        let format = Format::from_extension(&extension)?;
        let info = probe(&mut Cursor::new(file.content.whole()), format, &Limits::default());
        info.ok()?.duration_ms
    });
    probed.await.flatten().ok_or_else(Refusal::unknown)
}
