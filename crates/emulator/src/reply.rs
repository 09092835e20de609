//! What goes back: JSON with `base_resp`, and refusals in upstream's words.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

/// What an answer was, for the record of calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Code(pub(crate) i64);

/// What is known of a call beyond its path, for the record of calls.
#[derive(Debug, Clone)]
pub(crate) struct Note(pub(crate) Value);

/// A refusal: a code of upstream's and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: i64,
    pub(crate) message: String,
    /// Upload and retrieve carry `"file":null` with a refusal.
    pub(crate) file_null: bool,
}

impl Refusal {
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Self {
        Self { status: StatusCode::OK, code, message: message.into(), file_null: false }
    }

    /// 2013 with the prefix that upstream's texts have.
    pub(crate) fn invalid(what: impl std::fmt::Display) -> Self {
        Self::new(2013, format!("invalid params, {what}"))
    }

    pub(crate) fn invalid_purpose() -> Self {
        Self::invalid("invalid file purpose")
    }

    pub(crate) fn file_not_found() -> Self {
        Self::invalid("file not found")
    }

    pub(crate) fn unknown() -> Self {
        Self::new(1000, "unknown error")
    }

    /// No code of upstream's fits: the emulator's own bounds.
    pub(crate) fn full(what: &str) -> Self {
        Self::new(1013, format!("internal service error: the emulator is full ({what})"))
    }

    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn file_null(self) -> Self {
        Self { file_null: true, ..self }
    }

    pub(crate) fn base_resp(&self) -> Value {
        json!({"status_code": self.code, "status_msg": self.message})
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({"base_resp": self.base_resp()});
        if self.file_null {
            body["file"] = Value::Null;
        }
        let mut response = plain_json(self.status, &body);
        response.extensions_mut().insert(Code(self.code));
        response
    }
}

/// A success: `fields`, and `base_resp` behind them.
pub(crate) fn success(mut fields: Value) -> Response {
    fields["base_resp"] = success_resp();
    let mut response = plain_json(StatusCode::OK, &fields);
    response.extensions_mut().insert(Code(0));
    response
}

pub(crate) fn success_resp() -> Value {
    json!({"status_code": 0, "status_msg": "success"})
}

/// JSON as it is, for control calls and the like.
pub(crate) fn plain_json(status: StatusCode, value: &Value) -> Response {
    let bytes = value.to_string().into_bytes();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    *response.body_mut() = Body::from(bytes);
    response
}

/// What upstream says to a path that it does not have.
pub(crate) fn unknown_path() -> Response {
    let mut response = Response::new(Body::from("404 page not found"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let text = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}
