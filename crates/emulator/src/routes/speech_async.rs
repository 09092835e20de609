//! `POST /v1/t2a_async_v2`: a long text, given inline or as a file, becomes a task that makes an archive.

use std::io::Cursor;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use filegate_media::{Limits, archived_texts};
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::body;
use crate::layer::{Caller, TaskFails};
use crate::make::archive;
use crate::reply::{Note, Refusal, success};
use crate::speech::{Manner, Speaker, subtitles, units};
use crate::world::{AccountIx, Expiry, NewFile, Product, SPEECH_KEPT, Stored, Task, Times, token};

/// Characters of an inline text, and of a file.
const TEXT_MAX: usize = 50_000;
const FILE_TEXT_MAX: usize = 1_000_000;

#[derive(Deserialize)]
struct LongSpeech {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    text_file_id: Option<i64>,
    #[serde(flatten)]
    manner: Manner,
}

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    fails: Option<Extension<TaskFails>>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked: LongSpeech = body::json(&app, request).await?;
    let speaker = asked.manner.check()?;
    let text = match (asked.text, asked.text_file_id) {
        (None, Some(id)) => text_of(&app, ix, id).await?,
        (Some(text), None) if text.chars().count() <= TEXT_MAX => text,
        (Some(_), None) => return Err(Refusal::invalid("text is too long")),
        _ => return Err(Refusal::invalid("one of text and text_file_id is required")),
    };
    if text.is_empty() {
        return Err(Refusal::invalid("text is empty"));
    }
    speaker.admit(&app, ix, &text)?;
    let archive = archived(&app, &speaker, &text).await?;

    let now = app.clock.now();
    let times = Times::new(now, app.options.task_time);
    let mut world = app.world();
    let content = Stored::of(&world.memory, archive)?;
    let new = NewFile {
        purpose: "t2a_async",
        filename: format!("t2a_async_{}.tar", now.seconds()),
        content,
        created_at: times.done,
        expiry: Some(Expiry::Vanishes(times.done.plus(SPEECH_KEPT))),
    };
    let file_id = world.add_file(ix, new, now)?.id;
    let id = world.mint(now);
    let (product, fails) = (Product::Speech, fails.is_some());
    world.add_task(ix, Task { id, product, file_id, times, fails, callback: None })?;
    let mut response = success(json!({
        "task_id": id,
        "task_token": token(app.options.seed, &format!("task {id}")),
        "file_id": file_id,
        "usage_characters": units(&text),
    }));
    response.extensions_mut().insert(Note(json!({"task_id": id, "file_id": file_id})));
    Ok(response)
}

/// The audio, its subtitles, and what is known of it.
async fn archived(app: &App, speaker: &Speaker, text: &str) -> Result<Vec<u8>, Refusal> {
    let sound = speaker.say(app, text).await?;
    let name = |extension| format!("content_audio.{extension}");
    let (titles, extra) = (subtitles(text, &sound), speaker.info(&sound, text).to_string());
    let entries = [
        (name(speaker.audio.format.name()), &sound.bytes[..]),
        (name("titles"), &titles),
        (name("extra"), extra.as_bytes()),
    ];
    Ok(archive(&entries, app.clock.now().seconds()))
}

/// The text of a file, or the texts of a zip behind each other.
async fn text_of(app: &App, ix: AccountIx, id: i64) -> Result<String, Refusal> {
    let missing = |_not_found| Refusal::invalid("text_file_id not exist");
    let file = app.world().file(ix, id, app.clock.now()).map_err(missing)?.clone();
    if file.purpose != "t2a_async_input" {
        return Err(Refusal::invalid_purpose());
    }
    let read = app.tasks.blocking(move || {
        let whole = file.content.whole();
        if !file.filename.to_ascii_lowercase().ends_with(".zip") {
            return String::from_utf8(whole).ok();
        }
        let mut bytes = Vec::new();
        let shown = archived_texts(&mut Cursor::new(whole), &Limits::default(), &mut |text| {
            bytes.extend_from_slice(text.piece);
            bytes.len() <= FILE_TEXT_MAX * 4
        });
        shown.ok().and_then(|()| String::from_utf8(bytes).ok())
    });
    let text = read.await.flatten().ok_or_else(Refusal::unknown)?;
    if text.chars().count() > FILE_TEXT_MAX {
        return Err(Refusal::invalid("text is too long"));
    }
    Ok(text)
}
