//! A request's body: whole, so that it can be read, changed and sent again, or as it comes, once.
//!
//! A whole one is kept in memory while it is small and then in `tmp/`, so that a call costs the same memory
//! whatever it carries. One that is sent as it comes is not touched before there is a connection, so what failed
//! to connect, and what a kept connection gave back, can go elsewhere.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use filegate_store::{StoreError, TempBlob};
use filegate_types::{ApiError, BlobKey, ErrorCode};
use futures_util::{Stream, StreamExt as _, stream};
use http_body::{Frame, SizeHint};

use super::json::Edit;
use crate::app::{App, random};
use crate::http::body::Incoming;
use crate::http::reply::store_failed;
use crate::lifecycle::Tasks;

/// Bytes read from disk or written to it at a time.
const PIECE_BYTES: usize = 256 << 10;

/// What a client sent.
pub(crate) enum RequestBody {
    /// All of it is here.
    Whole(Whole),
    /// It comes when it is asked for.
    Once(Once),
}

/// A body that is here.
#[derive(Clone)]
pub(crate) enum Whole {
    /// In memory.
    Memory(Bytes),
    /// In `tmp/`; the file goes with the last of these.
    Disk(Arc<OnDisk>),
}

/// A body in `tmp/`.
pub(crate) struct OnDisk {
    file: File,
    bytes: u64,
    tasks: Tasks,
    /// Removes the file when it is dropped.
    _temp: TempBlob,
}

/// A body that can be sent once.
pub(crate) struct Once {
    body: Option<Body>,
    /// What was wrong with it, if that is why it ended.
    fault: Arc<OnceLock<ApiError>>,
}

impl RequestBody {
    /// The body, if it is here. What is sent as it comes holds no ids.
    pub(crate) fn whole(&self) -> Option<&Whole> {
        match self {
            Self::Whole(whole) => Some(whole),
            Self::Once(_) => None,
        }
    }
}

impl Whole {
    /// Reads `incoming` to its end.
    ///
    /// # Errors
    /// As [`Incoming::next`]; 2013 for more than `relay.body_max`; a full disk.
    pub(crate) async fn read(app: &App, incoming: &mut Incoming) -> Result<Self, ApiError> {
        let settings = &app.config.relay;
        let mut memory = Vec::new();
        while let Some(piece) = incoming.next().await? {
            check_size(app, incoming.received())?;
            memory.extend_from_slice(&piece);
            if memory.len() as u64 > settings.body_memory.0 {
                return Self::spool(app, incoming, memory).await;
            }
        }
        Ok(Self::Memory(memory.into()))
    }

    /// Goes on in a file, which begins with `piece`.
    async fn spool(
        app: &App,
        incoming: &mut Incoming,
        mut piece: Vec<u8>,
    ) -> Result<Self, ApiError> {
        let (blobs, key) = (app.blobs.clone(), BlobKey::mint(app.clock.now(), random()));
        let created = app.tasks.blocking(move || blobs.create(key)).await;
        let mut temp = stored(created)?;
        let mut ended = false;
        while !ended {
            while piece.len() < PIECE_BYTES {
                let Some(more) = incoming.next().await? else {
                    ended = true;
                    break;
                };
                piece.extend_from_slice(&more);
                check_size(app, incoming.received())?;
            }
            let written = app.tasks.blocking(move || {
                temp.write(&piece)?;
                piece.clear();
                Ok((temp, piece))
            });
            (temp, piece) = stored(written.await)?;
        }
        let file = temp.reader().and_then(|file| {
            file.try_clone().map_err(|error| StoreError::io("reading a body back", error))
        });
        let file = file.map_err(|error| store_failed(&error))?;
        let bytes = temp.bytes();
        Ok(Self::Disk(Arc::new(OnDisk { file, bytes, tasks: app.tasks.clone(), _temp: temp })))
    }

    /// Its length.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Disk(disk) => disk.bytes,
        }
    }

    /// `range` of it, as a piece or many.
    pub(crate) fn pieces(
        &self,
        range: Range<u64>,
    ) -> Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send>> {
        match self {
            Self::Memory(bytes) => {
                let piece = bytes.slice(range.start as usize..range.end as usize);
                Box::pin(stream::iter((!piece.is_empty()).then_some(Ok(piece))))
            }
            Self::Disk(disk) => {
                let disk = Arc::clone(disk);
                Box::pin(stream::unfold(range, move |mut range| {
                    let disk = Arc::clone(&disk);
                    async move {
                        if range.is_empty() {
                            return None;
                        }
                        let end = range.end.min(range.start + PIECE_BYTES as u64);
                        let read = disk.read(range.start..end).await;
                        range.start = if read.is_ok() { end } else { range.end };
                        Some((read, range))
                    }
                }))
            }
        }
    }

    /// All of it with `edits` made, in their order, and its length then. The ranges do not overlap.
    pub(crate) fn edited(&self, edits: Vec<Edit>) -> Body {
        if let (Self::Memory(bytes), []) = (self, edits.as_slice()) {
            return Body::from(bytes.clone());
        }
        let cut: u64 = edits.iter().map(|edit| edit.range.end - edit.range.start).sum();
        let put: u64 = edits.iter().map(|edit| edit.bytes.len() as u64).sum();
        let len = self.bytes() - cut + put;
        let mut parts = Vec::with_capacity(edits.len() * 2 + 1);
        let mut from = 0;
        for Edit { range, bytes } in edits {
            parts.push(self.pieces(from..range.start));
            from = range.end;
            parts.push(Box::pin(stream::iter(
                (!bytes.is_empty()).then_some(Ok(Bytes::from(bytes))),
            )));
        }
        parts.push(self.pieces(from..self.bytes()));
        let pieces = stream::iter(parts).flatten().map(|piece| {
            piece.map_err(|error| {
                let _logged = store_failed(&error);
                axum::Error::new(error)
            })
        });
        Body::new(Sized { pieces: Box::pin(pieces), left: Some(len) })
    }
}

impl OnDisk {
    async fn read(self: &Arc<Self>, range: Range<u64>) -> Result<Bytes, StoreError> {
        let disk = Arc::clone(self);
        let read = self.tasks.blocking(move || {
            let mut piece = vec![0; (range.end - range.start) as usize];
            let read = disk.file.read_exact_at(&mut piece, range.start);
            read.map_err(|e| StoreError::io("reading a body back", e))?;
            Ok(Bytes::from(piece))
        });
        read.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Once {
    /// Of a request that said `declared` about its length.
    pub(crate) fn new(app: &Arc<App>, incoming: Incoming, declared: Option<u64>) -> Self {
        let fault = Arc::new(OnceLock::new());
        let source = Draining { incoming: Some(incoming), tasks: app.tasks.clone() };
        let (noted, app) = (Arc::clone(&fault), Arc::clone(app));
        let pieces = stream::unfold(source, move |mut source| {
            let (noted, app) = (Arc::clone(&noted), Arc::clone(&app));
            async move {
                let incoming = source.incoming.as_mut()?;
                let next = incoming.next().await;
                let next = next.and_then(|piece| {
                    check_size(&app, incoming.received())?;
                    Ok(piece)
                });
                match next {
                    Ok(piece) => piece.map(|piece| (Ok(piece), source)),
                    Err(error) => {
                        let _first = noted.set(error.clone());
                        Some((Err(axum::Error::new(error)), source))
                    }
                }
            }
        });
        let body = Body::new(Sized { pieces: Box::pin(pieces), left: declared });
        Self { body: Some(body), fault }
    }

    /// The body, if it was not taken.
    pub(crate) fn take(&mut self) -> Option<Body> {
        self.body.take()
    }

    /// Whether it was not taken.
    pub(crate) fn is_there(&self) -> bool {
        self.body.is_some()
    }

    /// Nothing of `body` was read after all.
    pub(crate) fn put_back(&mut self, body: Body) {
        self.body = Some(body);
    }

    /// What the client did wrong while it was sent.
    pub(crate) fn fault(&self) -> Option<ApiError> {
        self.fault.get().cloned()
    }
}

/// Refuses a body that is too long, by what came or by what was said.
pub(crate) fn check_size(app: &App, bytes: u64) -> Result<(), ApiError> {
    let max = app.config.relay.body_max;
    if bytes > max.0 {
        return Err(ApiError::too_large(format_args!("the body is over relay.body_max ({max})")));
    }
    Ok(())
}

fn stored<T>(joined: Result<Result<T, StoreError>, tokio::task::JoinError>) -> Result<T, ApiError> {
    joined.map_err(|_panic| ErrorCode::Unknown)?.map_err(|error| store_failed(&error))
}

/// What upstream leaves unread is read here, so that its answer reaches the client.
struct Draining {
    incoming: Option<Incoming>,
    tasks: Tasks,
}

impl Drop for Draining {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            incoming.drain(&self.tasks);
        }
    }
}

/// A stream of a known length, if it is known.
struct Sized {
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, axum::Error>> + Send>>,
    left: Option<u64>,
}

impl HttpBody for Sized {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = self.pieces.as_mut().poll_next(cx);
        polled.map(|next| {
            next.map(|piece| {
                let piece = piece?;
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(piece.len() as u64);
                }
                Ok(Frame::data(piece))
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn edited(text: &str, edits: &[(Range<u64>, &'static str)]) -> (Option<u64>, String) {
        let edits = edits
            .iter()
            .map(|(range, by)| Edit { range: range.clone(), bytes: by.as_bytes().to_vec() });
        let body = Whole::Memory(Bytes::copy_from_slice(text.as_bytes())).edited(edits.collect());
        let len = body.size_hint().exact();
        let bytes = body.collect().await.unwrap().to_bytes();
        (len, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn edits_stand_where_they_should_and_the_length_is_right() {
        for (edits, expected) in [
            (&[] as &[(Range<u64>, &str)], "0123456789"),
            (&[(0..1, "ab")], "ab123456789"),
            (&[(9..10, "")], "012345678"),
            (&[(2..4, "xyz"), (4..5, "-"), (7..7, "+")], "01xyz-56+789"),
        ] {
            let (len, text) = edited("0123456789", edits).await;
            assert_eq!((len, text.as_str()), (Some(expected.len() as u64), expected));
        }
    }
}
