//! What links lead to: content of files and results, without a key, until the link ends.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use super::content::stored;
use crate::app::App;
use crate::body::parameter;

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Path(object): Path<String>,
    request: Request,
) -> Response {
    let query = request.uri().query();
    let expires = parameter(query, "Expires").and_then(|text| text.parse().ok()).unwrap_or(0);
    let signature = parameter(query, "Signature").unwrap_or_default();
    let now = app.clock.now();
    if !app.links.holds(&object, expires, signature, now.seconds()) {
        return refused(StatusCode::FORBIDDEN, "AccessDenied", "Request has expired.");
    }
    let world = app.world();
    let parts: Vec<&str> = object.split('/').collect();
    let found = match parts[..] {
        ["file", account, id] => world
            .account_named(account)
            .zip(id.parse().ok())
            .and_then(|(ix, id)| world.file(ix, id, now).ok())
            .map(|file| (&file.content, file.filename.as_str())),
        ["made", id, _name] => id
            .parse()
            .ok()
            .and_then(|id| world.made(id))
            .map(|made| (&made.content, made.filename.as_str())),
        _ => None,
    };
    match found {
        Some((content, filename)) => stored(content, media_type(filename)),
        None => refused(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist."),
    }
}

fn media_type(filename: &str) -> &'static str {
    match filename.rsplit('.').next().unwrap_or_default() {
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "mp4" => "video/mp4",
        _ => "application/octet-stream",
    }
}

/// As the object store behind upstream's links says it.
fn refused(status: StatusCode, code: &str, message: &str) -> Response {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>\n  <Code>{code}</Code>\n  <Message>{message}</Message>\n</Error>\n"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}
