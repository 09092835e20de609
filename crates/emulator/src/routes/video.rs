//! `POST /v1/video_generation`: a prompt becomes a task that makes a video.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::body;
use crate::callbacks;
use crate::layer::{Caller, TaskFails};
use crate::make::{Clip, clip};
use crate::reply::{Note, Refusal, success};
use crate::world::{Callback, NewFile, Product, Stored, Task, Times};

/// Characters of a prompt.
const PROMPT_MAX: usize = 2000;
/// Bytes of a callback's address.
const URL_MAX: usize = 2048;
/// What a video costs.
const UNITS: u64 = 5000;

#[derive(Deserialize)]
struct Video {
    model: String,
    #[serde(default)]
    prompt: String,
    #[serde(default)]
    first_frame_image: Option<String>,
    #[serde(default)]
    duration: Option<u32>,
    #[serde(default)]
    resolution: Option<String>,
    #[serde(default)]
    callback_url: Option<String>,
}

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    fails: Option<Extension<TaskFails>>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked: Video = body::json(&app, request).await?;
    let clip_asked = asked.check()?;
    if let Some(url) = &asked.callback_url {
        callbacks::challenge(&app, url).await?;
    }
    let bytes = app.tasks.blocking(move || clip(clip_asked)).await.ok_or_else(Refusal::unknown)?;

    let now = app.clock.now();
    let times = Times::new(now, app.options.task_time);
    let mut world = app.world();
    world.account_mut(ix).pay(UNITS)?;
    let content = Stored::of(&world.memory, bytes)?;
    let (filename, created_at) = ("output.mp4".to_owned(), times.done);
    let new = NewFile { purpose: "video_generation", filename, content, created_at, expiry: None };
    let file_id = world.add_file(ix, new, now)?.id;
    let id = world.mint(now);
    let product = Product::Video { width: clip_asked.width, height: clip_asked.height };
    let callback = asked.callback_url.map(|url| Callback { url, told: None });
    let fails = fails.is_some();
    world.add_task(ix, Task { id, product, file_id, times, fails, callback })?;
    drop(world);
    // There may be news to tell earlier than whatever is waited for.
    app.clock.nudge();
    let mut response = success(json!({"task_id": id.to_string()}));
    response.extensions_mut().insert(Note(json!({"task_id": id.to_string()})));
    Ok(response)
}

impl Video {
    fn check(&self) -> Result<Clip, Refusal> {
        if self.model.is_empty() {
            return Err(Refusal::invalid("model is required"));
        }
        if self.prompt.is_empty() && self.first_frame_image.is_none() {
            return Err(Refusal::invalid("prompt or first_frame_image is required"));
        }
        if self.prompt.chars().count() > PROMPT_MAX {
            return Err(Refusal::invalid("prompt is too long"));
        }
        if self.callback_url.as_ref().is_some_and(|url| url.len() > URL_MAX) {
            return Err(Refusal::invalid("callback_url is too long"));
        }
        let is_new = self.model.contains("Hailuo");
        let (width, height) = match self.resolution.as_deref() {
            None if is_new => (1366, 768),
            None | Some("720P") => (1280, 720),
            Some("512P") => (910, 512),
            Some("768P") => (1366, 768),
            Some("1080P") => (1920, 1080),
            Some(_) => return Err(Refusal::invalid("resolution is not supported")),
        };
        let seconds = self.duration.unwrap_or(6);
        if ![6, 10].contains(&seconds) {
            return Err(Refusal::invalid("duration must be 6 or 10"));
        }
        let shade = self.prompt.bytes().map(u64::from).sum();
        Ok(Clip { width, height, seconds, shade })
    }
}
