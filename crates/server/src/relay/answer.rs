//! Steps 9 and 10: the answer on its way to the client, and what is done when it has been sent.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use filegate_types::ChannelId;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method};

use super::channels::Busy;
use super::health::Fault;
use super::http::AnswerCut;
use super::owned::Owned;
use super::reply::{Ending, Opening, Passing};
use super::settle::{End, Settle};
use super::translate::{Media, Translation, unreadable};
use super::{Call, attempt, headers, money};
use crate::app::App;
use crate::http::layer::UpstreamTrace;
use crate::http::reply::Outcome as Logged;

/// Step 9: the head, and the body as it comes.
pub(super) async fn answer(
    app: &Arc<App>,
    call: &Arc<Call>,
    owned: Owned,
    busy: Busy,
    mut opening: Opening,
    settle: Settle,
) -> Response {
    match attempt::fault(opening.parts.status, opening.code, None) {
        Some(fault) => busy.failed(app, fault),
        None => busy.answered(app, !matches!(call.method, Method::GET | Method::HEAD)),
    }
    let (channel, media) = (busy.channel().id, Media::of(&opening.parts, &call.method));
    if media == Media::Encoded && !call.rules.reply.is_empty() {
        return call.refused(&unreadable().into());
    }
    if settle.keeps_answer() && media == Media::Json {
        opening.look_on(money::ANSWER_MAX).await;
    }
    let (status, code) = (opening.parts.status, opening.code.unwrap_or(0));
    let mut ending = Answering {
        settle: Some((settle, Arc::clone(app), Arc::clone(call))),
        channel,
        busy: Some(busy),
        status: status.as_u16(),
        code,
        units: 0,
        bytes: 0,
        complete: false,
        answer: None,
    };
    let mut head = headers::answer(&opening.parts.headers);
    let well = status.as_u16() < 400;
    let body = match Translation::of(app, call, channel, owned, media, well) {
        None => Passing::body(opening.looked, opening.rest, ending),
        Some(mut translation) if opening.whole => {
            let answer = match translation.whole(opening.looked).await {
                Ok(answer) => answer,
                Err(error) => return call.refused(&error.into()),
            };
            head.insert(CONTENT_LENGTH, HeaderValue::from(answer.len()));
            ending.told(translation.told());
            ending.passed(answer.len());
            if !translation.is_half() {
                ending.ended(None);
            }
            ending.answer = Some(answer.clone());
            // Before it is sent: who has it finds it settled, and the same again finds it.
            ending.settle().await;
            Body::from(answer)
        }
        Some(translation) => {
            // Ids of ours may be longer or shorter than upstream's.
            head.remove(CONTENT_LENGTH);
            translation.body(opening.looked, opening.rest, ending)
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = head;
    response.extensions_mut().insert(UpstreamTrace);
    response.extensions_mut().insert(Logged { code, status_if_asked: None });
    response
}

/// What is done when an answer has been sent or cut off, or nobody takes it any more.
pub(crate) struct Answering {
    settle: Option<(Settle, Arc<App>, Arc<Call>)>,
    channel: ChannelId,
    /// The channel is at it as long as its answer comes.
    busy: Option<Busy>,
    status: u16,
    code: i64,
    units: u64,
    bytes: u64,
    complete: bool,
    answer: Option<Vec<u8>>,
}

impl Answering {
    /// What reading the answer has told: what `base_resp` says, and what is counted.
    pub(crate) fn told(&mut self, (code, units): (i64, u64)) {
        if self.code == 0 {
            self.code = code;
        }
        self.units = units;
    }

    /// Whether money is held for the call.
    pub(crate) fn is_paid(&self) -> bool {
        self.settle.as_ref().is_some_and(|(settle, ..)| settle.is_paid())
    }

    /// Settles now, and not when this is dropped.
    pub(crate) async fn settle(mut self) {
        if let Some((settle, app, call)) = self.settle.take() {
            settle.answered(&app, &call, self.end()).await;
        }
    }

    fn end(&mut self) -> End {
        End {
            channel: self.channel,
            status: self.status,
            code: self.code,
            units: self.units,
            bytes: self.bytes,
            complete: self.complete,
            answer: self.answer.take(),
        }
    }
}

impl Ending for Answering {
    fn passed(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    fn ended(&mut self, cut: Option<&AnswerCut>) {
        self.complete |= cut.is_none();
        if let (Some(cut), Some((_, app, _)), Some(busy)) = (cut, &self.settle, &self.busy) {
            let channel = &busy.channel().facts().row.name;
            tracing::warn!(channel, why = %cut, "relay.answer.cut");
            busy.failed(app, Fault::Failed);
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some((settle, app, call)) = self.settle.take() {
            let end = self.end();
            let tasks = app.tasks.clone();
            // What costs nothing is only counted.
            tasks.now_or_later(async move { settle.answered(&app, &call, end).await });
        }
    }
}
