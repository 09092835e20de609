//! One upload: the source of its bytes, and the body that streams them.
//!
//! A server may answer before it has read everything, and most network errors that users see on
//! uploads are such answers lost. So the body and the call share a [`Link`]: once an answer has
//! begun, no more is written (a write to a closed connection would make the transport drop the
//! rest of the answer), the answer is read to its end, and only then is the connection given up.
//! And between two pieces the body yields once: a connection that can always be written to is
//! otherwise not looked at for reading until many MiB have gone out.
//!
//! One case cannot be helped from here: a server that resets the connection in the same instant
//! as it answers, instead of reading on for a while. It shows as a network error.

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::Stream;
use tokio::io::AsyncRead;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use crate::error::Error;
use crate::form::FormEnvelope;

/// How much of the file is read and handed over at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// Called with the number of the file's bytes handed to the connection so far.
pub type Progress = Box<dyn FnMut(u64) + Send>;

type Reader = Pin<Box<dyn AsyncRead + Send>>;

/// A file to upload.
pub struct Upload {
    pub(crate) purpose: String,
    pub(crate) filename: String,
    pub(crate) length: Option<u64>,
    pub(crate) validate_only: bool,
    reader: Reader,
    progress: Option<Progress>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("purpose", &self.purpose)
            .field("filename", &self.filename)
            .field("length", &self.length)
            .field("validate_only", &self.validate_only)
            .finish_non_exhaustive()
    }
}

impl Upload {
    /// The file at `path`, under its own name. A pipe is sent in chunks of unannounced length.
    ///
    /// # Errors
    /// [`Error::Source`] when it cannot be opened, is a directory or has no name.
    pub async fn from_path(purpose: &str, path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let name = path.file_name().ok_or_else(|| {
            Error::Source(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"))
        })?;
        let name = name.to_string_lossy().into_owned();
        let file = tokio::fs::File::open(path).await.map_err(Error::Source)?;
        let meta = file.metadata().await.map_err(Error::Source)?;
        if meta.is_dir() {
            return Err(Error::Source(io::ErrorKind::IsADirectory.into()));
        }
        let length = meta.is_file().then_some(meta.len());
        Ok(Self::from_reader(purpose, &name, length, file))
    }

    /// Whatever `reader` gives: exactly `length` bytes, or all until its end when that is `None`.
    pub fn from_reader(
        purpose: &str,
        filename: &str,
        length: Option<u64>,
        reader: impl AsyncRead + Send + 'static,
    ) -> Self {
        Self {
            purpose: purpose.to_owned(),
            filename: filename.to_owned(),
            length,
            validate_only: false,
            reader: Box::pin(reader),
            progress: None,
        }
    }

    /// Bytes in memory.
    pub fn from_bytes(purpose: &str, filename: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = bytes.len() as u64;
        Self::from_reader(purpose, filename, Some(length), io::Cursor::new(bytes))
    }

    /// Uploads under another name.
    #[must_use]
    pub fn named(mut self, filename: &str) -> Self {
        filename.clone_into(&mut self.filename);
        self
    }

    /// Has the server run all checks and store nothing.
    #[must_use]
    pub fn validate_only(mut self, only: bool) -> Self {
        self.validate_only = only;
        self
    }

    /// Reports how far it is, piece by piece.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(u64) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// The length, where it is known.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    pub(crate) fn into_body(self, form: &FormEnvelope, link: Arc<Link>) -> UploadBody {
        UploadBody {
            head: Some(form.head.clone()),
            tail: Some(form.tail.clone()),
            reader: Some(self.reader),
            buffer: BytesMut::new(),
            remaining: self.length,
            sent: 0,
            progress: self.progress,
            pause: None,
            link,
        }
    }
}

/// What the call and the body it sends know of each other.
pub(crate) struct Link(Mutex<LinkState>);

struct LinkState {
    phase: Phase,
    /// When a piece was last asked for or handed over.
    moved_at: Instant,
    failure: Option<io::Error>,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The connection takes pieces.
    Sending,
    /// The reader has nothing yet, which is not the server's fault.
    Reading,
    /// Everything is handed over.
    Sent,
    /// An answer has begun: keep the connection, send no more.
    Answered,
    /// The call is over: give the connection up.
    Over,
}

impl Link {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(LinkState {
            phase: Phase::Sending,
            moved_at: Instant::now(),
            failure: None,
            waker: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, LinkState> {
        // No code that holds it panics, and the state is valid between any two assignments.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the server is to be given up if nothing moves until then.
    pub(crate) fn deadline(&self, idle: Duration, answer: Duration) -> Instant {
        let state = self.state();
        match state.phase {
            Phase::Sending | Phase::Answered | Phase::Over => state.moved_at + idle,
            Phase::Reading => Instant::now() + idle,
            Phase::Sent => state.moved_at + answer,
        }
    }

    /// The error of a deadline that has passed.
    pub(crate) fn timeout(&self, idle: Duration, answer: Duration) -> Error {
        match self.state().phase {
            Phase::Sent => Error::timeout("waiting for the answer", answer),
            _ => Error::timeout("sending", idle),
        }
    }

    /// Says that an answer has begun.
    pub(crate) fn answered(&self) {
        let mut state = self.state();
        if state.phase != Phase::Sent {
            state.phase = Phase::Answered;
        }
    }

    /// Says that the call is over.
    pub(crate) fn over(&self) {
        let waker = {
            let mut state = self.state();
            state.phase = Phase::Over;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Why the source could not be read, if that is what ended the call.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.state().failure.take()
    }

    fn moved(&self, phase: Phase) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Sending | Phase::Reading) {
            state.phase = phase;
        }
        state.moved_at = Instant::now();
    }

    /// Ends the body for a fault of its source; the transport sees only that it ended.
    fn fail(&self, error: io::Error) -> io::Error {
        let seen = io::Error::new(error.kind(), "the source of the upload failed");
        self.state().failure = Some(error);
        seen
    }
}

/// Ends the call's hold on the connection however the call ends.
pub(crate) struct OverOnDrop(pub(crate) Arc<Link>);

impl Drop for OverOnDrop {
    fn drop(&mut self) {
        self.0.over();
    }
}

/// The body of the request, as a stream of pieces.
pub(crate) struct UploadBody {
    head: Option<Bytes>,
    tail: Option<Bytes>,
    reader: Option<Reader>,
    buffer: BytesMut,
    remaining: Option<u64>,
    sent: u64,
    progress: Option<Progress>,
    /// Gives the runtime a chance to see an answer, after each piece.
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    link: Arc<Link>,
}

impl UploadBody {
    /// The next piece of the file; `None` at its end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Some(reader) = self.reader.as_mut() else { return Poll::Ready(None) };
        let most = self.remaining.map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES as u64) as usize);
        if most > 0 {
            self.buffer.reserve(most);
            let mut room = (&mut self.buffer).limit(most);
            match poll_read_buf(reader.as_mut(), cx, &mut room) {
                Poll::Pending => {
                    self.link.moved(Phase::Reading);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(self.link.fail(error)))),
                Poll::Ready(Ok(0)) if self.remaining.is_some() => {
                    let short = "the file became shorter while it was sent";
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, short);
                    return Poll::Ready(Some(Err(self.link.fail(error))));
                }
                Poll::Ready(Ok(0)) => {}
                Poll::Ready(Ok(read)) => {
                    self.remaining = self.remaining.map(|left| left - read as u64);
                    self.sent += read as u64;
                    if let Some(progress) = self.progress.as_mut() {
                        progress(self.sent);
                    }
                    return Poll::Ready(Some(Ok(self.buffer.split().freeze())));
                }
            }
        }
        self.reader = None;
        Poll::Ready(None)
    }
}

impl Stream for UploadBody {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        {
            let mut state = this.link.state();
            match state.phase {
                Phase::Sending | Phase::Reading | Phase::Sent => {}
                Phase::Answered => {
                    state.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Phase::Over => {
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
                }
            }
        }
        if let Some(pause) = this.pause.as_mut() {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let piece = match this.head.take() {
            Some(head) => Poll::Ready(Some(Ok(head))),
            None => this.poll_piece(cx),
        };
        match piece {
            Poll::Ready(None) => {
                this.link.moved(Phase::Sent);
                Poll::Ready(this.tail.take().map(Ok))
            }
            Poll::Ready(piece) => {
                this.link.moved(Phase::Sending);
                this.pause = Some(Box::pin(tokio::task::yield_now()));
                Poll::Ready(piece)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
