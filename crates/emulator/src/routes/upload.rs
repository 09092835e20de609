//! `POST /v1/files/upload`: what upstream looks at is the purpose, the extension and the size.
//!
//! Durations and content are looked at where the file is used, except for `video_generation_input`, whose uploads are
//! documented to be looked at when they arrive.

use std::io::Cursor;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use filegate_form::{Boundary, Event, FileName, FormError, Limits, PartHeaders, Reader};
use filegate_media::{Format, Limits as MediaLimits, probe};
use filegate_types::purpose::PurposePolicy;
use futures_util::StreamExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde_json::json;

use crate::app::App;
use crate::layer::Caller;
use crate::reply::{Note, Refusal, success};
use crate::world::{Expiry, Memory, NewFile, Spool, Stored, accept_rule};

/// Bytes of the purpose.
const PURPOSE_BYTES_MAX: usize = 256;
/// The purpose whose uploads are looked at when they arrive.
const CHECKED_AT_ONCE: &str = "video_generation_input";

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    let memory = app.world().memory.clone();
    let received = receive(&memory, request).await.map_err(Refusal::file_null)?;
    if received.purpose == CHECKED_AT_ONCE {
        look_at(&app, &received).await.map_err(Refusal::file_null)?;
    }
    let now = app.clock.now();
    let new = NewFile {
        purpose: &received.purpose,
        filename: received.filename,
        content: received.content,
        created_at: now,
        expiry: Expiry::of_upload(received.policy, now),
    };
    let mut world = app.world();
    let file = world.add_file(ix, new, now).map_err(Refusal::file_null)?;
    let note = json!({
        "file_id": file.id,
        "purpose": file.purpose,
        "bytes": file.content.len(),
        "sha256": file.content.sha256,
    });
    let mut response = success(json!({"file": file.object()}));
    response.extensions_mut().insert(Note(note));
    Ok(response)
}

/// A form that is complete and allowed.
struct Received {
    purpose: String,
    policy: &'static PurposePolicy,
    filename: String,
    extension: String,
    content: Arc<Stored>,
}

async fn receive(memory: &Memory, request: Request) -> Result<Received, Refusal> {
    let (parts, body) = request.into_parts();
    let mut body = body.into_data_stream();
    let read = async {
        let mut reader = reader(&parts.headers)?;
        let mut form = Form::default();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|why| {
                tracing::debug!(%why, "emulator.upload.cut");
                Refusal::invalid("the body was cut off")
            })?;
            let mut feed = reader.feed(&piece);
            while let Some(event) = feed.next_event().map_err(form_error)? {
                form.take(memory, &event, &piece)?;
            }
        }
        reader.finish().map_err(form_error)?;
        form.complete()
    };
    let read = read.await;
    if read.is_err() {
        // A client that is still writing would not see the answer.
        while let Some(Ok(_)) = body.next().await {}
    }
    read
}

fn reader(headers: &HeaderMap) -> Result<Reader, Refusal> {
    let content_type = headers.get(CONTENT_TYPE);
    let content_type = content_type.ok_or_else(|| Refusal::invalid("no content type"))?;
    let boundary = Boundary::from_content_type(content_type).map_err(form_error)?;
    Ok(Reader::new(&boundary, Limits::default()))
}

fn form_error(error: FormError) -> Refusal {
    Refusal::invalid(error)
}

/// The fields as far as they have come, in either order.
#[derive(Default)]
struct Form {
    purpose: Option<String>,
    file: Option<(FileName, Spool)>,
    part: Part,
}

#[derive(Default)]
enum Part {
    Purpose(Vec<u8>),
    File,
    #[default]
    Ignored,
}

impl Form {
    fn take(&mut self, memory: &Memory, event: &Event<'_>, piece: &[u8]) -> Result<(), Refusal> {
        match event {
            Event::PartStart(headers) => self.part = self.start(memory, headers)?,
            Event::Data(_) | Event::Held(_) => {
                let bytes = event.bytes(piece).unwrap_or(&[]);
                match (&mut self.part, &mut self.file) {
                    (Part::Purpose(value), _) if value.len() + bytes.len() > PURPOSE_BYTES_MAX => {
                        return Err(Refusal::invalid_purpose());
                    }
                    (Part::Purpose(value), _) => value.extend_from_slice(bytes),
                    (Part::File, Some((_, spool))) => {
                        spool.push(bytes)?;
                        self.check()?;
                    }
                    _ => {}
                }
            }
            Event::PartEnd => {
                if let Part::Purpose(value) = std::mem::take(&mut self.part) {
                    self.purpose = Some(String::from_utf8_lossy(&value).into_owned());
                    self.check()?;
                }
            }
            Event::End => {}
        }
        Ok(())
    }

    fn start(&mut self, memory: &Memory, headers: &PartHeaders) -> Result<Part, Refusal> {
        match headers.name.as_str() {
            "purpose" if self.purpose.is_none() => Ok(Part::Purpose(Vec::new())),
            "file" if self.file.is_none() => {
                let name = headers.file_name.as_deref();
                let name = name.ok_or_else(|| Refusal::invalid("file is required"))?;
                let name = FileName::clean(name).map_err(Refusal::invalid)?;
                self.file = Some((name, Spool::new(memory)));
                self.check()?;
                Ok(Part::File)
            }
            _ => Ok(Part::Ignored),
        }
    }

    /// Whatever is known already must be allowed.
    fn check(&self) -> Result<(), Refusal> {
        if let (Some(purpose), Some((name, spool))) = (&self.purpose, &self.file) {
            let (_, rule) = accept_rule(purpose, &extension(name))?;
            if spool.len() > rule.bytes_max.0 {
                return Err(Refusal::invalid("file size exceeds limit"));
            }
        }
        Ok(())
    }

    fn complete(self) -> Result<Received, Refusal> {
        self.check()?;
        let purpose = self.purpose.ok_or_else(Refusal::invalid_purpose)?;
        let (name, spool) = self.file.ok_or_else(|| Refusal::invalid("file is required"))?;
        let extension = extension(&name);
        let (policy, _) = accept_rule(&purpose, &extension)?;
        let (filename, content) = (name.into_string(), spool.finish());
        Ok(Received { purpose, policy, filename, extension, content })
    }
}

fn extension(name: &FileName) -> String {
    name.extension().unwrap_or_default().to_ascii_lowercase()
}

/// Refuses content that is not what its name says, with 400.
async fn look_at(app: &App, received: &Received) -> Result<(), Refusal> {
    let content = Arc::clone(&received.content);
    let format = Format::from_extension(&received.extension);
    let probed = app.tasks.blocking(move || {
        let format = format?;
        Some(probe(&mut Cursor::new(content.whole()), format, &MediaLimits::default()))
    });
    match probed.await.flatten() {
        Some(Err(why)) => Err(Refusal::invalid(why).with_status(StatusCode::BAD_REQUEST)),
        Some(Ok(_)) | None => Ok(()),
    }
}
