//! Steps 4 and 10: what a call holds, and what becomes of that however the call ends.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use filegate_types::{ApiError, ChannelId};
use futures_util::StreamExt as _;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

use super::Call;
use super::body::Whole;
use super::calls::Effect;
use super::money::{ANSWER_MAX, Fingerprint, Hold, Settled, cost};
use crate::app::App;
use crate::http::idempotency::Repeatable;
use crate::http::reply::{Outcome as Logged, store_failed};

/// How an answered call ended.
#[derive(Debug, Clone)]
pub(crate) struct End {
    /// Who answered.
    pub(crate) channel: ChannelId,
    pub(crate) status: u16,
    /// What `base_resp` says, or 0.
    pub(crate) code: i64,
    /// What the answer counts.
    pub(crate) units: u64,
    /// Of the body.
    pub(crate) bytes: u64,
    /// Whether upstream sent all of it.
    pub(crate) complete: bool,
    /// The body as the client gets it, if it may be given again.
    pub(crate) answer: Option<Vec<u8>>,
}

impl End {
    /// Whether the call has succeeded, so that it is paid.
    pub(crate) fn is_success(&self) -> bool {
        self.status < 400 && self.code == 0 && self.complete
    }
}

/// What is held for a call. Dropped without a word, it is given back.
pub(crate) struct Settle {
    hold: Hold,
    again: Option<(Repeatable, [u8; 32])>,
}

/// What an `Idempotency-Key` says of a call.
pub(crate) enum Again {
    /// It was made before, and this was answered.
    Answered(Response),
    /// It was not; its answer is to be kept if there is a key.
    Never(Option<(Repeatable, [u8; 32])>),
}

/// Looks whether the same call has been made before. Only calls that leave something behind are kept: any other may be
/// made again.
pub(crate) async fn again(app: &App, call: &Call, body: Option<&Whole>) -> Result<Again, ApiError> {
    let Some(body) = body.filter(|_| call.rules.effect == Effect::Lasting) else {
        return Ok(Again::Never(None));
    };
    let Some(repeatable) = Repeatable::begin(app, &call.principal, &call.headers).await? else {
        return Ok(Again::Never(None));
    };
    let query = call.query.as_deref().unwrap_or("");
    let mut sum = Fingerprint::new(&call.method, &format!("{}?{query}", call.target.path));
    let mut pieces = body.pieces(0..body.bytes());
    while let Some(piece) = pieces.next().await {
        sum.add(&piece.map_err(|error| store_failed(&error))?);
    }
    let fingerprint = sum.finish();
    Ok(match repeatable.replay(fingerprint, "request: its path, query or body")? {
        Some(kept) => Again::Answered(replayed(kept.status, kept.reply.clone())),
        None => Again::Never(Some((repeatable, fingerprint))),
    })
}

fn replayed(status: u16, reply: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(reply));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    response.extensions_mut().insert(Logged { code: 0, status_if_asked: None });
    response
}

impl Settle {
    /// Holds what the call can cost.
    pub(crate) async fn begin(
        app: &Arc<App>,
        call: &Call,
        body_bytes: u64,
        again: Option<(Repeatable, [u8; 32])>,
    ) -> Result<Self, ApiError> {
        let hold = Hold::begin(app, &call.principal, &call.rules.name, body_bytes).await?;
        Ok(Self { hold, again })
    }

    /// Whether money is held.
    pub(crate) fn is_paid(&self) -> bool {
        self.hold.is_held()
    }

    /// Whether the answer is to be kept, if it is short enough.
    pub(crate) fn keeps_answer(&self) -> bool {
        self.again.is_some()
    }

    /// Upstream has answered, and the answer is over.
    pub(crate) async fn answered(self, app: &Arc<App>, call: &Call, end: End) {
        if !end.is_success() {
            return;
        }
        let path = &call.rules.name;
        let costs = app.relay.books.costs(app).await;
        let first = match (&self.again, end.answer) {
            (Some((repeatable, fingerprint)), Some(answer)) if answer.len() <= ANSWER_MAX => {
                Some((repeatable.first_answer(*fingerprint), end.status, answer))
            }
            _ => None,
        };
        let settled = Settled {
            channel: end.channel,
            units: end.units,
            bytes: end.bytes,
            cost: cost(&costs, end.channel, path, end.units),
            first,
        };
        // The key is taken until its answer is kept.
        let Self { hold, again: _taken } = self;
        if let Err(error) = hold.capture(settled).await {
            // The answer is there, paid or not: what was held goes back when its lease ends.
            tracing::error!(error = &error as &dyn std::error::Error, %path, "relay.capture.failed");
        }
    }
}
