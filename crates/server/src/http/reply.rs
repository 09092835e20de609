//! Replies: `base_resp` on every one, and only entries of the error table (contract §4).

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use filegate_store::StoreError;
use filegate_types::wire::BaseResp;
use filegate_types::{ApiError, ErrorCode};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::app::random;

/// Left in a reply's extensions for the outermost layer: the `status_code`, and the HTTP status to
/// answer when the setting asks for one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) code: i64,
    pub(crate) status_if_asked: Option<StatusCode>,
}

/// A 200 with `body`, which carries `base_resp` 0.
pub(crate) fn success(body: &impl Serialize) -> Response {
    let outcome = Outcome { code: 0, status_if_asked: None };
    json(StatusCode::OK, body, outcome)
}

/// `error` in a body of the call's own shape, made from its `base_resp`.
pub(crate) fn refusal<T: Serialize>(
    error: &ApiError,
    shape: impl FnOnce(BaseResp) -> T,
) -> Response {
    let status = StatusCode::from_u16(error.http_status()).ok();
    refusal_as(StatusCode::OK, status, error, &shape(BaseResp::of(error)))
}

/// What upstream said, in a body of the call's own shape.
pub(crate) fn words<T: Serialize>(said: BaseResp, shape: impl FnOnce(BaseResp) -> T) -> Response {
    let outcome = Outcome { code: said.status_code, status_if_asked: status_of(said.status_code) };
    json(StatusCode::OK, &shape(said), outcome)
}

/// The HTTP status of a code, if it is one of the table.
pub(crate) fn status_of(code: i64) -> Option<StatusCode> {
    let known = ErrorCode::ALL.into_iter().find(|known| known.number() == code)?;
    StatusCode::from_u16(known.http_status()).ok()
}

/// `error` as a body of `base_resp` alone with a real HTTP status: for faults of HTTP itself and for
/// links, which browsers and download tools open.
pub(crate) fn fault(status: StatusCode, error: &ApiError) -> Response {
    refusal_as(status, None, error, &bare(BaseResp::of(error)))
}

/// The whole answer, head and body, to a request whose head cannot be read.
pub(crate) fn unread_head(status: StatusCode) -> Bytes {
    let detail = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the head of the request is too large",
        StatusCode::URI_TOO_LONG => "the request target is too long",
        _ => "the request is not valid HTTP/1.1",
    };
    let body = serde_json::to_string(&bare(BaseResp::of(&ApiError::invalid(detail))))
        .expect("wire types always serialise");
    let (code, reason) = (status.as_u16(), status.canonical_reason().unwrap_or("Bad Request"));
    let trace_id = u128::from_be_bytes(random());
    tracing::info!(trace_id = format!("{trace_id:032x}"), status = code, "http.unread_head");
    format!(
        "HTTP/1.1 {code} {reason}\r\ncontent-type: application/json\r\ncache-control: private, \
         no-store\r\ntrace-id: {trace_id:032x}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

/// The shape of a refusal that has nothing but `base_resp`.
pub(crate) fn bare(base_resp: BaseResp) -> filegate_types::wire::ErrorReply {
    filegate_types::wire::ErrorReply { base_resp }
}

/// `error` as any body, with an HTTP status of its own and the one to answer if the setting asks for it.
pub(crate) fn refusal_as(
    status: StatusCode,
    status_if_asked: Option<StatusCode>,
    error: &ApiError,
    body: &impl Serialize,
) -> Response {
    let outcome = Outcome { code: error.code.number(), status_if_asked };
    let mut response = json(status, body, outcome);
    if let Some(seconds) = error.retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// `body` as JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize, outcome: Outcome) -> Response {
    let bytes = serde_json::to_vec(body).expect("wire types always serialise");
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    response.extensions_mut().insert(outcome);
    response
}

/// What a client is told of a failed store. The cause goes to the log, here and only here.
pub(crate) fn store_failed(error: &StoreError) -> ApiError {
    metrics::counter!("filegate_store_errors_total").increment(1);
    let cause = error as &dyn std::error::Error;
    match error {
        StoreError::Full { .. } => {
            tracing::error!(error = cause, "store.full");
            ApiError::detailed(ErrorCode::Internal, "storage is full").retry_after(30)
        }
        StoreError::LeaseLost => {
            tracing::error!(error = cause, "store.lease.lost");
            ApiError::plain(ErrorCode::Unknown).retry_after(1)
        }
        StoreError::Damaged(_) => {
            tracing::error!(error = cause, "store.damaged");
            ApiError::detailed(ErrorCode::Internal, "the stored copy is damaged")
        }
        StoreError::Unavailable { .. } => {
            tracing::error!(error = cause, "store.unavailable");
            ApiError::plain(ErrorCode::Internal).retry_after(5)
        }
        _ => {
            tracing::error!(error = cause, "store.failed");
            ApiError::plain(ErrorCode::Internal).retry_after(5)
        }
    }
}
