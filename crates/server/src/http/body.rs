//! Reading request bodies: a deadline renewed by every read, a least rate, and draining.
//!
//! # An early refusal must reach the client
//!
//! Popular clients that are still writing when the answer and a close arrive report a network error
//! and never show the answer (contract §4). So a refused body is handed to [`Incoming::drain`]: the
//! answer goes out at once, and a task reads on and throws away, up to a bound, before the
//! connection is closed or used again. A client that waits for `100 Continue` is not asked for more.

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use bytes::Bytes;
use filegate_types::{ApiError, ErrorCode};
use futures_util::StreamExt as _;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use crate::app::App;
use crate::config::Limits;
use crate::gate::Tally;
use crate::lifecycle::Tasks;

/// A request body being read.
pub(crate) struct Incoming {
    stream: axum::body::BodyDataStream,
    limits: Limits,
    started: Instant,
    received: u64,
    ended: bool,
    waits_for_continue: bool,
    tally: Option<Tally>,
}

impl Incoming {
    pub(crate) fn new(headers: &HeaderMap, body: Body, limits: Limits) -> Self {
        let expect = headers.get(EXPECT).and_then(|v| v.to_str().ok());
        let waits_for_continue = expect.is_some_and(|v| v.eq_ignore_ascii_case("100-continue"));
        Self {
            ended: body.is_end_stream(),
            stream: body.into_data_stream(),
            limits,
            started: Instant::now(),
            received: 0,
            waits_for_continue,
            tally: None,
        }
    }

    /// Has what is read counted by `tally`.
    pub(crate) fn count(&mut self, tally: Option<Tally>) {
        self.tally = tally;
    }

    /// Has what was counted charged, before the request is answered.
    pub(crate) async fn settle(&mut self) {
        if let Some(tally) = self.tally.take() {
            tally.settle().await;
        }
    }

    /// Bytes read so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// 1001 for a client that is silent or too slow; 2013 for one that hung up or broke its framing.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.ended {
            return Ok(None);
        }
        let idle = self.limits.body_idle;
        let Ok(next) = timeout(idle.0, self.stream.next()).await else {
            self.ended = true;
            return Err(ApiError::detailed(
                ErrorCode::Timeout,
                format_args!("nothing of the body arrived for {idle}"),
            ));
        };
        match next {
            None => {
                self.ended = true;
                Ok(None)
            }
            Some(Ok(piece)) => {
                self.waits_for_continue = false;
                self.received += piece.len() as u64;
                if let Some(tally) = &mut self.tally {
                    tally.add(piece.len());
                }
                self.check_rate()?;
                Ok(Some(piece))
            }
            Some(Err(_cut)) => {
                self.ended = true;
                Err(ApiError::invalid("the body was cut off"))
            }
        }
    }

    fn check_rate(&mut self) -> Result<(), ApiError> {
        let late = self.started.elapsed().saturating_sub(self.limits.body_grace.0).as_secs();
        let least = self.limits.body_rate_min.0.saturating_mul(late);
        if self.received >= least {
            return Ok(());
        }
        self.ended = true;
        Err(ApiError::detailed(
            ErrorCode::Timeout,
            format_args!("the body arrives slower than {} a second", self.limits.body_rate_min),
        ))
    }

    /// Reads and throws away what is left, within the bounds, on a task of its own.
    pub(crate) fn drain(mut self, tasks: &Tasks) {
        if self.ended || self.waits_for_continue {
            return;
        }
        let (bytes_max, time_max) = (self.limits.drain_bytes.0, self.limits.drain_time.0);
        tasks.spawn(timeout(time_max, async move {
            let mut thrown = 0;
            while thrown < bytes_max
                && let Some(Ok(piece)) = self.stream.next().await
            {
                thrown += piece.len() as u64;
            }
        }));
    }
}

/// Throws away the body of a request that nobody reads.
pub(crate) fn drain(request: Request, app: &App) {
    let (parts, body) = request.into_parts();
    Incoming::new(&parts.headers, body, app.config.limits.clone()).drain(&app.tasks);
}

/// The declared length of a body.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses nesting beyond 128 levels. What a known shape passes over is passed over at any depth, so
/// the text is first read as whatever it is.
fn within_depth(text: &str) -> serde_json::Result<()> {
    serde_json::from_str::<serde_json::Value>(text).map(drop)
}

/// Whether a field says something else than `allowed`.
fn says_other(headers: &HeaderMap, name: HeaderName, allowed: &[u8]) -> bool {
    headers.get_all(name).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(allowed))
}

/// Refuses a compressed body, by whichever header says so: none is ever inflated.
pub(crate) fn refuse_encoded(headers: &HeaderMap) -> Result<(), ApiError> {
    refuse_transfer_coded(headers)?;
    if says_other(headers, CONTENT_ENCODING, b"identity") {
        return Err(ApiError::invalid("content-encoding is not supported: send the body as it is"));
    }
    Ok(())
}

/// Refuses a body whose framing is anything but a length or chunks.
pub(crate) fn refuse_transfer_coded(headers: &HeaderMap) -> Result<(), ApiError> {
    // hyper undoes `chunked` and passes over a coding in front of it; a proxy before us may not
    // (RFC 9112 §6.1).
    if says_other(headers, TRANSFER_ENCODING, b"chunked")
        || headers.get_all(TRANSFER_ENCODING).iter().count() > 1
    {
        return Err(ApiError::invalid("transfer-encoding is not supported, only chunked"));
    }
    Ok(())
}

/// The essence of the content type, lower case, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// A whole small body.
pub(crate) async fn read_small(incoming: &mut Incoming, max: usize) -> Result<Vec<u8>, ApiError> {
    let mut whole = Vec::new();
    while let Some(piece) = incoming.next().await? {
        if whole.len() + piece.len() > max {
            return Err(ApiError::too_large(format_args!("the body is over {max} bytes")));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

/// JSON of a known shape. The parser's own words stay inside: they quote the request.
pub(crate) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // The parser looks only at the strings it keeps.
    let text = std::str::from_utf8(bytes)
        .map_err(|_why| ApiError::invalid("the body is not JSON: it is not UTF-8"))?;
    let parsed = within_depth(text).and_then(|()| serde_json::from_str(text));
    parsed.map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        match error.classify() {
            serde_json::error::Category::Data => ApiError::invalid(format_args!(
                "the body lacks a field or has a wrong one ({place})"
            )),
            _ => ApiError::invalid(format_args!("the body is not JSON ({place})")),
        }
    })
}
