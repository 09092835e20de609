//! `POST …/v1/files/upload`

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use filegate_types::wire::{BaseResp, UploadReply, Validated};
use filegate_types::{ApiError, Call};

use super::body::Incoming;
use super::layer::Trace;
use super::{auth, query_value, reply};
use crate::app::App;
use crate::intake::{self, Uploaded};

/// The form of an upload, as the OpenAPI document shows it.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body; filegate-form reads it")]
pub(super) struct UploadForm {
    /// What the file is for, such as `voice_clone`. Before or after the file.
    purpose: String,
    /// How long to keep it: seconds, or a span such as `12h` or `7d`, within the account's bounds.
    expires_after: Option<String>,
    /// The file, with its name.
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    file: String,
}

/// Upload a file
///
/// Checks the file against its purpose (format, real content, size, duration) and stores it. Answered
/// with `status_code` 0 only when the file is durable. Fields come in either order.
#[utoipa::path(
    post,
    path = "/v1/files/upload",
    tag = "files",
    params(
        ("validate_only" = Option<bool>, Query, description = "`true`: run every check, store nothing"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters: the same upload again within a day is answered as the first, stored and paid once"),
    ),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses((status = 200, description = "`base_resp.status_code` 0 and the file, or the error and `file` null", body = UploadReply)),
    security(("bearer" = []), ("api_key" = [])),
)]
pub(super) async fn handler(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    match upload(&app, &trace, request).await {
        Ok(reply) if reply.base_resp.status_code != 0 => {
            reply::words(reply.base_resp.clone(), |base_resp| UploadReply { base_resp, ..reply })
        }
        Ok(reply) => reply::success(&reply),
        Err(error) => reply::refusal(&error, |base_resp| UploadReply {
            file: None,
            validated: None,
            base_resp,
        }),
    }
}

async fn upload(app: &Arc<App>, trace: &Trace, request: Request) -> Result<UploadReply, ApiError> {
    let (parts, body) = request.into_parts();
    let admitted = async {
        let principal = auth::admit(app, &parts.headers, trace, Call::Upload).await?;
        let validate_only = match query_value(parts.uri.query(), "validate_only")?.as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1" | "") => true,
            Some(_) => return Err(ApiError::invalid("validate_only is neither true nor false")),
        };
        Ok((principal, validate_only))
    };
    let (principal, validate_only) = match admitted.await {
        Ok(admitted) => admitted,
        Err(error) => {
            Incoming::new(&parts.headers, body, app.config.limits.clone()).drain(&app.tasks);
            return Err(error);
        }
    };
    let uploaded = intake::upload(app, &principal, &parts.headers, body, validate_only).await?;
    let (file, validated) = match uploaded {
        Uploaded::Stored(record) => (Some(record.to_wire()), None),
        Uploaded::Repeated(file) => (Some(*file), None),
        Uploaded::Refused(base_resp) => {
            return Ok(UploadReply { file: None, validated: None, base_resp });
        }
        Uploaded::Validated(checked) => {
            let validated = Validated {
                bytes: checked.sum.bytes,
                filename: checked.filename,
                purpose: checked.purpose.into(),
                sha256: filegate_types::hex(&checked.sum.sha256),
                media: checked.media,
            };
            (None, Some(validated))
        }
    };
    Ok(UploadReply { file, validated, base_resp: BaseResp::success() })
}
