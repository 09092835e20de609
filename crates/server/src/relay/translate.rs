//! Step 9 for answers that name something: what they name is ours by the time a byte of it is sent.
//!
//! Of JSON and of events, each find stops the answer until it is known what stands there; all else passes as it
//! is and is not copied. An answer that was seen whole at its beginning is also settled before it is sent.
//! Where the client leaves, what the answer counts and makes is still read, and goes nowhere.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use filegate_store::StoreError;
use filegate_types::{ApiError, ChannelId, ErrorCode, PurposeName};
use futures_util::stream;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::response::Parts;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;

use super::Call;
use super::answer::Answering;
use super::calls::{Effect, UnitsCount, Voice};
use super::events::Events;
use super::http::{AnswerBody, AnswerCut};
use super::ids::Born;
use super::json::{Found, Kind, Transform};
use super::owned::Owned;
use super::reply::Ending as _;
use crate::app::App;
use crate::http::reply::store_failed;

/// The purpose of files in answers of which the table says none.
const OTHER_PURPOSE: &str = "relayed";

/// Pieces up to this length are joined.
const SMALL_BYTES: usize = 4 << 10;
/// How long an answer is read on whose client has left.
const LEFT_MAX: Duration = Duration::from_mins(5);

/// What an answer is, to who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    /// One document.
    Json,
    /// Events, the data of each a document.
    Events,
    /// Nothing that names anything.
    Opaque,
    /// A document that cannot be read, although nobody asked for it to be encoded.
    Encoded,
}

impl Media {
    /// Of the answer to a request with `method`.
    pub(crate) fn of(parts: &Parts, method: &Method) -> Self {
        let bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if bodiless || *method == Method::HEAD {
            return Self::Opaque;
        }
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let media = header(CONTENT_TYPE).unwrap_or("").split(';').next().unwrap_or("");
        let readable = match media.trim().to_ascii_lowercase().as_str() {
            "text/event-stream" => Self::Events,
            "" | "application/json" | "text/json" | "text/plain" => Self::Json,
            other if other.ends_with("+json") => Self::Json,
            _ => return Self::Opaque,
        };
        match header(CONTENT_ENCODING) {
            Some(coding) if !coding.eq_ignore_ascii_case("identity") => Self::Encoded,
            _ => readable,
        }
    }
}

enum Rewriter {
    Json(Transform<'static>),
    Events(Events),
}

impl Rewriter {
    fn push(&mut self, input: &mut Bytes, out: &mut Vec<Bytes>) -> Option<Found> {
        match self {
            Self::Json(document) => document.push(input, out),
            Self::Events(events) => events.push(input, out),
        }
    }

    fn resolve(&mut self, text: Option<&str>, out: &mut Vec<Bytes>) {
        match self {
            Self::Json(document) => document.resolve(text, out),
            Self::Events(events) => events.resolve(text, out),
        }
    }

    /// Whether it has ended where such an answer can end.
    fn finish(&mut self, out: &mut Vec<Bytes>) -> bool {
        match self {
            // What was no document has passed as it was.
            Self::Json(document) => document.finish(out).is_ok(),
            Self::Events(events) => {
                events.finish(out);
                true
            }
        }
    }
}

/// An answer as it is read.
pub(crate) struct Translation {
    app: Arc<App>,
    call: Arc<Call>,
    channel: ChannelId,
    owned: Owned,
    rewriter: Rewriter,
    born: Born,
    units: UnitsCount,
    /// What `base_resp` said first that was not success.
    code: i64,
    /// Whether the HTTP status is one of success.
    well: bool,
    /// Whether it begins as a document does; `None` until something of it came.
    is_document: Option<bool>,
    /// Whether it is a document that was not sent to its end, although HTTP says so.
    is_half: bool,
}

impl Translation {
    /// Of an answer that is `media`; `None` if there is nothing to read in it.
    pub(crate) fn of(
        app: &Arc<App>,
        call: &Arc<Call>,
        channel: ChannelId,
        owned: Owned,
        media: Media,
        well: bool,
    ) -> Option<Self> {
        let rules = call.rules.reply;
        let rewriter = match media {
            _ if rules.is_empty() => return None,
            Media::Json => Rewriter::Json(Transform::new(rules)),
            Media::Events => Rewriter::Events(Events::new(rules)),
            Media::Opaque | Media::Encoded => return None,
        };
        let purpose = call.rules.adopts.unwrap_or(OTHER_PURPOSE).to_owned();
        let purpose = PurposeName::try_from(purpose).expect("names of ours are names of purposes");
        let born = Born::new(&call.principal, channel, &call.rules.name, purpose, owned.needs.task);
        Some(Self {
            app: Arc::clone(app),
            call: Arc::clone(call),
            channel,
            owned,
            rewriter,
            born,
            units: UnitsCount::default(),
            code: 0,
            well,
            is_document: None,
            is_half: false,
        })
    }

    /// What `base_resp` says so far, and what was counted.
    pub(crate) fn told(&self) -> (i64, u64) {
        (self.code, self.units.total())
    }

    /// Whether a client can do nothing with it, and does not pay for it.
    pub(crate) fn is_half(&self) -> bool {
        self.is_half
    }

    /// Reads a piece; what stands for it is put behind `out`.
    pub(crate) async fn take(
        &mut self,
        mut piece: Bytes,
        out: &mut Vec<Bytes>,
    ) -> Result<(), StoreError> {
        if self.is_document.is_none() {
            let first = piece.iter().find(|byte| !byte.is_ascii_whitespace());
            self.is_document = first.map(|byte| *byte == b'{');
        }
        while let Some(found) = self.rewriter.push(&mut piece, out) {
            let text = self.stands_for(&found).await?;
            self.rewriter.resolve(text.as_deref(), out);
        }
        Ok(())
    }

    async fn stands_for(&mut self, found: &Found) -> Result<Option<String>, StoreError> {
        match found.kind {
            Kind::Units => self.units.note(found),
            Kind::StatusCode => {
                let code = found.text.parse().unwrap_or(-1);
                if self.code == 0 {
                    self.code = code;
                }
            }
            Kind::VoiceId if self.call.rules.voice == Some(Voice::Makes) && found.exact => {
                self.made(found.text.clone()).await?;
            }
            kind if found.exact => return self.born.ours(&self.app, kind, &found.text).await,
            _ => {}
        }
        Ok(None)
    }

    /// The answer is over: what it says of voices is written down, and the last of it put behind `out`.
    pub(crate) async fn finish(&mut self, out: &mut Vec<Bytes>) -> Result<(), StoreError> {
        let ended = self.rewriter.finish(out);
        self.is_half = !ended && self.is_document == Some(true);
        if !self.well || self.code != 0 {
            self.owned.not_done(&self.app, &self.call).await;
            return Ok(());
        }
        let Some(voice_use) = self.call.rules.voice else { return Ok(()) };
        let Some(voice) = self.owned.needs.voice.clone() else { return Ok(()) };
        match voice_use {
            Voice::Makes => self.made(voice).await,
            Voice::Deletes => {
                let account = self.call.principal.account_id;
                self.app.catalog.voice_deleted(account, self.channel, voice).await
            }
        }
    }

    async fn made(&mut self, voice: String) -> Result<(), StoreError> {
        let (account, now) = (self.call.principal.account_id, self.app.clock.now());
        let noted = self.app.catalog.voice_ready(account, self.channel, voice, now).await?;
        if !noted {
            tracing::error!(channel = %self.channel, "relay.voice.others: a voice was made that is another account's");
        }
        Ok(())
    }

    /// Reads an answer that is all here.
    ///
    /// # Errors
    /// What is told instead if its ids cannot be written down.
    pub(crate) async fn whole(&mut self, looked: VecDeque<Bytes>) -> Result<Vec<u8>, ApiError> {
        let mut out = Vec::new();
        let read = async {
            for piece in looked {
                self.take(piece, &mut out).await?;
            }
            self.finish(&mut out).await
        };
        read.await.map_err(|error| store_failed(&error))?;
        Ok(out.concat())
    }

    /// The body of an answer that is still to come.
    pub(crate) fn body(self, looked: VecDeque<Bytes>, rest: AnswerBody, ending: Answering) -> Body {
        let reading = Reading {
            translation: Some(self),
            looked,
            rest: Some(rest),
            ready: VecDeque::new(),
            ending: Some(ending),
        };
        let pieces = stream::unfold(reading, |mut reading| async move {
            let next = reading.next().await?;
            Some((next, reading))
        });
        Body::from_stream(pieces)
    }
}

/// An answer on its way to the client.
struct Reading {
    translation: Option<Translation>,
    looked: VecDeque<Bytes>,
    rest: Option<AnswerBody>,
    /// What can be sent.
    ready: VecDeque<Bytes>,
    /// `None` once it has ended.
    ending: Option<Answering>,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<Bytes, AnswerCut>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                if let Some(ending) = &mut self.ending {
                    ending.passed(piece.len());
                }
                if self.rest.is_none() && self.ready.is_empty() {
                    // Before the last piece is sent, so that who has it all finds it settled.
                    self.settle().await;
                }
                return Some(Ok(piece));
            }
            self.rest.as_ref()?;
            if let Err(cut) = self.read().await {
                self.rest = None;
                self.cut(&cut);
                return Some(Err(cut));
            }
            if self.rest.is_none() && self.ready.is_empty() {
                self.settle().await;
            }
        }
    }

    /// Reads more, which may come to nothing; without `rest` there is no more.
    async fn read(&mut self) -> Result<(), AnswerCut> {
        let (Some(translation), Some(rest)) = (&mut self.translation, &mut self.rest) else {
            return Ok(());
        };
        let mut out = Vec::new();
        let read = match self.looked.pop_front() {
            Some(piece) => translation.take(piece, &mut out).await,
            None => {
                if let Some(frame) = rest.frame().await.transpose()? {
                    // Trailers are dropped, as RFC 9110 §6.5 allows.
                    let Ok(piece) = frame.into_data() else { return Ok(()) };
                    translation.take(piece, &mut out).await
                } else {
                    self.rest = None;
                    translation.finish(&mut out).await
                }
            }
        };
        read.map_err(|error| {
            let _logged = store_failed(&error);
            AnswerCut::Ours
        })?;
        self.ready.extend(joined(out));
        if self.rest.is_none()
            && let (Some(translation), Some(ending)) = (&self.translation, &mut self.ending)
        {
            ending.told(translation.told());
            if !translation.is_half() {
                ending.ended(None);
            }
        }
        Ok(())
    }

    fn cut(&mut self, cut: &AnswerCut) {
        if let Some(mut ending) = self.ending.take() {
            ending.ended(Some(cut));
        }
    }

    /// What was read is all that will be.
    fn give_up(&mut self) {
        self.rest = None;
        if let (Some(translation), Some(ending)) = (&self.translation, &mut self.ending) {
            ending.told(translation.told());
            ending.ended(None);
        }
    }

    async fn settle(&mut self) {
        if let Some(ending) = self.ending.take() {
            ending.settle().await;
        }
    }
}

impl Drop for Reading {
    /// The client has left, or it is over.
    fn drop(&mut self) {
        let Some(translation) = &self.translation else { return };
        let rules = &translation.call.rules;
        let Some(ending) = &self.ending else { return };
        let matters = (rules.counts_units() && ending.is_paid()) || rules.effect == Effect::Lasting;
        if self.rest.is_none() || !matters {
            return;
        }
        let mut reading = Self {
            translation: self.translation.take(),
            looked: std::mem::take(&mut self.looked),
            rest: self.rest.take(),
            ready: VecDeque::new(),
            ending: self.ending.take(),
        };
        let Some(tasks) = reading.translation.as_ref().map(|t| t.app.tasks.clone()) else { return };
        tasks.spawn(async move {
            let reads = async {
                while reading.rest.is_some() {
                    if let Err(cut) = reading.read().await {
                        reading.rest = None;
                        reading.cut(&cut);
                        return;
                    }
                    reading.ready.clear();
                }
            };
            if tokio::time::timeout(LEFT_MAX, reads).await.is_err() {
                // Nobody knows what it would have counted: it is paid by what it has.
                reading.give_up();
            }
            reading.settle().await;
        });
    }
}

/// The same bytes in fewer pieces: what is small is not worth a frame of its own.
fn joined(pieces: Vec<Bytes>) -> Vec<Bytes> {
    let mut joined = Vec::new();
    let mut small = BytesMut::new();
    let mut pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).peekable();
    while let Some(piece) = pieces.next() {
        let alone = small.is_empty() && pieces.peek().is_none();
        if alone || piece.len() > SMALL_BYTES {
            if !small.is_empty() {
                joined.push(small.split().freeze());
            }
            joined.push(piece);
        } else {
            small.extend_from_slice(&piece);
        }
    }
    if !small.is_empty() {
        joined.push(small.freeze());
    }
    joined
}

/// What a client is told of an answer that cannot be read.
pub(crate) fn unreadable() -> ApiError {
    ApiError::detailed(
        ErrorCode::Internal,
        "upstream's answer came in a form that was not asked for",
    )
}
