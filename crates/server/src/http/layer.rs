//! What wraps every handler: the Trace-Id, the one log line, the status setting, panics.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use filegate_types::{ApiError, ErrorCode, KeyId};
use futures_util::FutureExt as _;
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, StatusCode};
use tracing::Instrument as _;

use super::reply::{self, Outcome};
use crate::accept::Peer;
use crate::app::{App, random};
use crate::config::HttpErrors;
use crate::gate::limits::Allowance;
use crate::gate::network;
use crate::socket::Answers;

static TRACE_ID: HeaderName = HeaderName::from_static("trace-id");
static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The request's identity in logs and replies; in every request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    id: Arc<str>,
    client: IpAddr,
    key: Arc<OnceLock<KeyId>>,
    allowance: Arc<OnceLock<Allowance>>,
}

/// In the extensions of a reply whose `Trace-Id`, if it has one, is upstream's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpstreamTrace;

impl Trace {
    fn new(client: IpAddr) -> Self {
        let id = format!("{:032x}", u128::from_be_bytes(random()));
        Self { id: id.into(), client, key: Arc::default(), allowance: Arc::default() }
    }

    /// The `Trace-Id`.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Where the request comes from.
    pub(crate) fn client(&self) -> IpAddr {
        self.client
    }

    /// Notes whose request it is, for the log.
    pub(crate) fn authenticated(&self, key: KeyId) {
        let _first_wins = self.key.set(key);
    }

    /// Notes what the reply is to say of the limit on requests.
    pub(crate) fn counted(&self, allowance: Allowance) {
        let _first_wins = self.allowance.set(allowance);
    }
}

/// The outermost layer. Requests pass it first and replies last.
pub(crate) async fn wrap(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let trace = Trace::new(client(&app, &request));
    request.extensions_mut().insert(trace.clone());
    let method = request.method().clone();
    let route = Route(request.extensions().get::<MatchedPath>().cloned());
    let answers = request.extensions().get::<Answers>().cloned();
    let chunked = request.headers().contains_key(TRANSFER_ENCODING);

    let span = tracing::info_span!("request", trace_id = &*trace.id);
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
    let mut response = handled.await.unwrap_or_else(|_panic| {
        tracing::error!(trace_id = &*trace.id, route = route.name(), "http.panic");
        reply::refusal(&ApiError::plain(ErrorCode::Unknown), reply::bare)
    });

    let outcome = response.extensions().get::<Outcome>().copied();
    if let (HttpErrors::Status, Some(status)) =
        (app.config.http_errors, outcome.and_then(|o| o.status_if_asked))
    {
        *response.status_mut() = status;
    }
    // What upstream answered has upstream's, by which its support knows the call.
    let upstreams = response.extensions().get::<UpstreamTrace>().is_some();
    let headers = response.headers_mut();
    if !(upstreams && headers.contains_key(&TRACE_ID)) {
        headers.insert(
            TRACE_ID.clone(),
            HeaderValue::from_str(&trace.id).expect("hex digits are a header value"),
        );
    }
    if let Some(allowance) = trace.allowance.get() {
        for (name, value) in
            [(&RATE_LIMIT_POLICY, allowance.policy()), (&RATE_LIMIT, allowance.state())]
        {
            let value = HeaderValue::try_from(value).expect("digits and names are a header value");
            headers.insert(name.clone(), value);
        }
    }
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    if !switched && (chunked || app.tasks.is_draining()) {
        // A request with both framings is the raw material of smuggling. hyper reads it by
        // Transfer-Encoding, as RFC 9112 §6.1 wants, but keeps the connection, which it does not. And
        // before a stop: the client's next request then goes where somebody will answer it.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let (status, code, elapsed) =
        (response.status(), outcome.map_or(0, |outcome| outcome.code), started.elapsed());
    Counted::with(route.name(), status, code, |counted| {
        counted.replies.increment(1);
        counted.seconds.record(elapsed.as_secs_f64());
    });
    let log = move || {
        let _in_span = span.enter();
        tracing::info!(
            method = method.as_str(),
            route = route.name(),
            status = status.as_u16(),
            code,
            key_id = trace.key.get().map(|key| key.0),
            client = %trace.client,
            elapsed_ms = elapsed.as_secs_f64() * 1e3,
            "http.reply"
        );
    };
    // The client is not to wait until it is written down that it was answered.
    match answers {
        Some(answers) => answers.later(log),
        None => log(),
    }
    response
}

/// What the request is for, as metrics and the log call it.
struct Route(Option<MatchedPath>);

impl Route {
    fn name(&self) -> &str {
        self.0.as_ref().map_or("(none)", MatchedPath::as_str)
    }
}

/// The client's address, as far as it can be known.
fn client(app: &App, request: &Request) -> IpAddr {
    // Every connection that is accepted has a peer; no network of a key covers the stand-in.
    let peer = request.extensions().get::<Peer>();
    let peer = peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |Peer(address)| address.ip());
    network::client_address(peer, request.headers(), &app.config.network.trusted_proxies)
}

/// Metrics of replies that are alike.
struct Counted {
    replies: metrics::Counter,
    seconds: metrics::Histogram,
}

/// By route, then by status and code.
type AllCounted = HashMap<String, HashMap<(StatusCode, i64), Counted>>;

impl Counted {
    /// Kinds of replies that a thread remembers; codes are upstream's, so there may be any number.
    const KINDS_MAX: usize = 256;

    fn new(route: &str, status: StatusCode, code: i64) -> Self {
        let replies = metrics::counter!("filegate_requests_total", "route" => route.to_owned(),
            "status" => status.as_str().to_owned(), "code" => code.to_string());
        let seconds = metrics::histogram!("filegate_request_seconds", "route" => route.to_owned());
        Self { replies, seconds }
    }

    /// Runs `count` with those of such a reply. Looking them up by their labels would cost each reply a dozen
    /// allocations.
    fn with(route: &str, status: StatusCode, code: i64, count: impl FnOnce(&Self)) {
        thread_local! {
            static ALL: RefCell<AllCounted> = RefCell::default();
        }
        ALL.with_borrow_mut(|all| {
            let kind = (status, code);
            if let Some(counted) = all.get(route).and_then(|of_route| of_route.get(&kind)) {
                return count(counted);
            }
            let counted = Self::new(route, status, code);
            count(&counted);
            if all.values().map(HashMap::len).sum::<usize>() < Self::KINDS_MAX {
                all.entry(route.to_owned()).or_default().insert(kind, counted);
            }
        });
    }
}
