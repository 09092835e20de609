//! The HTTP layer in front of the server.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::service::S3Service;

use super::fault::{Fault, Kind, Rules};

/// Bytes between two pauses of a slow body.
const SLOW_PIECE: usize = 32 << 10;

/// What is in front of the server, and outlives its being stopped.
pub(super) struct Front {
    service: S3Service,
    rules: Mutex<Rules>,
    /// Uploads in parts: `(key, id)`.
    uploads: Mutex<HashMap<String, String>>,
    flight: Mutex<Flight>,
}

#[derive(Debug, Default)]
struct Flight {
    bytes: u64,
    most: u64,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Front {
    pub(super) fn new(service: S3Service) -> Self {
        let (rules, uploads, flight) = Default::default();
        Self { service, rules, uploads, flight }
    }

    pub(super) fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().expect("no holder panics")
    }

    pub(super) fn unfinished(&self) -> usize {
        self.uploads().len()
    }

    pub(super) fn most_in_flight(&self) -> u64 {
        let mut flight = self.flight.lock().expect("no holder panics");
        let most = flight.most;
        flight.most = flight.bytes;
        most
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.uploads.lock().expect("no holder panics")
    }

    /// Answers one request; an error ends the connection.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let kind = kind_of(request.method(), request.uri());
        let fault = self.rules().next(kind);
        let _flight = InFlight::of(self, &request, kind);
        match fault {
            Some(Fault::SlowDown) => return Ok(refusal(503, "SlowDown")),
            Some(Fault::Refuse(status, code)) => return Ok(refusal(status, code)),
            Some(Fault::Stall) => std::future::pending::<()>().await,
            Some(Fault::Reset) if !request.body().is_end_stream() => {
                return Err(cut_off(request).await);
            }
            _ => {}
        }
        if kind == Kind::ListUploads {
            return Ok(self.list_uploads());
        }
        let slow = match fault {
            Some(Fault::Slow(pause)) => Some(pause),
            _ => None,
        };
        let uri = request.uri().clone();
        let request = request.map(|body| Body::http_body_unsync(Altered::new(body, slow)));
        let response = self.service.call(request).await;
        let response = response.map_err(|error| io::Error::other(format!("{error:?}")))?;
        let response = self.note(kind, &uri, response).await?;
        let len = response.headers().get("content-length").and_then(|len| len.to_str().ok());
        let half = len.and_then(|len| len.parse::<u64>().ok()).unwrap_or(2) / 2;
        Ok(match fault {
            Some(Fault::LoseAnswer) => return Err(broken()),
            Some(Fault::StallAnswer) => std::future::pending().await,
            Some(Fault::Reset) => response.map(|body| altered(body, |body| body.cut = Some(half))),
            Some(Fault::Corrupt(at)) => {
                response.map(|body| altered(body, |body| body.flip = Some(at)))
            }
            Some(Fault::Slow(pause)) => {
                response.map(|body| altered(body, |body| body.pause = Some(pause)))
            }
            _ => response,
        })
    }

    /// Follows uploads in parts.
    async fn note(
        &self,
        kind: Kind,
        uri: &Uri,
        response: Response<Body>,
    ) -> io::Result<Response<Body>> {
        if !response.status().is_success() {
            return Ok(response);
        }
        let id = query(uri, "uploadId").unwrap_or_default().to_owned();
        match kind {
            Kind::Create => {
                let (parts, body) = response.into_parts();
                let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
                let text = String::from_utf8_lossy(&body);
                let id = between(&text, "<UploadId>", "</UploadId>").unwrap_or_default().to_owned();
                let key = uri.path().trim_start_matches('/');
                let key = key.split_once('/').map_or("", |(_bucket, key)| key).to_owned();
                self.uploads().insert(id, key);
                return Ok(Response::from_parts(parts, Body::from(body)));
            }
            Kind::Complete | Kind::Abort => drop(self.uploads().remove(&id)),
            _ => {}
        }
        Ok(response)
    }

    /// `ListMultipartUploads`, on one page.
    fn list_uploads(&self) -> Response<Body> {
        let one = |(id, key): (&String, &String)| {
            format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId></Upload>")
        };
        let all: String = self.uploads().iter().map(one).collect();
        let head = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>";
        xml(StatusCode::OK, &format!("{head}{all}</ListMultipartUploadsResult>"))
    }
}

/// Serves until it is dropped.
pub(super) async fn accept(listener: TcpListener, front: Arc<Front>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("within a runtime");
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        // Head and body are two writes: without this the second waits 40 ms for the first to be acknowledged.
        let _slower_without = socket.set_nodelay(true);
        let front = Arc::clone(&front);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let front = Arc::clone(&front);
                async move { front.answer(request).await }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            let _ended_by_a_fault = connection.await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Counts the body of a request among those on their way up.
struct InFlight<'a> {
    front: &'a Front,
    bytes: u64,
}

impl<'a> InFlight<'a> {
    fn of(front: &'a Front, request: &Request<Incoming>, kind: Kind) -> Self {
        let counted = matches!(kind, Kind::Put | Kind::UploadPart);
        let bytes = if counted { request.body().size_hint().exact().unwrap_or(0) } else { 0 };
        let mut flight = front.flight.lock().expect("no holder panics");
        flight.bytes += bytes;
        flight.most = flight.most.max(flight.bytes);
        drop(flight);
        Self { front, bytes }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.front.flight.lock().expect("no holder panics").bytes -= self.bytes;
    }
}

fn kind_of(method: &Method, uri: &Uri) -> Kind {
    let has = |name| query(uri, name).is_some();
    let object =
        uri.path().trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
    match (method.as_str(), object) {
        ("GET", false) if has("uploads") => Kind::ListUploads,
        ("GET", false) if has("list-type") => Kind::List,
        ("GET", true) => Kind::Get,
        ("HEAD", true) => Kind::Head,
        ("PUT", true) if has("uploadId") => Kind::UploadPart,
        ("PUT", true) => Kind::Put,
        ("POST", true) if has("uploads") => Kind::Create,
        ("POST", true) if has("uploadId") => Kind::Complete,
        ("DELETE", true) if has("uploadId") => Kind::Abort,
        ("DELETE", true) => Kind::Delete,
        _ => Kind::Other,
    }
}

fn query<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    uri.query()?.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (found == name).then_some(value)
    })
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let status = StatusCode::from_u16(status).expect("a status");
    xml(
        status,
        &format!("<Error><Code>{code}</Code><Message>switched on by a test</Message></Error>"),
    )
}

fn xml(status: StatusCode, text: &str) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{text}");
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "application/xml".parse().expect("a value"));
    response
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "switched on by a test")
}

/// Reads a first piece of the body, then gives the error that ends the connection.
async fn cut_off(request: Request<Incoming>) -> io::Error {
    let _some_of_it = request.into_body().frame().await;
    broken()
}

fn altered(body: Body, change: impl FnOnce(&mut Altered<Body>)) -> Body {
    let mut body = Altered::new(body, None);
    change(&mut body);
    Body::http_body_unsync(body)
}

/// A body that is slow, wrong, or ends too early.
struct Altered<B> {
    inner: B,
    /// After how many bytes it breaks off.
    cut: Option<u64>,
    /// The place of a byte that is changed.
    flip: Option<usize>,
    pause: Option<Duration>,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    rest: Bytes,
    given: u64,
}

impl<B> Altered<B> {
    fn new(inner: B, pause: Option<Duration>) -> Self {
        Self { inner, cut: None, flip: None, pause, sleep: None, rest: Bytes::new(), given: 0 }
    }

    /// The next piece of what has come, changed as is asked.
    fn piece(&mut self) -> Bytes {
        let left = self.cut.map_or(u64::MAX, |cut| cut - self.given);
        let len = if self.pause.is_some() { SLOW_PIECE } else { usize::MAX };
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut piece = self.rest.split_to(self.rest.len().min(len));
        let within = self.flip.and_then(|at| at.checked_sub(self.given as usize));
        if let Some(within) = within.filter(|at| *at < piece.len()) {
            let mut changed = piece.to_vec();
            changed[within] ^= 1;
            piece = changed.into();
        }
        self.given += piece.len() as u64;
        piece
    }
}

impl<B> hyper::body::Body for Altered<B>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if let Some(sleep) = &mut this.sleep {
            std::task::ready!(sleep.as_mut().poll(context));
            this.sleep = None;
        }
        if this.cut == Some(this.given) {
            return Poll::Ready(Some(Err(broken())));
        }
        if this.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
            }
        }
        let piece = this.piece();
        this.sleep = this.pause.map(|pause| Box::pin(tokio::time::sleep(pause)));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream() && self.cut.is_none()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        // A cut body promises what it does not give.
        if self.given == 0 { self.inner.size_hint() } else { hyper::body::SizeHint::new() }
    }
}
