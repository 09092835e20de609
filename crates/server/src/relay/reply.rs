//! An answer of upstream's: its beginning is looked at before a byte of it is sent, the rest passes as it comes.
//!
//! Whether another channel is to be asked stands in the status or in `base_resp`, and native calls answer HTTP 200
//! with either. So of JSON the first 16 KiB are waited for, or its end if that is sooner: what is longer than that is
//! no refusal. Of an event stream it is the first piece that comes. Anything else is sent as soon as its head is there.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::response::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use serde::Deserialize;

use super::http::{AnswerBody, AnswerCut};

/// How much of an answer is looked at.
const LOOK_BYTES: usize = 16 << 10;

/// An answer whose beginning is known.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) parts: Parts,
    /// What of its body came already.
    pub(crate) looked: VecDeque<Bytes>,
    /// Whether that is all of it.
    pub(crate) whole: bool,
    /// What `base_resp` says, if that was there.
    pub(crate) code: Option<i64>,
    pub(crate) rest: AnswerBody,
}

/// The beginning of what every native answer holds.
#[derive(Deserialize)]
struct Native {
    base_resp: Option<BaseResp>,
}

#[derive(Deserialize)]
struct BaseResp {
    status_code: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Nothing is to be found there.
    Not,
    /// Until it ends, or there is too much of it.
    Json,
    /// At what comes first.
    Events,
}

impl Opening {
    /// Looks at the beginning of `response`, which answers a request with `method`.
    ///
    /// # Errors
    /// If it breaks off there.
    pub(crate) async fn of(
        response: Response<AnswerBody>,
        method: &Method,
    ) -> Result<Self, AnswerCut> {
        let (parts, mut rest) = response.into_parts();
        let look = look(&parts, method);
        let mut looked = VecDeque::new();
        let mut bytes = 0;
        let mut whole = false;
        while look != Look::Not && bytes < LOOK_BYTES {
            match rest.frame().await.transpose()? {
                None => {
                    whole = true;
                    break;
                }
                Some(frame) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    bytes += piece.len();
                    looked.push_back(piece);
                }
            }
            if look == Look::Events {
                break;
            }
        }
        let code = match look {
            Look::Json if whole => code_of(&concat(&looked)),
            Look::Events => concat(&looked)
                .split(|byte| *byte == b'\n')
                .find_map(|line| code_of(line.strip_prefix(b"data:")?)),
            _ => None,
        };
        Ok(Self { parts, looked, whole, code, rest })
    }

    /// Looks on until the end, or until more than `most` bytes are there. Where it breaks off, that is told by what
    /// reads the rest.
    pub(crate) async fn look_on(&mut self, most: usize) {
        let mut bytes: usize = self.looked.iter().map(Bytes::len).sum();
        while !self.whole && bytes <= most {
            match self.rest.frame().await {
                None => self.whole = true,
                Some(Ok(frame)) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    bytes += piece.len();
                    self.looked.push_back(piece);
                }
                Some(Err(_cut)) => return,
            }
        }
        if self.whole && self.code.is_none() {
            self.code = code_of(&concat(&self.looked));
        }
    }

    /// All of its body, if that is here.
    pub(crate) fn all(&self) -> Option<Vec<u8>> {
        self.whole.then(|| concat(&self.looked))
    }

    /// How long upstream asks to be left alone.
    pub(crate) fn retry_after(&self, now: std::time::SystemTime) -> Option<std::time::Duration> {
        retry_after(&self.parts.headers, now)
    }
}

/// The pause in `Retry-After`, in seconds or as a date.
pub(crate) fn retry_after(
    headers: &HeaderMap,
    now: std::time::SystemTime,
) -> Option<std::time::Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(std::time::Duration::from_secs(seconds.into()));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

fn look(parts: &Parts, method: &Method) -> Look {
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let bodiless = *method == Method::HEAD
        || parts.status.is_informational()
        || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let encoded = header(CONTENT_ENCODING).is_some_and(|c| !c.eq_ignore_ascii_case("identity"));
    let long = header(CONTENT_LENGTH)
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|length| length > LOOK_BYTES as u64);
    if bodiless || encoded || long {
        return Look::Not;
    }
    let media = header(CONTENT_TYPE).unwrap_or("").split(';').next().unwrap_or("");
    let media = media.trim().to_ascii_lowercase();
    match media.as_str() {
        "text/event-stream" => Look::Events,
        // Some answers of upstream's say that they are text.
        "" | "application/json" | "text/json" | "text/plain" => Look::Json,
        other if other.ends_with("+json") => Look::Json,
        _ => Look::Not,
    }
}

fn concat(pieces: &VecDeque<Bytes>) -> Vec<u8> {
    pieces.iter().flat_map(|piece| piece.iter().copied()).collect()
}

fn code_of(text: &[u8]) -> Option<i64> {
    let native: Native = serde_json::from_slice(text).ok()?;
    Some(native.base_resp?.status_code)
}

/// What is to be done when an answer has been sent, or will not be. It is also when this is dropped.
pub(crate) trait Ending: Send + Unpin + 'static {
    /// So much more was handed on.
    fn passed(&mut self, bytes: usize);
    /// It has ended: whole, or cut off by upstream.
    fn ended(&mut self, cut: Option<&AnswerCut>);
}

/// A body that passes as it comes.
pub(crate) struct Passing<E: Ending> {
    looked: VecDeque<Bytes>,
    rest: AnswerBody,
    ending: E,
}

impl<E: Ending> Passing<E> {
    pub(crate) fn body(looked: VecDeque<Bytes>, rest: AnswerBody, ending: E) -> Body {
        Body::new(Self { looked, rest, ending })
    }
}

impl<E: Ending> HttpBody for Passing<E> {
    type Data = Bytes;
    type Error = AnswerCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        if let Some(piece) = self.looked.pop_front() {
            self.ending.passed(piece.len());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.rest.has_ended() {
            self.ending.ended(None);
            return Poll::Ready(None);
        }
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.rest).poll_frame(cx)) {
                None => {
                    self.ending.ended(None);
                    None
                }
                Some(Err(cut)) => {
                    self.ending.ended(Some(&cut));
                    Some(Err(cut))
                }
                Some(Ok(frame)) => {
                    // Trailers are dropped, as RFC 9110 §6.5 allows.
                    let Ok(piece) = frame.into_data() else { continue };
                    self.ending.passed(piece.len());
                    Some(Ok(Frame::data(piece)))
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.looked.is_empty() && self.rest.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let looked: u64 = self.looked.iter().map(|piece| piece.len() as u64).sum();
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(looked + rest),
            None => SizeHint::default(),
        }
    }
}

impl<E: Ending> Drop for Passing<E> {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.ending.ended(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |text: &str, now: SystemTime| {
            let value = HeaderValue::try_from(text).unwrap();
            retry_after(&[(RETRY_AFTER, value)].into_iter().collect(), now)
        };
        let at = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(of("7", at), Some(Duration::from_secs(7)));
        assert_eq!(of(date, at - Duration::from_secs(9)), Some(Duration::from_secs(9)));
        assert_eq!(of(date, at + Duration::from_secs(9)), Some(Duration::ZERO));
        assert_eq!(of("soon", at), None);
        assert_eq!(of("-1", at), None);
    }

    #[test]
    fn a_code_is_read_from_base_resp_alone() {
        assert_eq!(code_of(br#"{"base_resp":{"status_code":1002,"status_msg":"x"}}"#), Some(1002));
        assert_eq!(code_of(br#"{"status_code":1002}"#), None);
        assert_eq!(code_of(br#"{"base_resp":null}"#), None);
        assert_eq!(code_of(b"<html>"), None);
    }

    #[test]
    fn what_is_long_encoded_or_without_body_is_not_looked_at() {
        let of = |pairs: &[(&str, &str)], status: u16, method: Method| {
            let mut response = Response::builder().status(status);
            for (name, value) in pairs {
                response = response.header(*name, *value);
            }
            look(&response.body(()).unwrap().into_parts().0, &method)
        };
        let json = ("content-type", "application/json; charset=utf-8");
        assert_eq!(of(&[json], 200, Method::GET), Look::Json);
        assert_eq!(of(&[json, ("content-length", "16385")], 200, Method::GET), Look::Not);
        assert_eq!(of(&[json, ("content-encoding", "gzip")], 200, Method::GET), Look::Not);
        assert_eq!(of(&[json], 200, Method::HEAD), Look::Not);
        assert_eq!(of(&[json], 304, Method::GET), Look::Not);
        assert_eq!(of(&[("content-type", "text/event-stream")], 200, Method::POST), Look::Events);
        assert_eq!(of(&[("content-type", "audio/mpeg")], 200, Method::GET), Look::Not);
    }
}
