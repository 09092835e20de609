//! Our own refusals of relayed calls, in the shape of upstream's (minimax-wire §3.1, §3.2).
//!
//! Clients of the native calls read `base_resp` of a 200; those of the OpenAI-shaped and Anthropic-shaped ones look at the
//! status first.

use axum::response::Response;
use filegate_types::wire::BaseResp;
use filegate_types::{ApiError, ErrorCode};
use http::StatusCode;
use serde::Serialize;

use super::calls::Shape;
use super::ids::Refusal;
use crate::http::reply::{self, Outcome};

/// `error` as a call of `shape` is refused; `request_id` is the Trace-Id of the reply.
pub(crate) fn refusal(shape: Shape, error: &ApiError, request_id: &str) -> Response {
    if shape == Shape::Native {
        return reply::refusal(error, reply::bare);
    }
    let (status, kind) = status_of(shape, error);
    let http_code = (shape == Shape::OpenAi).then(|| status.as_u16().to_string());
    let message = format!("{} ({})", error.message(), error.code.number());
    let error_body = ErrorBody { kind, message, http_code };
    let body = Refused { kind: "error", error: error_body, request_id };
    reply::refusal_as(status, None, error, &body)
}

/// As [`refusal`], also in words of upstream's that our own table does not have.
pub(crate) fn refused(shape: Shape, why: &Refusal, request_id: &str) -> Response {
    let (code, words) = match why {
        Refusal::Ours(error) => return refusal(shape, error, request_id),
        Refusal::Upstreams { code, message } => (*code, message),
    };
    // Whatever it is: something in the request is not to upstream's liking.
    let status = ErrorCode::InvalidParams.http_status();
    if shape == Shape::Native {
        let status_if_asked = StatusCode::from_u16(status).ok();
        let base_resp = BaseResp { status_code: code, status_msg: words.clone() };
        return reply::json(
            StatusCode::OK,
            &reply::bare(base_resp),
            Outcome { code, status_if_asked },
        );
    }
    let http_code = (shape == Shape::OpenAi).then(|| "400".to_owned());
    let error =
        ErrorBody { kind: "bad_request_error", message: format!("{words} ({code})"), http_code };
    let body = Refused { kind: "error", error, request_id };
    reply::json(StatusCode::BAD_REQUEST, &body, Outcome { code, status_if_asked: None })
}

#[derive(Debug, Serialize)]
struct Refused<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: ErrorBody,
    request_id: &'a str,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    #[serde(rename = "type")]
    kind: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_code: Option<String>,
}

/// The status and the type of §3.2; where our own status says more than the table's (403, 413, 503, 504), that one.
fn status_of(shape: Shape, error: &ApiError) -> (StatusCode, &'static str) {
    let own =
        StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match error.code {
        ErrorCode::RateLimit => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
        ErrorCode::InsufficientBalance => {
            (StatusCode::PAYMENT_REQUIRED, "insufficient_balance_error")
        }
        ErrorCode::Sensitive => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable_entity_error"),
        ErrorCode::NotAuthorized | ErrorCode::InvalidKey => (
            own,
            if shape == Shape::Anthropic { "authentication_error" } else { "authorized_error" },
        ),
        ErrorCode::InvalidParams | ErrorCode::VoiceDuration | ErrorCode::PromptTooLong => {
            let too_large = own == StatusCode::PAYLOAD_TOO_LARGE;
            (if too_large { own } else { StatusCode::BAD_REQUEST }, "bad_request_error")
        }
        ErrorCode::Unknown | ErrorCode::Timeout | ErrorCode::Internal => (own, "server_error"),
    }
}

#[cfg(test)]
mod tests {
    use filegate_types::Money;
    use http::header::{CONTENT_TYPE, RETRY_AFTER};
    use serde_json::{Value, json};

    use super::*;

    async fn read(response: Response) -> (u16, Value) {
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn native_calls_are_refused_with_200() {
        let error = ApiError::invalid("file_id not exist");
        let (status, body) = read(refusal(Shape::Native, &error, "t")).await;
        let base_resp =
            json!({"status_code": 2013, "status_msg": "invalid params, file_id not exist"});
        assert_eq!((status, body), (200, json!({"base_resp": base_resp})));
    }

    #[tokio::test]
    async fn openai_shaped_calls_have_a_status_and_the_code_in_the_message() {
        let error = ApiError::plain(ErrorCode::InvalidKey);
        let (status, body) = read(refusal(Shape::OpenAi, &error, "t1")).await;
        assert_eq!(status, 401);
        assert_eq!(
            body,
            json!({"type": "error", "request_id": "t1", "error": {
                "type": "authorized_error", "message": "invalid api key (2049)", "http_code": "401"}})
        );
        let (status, body) = read(refusal(Shape::Anthropic, &error, "t1")).await;
        assert_eq!(
            (status, &body["error"]),
            (401, &json!({"type": "authentication_error", "message": "invalid api key (2049)"}))
        );
    }

    #[tokio::test]
    async fn each_code_has_its_status_and_type() {
        for (error, status, kind) in [
            (ApiError::invalid("x"), 400, "bad_request_error"),
            (ApiError::file_not_found(), 400, "bad_request_error"),
            (ApiError::too_large("x"), 413, "bad_request_error"),
            (ApiError::out_of_scope("x"), 403, "authorized_error"),
            (ApiError::insufficient(Money::ZERO, Money::ZERO), 402, "insufficient_balance_error"),
            (ErrorCode::Sensitive.into(), 422, "unprocessable_entity_error"),
            (ErrorCode::RateLimit.into(), 429, "rate_limit_error"),
            (ErrorCode::Unknown.into(), 500, "server_error"),
            (ErrorCode::Internal.into(), 503, "server_error"),
            (ErrorCode::Timeout.into(), 504, "server_error"),
        ] {
            let (got, body) = read(refusal(Shape::OpenAi, &error, "t")).await;
            assert_eq!((got, body["error"]["type"].as_str()), (status, Some(kind)), "{error}");
        }
        let limited = ApiError::plain(ErrorCode::RateLimit).retry_after(7);
        assert_eq!(refusal(Shape::OpenAi, &limited, "t").headers()[RETRY_AFTER], "7");
    }
}
