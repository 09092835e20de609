//! One attempt on one channel, and what its outcome means.
//!
//! | upstream | the channel | the call |
//! |---|---|---|
//! | no connection | is unreachable | goes elsewhere: nothing was sent |
//! | 1002, 1039, 1041, 2045, HTTP 429 | is limited | goes elsewhere: nothing was done |
//! | 1008, HTTP 402 | is out of balance | goes elsewhere: nothing was done |
//! | 1004, 2049, HTTP 401, 403 | has a key that is refused | goes elsewhere: nothing was done |
//! | HTTP 5xx | failed | goes elsewhere if it may be made twice, else that is the answer |
//! | silent, broken off before the answer's beginning | failed | goes elsewhere if it may be made twice |
//! | anything else | answered | that is the answer |

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use filegate_types::{ApiError, UnixMillis};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Uri};

use super::body::{Once, Whole};
use super::channels::{Access, Busy};
use super::health::Fault;
use super::http::{AnswerCut, Transport, Unanswered};
use super::json::Edit;
use super::pool::{KEPT, KEPT_FOR_LASTING};
use super::reply::Opening;
use crate::app::App;

/// Kept connections that may turn out to be closed, one after the other, before a new one is made.
const STALE_MAX: usize = 2;

/// What is sent.
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: PathAndQuery,
    pub(crate) headers: HeaderMap,
    /// Whether it may be made twice.
    pub(crate) repeatable: bool,
}

/// With what body.
pub(crate) enum Load<'a> {
    /// One that is here, with what is changed for this channel.
    Whole(&'a Whole, Vec<Edit>),
    /// One that is sent as it comes.
    Once(&'a mut Once),
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Upstream's answer is the call's.
    Answered(Opening),
    /// The channel could not, or would not because of its own account.
    Failed(Failure),
    /// The client's body was at fault.
    Client(ApiError),
}

/// Why a channel gave no answer that counts.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) fault: Fault,
    /// Whether upstream may have done what was asked all the same.
    pub(crate) perhaps_done: bool,
    /// What it said, if it said something.
    pub(crate) words: Option<Opening>,
}

impl Failure {
    fn silent(fault: Fault, perhaps_done: bool) -> Outcome {
        Outcome::Failed(Self { fault, perhaps_done, words: None })
    }
}

/// Sends it and looks at the beginning of the answer.
pub(crate) async fn send(
    transport: &Transport,
    app: &App,
    busy: &Busy,
    access: &Access,
    outgoing: Outgoing<'_>,
    mut load: Load<'_>,
) -> Outcome {
    let channel = busy.channel();
    let name = &channel.facts().row.name;
    let mut kept_for = if outgoing.repeatable { KEPT } else { KEPT_FOR_LASTING };
    let mut stale = 0;
    loop {
        let connection = match transport.connection(&channel.pool, &access.origin, kept_for).await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(channel = name, %error, "relay.unreachable");
                return Failure::silent(Fault::Unreachable, false);
            }
        };
        let body = match &mut load {
            Load::Whole(whole, edits) => whole.edited(edits.clone()),
            Load::Once(once) => once.take().unwrap_or_default(),
        };
        let answered = connection.send(request(&outgoing, body)).await;
        let answer = match answered {
            Ok(answer) => Opening::of(answer, outgoing.method).await.map_err(Unanswered::from),
            Err(unanswered) => Err(unanswered),
        };
        match answer {
            Ok(opening) => {
                return judge(opening, outgoing.repeatable, app.clock.now());
            }
            Err(Unanswered::Unsent(request)) => {
                if let Load::Once(once) = &mut load {
                    once.put_back(request.into_body());
                }
                stale += 1;
                if stale > STALE_MAX {
                    return Failure::silent(Fault::Unreachable, false);
                }
                kept_for = Duration::ZERO;
            }
            Err(other) => {
                if let Load::Once(once) = &load
                    && let Some(fault) = once.fault()
                {
                    return Outcome::Client(fault);
                }
                let fault = match other {
                    Unanswered::Silent => Fault::TimedOut,
                    _ => Fault::Failed,
                };
                tracing::warn!(channel = name, why = %other, "relay.unanswered");
                return Failure::silent(fault, true);
            }
        }
    }
}

fn request(outgoing: &Outgoing<'_>, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = Uri::from(outgoing.target.clone());
    *request.headers_mut() = outgoing.headers.clone();
    request
}

impl From<AnswerCut> for Unanswered {
    fn from(cut: AnswerCut) -> Self {
        match cut {
            AnswerCut::Silent => Self::Silent,
            AnswerCut::Broken(error) => Self::Broken(error.to_string()),
            AnswerCut::Ours => Self::Broken(cut.to_string()),
        }
    }
}

/// What an answer means.
pub(super) fn judge(opening: Opening, repeatable: bool, now: UnixMillis) -> Outcome {
    let pause = opening.retry_after(system_time(now));
    let Some(fault) = fault(opening.parts.status, opening.code, pause) else {
        return Outcome::Answered(opening);
    };
    let perhaps_done = fault == Fault::Failed;
    if perhaps_done && !repeatable {
        return Outcome::Answered(opening);
    }
    Outcome::Failed(Failure { fault, perhaps_done, words: Some(opening) })
}

/// What status and code say of the channel.
pub(crate) fn fault(
    status: StatusCode,
    code: Option<i64>,
    pause: Option<Duration>,
) -> Option<Fault> {
    match code {
        Some(1002 | 1039 | 1041 | 2045) => return Some(Fault::Limited(pause)),
        Some(1008) => return Some(Fault::OutOfBalance),
        Some(1004 | 2049) => return Some(Fault::KeyRefused),
        _ => {}
    }
    match status.as_u16() {
        429 => Some(Fault::Limited(pause)),
        402 => Some(Fault::OutOfBalance),
        401 | 403 => Some(Fault::KeyRefused),
        500.. => Some(Fault::Failed),
        _ => None,
    }
}

fn system_time(now: UnixMillis) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(now.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_code_say_whose_fault_it_is() {
        let of = |status: u16, code| fault(StatusCode::from_u16(status).unwrap(), code, None);
        for code in [1002, 1039, 1041, 2045] {
            assert_eq!(of(200, Some(code)), Some(Fault::Limited(None)));
        }
        assert_eq!(of(429, None), Some(Fault::Limited(None)));
        assert_eq!(of(500, Some(1002)), Some(Fault::Limited(None)));
        for (status, code) in [(200, Some(1008)), (402, None)] {
            assert_eq!(of(status, code), Some(Fault::OutOfBalance));
        }
        for (status, code) in [(200, Some(1004)), (200, Some(2049)), (401, None), (403, None)] {
            assert_eq!(of(status, code), Some(Fault::KeyRefused));
        }
        for status in [500, 502, 503, 504, 529] {
            assert_eq!(of(status, None), Some(Fault::Failed));
        }
        for (status, code) in
            [(200, None), (200, Some(0)), (200, Some(1000)), (200, Some(2013)), (404, None)]
        {
            assert_eq!(of(status, code), None);
        }
    }
}
