//! What can go wrong with a call.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use filegate_types::ErrorCode;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base URL or the key cannot be used; nothing was sent.
    #[error("{0}")]
    Config(String),

    /// The server answered with a `base_resp` whose code is not 0, under whatever HTTP status.
    #[error("{message} ({code})")]
    Refused {
        /// `base_resp.status_code`.
        code: i64,
        /// `base_resp.status_msg`, untouched.
        message: String,
        /// The reply's `Trace-Id`.
        trace_id: Option<String>,
        /// The HTTP status it came with.
        status: u16,
        /// Seconds of the reply's `Retry-After`.
        retry_after_s: Option<u64>,
    },

    /// An HTTP status other than success, and no `base_resp` in the body.
    #[error("the server answered HTTP {status}{}", hint(*status))]
    Http {
        /// The HTTP status.
        status: u16,
        /// The reply's `Trace-Id`.
        trace_id: Option<String>,
    },

    /// No answer: connecting, sending or receiving failed, or took too long.
    #[error("{doing} failed: {}", root_cause(source.as_ref()))]
    Network {
        /// The step that failed.
        doing: &'static str,
        /// Whether not even a connection was made.
        connect: bool,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },

    /// An answer that the Files API does not give.
    #[error("the server's answer makes no sense: {what}")]
    Protocol {
        /// What is wrong with it.
        what: String,
        /// The reply's `Trace-Id`.
        trace_id: Option<String>,
    },

    /// All bytes came, and they are not those that the server announced.
    #[error("the content is damaged: SHA-256 is {actual}, the server announced {expected}")]
    Corrupt {
        /// Hex digest of `Repr-Digest`.
        expected: String,
        /// Hex digest of what came.
        actual: String,
    },

    /// The file to upload cannot be read.
    #[error("{0}")]
    Source(io::Error),
}

impl Error {
    /// The `Trace-Id` of the answer, if there was one.
    pub fn trace_id(&self) -> Option<&str> {
        match self {
            Self::Refused { trace_id, .. }
            | Self::Http { trace_id, .. }
            | Self::Protocol { trace_id, .. } => trace_id.as_deref(),
            Self::Config(_) | Self::Network { .. } | Self::Corrupt { .. } | Self::Source(_) => None,
        }
    }

    /// Whether no connection could be made at all, so that other calls will fail as well.
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Network { connect: true, .. })
    }

    /// Whether the time for a step was over; the server may do, or have done, what was asked.
    pub fn is_timeout(&self) -> bool {
        let Self::Network { source, .. } = self else { return false };
        let mut cause: Option<&(dyn StdError + 'static)> = Some(source.as_ref());
        while let Some(error) = cause {
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::TimedOut)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Whether the fault is the server's or the network's, and not the request's.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => {
                [ErrorCode::Unknown, ErrorCode::Timeout, ErrorCode::Internal]
                    .iter()
                    .any(|fault| fault.number() == *code)
            }
            Self::Http { .. }
            | Self::Network { .. }
            | Self::Protocol { .. }
            | Self::Corrupt { .. } => true,
            Self::Config(_) | Self::Source(_) => false,
        }
    }

    pub(crate) fn network(doing: &'static str, error: reqwest::Error) -> Self {
        let connect = error.is_connect();
        let doing = if connect { "connecting" } else { doing };
        Self::Network { doing, connect, source: Box::new(error.without_url()) }
    }

    pub(crate) fn timeout(doing: &'static str, limit: Duration) -> Self {
        let source =
            io::Error::new(io::ErrorKind::TimedOut, format!("nothing moved for {limit:?}"));
        Self::Network { doing, connect: false, source: Box::new(source) }
    }
}

/// The last cause: what reqwest and hyper put before it ("error sending request") says nothing.
fn root_cause<'e>(error: &'e (dyn StdError + Send + Sync + 'static)) -> &'e dyn StdError {
    let mut cause: &'e dyn StdError = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}

fn hint(status: u16) -> &'static str {
    match status {
        300..=399 => ": a redirect, which is not followed; is the URL right?",
        404 | 405 => ": is the URL that of a file gateway?",
        _ => "",
    }
}
