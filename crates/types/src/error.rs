//! The one table of errors that clients see (contract §4).
//!
//! Inside, every layer has its own error type that names the failed operation. On the way out each
//! becomes an [`ApiError`]: a code of this table, a message without internals, and how long to
//! wait. Nothing else reaches a client.

use std::borrow::Cow;
use std::fmt;

use crate::money::Money;

/// A `status_code` of `base_resp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// 1000: a fault of ours with no better code.
    Unknown,
    /// 1001: the client, the store or upstream took too long.
    Timeout,
    /// 1002: over a limit of requests, bytes or concurrency.
    RateLimit,
    /// 1004: no usable credentials, or credentials outside their bounds.
    NotAuthorized,
    /// 1008: the call costs more than the account has.
    InsufficientBalance,
    /// 1013: the store is down or full.
    Internal,
    /// 1026: moderation refused it.
    Sensitive,
    /// 2013: something is wrong with the request.
    InvalidParams,
    /// 2037: a voice sample of the wrong length.
    VoiceDuration,
    /// 2048: a prompt audio that is too long.
    PromptTooLong,
    /// 2049: a key that is unknown, revoked or expired.
    InvalidKey,
}

impl ErrorCode {
    /// Every code, in the order of the table.
    pub const ALL: [Self; 11] = [
        Self::Unknown,
        Self::Timeout,
        Self::RateLimit,
        Self::NotAuthorized,
        Self::InsufficientBalance,
        Self::Internal,
        Self::Sensitive,
        Self::InvalidParams,
        Self::VoiceDuration,
        Self::PromptTooLong,
        Self::InvalidKey,
    ];

    /// The number in `base_resp.status_code`.
    pub fn number(self) -> i64 {
        match self {
            Self::Unknown => 1000,
            Self::Timeout => 1001,
            Self::RateLimit => 1002,
            Self::NotAuthorized => 1004,
            Self::InsufficientBalance => 1008,
            Self::Internal => 1013,
            Self::Sensitive => 1026,
            Self::InvalidParams => 2013,
            Self::VoiceDuration => 2037,
            Self::PromptTooLong => 2048,
            Self::InvalidKey => 2049,
        }
    }

    /// The HTTP status when `http_errors = "status"` (contract §4).
    pub fn http_status(self) -> u16 {
        match self {
            Self::Unknown => 500,
            Self::Timeout => 504,
            Self::RateLimit => 429,
            Self::NotAuthorized | Self::InvalidKey => 401,
            Self::InsufficientBalance => 402,
            Self::Internal => 503,
            Self::Sensitive | Self::InvalidParams | Self::VoiceDuration | Self::PromptTooLong => {
                422
            }
        }
    }

    /// What the message starts with.
    pub fn message(self) -> &'static str {
        match self {
            Self::Unknown => "unknown error",
            Self::Timeout => "request timeout",
            Self::RateLimit => "rate limit",
            Self::NotAuthorized => {
                "login fail: Please carry the API secret key in the 'Authorization' field of the request header"
            }
            Self::InsufficientBalance => "insufficient balance",
            Self::Internal => "internal service error",
            Self::Sensitive => "input sensitive",
            Self::InvalidParams => "invalid params",
            Self::VoiceDuration => "voice duration",
            Self::PromptTooLong => "prompt audio too long",
            Self::InvalidKey => "invalid api key",
        }
    }

    /// Whether the same call may succeed later, unchanged.
    pub fn retryable(self) -> bool {
        matches!(self, Self::Unknown | Self::Timeout | Self::RateLimit | Self::Internal)
    }
}

/// What a client is told when a call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The code of the table.
    pub code: ErrorCode,
    message: Cow<'static, str>,
    /// The HTTP status in `http_errors = "status"`, where it differs from the code's own.
    status: Option<u16>,
    /// Seconds for `Retry-After`.
    pub retry_after_s: Option<u32>,
}

impl ApiError {
    /// The code with its plain message.
    pub fn plain(code: ErrorCode) -> Self {
        Self { code, message: Cow::Borrowed(code.message()), status: None, retry_after_s: None }
    }

    /// The code with a message that starts as the table says and goes on with `detail`.
    pub fn detailed(code: ErrorCode, detail: impl fmt::Display) -> Self {
        Self { message: Cow::Owned(format!("{}: {detail}", code.message())), ..Self::plain(code) }
    }

    /// 2013 `invalid params, {detail}`.
    pub fn invalid(detail: impl fmt::Display) -> Self {
        Self {
            message: Cow::Owned(format!("invalid params, {detail}")),
            ..Self::plain(ErrorCode::InvalidParams)
        }
    }

    /// The literal for an unknown or refused purpose.
    pub fn invalid_purpose() -> Self {
        Self::invalid("invalid file purpose")
    }

    /// The literal for an extension that the purpose does not take: `detail` is added after it.
    pub fn invalid_extension(purpose: &str, detail: impl fmt::Display) -> Self {
        let purpose = purpose.replace(['_', '-'], " ");
        Self::invalid(format_args!("invalid file ext for {purpose}{detail}"))
    }

    /// The literal for an id that does not exist, which is also the answer for another account's.
    pub fn file_not_found() -> Self {
        Self::invalid("file not found").with_status(404)
    }

    /// 2013 for a file that is known and cannot be had any more.
    pub fn file_lost(why: impl fmt::Display) -> Self {
        Self::invalid(format_args!("file not found: {why}")).with_status(404)
    }

    /// 1004 for a good key that is used outside its bounds.
    pub fn out_of_scope(detail: impl fmt::Display) -> Self {
        Self::detailed(ErrorCode::NotAuthorized, detail).with_status(403)
    }

    /// 1008 with the price and what the account can spend.
    pub fn insufficient(price: Money, available: Money) -> Self {
        Self::detailed(
            ErrorCode::InsufficientBalance,
            format_args!("the call costs {price}, the account can spend {available}"),
        )
    }

    /// 2013 for a body or file above its limit.
    pub fn too_large(detail: impl fmt::Display) -> Self {
        Self::invalid(detail).with_status(413)
    }

    /// 2037 or 2048 with the measured length and the limit.
    pub fn duration(code: ErrorCode, message: String) -> Self {
        Self { message: Cow::Owned(message), ..Self::plain(code) }
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    #[must_use]
    fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// The text in `base_resp.status_msg`.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The HTTP status in `http_errors = "status"`.
    pub fn http_status(&self) -> u16 {
        self.status.unwrap_or_else(|| self.code.http_status())
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        Self::plain(code)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code.number())
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_that_clients_match() {
        assert_eq!(ApiError::invalid_purpose().message(), "invalid params, invalid file purpose");
        assert_eq!(
            ApiError::invalid_extension("voice_clone", "").message(),
            "invalid params, invalid file ext for voice clone"
        );
        assert_eq!(ApiError::file_not_found().message(), "invalid params, file not found");
        assert_eq!(ApiError::plain(ErrorCode::InvalidKey).message(), "invalid api key");
        assert_eq!(ApiError::file_not_found().http_status(), 404);
    }

    #[test]
    fn numbers_are_distinct() {
        let mut numbers: Vec<_> = ErrorCode::ALL.iter().map(|c| c.number()).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), ErrorCode::ALL.len());
    }
}
