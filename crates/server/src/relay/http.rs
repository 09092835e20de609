//! How a channel is spoken to: HTTP/1.1 on connections that are kept, without redirects, retries or decoding.
//!
//! What is certain of a request that failed: as long as there is no connection, and on a kept one that hyper
//! gives the request back from, nothing was written, so it may be sent again whatever it does. Once it was
//! handed to the connection anything may have happened upstream.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
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
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tower::ServiceExt as _;

use super::pool::{Pool, Wire};
use crate::config::Relay as Settings;

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
        Ok(Wire::new(sender, Box::pin(connection.with_upgrades())))
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
pub(super) mod tests {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::pool::KEPT;
    use super::*;
    use crate::lifecycle::Tasks;

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
    pub(in crate::relay) async fn connected(
        max: usize,
        count: usize,
    ) -> (Arc<Pool>, Vec<Connection>, TcpListener) {
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
    pub(in crate::relay) async fn used(connection: Connection, peer: &mut TcpStream) {
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
