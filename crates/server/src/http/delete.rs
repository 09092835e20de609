//! `POST …/v1/files/delete`

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use filegate_store::DeleteOutcome;
use filegate_types::wire::{BaseResp, DeleteReply, DeleteRequest};
use filegate_types::{ApiError, Call, FileId, Principal};
use serde::Serialize;

use super::body::{Incoming, media_type, parse_json, read_small, refuse_encoded};
use super::layer::Trace;
use super::{auth, query_file_id, query_value, reply};
use crate::app::App;
use crate::gate::purposes;
use crate::pay;
use crate::relay::adopt;

/// Bytes of the body.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Delete a file
///
/// Gone when it is answered; its bytes are removed soon after.
#[utoipa::path(
    post,
    path = "/v1/files/delete",
    tag = "files",
    request_body(content = DeleteRequest, description = "JSON; a urlencoded form is read too"),
    responses((status = 200, description = "The id that was deleted, or the error", body = DeleteReply)),
    security(("bearer" = []), ("api_key" = [])),
)]
pub(super) async fn handler(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let mut incoming = Incoming::new(&parts.headers, body, app.config.limits.clone());
    let deleted = async {
        let principal = auth::admit(&app, &parts.headers, &trace, Call::Delete).await?;
        refuse_encoded(&parts.headers)?;
        let bytes = read_small(&mut incoming, BODY_BYTES_MAX).await?;
        let form = media_type(&parts.headers) == "application/x-www-form-urlencoded";
        let asked = if form { parse_form(&bytes)? } else { parse_json(&bytes)? };
        delete(&app, &principal, asked).await
    };
    let deleted = deleted.await;
    if deleted.is_err() {
        incoming.drain(&app.tasks);
    }
    answer(deleted, |file_id, base_resp| DeleteReply { file_id, base_resp })
}

/// `DELETE /v1/files?file_id=` under the prefixes, in the shape that old clients expect.
pub(super) async fn by_query(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    let (parts, _body) = request.into_parts();
    let deleted = async {
        let principal = auth::admit(&app, &parts.headers, &trace, Call::Delete).await?;
        let file_id = query_file_id(parts.uri.query())?;
        delete(&app, &principal, DeleteRequest { file_id, purpose: None }).await
    };
    answer(deleted.await, |file_id, base_resp| OldReply {
        id: file_id,
        object: "file",
        deleted: file_id.is_some(),
        reply: DeleteReply { file_id, base_resp },
    })
}

#[derive(Serialize)]
struct OldReply {
    id: Option<FileId>,
    object: &'static str,
    deleted: bool,
    #[serde(flatten)]
    reply: DeleteReply,
}

fn answer<T: Serialize>(
    result: Result<FileId, ApiError>,
    shape: impl Fn(Option<FileId>, BaseResp) -> T,
) -> Response {
    match result {
        Ok(file_id) => reply::success(&shape(Some(file_id), BaseResp::success())),
        Err(error) => reply::refusal(&error, |base_resp| shape(None, base_resp)),
    }
}

async fn delete(
    app: &Arc<App>,
    principal: &Principal,
    asked: DeleteRequest,
) -> Result<FileId, ApiError> {
    let purposes = purposes::meant(&app.config, principal, asked.purpose.as_deref())?;
    let (now, file_id) = (app.clock.now(), asked.file_id);
    if principal.purposes.is_some() {
        // A file's purpose never changes, and its id is never another's: what is seen here still
        // holds when it is deleted.
        let found = app.catalog.file(principal.account_id, file_id, now).await;
        let purpose = match found.map_err(|error| reply::store_failed(&error))? {
            Some(file) => file.purpose,
            None => adopt::find(app, principal.account_id, file_id).await?.purpose,
        };
        purposes::check(principal, &purpose)?;
    }
    let purposes = purposes.unwrap_or_default();
    let outcome = app
        .catalog
        .delete_file(principal.account_id, principal.key_id, file_id, purposes, now)
        .await;
    match outcome.map_err(|error| reply::store_failed(&error))? {
        DeleteOutcome::Deleted => {
            metrics::counter!("filegate_deletes_total").increment(1);
            app.jobs_due.notify_one();
            app.relay.jobs_due.notify_one();
            Ok(file_id)
        }
        DeleteOutcome::NotFound => Err(ApiError::file_not_found()),
        DeleteOutcome::Short(short) => Err(pay::refused(short)),
        DeleteOutcome::OtherPurpose => {
            Err(ApiError::invalid("purpose is not the purpose of this file"))
        }
    }
}

fn parse_form(bytes: &[u8]) -> Result<DeleteRequest, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|_why| ApiError::invalid("body is not UTF-8"))?;
    let value = |name| query_value(Some(text), name);
    let file_id = query_file_id(Some(text))?;
    Ok(DeleteRequest { file_id, purpose: value("purpose")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read() {
        let asked = parse_form(b"file_id=12&purpose=voice_clone").unwrap();
        assert_eq!((asked.file_id.get(), asked.purpose.as_deref()), (12, Some("voice_clone")));
        for bad in ["", "file_id=", "file_id=1&file_id=1", "file_id=01", "file_id=1.0", "purpose=x"]
        {
            assert!(parse_form(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
