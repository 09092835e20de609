//! How a channel is spoken to: HTTP/1.1 on connections that are kept, without redirects, retries or decoding.
//!
//! What is certain of a request that failed: as long as there is no connection, and on a kept one that hyper
//! gives the request back from, nothing was written, so it may be sent again whatever it does. Once it was
//! handed to the connection anything may have happened upstream.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls_platform_verifier::Verifier;
use sync_wrapper::SyncWrapper;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tower::ServiceExt as _;

use crate::config::Relay as Settings;
use crate::lifecycle::Tasks;
use crate::rounds::Rounds;

/// How long a connection is kept without a call.
pub(crate) const KEPT: Duration = Duration::from_secs(30);
/// How long it may have been, for a call that cannot be sent again: common servers close after five seconds, and
/// a close that crosses a request leaves nobody knowing.
pub(crate) const KEPT_FOR_LASTING: Duration = Duration::from_secs(3);
/// How often kept connections are looked at.
const SWEEP: Duration = Duration::from_secs(5);
/// Bytes that a connection buffers.
const BUFFER_BYTES: usize = 64 << 10;

/// Makes connections.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    connector: HttpsConnector<HttpConnector>,
    connect_timeout: Duration,
    answer_timeout: Duration,
    answer_idle: Duration,
}

/// Where a channel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: Scheme,
    authority: Authority,
    /// The value of `Host`.
    pub(crate) host: HeaderValue,
    /// What stands before every path, without a slash at its end.
    prefix: String,
}

/// The connections of a channel that are kept for the next call.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    max: usize,
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Idle {
    /// The one that was used last is the last.
    kept: VecDeque<Kept>,
    /// Whether somebody closes those that have been here for too long.
    is_swept: bool,
}

#[derive(Debug)]
struct Kept {
    wire: Wire,
    since: Instant,
}

/// A connection and what moves it.
///
/// The call that uses it moves it: a task of its own would be four changes of tasks for each call, some of them of
/// threads. Where the call may stop looking while the connection has to go on, it becomes a task ([`Wire::detach`]).
struct Wire {
    sender: http1::SendRequest<Body>,
    /// `None` if it is a task, or has ended.
    driver: Option<SyncWrapper<Driver>>,
    rounds: Rounds,
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// A connection that carries one request.
pub(crate) struct Connection {
    wire: Wire,
    pool: Arc<Pool>,
    answer_timeout: Duration,
    answer_idle: Duration,
}

/// There is no connection.
#[derive(Debug)]
pub(crate) struct Unreachable(String);

/// A request got no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Nothing of it was written. Here it is again.
    Unsent(Box<Request<Body>>),
    /// Upstream was silent for too long.
    Silent,
    /// The connection broke, or what came was no answer.
    Broken(String),
}

impl Origin {
    /// Of a channel's base URL; `None` for one that cannot be called.
    pub(crate) fn of(base_url: &str) -> Option<Self> {
        let uri: Uri = base_url.trim_end_matches('/').parse().ok()?;
        let scheme = uri.scheme()?.clone();
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return None;
        }
        let authority = uri.authority()?.clone();
        let host = authority.as_str().rsplit('@').next()?;
        let host = HeaderValue::try_from(host).ok()?;
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Some(Self { scheme, authority, host, prefix })
    }

    /// `path` with `query` there, as it stands in a request.
    pub(crate) fn target(&self, path: &str, query: Option<&str>) -> Option<PathAndQuery> {
        let prefix = &self.prefix;
        let target = match query {
            Some(query) if !query.is_empty() => format!("{prefix}{path}?{query}"),
            _ => format!("{prefix}{path}"),
        };
        target.try_into().ok()
    }

    fn uri(&self) -> Uri {
        let parts = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        parts.path_and_query("/").build().expect("its parts were those of a URI")
    }
}

impl Transport {
    /// # Errors
    /// If the system's authorities cannot be loaded.
    pub(crate) fn new(settings: &Settings) -> Result<Self, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Verifier::new(Arc::clone(&provider))?;
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(settings.connect_timeout.0));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self {
            connector,
            connect_timeout: settings.connect_timeout.0,
            answer_timeout: settings.answer_timeout.0,
            answer_idle: settings.answer_idle.0,
        })
    }

    /// A connection to `origin`: a kept one that was not idle for longer than `kept_for`, else a new one.
    pub(crate) async fn connection(
        &self,
        pool: &Arc<Pool>,
        origin: &Origin,
        kept_for: Duration,
    ) -> Result<Connection, Unreachable> {
        let wire = match pool.take(kept_for) {
            Some(wire) => wire,
            None => self.connect(origin).await?,
        };
        Ok(Connection {
            wire,
            pool: Arc::clone(pool),
            answer_timeout: self.answer_timeout,
            answer_idle: self.answer_idle,
        })
    }

    async fn connect(&self, origin: &Origin) -> Result<Wire, Unreachable> {
        let connecting = async {
            let io =
                self.connector.clone().oneshot(origin.uri()).await.map_err(|e| e.to_string())?;
            http1::Builder::new()
                .max_buf_size(BUFFER_BYTES)
                .handshake(io)
                .await
                .map_err(|e| e.to_string())
        };
        let connected = timeout(self.connect_timeout, connecting).await;
        let (sender, connection) = connected
            .map_err(|_late| Unreachable("no connection in time".to_owned()))?
            .map_err(Unreachable)?;
        let driver: Driver = Box::pin(connection.with_upgrades());
        Ok(Wire { sender, driver: Some(SyncWrapper::new(driver)), rounds: Rounds::default() })
    }
}

impl Wire {
    /// Polls with `poll`, and the connection meanwhile.
    fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self { driver, rounds, .. } = self;
        rounds.poll(cx, |cx| {
            let polled = poll(cx);
            if polled.is_ready() || !drive(driver, cx) {
                return polled;
            }
            poll(cx)
        })
    }

    /// Whether it can carry another request, as far as is known.
    fn is_open(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        !self.sender.is_closed()
    }

    /// From now on it is moved by a task.
    fn detach(&mut self, pool: &Arc<Pool>) {
        let Some(driver) = self.driver.take() else { return };
        let mut driver = driver.into_inner();
        let (pool, tasks) = (Arc::clone(pool), pool.tasks.clone());
        pool.tasks.clone().spawn(async move {
            let ended = tokio::select! {
                ended = driver.as_mut() => ended,
                () = tasks.stopping() => {
                    pool.clear();
                    driver.await
                }
            };
            log_end(ended);
        });
    }
}

/// Whether there was something to be moved.
fn drive(driver: &mut Option<SyncWrapper<Driver>>, cx: &mut Context<'_>) -> bool {
    let Some(moved) = driver else { return false };
    if let Poll::Ready(ended) = moved.get_mut().as_mut().poll(cx) {
        log_end(ended);
        *driver = None;
    }
    true
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "relay.connection.ended");
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(settings: &Settings, tasks: &Tasks) -> Arc<Self> {
        let max = settings.idle_connections;
        Arc::new(Self { idle: Mutex::default(), max, tasks: tasks.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last, if it was used within `kept_for` and upstream has not closed it since.
    fn take(&self, kept_for: Duration) -> Option<Wire> {
        // A task of its own may have to move before it is ready: it is left for a later call.
        let mut not_yet = vec![];
        let found = loop {
            let Some(mut last) = self.lock().kept.pop_back() else { break None };
            let fresh = last.since.elapsed() < kept_for;
            if fresh && last.wire.is_open() {
                if last.wire.sender.is_ready() {
                    break Some(last.wire);
                }
                not_yet.push(last);
            } else if !fresh {
                // And so are all before it; for another call one may be good enough.
                not_yet.push(last);
                break None;
            }
        };
        if !not_yet.is_empty() {
            self.lock().kept.extend(not_yet.into_iter().rev());
        }
        found
    }

    /// Keeps a connection whose answer was read to its end.
    fn give_back(self: &Arc<Self>, mut wire: Wire) {
        if !wire.is_open() {
            return;
        }
        let mut idle = self.lock();
        // Asked while the lock is held: who clears when the gateway stops comes after that.
        if self.max == 0 || self.tasks.is_stopping() {
            return;
        }
        // The newest is the one to keep: the oldest may be too old for most calls.
        let oldest = if idle.kept.len() < self.max { None } else { idle.kept.pop_front() };
        idle.kept.push_back(Kept { wire, since: Instant::now() });
        if !std::mem::replace(&mut idle.is_swept, true) {
            self.tasks.spawn(Arc::clone(self).sweep());
        }
        drop(idle);
        drop(oldest);
    }

    /// Closes what was not used for too long or was closed by upstream, until nothing is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = sleep(SWEEP) => {}
                () = self.tasks.stopping() => return self.clear(),
            }
            let mut idle = self.lock();
            idle.kept.retain_mut(|kept| kept.since.elapsed() < KEPT && kept.wire.is_open());
            if idle.kept.is_empty() {
                idle.is_swept = false;
                return;
            }
        }
    }

    /// Closes what nobody uses: when the gateway stops, or the channel is no longer called.
    pub(crate) fn clear(&self) {
        let closed = std::mem::take(&mut self.lock().kept);
        drop(closed);
    }
}

impl Connection {
    /// Sends `request` and waits for the head of its answer. While the request's body goes out the time for the
    /// answer does not run.
    pub(crate) async fn send(
        mut self,
        request: Request<Body>,
    ) -> Result<Response<AnswerBody>, Unanswered> {
        let began = Instant::now();
        let moved = Arc::new(Moved::default());
        let request =
            request.map(|body| Body::new(Watched { body, began, moved: Arc::clone(&moved) }));
        let wire = &mut self.wire;
        let mut answered = std::pin::pin!(wire.sender.try_send_request(request));
        let answered = loop {
            let since = began + moved.at();
            let deadline = since + self.answer_timeout;
            tokio::select! {
                biased;
                answered = poll_fn(|cx| wire.poll_with(cx, |cx| answered.as_mut().poll(cx))) => {
                    break answered;
                }
                () = sleep_until(deadline) => {
                    let later = began + moved.at();
                    if later <= since {
                        return Err(Unanswered::Silent);
                    }
                }
            }
        };
        let answer = answered.map_err(|mut failed| match failed.take_message() {
            Some(request) => Unanswered::Unsent(Box::new(request)),
            None => Unanswered::Broken(chain(failed.error())),
        })?;
        // Whoever reads the answer moves the connection. Not so if the request goes on meanwhile, which must not wait
        // for that, or if the connection is to become something else.
        if !moved.all.load(Ordering::Relaxed) || answer.status() == StatusCode::SWITCHING_PROTOCOLS
        {
            self.wire.detach(&self.pool);
        }
        Ok(answer.map(|body| AnswerBody {
            body,
            idle: self.answer_idle,
            silent: None,
            lease: Some((self.wire, self.pool)),
            ended: false,
        }))
    }
}

/// An error with its causes, for the log.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsent(_) => f.write_str("the connection was closed before"),
            Self::Silent => f.write_str("no answer in time"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

/// A request's body that notes when something of it went out.
struct Watched {
    body: Body,
    began: Instant,
    moved: Arc<Moved>,
}

#[derive(Debug, Default)]
struct Moved {
    /// When something went out: milliseconds after the beginning.
    millis: AtomicU64,
    /// Whether all of it was taken.
    all: AtomicBool,
}

impl Moved {
    fn at(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.moved.millis.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        if frame.is_none() || self.body.is_end_stream() {
            self.moved.all.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer as it comes: each piece at once, and no longer a silence than is allowed. The connection
/// is kept if the body was read to its end, and closed if it was dropped before.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    body: Incoming,
    idle: Duration,
    silent: Option<Silence>,
    lease: Option<(Wire, Arc<Pool>)>,
    ended: bool,
}

#[derive(Debug)]
struct Silence {
    sleep: Pin<Box<Sleep>>,
    /// Whether it is one; else the timer only waits to be used again.
    lasts: bool,
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerCut {
    #[error("upstream was silent for too long")]
    Silent,
    #[error("upstream broke off")]
    Broken(#[source] hyper::Error),
    #[error("what it names cannot be written down")]
    Ours,
}

impl AnswerBody {
    /// Whether it came to its end.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = Instant::now() + self.idle;
        let silence = self
            .silent
            .get_or_insert_with(|| Silence { sleep: Box::pin(sleep_until(deadline)), lasts: true });
        if !silence.lasts {
            silence.lasts = true;
            silence.sleep.as_mut().reset(deadline);
        }
        silence.sleep.as_mut().poll(cx)
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = AnswerCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        let Self { body, lease, .. } = &mut *self;
        let polled = match lease {
            Some((wire, _pool)) => wire.poll_with(cx, |cx| Pin::new(&mut *body).poll_frame(cx)),
            None => Pin::new(body).poll_frame(cx),
        };
        let Poll::Ready(frame) = polled else {
            ready!(self.poll_silence(cx));
            self.lease = None;
            return Poll::Ready(Some(Err(AnswerCut::Silent)));
        };
        if let Some(silence) = &mut self.silent {
            silence.lasts = false;
        }
        self.ended = frame.is_none();
        Poll::Ready(frame.map(|frame| frame.map_err(AnswerCut::Broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if let Some((wire, pool)) = self.lease.take()
            && self.has_ended()
        {
            pool.give_back(wire);
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_base_url_is_scheme_host_and_prefix() {
        let target = |base: &str| {
            let origin = Origin::of(base)?;
            let target = origin.target("/v1/x", Some("a=b"))?;
            Some((origin.host.to_str().unwrap().to_owned(), target.to_string()))
        };
        let some = |host: &str, target: &str| Some((host.to_owned(), target.to_owned()));
        assert_eq!(target("https://api.minimax.io"), some("api.minimax.io", "/v1/x?a=b"));
        assert_eq!(target("http://127.0.0.1:81/"), some("127.0.0.1:81", "/v1/x?a=b"));
        assert_eq!(target("http://h/a/b/"), some("h", "/a/b/v1/x?a=b"));
        assert_eq!(target("ftp://h"), None);
        assert_eq!(target("h"), None);
        assert_eq!(Origin::of("http://h").unwrap().target("/v1/x", None).unwrap(), "/v1/x");
    }

    /// A pool for `max`, and so many connections to a listener.
    async fn connected(max: usize, count: usize) -> (Arc<Pool>, Vec<Connection>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Origin::of(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let settings = Settings { idle_connections: max, ..Settings::default() };
        let (transport, pool) =
            (Transport::new(&settings).unwrap(), Pool::new(&settings, &Tasks::default()));
        let mut made = vec![];
        for _ in 0..count {
            made.push(transport.connection(&pool, &origin, KEPT).await.unwrap());
        }
        (pool, made, listener)
    }

    /// Sends a request and has it answered by `peer`.
    async fn used(connection: Connection, peer: &mut TcpStream) {
        let answering = async {
            let mut head = [0; 1024];
            assert!(peer.read(&mut head).await.unwrap() > 0);
            peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        };
        let request = Request::builder().uri("/").body(Body::empty()).unwrap();
        let (answer, ()) = tokio::join!(connection.send(request), answering);
        let body = answer.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "ok");
    }

    #[tokio::test]
    async fn old_connections_make_room_for_new_ones() {
        let (pool, made, listener) = connected(2, 3).await;
        let mut made = made.into_iter();
        let mut use_next = async || {
            let mut peer = listener.accept().await.unwrap().0;
            used(made.next().unwrap(), &mut peer).await;
            peer
        };
        let _old = [use_next().await, use_next().await];
        tokio::time::pause();
        tokio::time::advance(KEPT_FOR_LASTING).await;
        assert!(pool.take(KEPT_FOR_LASTING).is_none());
        assert_eq!(pool.lock().kept.len(), 2);
        let _new = use_next().await;
        assert_eq!(pool.lock().kept.len(), 2);
        assert!(pool.take(KEPT_FOR_LASTING).is_some());
        // What may be sent again is sent on the old one.
        assert!(pool.take(KEPT_FOR_LASTING).is_none());
        assert!(pool.take(KEPT).is_some());
    }

    #[tokio::test]
    async fn what_upstream_has_closed_is_not_used() {
        let (pool, made, listener) = connected(2, 1).await;
        let mut peer = listener.accept().await.unwrap().0;
        used(made.into_iter().next().unwrap(), &mut peer).await;
        drop(peer);
        while pool.lock().kept[0].wire.is_open() {
            tokio::task::yield_now().await;
        }
        assert!(pool.take(KEPT).is_none());
        assert!(pool.lock().kept.is_empty());
    }

    #[tokio::test]
    async fn an_answer_before_the_end_of_the_request_moves_on_both_ways() {
        let (_pool, made, listener) = connected(2, 1).await;
        let mut peer = listener.accept().await.unwrap().0;
        let (more, pieces) = tokio::sync::mpsc::channel::<Bytes>(1);
        let pieces = futures_util::stream::unfold(pieces, async |mut pieces| {
            let piece = pieces.recv().await?;
            Some((Ok::<_, std::io::Error>(piece), pieces))
        });
        let request = Request::builder().method("POST").uri("/");
        let request = request.body(Body::from_stream(pieces)).unwrap();
        let answering = async {
            let mut head = [0; 1024];
            assert!(peer.read(&mut head).await.unwrap() > 0);
            peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        };
        let connection = made.into_iter().next().unwrap();
        let (answer, ()) = tokio::join!(connection.send(request), answering);
        // The answer is there, and nobody reads its body before the whole request has been taken.
        let answer = answer.unwrap();
        let sending = async {
            for _ in 0..64 {
                more.send(Bytes::from(vec![7; 64 << 10])).await.unwrap();
            }
            drop(more);
        };
        let taking = async {
            let (mut taken, mut buffer) = (vec![], vec![0; 64 << 10]);
            while !taken.ends_with(b"\r\n0\r\n\r\n") {
                let n = peer.read(&mut buffer).await.unwrap();
                taken.extend_from_slice(&buffer[..n]);
            }
            taken.into_iter().filter(|byte| *byte == 7).fold(0, |count, _| count + 1)
        };
        let ((), taken) = tokio::join!(sending, taking);
        assert_eq!(taken, 4 << 20);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
    }
}
