//! `POST /v1/t2a_v2`: speech, as hex in JSON, as a link, or as a stream of events.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use filegate_types::hex;
use futures_util::stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::body;
use crate::layer::{Caller, Trace};
use crate::make::{AudioFormat, Sound};
use crate::reply::{Code, Refusal, success, success_resp};
use crate::speech::{Manner, Speaker, link_to, subtitles};

/// Characters of a text; longer ones go to the call for long texts.
pub(super) const TEXT_MAX: usize = 10_000;
/// Bytes of audio in an event.
pub(super) const CHUNK_BYTES: usize = 8 << 10;

#[derive(Deserialize)]
struct Speech {
    text: String,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: StreamOptions,
    #[serde(default)]
    output_format: Option<String>,
    #[serde(default)]
    subtitle_enable: bool,
    #[serde(flatten)]
    manner: Manner,
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    exclude_aggregated_audio: bool,
}

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    Extension(Trace(trace)): Extension<Trace>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked: Speech = body::json(&app, request).await?;
    check_text(&asked.text)?;
    let speaker = asked.manner.clone().check()?;
    if asked.stream && speaker.audio.format == AudioFormat::Wav {
        return Err(Refusal::invalid("format wav is not supported in a stream"));
    }
    let is_url = match asked.output_format.as_deref() {
        None | Some("hex") => false,
        Some("url") => !asked.stream,
        Some(_) => return Err(Refusal::invalid("output_format must be hex or url")),
    };
    speaker.admit(&app, ix, &asked.text)?;
    let sound = speaker.say(&app, &asked.text).await?;
    let info = speaker.info(&sound, &asked.text);
    if asked.stream {
        let whole = !asked.stream_options.exclude_aggregated_audio;
        return Ok(events(sound, &info, &trace, whole));
    }
    let mut data = json!({"status": 2});
    if asked.subtitle_enable {
        data["subtitle_file"] =
            link_to(&app, "subtitle.json", subtitles(&asked.text, &sound))?.into();
    }
    data["audio"] = audio(&app, &speaker, sound, is_url)?.into();
    Ok(success(json!({"data": data, "extra_info": info, "trace_id": &*trace})))
}

pub(super) fn check_text(text: &str) -> Result<(), Refusal> {
    match text.chars().count() {
        0 => Err(Refusal::invalid("text is empty")),
        length if length > TEXT_MAX => Err(Refusal::invalid("text is too long")),
        _ => Ok(()),
    }
}

fn audio(app: &App, speaker: &Speaker, sound: Sound, is_url: bool) -> Result<String, Refusal> {
    if is_url {
        return link_to(app, &format!("speech.{}", speaker.audio.format.name()), sound.bytes);
    }
    Ok(hex(&sound.bytes))
}

/// Server-sent events: pieces of the audio, then, with what is known of it, all of it again.
fn events(sound: Sound, info: &Value, trace: &str, whole: bool) -> Response {
    let last = json!({
        "data": {"audio": if whole { hex(&sound.bytes) } else { String::new() }, "status": 2},
        "extra_info": info,
        "trace_id": trace,
        "base_resp": success_resp(),
    });
    let trace = trace.to_owned();
    let count = sound.bytes.len().div_ceil(CHUNK_BYTES);
    let pieces = (0..=count).map(move |nth| {
        let start = nth * CHUNK_BYTES;
        let event = match sound.bytes.get(start..(start + CHUNK_BYTES).min(sound.bytes.len())) {
            Some(piece) if nth < count => json!({
                "data": {"audio": hex(piece), "status": 1},
                "trace_id": trace,
                "base_resp": success_resp(),
            }),
            _ => last.clone(),
        };
        Ok::<_, std::convert::Infallible>(format!("data: {event}\n\n"))
    });
    let mut response = Response::new(Body::from_stream(stream::iter(pieces)));
    let event_stream = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, event_stream);
    response.extensions_mut().insert(Code(0));
    response
}
