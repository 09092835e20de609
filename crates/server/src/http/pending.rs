//! `GET /d/pending/{blob_key}`: the bytes of an upload that is being decided, for the moderation
//! webhook. Only until then, and only with the link that the webhook was given. From `tmp/`, or from S3 by any
//! replica.

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use filegate_store::{S3Blobs, S3Unchecked, StoreError};
use filegate_types::{ApiError, BlobKey, ErrorCode};
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};

use super::reply;
use crate::app::App;
use crate::links::LinkError;

/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/d/pending/{blob_key}", get(handler))
}

async fn handler(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let refused = |status, code, why| reply::fault(status, &ApiError::detailed(code, why));
    let forbidden = |why| refused(StatusCode::FORBIDDEN, ErrorCode::NotAuthorized, why);
    let Some(key) = path.ok().and_then(|Path(text)| text.parse::<BlobKey>().ok()) else {
        return forbidden("the link is not valid");
    };
    let query = request.uri().query().unwrap_or("");
    match app.links.check_pending(&key, query, app.clock.now()) {
        Ok(()) => {}
        Err(LinkError::Forged) => return forbidden("the link is not valid"),
        Err(LinkError::Expired) => return forbidden("the link has ended"),
    }
    if let Some(s3) = app.blobs.as_s3() {
        return match undecided(&app, s3, &key).await {
            Ok(Some((bytes, found))) => with_head(from_store(found), bytes),
            Ok(None) => reply::fault(StatusCode::NOT_FOUND, &ApiError::file_not_found()),
            Err(error) => unavailable(&error),
        };
    }
    let Some(blobs) = app.blobs.as_local().cloned() else {
        return forbidden("the link is not valid");
    };
    let opened = app.tasks.blocking(move || {
        let Some(file) = blobs.open_pending(&key)? else { return Ok(None) };
        let bytes = file.metadata().map_err(|e| StoreError::io("looking at an upload", e))?.len();
        Ok(Some((file, bytes)))
    });
    match opened.await.unwrap_or(Err(StoreError::Closed)) {
        Ok(Some((file, bytes))) => respond(app, file, bytes),
        Ok(None) => reply::fault(StatusCode::NOT_FOUND, &ApiError::file_not_found()),
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &StoreError) -> Response {
    reply::fault(StatusCode::SERVICE_UNAVAILABLE, &reply::store_failed(error))
}

async fn undecided(
    app: &App,
    s3: &S3Blobs,
    key: &BlobKey,
) -> Result<Option<(u64, S3Unchecked)>, StoreError> {
    if app.catalog.has_upload(key.clone()).await? { s3.unchecked(key).await } else { Ok(None) }
}

/// The bytes as the bucket has them: the row that knows their sums is not there yet.
fn from_store(found: S3Unchecked) -> Body {
    Body::from_stream(stream::unfold(Some(found), |found| async move {
        let mut found = found?;
        match found.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(found))),
            Ok(None) => None,
            Err(error) => {
                let _logged = reply::store_failed(&error);
                Some((Err(error), None))
            }
        }
    }))
}

/// The bytes. The file is whole, and what is open stays readable when the upload lands or goes.
fn respond(app: Arc<App>, file: File, bytes: u64) -> Response {
    let pieces = stream::unfold(Some(file), move |file| {
        let app = Arc::clone(&app);
        async move {
            let mut file = file?;
            let read = app.tasks.blocking(move || {
                let mut piece = vec![0; PIECE_BYTES];
                let n = file.read(&mut piece)?;
                piece.truncate(n);
                Ok::<_, std::io::Error>((Bytes::from(piece), file))
            });
            match read.await.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))) {
                Ok((piece, _)) if piece.is_empty() => None,
                Ok((piece, file)) => Some((Ok(piece), Some(file))),
                Err(error) => Some((Err(error), None)),
            }
        }
    });
    with_head(Body::from_stream(pieces), bytes)
}

fn with_head(body: Body, bytes: u64) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
