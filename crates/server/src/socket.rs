//! One connection's socket: what it may wait for, and what passes through it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Buf as _, Bytes};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::http::reply;
use crate::intake::Pieces;

/// What is known of the answers of the router's on a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers(Arc<Count>);

#[derive(Default)]
struct Count {
    begun: AtomicU64,
    ended: AtomicU64,
    /// What is to be done when they were written.
    later: Mutex<Vec<Later>>,
}

type Later = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Count")
            .field("begun", &self.begun)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Answers {
    pub(crate) fn begin(&self) -> Answer {
        self.0.begun.fetch_add(1, Ordering::AcqRel);
        Answer(self.clone())
    }

    /// Does `what` when the answer's head was written, or will not be: nobody is to wait for it.
    pub(crate) fn later(&self, what: impl FnOnce() + Send + 'static) {
        self.0.later.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(what));
    }

    fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Acquire)
    }

    fn ended(&self) -> u64 {
        self.0.ended.load(Ordering::Acquire)
    }

    fn written(&self) {
        let later =
            std::mem::take(&mut *self.0.later.lock().unwrap_or_else(PoisonError::into_inner));
        for what in later {
            what();
        }
    }
}

/// One answer; ended when dropped.
#[derive(Debug)]
pub(crate) struct Answer(Answers);

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// The body of an answer, and with it the answer.
#[derive(Debug)]
pub(crate) struct Answering {
    body: Body,
    /// Ends when hyper lets go of the body.
    _answer: Answer,
}

impl Answering {
    pub(crate) fn new(body: Body, answer: Answer) -> Self {
        Self { body, _answer: answer }
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket whose writes fail when the peer takes nothing for too long.
///
/// It also gives hyper's own answers the form of ours. A head that cannot be read never reaches the
/// router: hyper answers 400, 414 or 431 by itself, with an empty body and no Trace-Id, and has no
/// hook for it. Such an answer is one small write, and it is swapped for [`reply::unread_head`].
/// INVARIANT: only while no answer of the router's is on its way ([`Answers`]), since what a file
/// holds may look just like it.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: TcpStream,
    write_idle: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// What is left to write in place of an answer of hyper's, and that answer's length.
    swapped: Option<(Bytes, usize)>,
    answers: Answers,
    /// Says how much is read at once, which is what hyper then makes room for.
    pieces: Pieces,
    /// Answers that had ended when hyper last had nothing left to write.
    flushed: u64,
}

impl Guarded {
    pub(crate) fn new(
        stream: TcpStream,
        write_idle: Duration,
        answers: Answers,
        pieces: Pieces,
    ) -> Self {
        Self { stream, write_idle, stalled: None, swapped: None, answers, pieces, flushed: 0 }
    }

    /// Writes the stand-in for an answer of hyper's, if `bytes` is one.
    fn poll_swapped(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        if self.swapped.is_none() {
            if self.answers.begun() != self.flushed {
                return None;
            }
            let status = bare_fault(bytes)?;
            self.swapped = Some((reply::unread_head(status), bytes.len()));
        }
        let (left, len) = self.swapped.as_mut()?;
        while !left.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, left) {
                Poll::Ready(Ok(n)) => left.advance(n),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        let len = *len;
        self.swapped = None;
        Some(Poll::Ready(Ok(len)))
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let idle = self.write_idle;
        let sleep = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + idle)));
        match sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.answers.written();
    }
}

/// The status of an answer that hyper made by itself: a head alone, without a body and without the
/// Trace-Id that every answer of the router has.
fn bare_fault(bytes: &[u8]) -> Option<StatusCode> {
    const FAULT_BYTES_MAX: usize = 256;
    let whole = bytes.len() <= FAULT_BYTES_MAX && bytes.ends_with(b"\r\n\r\n");
    if !whole || !bytes.starts_with(b"HTTP/1.1 4") {
        return None;
    }
    let head = std::str::from_utf8(bytes).ok()?;
    let bare = head.contains("content-length: 0\r\n") && !head.contains("trace-id");
    let status = bare.then(|| head.get(9..12))??;
    status.parse().ok()
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.pieces.read_bytes_max() {
            Some(max) => Pin::new(&mut (&mut self.stream).take(max)).poll_read(cx, buffer),
            None => Pin::new(&mut self.stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = match self.poll_swapped(cx, bytes) {
            Some(polled) => polled,
            None => Pin::new(&mut self.stream).poll_write(cx, bytes),
        };
        self.watch(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let only = if let [only] = buffers { only } else { &io::IoSlice::new(&[]) };
        let polled = match self.poll_swapped(cx, only) {
            Some(polled) => polled,
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, buffers),
        };
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes the socket when its own buffer is empty: what has ended has also been written.
        self.flushed = self.answers.ended();
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.answers.written();
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[test]
    fn only_answers_without_body_and_trace_are_hypers() {
        let date = "date: Mon, 23 Nov 2026 22:21:53 GMT\r\n";
        let bare = format!(
            "HTTP/1.1 431 Too Large\r\nconnection: close\r\ncontent-length: 0\r\n{date}\r\n"
        );
        assert_eq!(bare_fault(bare.as_bytes()), Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        for ours in [
            bare.replace("content-length: 0", "content-length: 10"),
            bare.replace("connection: close", "trace-id: 00"),
            bare.replace("431", "200"),
            format!("{bare}x"),
            format!("x{bare}"),
            String::new(),
        ] {
            assert_eq!(bare_fault(ours.as_bytes()), None, "{ours}");
        }
    }

    #[tokio::test]
    async fn what_is_for_later_is_done_once_the_answer_is_out_or_never_will_be() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (answers, done) = (Answers::default(), Arc::new(AtomicU64::new(0)));
        let mut guarded =
            Guarded::new(stream, Duration::from_secs(1), answers.clone(), Pieces::default());
        let later = || {
            let done = Arc::clone(&done);
            answers.later(move || {
                done.fetch_add(1, Ordering::SeqCst);
            });
        };
        later();
        guarded.write_all(b"an answer").await.unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 0);
        guarded.flush().await.unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 1);
        later();
        drop(guarded);
        assert_eq!(done.load(Ordering::SeqCst), 2);
    }
}
