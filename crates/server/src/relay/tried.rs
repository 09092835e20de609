//! Where a call was, what became of it there, and what its client is told when no channel has answered.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use filegate_types::{ApiError, ChannelId, ErrorCode, UnixMillis};

use super::channels::Channel;
use super::health::{Fault, Standing, TroubleKind};
use super::http::AnswerCut;
use super::ids::Refusal;
use super::reply::{Ending, Opening, Passing};
use super::route::Out;
use super::{Call, headers};
use crate::app::App;
use crate::http::layer::UpstreamTrace;
use crate::http::reply::Outcome as Logged;

/// Where the call was, and what became of it there.
#[derive(Debug, Default)]
pub(super) struct Tried {
    pub(super) channels: BTreeMap<ChannelId, &'static str>,
    /// Whether all that failed was limits.
    pub(super) only_limits: bool,
    /// Seconds until a limit ends.
    pub(super) wait_s: Option<u32>,
    /// Whether something may have been done all the same.
    pub(super) perhaps_done: bool,
    /// What the account's own channel said.
    pub(super) words: Option<(Opening, ChannelId)>,
}

impl Tried {
    pub(super) fn new() -> Self {
        Self { only_limits: true, ..Self::default() }
    }

    pub(super) fn attempts(&self) -> usize {
        self.channels.values().filter(|what| **what != FULL).count()
    }

    pub(super) fn fault(&mut self, app: &App, channel: &Channel, fault: Fault, perhaps_done: bool) {
        match fault {
            Fault::Limited(pause) => {
                let pause = pause.unwrap_or(app.config.relay.cool_down.0);
                self.wait(seconds(pause));
                self.channels.insert(channel.id, fault.name());
            }
            _ => self.failed(channel.id, fault.name(), perhaps_done),
        }
    }

    pub(super) fn failed(&mut self, channel: ChannelId, what: &'static str, perhaps_done: bool) {
        self.only_limits = false;
        self.perhaps_done |= perhaps_done;
        self.channels.insert(channel, what);
    }

    /// It was not called: it has no room.
    pub(super) fn limited(&mut self, channel: ChannelId, wait_s: Option<u32>) {
        self.wait(wait_s.unwrap_or(1));
        self.channels.insert(channel, FULL);
    }

    /// It was not called: it is not well.
    pub(super) fn out(
        &mut self,
        id: ChannelId,
        kind: TroubleKind,
        channel: &Channel,
        now: UnixMillis,
    ) {
        self.only_limits &= kind == TroubleKind::Limited;
        if let Standing::Out(trouble) = channel.standing(now) {
            let left = u64::try_from(trouble.until.0 - now.0).unwrap_or(0);
            self.wait(seconds(Duration::from_millis(left)));
        }
        self.channels.entry(id).or_insert(match kind {
            TroubleKind::Limited => FULL,
            _ => RESTS,
        });
    }

    fn wait(&mut self, seconds: u32) {
        self.wait_s = Some(self.wait_s.map_or(seconds, |known| known.min(seconds)));
    }

    /// What a client is told when nothing is left: how many channels, and what became of each in general words.
    pub(super) fn refusal(&self, reasons: &[(ChannelId, Out)]) -> ApiError {
        let mut counts = BTreeMap::<&str, usize>::new();
        for what in self.channels.values() {
            *counts.entry(said(what)).or_default() += 1;
        }
        let told: Vec<_> = counts.iter().map(|(what, n)| format!("{n} {what}")).collect();
        let many = self.channels.len();
        let detail = match many {
            0 if reasons.iter().any(|(_, why)| *why == Out::Purpose) => {
                "no channel takes files of this purpose".to_owned()
            }
            0 => "no channel takes this call".to_owned(),
            1 => format!("1 channel: {}", told.join(", ")),
            _ => format!("{many} channels: {}", told.join(", ")),
        };
        let detail = if self.perhaps_done {
            format!("{detail}; it may have been done all the same")
        } else {
            detail
        };
        let limits = many > 0 && self.only_limits;
        let code = if limits { ErrorCode::RateLimit } else { ErrorCode::Internal };
        let error = ApiError::detailed(code, detail);
        match self.wait_s {
            Some(wait_s) => error.retry_after(wait_s.max(1)),
            None if limits => error.retry_after(1),
            None => error,
        }
    }
}

/// The channel has no room.
const FULL: &str = "full";
/// The channel is given a pause.
const RESTS: &str = "rests";

/// In words for clients: an operator's money and keys are not their business.
fn said(what: &str) -> &'static str {
    match what {
        FULL | "limited" => "limited",
        "unreachable" => "unreachable",
        "timed_out" => "timed out",
        RESTS => "unavailable",
        _ => "failed",
    }
}

fn seconds(pause: Duration) -> u32 {
    u32::try_from(pause.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

/// What a client is told when no channel has answered.
pub(super) fn unanswered(call: &Call, tried: Tried, refusal: &Refusal) -> Response {
    match tried.words {
        Some((opening, _channel)) => own_words(opening),
        None => call.refused(refusal),
    }
}

/// What a channel of the account's own said of itself, which is its owner's business.
fn own_words(opening: Opening) -> Response {
    /// Nothing is left to be done.
    struct Nothing;
    impl Ending for Nothing {
        fn passed(&mut self, _bytes: usize) {}
        fn ended(&mut self, _cut: Option<&AnswerCut>) {}
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = opening.parts.status;
    *response.headers_mut() = headers::answer(&opening.parts.headers);
    response.extensions_mut().insert(UpstreamTrace);
    let code = opening.code.unwrap_or(0);
    response.extensions_mut().insert(Logged { code, status_if_asked: None });
    *response.body_mut() = Passing::body(opening.looked, opening.rest, Nothing);
    response
}
