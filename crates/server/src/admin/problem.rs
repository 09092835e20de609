//! What operators are told when a call did not succeed: RFC 9457.

use axum::body::Body;
use axum::response::Response;
use filegate_store::StoreError;
use filegate_store::admin::Refusal;
use filegate_types::ApiError;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::http::reply::store_failed;

/// A call that did not succeed.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    retry_after_s: Option<u32>,
}

impl Problem {
    fn of(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), retry_after_s: None }
    }

    /// The request cannot be read, or says something that the call does not know.
    pub(super) fn unreadable(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::BAD_REQUEST, detail)
    }

    /// A value is wrong: which, and what it may be.
    pub(super) fn invalid(field: &str, why: impl std::fmt::Display) -> Self {
        Self::of(StatusCode::UNPROCESSABLE_ENTITY, format!("{field}: {why}"))
    }

    /// No token, or one that does not work.
    pub(super) fn unauthorized(detail: &str) -> Self {
        Self::of(StatusCode::UNAUTHORIZED, detail)
    }

    /// A token that may not do this.
    pub(super) fn forbidden(detail: String) -> Self {
        Self::of(StatusCode::FORBIDDEN, detail)
    }

    pub(super) fn not_found(detail: &str) -> Self {
        Self::of(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn wrong_method() -> Self {
        Self::of(StatusCode::METHOD_NOT_ALLOWED, "wrong method for this path")
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::CONFLICT, detail)
    }

    /// The same request is being worked on.
    pub(super) fn in_flight() -> Self {
        let why = "a request with this Idempotency-Key is in progress";
        Self { retry_after_s: Some(1), ..Self::conflict(why) }
    }

    /// The key was used for something else.
    pub(super) fn reused() -> Self {
        Self::of(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Idempotency-Key: it was used for another request within the last day",
        )
    }

    /// A fault of ours; its cause is in the log.
    pub(super) fn internal() -> Self {
        Self::of(StatusCode::INTERNAL_SERVER_ERROR, "unknown error; the log has its cause")
    }

    pub(super) fn reply(&self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound(why) => Self::of(StatusCode::NOT_FOUND, why),
            Refusal::Conflict(why) => Self::conflict(why),
            Refusal::Invalid(why) => Self::of(StatusCode::UNPROCESSABLE_ENTITY, why),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let told = store_failed(&error);
        let status = StatusCode::from_u16(told.http_status());
        Self {
            status: status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
            detail: told.message().to_owned(),
            retry_after_s: told.retry_after_s,
        }
    }
}

/// A body that could not be read.
impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        let status = match error.http_status() {
            413 => StatusCode::PAYLOAD_TOO_LARGE,
            504 => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::of(status, error.message())
    }
}
