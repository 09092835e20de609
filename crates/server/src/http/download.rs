//! `GET /d/{file_id}`: what `download_url` points to.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use filegate_types::{ApiError, ErrorCode, FileId};
use http::{Method, StatusCode};

use super::{content, reply};
use crate::app::App;
use crate::links::LinkError;
use crate::relay::adopt::Refused;

/// Download by link
///
/// A `download_url` as `retrieve` gave it. Needs no key and takes no notice of one. Errors have their
/// real HTTP status here, since browsers and download tools open links.
#[utoipa::path(
    get,
    path = "/d/{file_id}",
    tag = "links",
    params(
        ("file_id" = i64, Path, description = "The file"),
        ("a" = i64, Query, description = "Signed with it"),
        ("e" = i64, Query, description = "Unix seconds when the link ends"),
        ("s" = String, Query, description = "The signature"),
    ),
    responses(
        (status = 200, description = "The bytes", content_type = "application/octet-stream"),
        (status = 206, description = "The ranges that were asked for"),
        (status = 302, description = "Where the store has the bytes, if downloads.mode is redirect"),
        (status = 403, description = "Not a link of ours, or one that has ended"),
        (status = 404, description = "The file is gone"),
    ),
)]
pub(super) async fn handler(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let forbidden = |why| {
        let error = ApiError::detailed(ErrorCode::NotAuthorized, why);
        reply::fault(StatusCode::FORBIDDEN, &error)
    };
    // A path that is not UTF-8 is as wrong as any other.
    let Some(file_id) = path.ok().and_then(|Path(text)| text.parse::<FileId>().ok()) else {
        return forbidden("the link is not valid");
    };
    let (parts, _body) = request.into_parts();
    let query = parts.uri.query().unwrap_or("");
    let account = match app.links.check(file_id, query, app.clock.now()) {
        Ok(account) => account,
        Err(LinkError::Forged) => return forbidden("the link is not valid"),
        Err(LinkError::Expired) => return forbidden("the link has ended; retrieve the file again"),
    };
    // The store's own URL is for GET alone.
    let served = match content::redirected(&app).filter(|_| parts.method == Method::GET) {
        Some(s3) => content::redirect(&app, s3, account, file_id, &parts).await,
        None => content::serve(&app, account, None, file_id, &parts).await,
    };
    served.unwrap_or_else(Refused::fault)
}
