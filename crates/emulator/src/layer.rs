//! What wraps every call: the Trace-Id, the record, whose call it is, and the fault that it meets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use filegate_types::hex;
use futures_util::{Stream, StreamExt as _, stream};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::accept::Wire;
use crate::app::App;
use crate::auth;
use crate::calls::Call;
use crate::faults::{Fault, Kind};
use crate::reply::{Code, Note, Refusal};
use crate::world::AccountIx;

/// How long a stall lasts if its rule does not say.
const STALL: Duration = Duration::from_mins(10);
const DELAY: Duration = Duration::from_secs(1);
const SLOW_BYTES_PER_SECOND: u64 = 16 << 10;
/// Between what is sent of an answer and the reset, so that it is on its way.
const RESET_PAUSE: Duration = Duration::from_millis(50);
/// How much of a body passes before a reset when nobody knows how long it is.
const RESET_AFTER: u64 = 256;
/// Bodies of answers that are cut to half of their JSON.
const TRUNCATED_MAX: usize = 64 << 20;
/// Bytes of a path or a query that the record keeps. In URIs they are ASCII.
const KEPT_BYTES_MAX: usize = 1024;
/// The WebSocket, where a refusal is an event and not an answer.
pub(crate) const SOCKET_PATH: &str = "/ws/v1/t2a_v2";

/// Whose call it is; in the extensions of requests that got through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller(pub(crate) AccountIx);

/// The Trace-Id; in every request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Trace(pub(crate) Arc<str>);

/// The task that this call makes is to fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskFails;

/// The refusal that a WebSocket is to be told.
#[derive(Debug, Clone)]
pub(crate) struct Told(pub(crate) Refusal);

/// Wraps calls that need a key.
pub(crate) async fn wrap(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let caller = auth::account(&app, request.headers()).map(Some);
    wrapped(app, caller, request, next).await
}

/// Wraps downloads by a link, and paths that are not there.
pub(crate) async fn wrap_keyless(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    wrapped(app, Ok(None), request, next).await
}

async fn wrapped(
    app: Arc<App>,
    caller: Result<Option<AccountIx>, Refusal>,
    request: Request,
    next: Next,
) -> Response {
    let trace: Arc<str> = app.trace_id().into();
    let path = request.uri().path().to_owned();
    let known = caller.as_ref().ok().copied().flatten();
    let account = known.map(|ix| app.world().account(ix).name.clone());
    let fault = app.faults().pick(&path, account.as_deref(), app.clock.now());
    let kept = app.options.record_body_max.0 as usize;
    let nth = app.calls().begin(Call {
        nth: 0,
        at_ms: app.clock.now(),
        method: request.method().to_string(),
        path: short(&path),
        query: short(request.uri().query().unwrap_or_default()),
        account,
        trace_id: trace.to_string(),
        fault: fault.as_ref().map(|fault| fault.kind.name()),
        status: None,
        code: None,
        bytes: 0,
        sha256: String::new(),
        headers: if kept > 0 { told_headers(request.headers()) } else { vec![] },
        body: None,
        note: Value::Null,
        ended: false,
    });
    let ended = Ended { app: Arc::clone(&app), nth, meter: Meter::new(kept) };
    let wire = request.extensions().get::<Wire>().cloned().unwrap_or_default();
    let request = prepared(request, &ended.meter, &trace, fault.as_ref());

    let answered = match refused(&app, caller, fault.as_ref()) {
        Ok(caller) => called(request, next, caller, fault.as_ref()).await,
        Err(refusal) if path == SOCKET_PATH && fault.is_some() => {
            let mut request = request;
            request.extensions_mut().insert(Told(refusal));
            Some(next.run(request).await)
        }
        Err(refusal) => {
            drain(request).await;
            Some(refusal.into_response())
        }
    };
    let lost = fault.as_ref().is_some_and(|fault| fault.kind == Kind::LostAnswer);
    if let Some(response) = &answered {
        ended.answered(response, !lost);
    }
    let Some(mut response) = answered.filter(|_| !lost) else {
        drop(ended);
        wire.cut();
        // The connection, and with it this call, is dropped now.
        return std::future::pending().await;
    };
    if let Some(retry_after) = fault.as_ref().and_then(|fault| fault.retry_after) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after.0.as_secs()));
    }
    if let Ok(trace) = HeaderValue::from_str(&trace) {
        response.headers_mut().insert("trace-id", trace);
    }
    match fault {
        Some(fault) => spoiled(response, &fault, wire).await,
        None => response,
    }
}

/// Headers for the record: no keys in it.
fn told_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let told = headers.iter().filter(|(name, _)| **name != AUTHORIZATION && *name != "x-api-key");
    told.map(|(name, value)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    })
    .collect()
}

/// As much of a path or query as is kept in the record.
fn short(text: &str) -> String {
    text.get(..text.len().min(KEPT_BYTES_MAX)).unwrap_or_default().to_owned()
}

/// The account, or why the call is refused before it is carried out.
fn refused(
    app: &App,
    caller: Result<Option<AccountIx>, Refusal>,
    fault: Option<&Fault>,
) -> Result<Option<AccountIx>, Refusal> {
    if let Some(refusal) = fault.and_then(refusal) {
        return Err(refusal);
    }
    // What fails in front of upstream does not ask for a key.
    if fault.is_some_and(|fault| fault.kind.is_in_front()) {
        return Ok(None);
    }
    let caller = caller?;
    if caller.is_some_and(|ix| app.world().account(ix).banned) {
        return Err(auth::carry_key());
    }
    Ok(caller)
}

/// What kinds that answer with a code say.
fn refusal(fault: &Fault) -> Option<Refusal> {
    let mut refusal = match fault.kind {
        Kind::RateLimited => Refusal::new(1002, "rate limit"),
        Kind::Banned => auth::carry_key(),
        Kind::OutOfBalance => Refusal::new(1008, "insufficient balance"),
        Kind::Unverified => Refusal::new(2038, "no voice cloning permission"),
        Kind::FileExpired => Refusal::new(2013, "file expired"),
        Kind::Code => Refusal::new(fault.code.unwrap_or(1000), "unknown error"),
        _ => return None,
    };
    if let Some(message) = &fault.message {
        refusal.message.clone_from(message);
    }
    let status = fault.status.and_then(|status| StatusCode::from_u16(status).ok());
    Some(refusal.with_status(status.unwrap_or(StatusCode::OK)))
}

/// Has the call carried out, unless its fault prevents that. Without an answer the connection is to be reset.
async fn called(
    mut request: Request,
    next: Next,
    caller: Option<AccountIx>,
    fault: Option<&Fault>,
) -> Option<Response> {
    if let Some(ix) = caller {
        request.extensions_mut().insert(Caller(ix));
    }
    let Some(fault) = fault else { return Some(next.run(request).await) };
    match fault.kind {
        Kind::Http => {
            drain(request).await;
            Some(page(fault))
        }
        Kind::Stall => {
            drain(request).await;
            tokio::time::sleep(fault.time.map_or(STALL, |time| time.0)).await;
            None
        }
        Kind::ResetRequest => {
            let length = content_length(request.headers());
            let after =
                fault.after.map_or(length.map_or(RESET_AFTER, |all| all / 2), |after| after.0);
            let mut body = request.into_body().into_data_stream();
            let mut read = 0;
            while read < after
                && let Some(Ok(piece)) = body.next().await
            {
                read += piece.len() as u64;
            }
            None
        }
        Kind::Delay => {
            let response = next.run(request).await;
            tokio::time::sleep(fault.time.map_or(DELAY, |time| time.0)).await;
            Some(response)
        }
        Kind::TaskFails => {
            request.extensions_mut().insert(TaskFails);
            Some(next.run(request).await)
        }
        _ => Some(next.run(request).await),
    }
}

/// What a load balancer in front of upstream answers.
fn page(fault: &Fault) -> Response {
    let status = fault.status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
    let text = format!(
        "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{status}</h1></center>\r\n</body>\r\n</html>\r\n"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

/// Does to an answer what its fault does to answers.
async fn spoiled(response: Response, fault: &Fault, wire: Wire) -> Response {
    let (mut parts, body) = response.into_parts();
    let length = body.size_hint().exact();
    let body = match fault.kind {
        Kind::Truncated => {
            let whole = axum::body::to_bytes(body, TRUNCATED_MAX).await.unwrap_or_default();
            let half = fault.after.map_or(whole.len() / 2, |after| after.0 as usize);
            let part = whole.slice(..half.min(whole.len()));
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(part.len()));
            Body::from(part)
        }
        Kind::ResetAnswer => {
            let after =
                fault.after.map_or(length.map_or(RESET_AFTER, |all| all / 2), |after| after.0);
            if let Some(length) = length {
                parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Body::from_stream(until_reset(body, after, wire))
        }
        Kind::SlowAnswer => {
            if let Some(length) = length {
                parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Body::from_stream(slowed(body, fault))
        }
        _ => body,
    };
    Response::from_parts(parts, body)
}

/// The first `after` bytes, then a reset.
fn until_reset(
    body: Body,
    after: u64,
    wire: Wire,
) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    stream::unfold((body.into_data_stream(), after, wire), async |(mut body, left, wire)| {
        if left > 0
            && let Some(Ok(piece)) = body.next().await
        {
            let piece = piece.slice(..piece.len().min(left as usize));
            let left = left - piece.len() as u64;
            return Some((Ok(piece), (body, left, wire)));
        }
        tokio::time::sleep(RESET_PAUSE).await;
        wire.cut();
        std::future::pending().await
    })
}

/// The body a tenth of a second's worth at a time.
fn slowed(body: Body, fault: &Fault) -> impl Stream<Item = Result<Bytes, axum::Error>> + use<> {
    let rate = fault.bytes_per_second.map_or(SLOW_BYTES_PER_SECOND, |rate| rate.0);
    let step = (rate / 10).max(1);
    let pause = Duration::from_secs_f64(step as f64 / rate as f64);
    stream::unfold(
        (body.into_data_stream(), Bytes::new()),
        move |(mut body, mut piece)| async move {
            while piece.is_empty() {
                piece = match body.next().await? {
                    Ok(piece) => piece,
                    Err(error) => return Some((Err(error), (body, Bytes::new()))),
                };
            }
            tokio::time::sleep(pause).await;
            let now = piece.split_to(piece.len().min(step as usize));
            Some((Ok(now), (body, piece)))
        },
    )
}

/// Reads and throws away what is left of a body, so that a client that is still writing sees the answer.
pub(crate) async fn drain(request: Request) {
    let mut body = request.into_body().into_data_stream();
    while let Some(Ok(_)) = body.next().await {}
}

/// The request with its body measured, and slowed down if that is its fault.
fn prepared(request: Request, meter: &Meter, trace: &Arc<str>, fault: Option<&Fault>) -> Request {
    let (mut parts, mut body) = request.into_parts();
    parts.extensions.insert(Trace(Arc::clone(trace)));
    if let Some(fault) = fault.filter(|fault| fault.kind == Kind::SlowRequest) {
        body = Body::from_stream(slowed(body, fault));
    }
    let meter = meter.clone();
    let measured = body.into_data_stream().inspect(move |piece| {
        if let Ok(piece) = piece {
            meter.add(piece);
        }
    });
    Request::from_parts(parts, Body::from_stream(measured))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What was read of a request's body.
#[derive(Debug, Clone)]
struct Meter(Arc<Mutex<Read>>);

#[derive(Debug)]
struct Read {
    bytes: u64,
    digest: Sha256,
    begin: Vec<u8>,
    begin_max: usize,
}

impl Meter {
    fn new(begin_max: usize) -> Self {
        let read = Read { bytes: 0, digest: Sha256::new(), begin: vec![], begin_max };
        Self(Arc::new(Mutex::new(read)))
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, piece: &[u8]) {
        let mut read = self.read();
        read.bytes += piece.len() as u64;
        read.digest.update(piece);
        let room = read.begin_max - read.begin.len();
        read.begin.extend_from_slice(&piece[..piece.len().min(room)]);
    }
}

/// Notes the end of a call, whichever it is: clients that hang up drop it.
struct Ended {
    app: Arc<App>,
    nth: u64,
    meter: Meter,
}

impl Ended {
    fn answered(&self, response: &Response, is_sent: bool) {
        let code = response.extensions().get::<Code>().map(|code| code.0);
        let note = response.extensions().get::<Note>().map(|note| note.0.clone());
        self.app.calls().update(self.nth, |call| {
            call.status = is_sent.then_some(response.status().as_u16());
            call.code = code;
            call.note = note.unwrap_or_default();
        });
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let read = self.meter.read();
        self.app.calls().update(self.nth, |call| {
            call.bytes = read.bytes;
            call.sha256 = hex(&read.digest.clone().finalize());
            call.body =
                (read.begin_max > 0).then(|| String::from_utf8_lossy(&read.begin).into_owned());
            call.ended = true;
            tracing::info!(
                account = call.account.as_deref(),
                fault = call.fault,
                status = call.status,
                code = call.code,
                bytes = call.bytes,
                trace_id = call.trace_id,
                "{} {}",
                call.method,
                call.path
            );
        });
    }
}
