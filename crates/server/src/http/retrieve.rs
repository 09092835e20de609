//! `GET …/v1/files/retrieve`

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use filegate_types::wire::{BaseResp, FileObject, RetrieveReply};
use filegate_types::{ApiError, Call, FileRecord, FileState};
use http::header::HOST;
use http::request::Parts;

use super::layer::Trace;
use super::{auth, content, query_file_id, reply};
use crate::app::App;
use crate::gate::purposes;
use crate::pay;

/// Retrieve a file
///
/// What is known of the file, with a `download_url` that needs no key and works for an hour (a
/// setting).
#[utoipa::path(
    get,
    path = "/v1/files/retrieve",
    tag = "files",
    params(("file_id" = i64, Query, description = "The file")),
    responses((status = 200, description = "The file, or the error and `file` null", body = RetrieveReply)),
    security(("bearer" = []), ("api_key" = [])),
)]
pub(super) async fn handler(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    match retrieve(&app, &trace, &request.into_parts().0).await {
        Ok(file) => {
            reply::success(&RetrieveReply { file: Some(file), base_resp: BaseResp::success() })
        }
        Err(error) => reply::refusal(&error, |base_resp| RetrieveReply { file: None, base_resp }),
    }
}

async fn retrieve(app: &App, trace: &Trace, request: &Parts) -> Result<FileObject, ApiError> {
    let principal = auth::admit(app, &request.headers, trace, Call::Retrieve).await?;
    pay::can_pay(&principal)?;
    let file_id = query_file_id(request.uri.query())?;
    let found = app.catalog.file(principal.account_id, file_id, app.clock.now()).await;
    let record =
        found.map_err(|e| reply::store_failed(&e))?.ok_or_else(ApiError::file_not_found)?;
    purposes::check(&principal, &record.purpose)?;
    // What is held back has nothing to download.
    let download_url = match (record.state, content::redirected(app)) {
        (FileState::Ready, None) => Some(download_url(app, request, &record)),
        (FileState::Ready, Some(s3)) if record.damaged_at.is_none() => {
            Some(content::presign(s3, &record, app.config.downloads.link_life.0).await?)
        }
        _ => None,
    };
    pay::for_read(app, &principal, Call::Retrieve, Some(&record), 0).await?;
    Ok(FileObject { download_url, media: Some(record.media.clone()), ..record.to_wire() })
}

/// The absolute signed URL of a file's content.
fn download_url(app: &App, request: &Parts, record: &FileRecord) -> String {
    let until = app.clock.now().plus(app.config.downloads.link_life.0);
    let path = app.links.path(record.account_id, record.file_id, until);
    let base = if app.config.public_url.is_empty() {
        format!("http://{}", host(app, request))
    } else {
        app.config.public_url.trim_end_matches('/').to_owned()
    };
    base + &path
}

/// Where the client thinks we are. What is not a host and port is not repeated.
fn host(app: &App, request: &Parts) -> String {
    let header = request.headers.get(HOST).and_then(|value| value.to_str().ok());
    let named = request.uri.authority().map(http::uri::Authority::as_str).or(header);
    let plain = |host: &&str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
        !host.is_empty() && host.len() <= 255 && host.bytes().all(allowed)
    };
    named.filter(plain).map_or_else(|| app.config.listen.to_string(), str::to_owned)
}
