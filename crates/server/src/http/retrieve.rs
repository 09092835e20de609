//! `GET …/v1/files/retrieve`

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use filegate_types::wire::{BaseResp, FileObject, RetrieveReply};
use filegate_types::{AccountId, Call, FileId, FileState, Principal};
use http::header::HOST;
use http::request::Parts;

use super::layer::Trace;
use super::{auth, content, query_file_id, reply};
use crate::app::App;
use crate::gate::purposes;
use crate::pay;
use crate::relay::adopt::{self, Refused};

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
        Err(refused) => refused.respond(|base_resp| RetrieveReply { file: None, base_resp }),
    }
}

async fn retrieve(app: &Arc<App>, trace: &Trace, request: &Parts) -> Result<FileObject, Refused> {
    let principal = auth::admit(app, &request.headers, trace, Call::Retrieve).await?;
    pay::can_pay(&principal)?;
    let file_id = query_file_id(request.uri.query())?;
    let found = app.catalog.file(principal.account_id, file_id, app.clock.now()).await;
    let Some(record) = found.map_err(|e| reply::store_failed(&e))? else {
        return retrieve_adopted(app, &principal, file_id, request).await;
    };
    purposes::check(&principal, &record.purpose)?;
    // What is held back has nothing to download.
    let download_url = match (record.state, content::redirected(app)) {
        (FileState::Ready, None) => {
            Some(download_url(app, request, record.account_id, record.file_id))
        }
        (FileState::Ready, Some(s3)) if record.damaged_at.is_none() => {
            Some(content::presign(s3, &record, app.config.downloads.link_life.0).await?)
        }
        _ => None,
    };
    let paid = Some((record.file_id, &record.purpose));
    pay::for_read(app, &principal, Call::Retrieve, paid, 0).await?;
    Ok(FileObject { download_url, media: Some(record.media.clone()), ..record.to_wire() })
}

/// A file that is upstream only: what is known there now, with a link of ours.
async fn retrieve_adopted(
    app: &Arc<App>,
    principal: &Principal,
    file_id: FileId,
    request: &Parts,
) -> Result<FileObject, Refused> {
    let file = adopt::find(app, principal.account_id, file_id).await?;
    purposes::check(principal, &file.purpose)?;
    let told = adopt::retrieve(app, &file).await?;
    let paid = Some((file_id, &file.purpose));
    pay::for_read(app, principal, Call::Retrieve, paid, 0).await?;
    Ok(FileObject {
        bytes: told.bytes,
        filename: told.filename,
        download_url: Some(download_url(app, request, file.account_id, file_id)),
        ..adopt::to_wire(&file)
    })
}

/// The absolute signed URL of a file's content.
fn download_url(app: &App, request: &Parts, account: AccountId, file_id: FileId) -> String {
    let until = app.clock.now().plus(app.config.downloads.link_life.0);
    let path = app.links.path(account, file_id, until);
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
