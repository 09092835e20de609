//! WebSockets: two, end to end, with the gateway between them.
//!
//! ```text
//! client               gateway                          channel
//! (handshake)       -> its own to a channel          ->
//! (switched)        <-                               <- (switched)
//!                   <- (1) the first message         <- connected_success, or task_failed
//! task_start        -> (2) whose voice it names      ->
//!                   <- (3) what comes of it          <- task_started, or task_failed
//! anything          <-> as it comes                  <->
//! ```
//!
//! A channel that says at (1) or (3) that it cannot is left for another one, whose greeting the client does not
//! see. Its task goes with it: nothing of it was spoken. At (2) it is left for the one where the voice is. After that messages
//! are passed on as they are, and only looked at for what is counted.
//!
//! Messages, not frames, are what is passed: each side is answered its pings here, and nothing is compressed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use filegate_types::ApiError;
use filegate_types::wire::BaseResp;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::attempt::{self, Failure, Outcome};
use super::channels::{Busy, Fault};
use super::reply::Opening;
use super::route::Needs;
use super::{Call, End, Settle, Tried, choose, headers, hold, own};
use crate::app::App;
use crate::http::layer::UpstreamTrace;
use crate::http::reply::{bare, refusal};
use crate::socket::Answers;

/// Bytes of a message.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// How long the other side may take to answer a goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether a request asks for a WebSocket.
pub(super) fn is_asked_for(method: &Method, headers: &HeaderMap) -> bool {
    let has = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    *method == Method::GET
        && has(UPGRADE, "websocket")
        && has(CONNECTION, "upgrade")
        && has(SEC_WEBSOCKET_VERSION, "13")
        && headers.contains_key(SEC_WEBSOCKET_KEY)
}

/// The client's side of a handshake.
pub(super) struct Client {
    pub(super) upgrade: OnUpgrade,
    /// Answers on its connection: the socket is one, until it ends.
    pub(super) answers: Option<Answers>,
}

/// A channel's side, open.
struct Open {
    busy: Busy,
    socket: Socket,
    /// The head of its answer.
    head: HeaderMap,
}

/// What came of asking channels for a socket.
enum Opened {
    Socket(Box<Open>),
    /// An answer that is no socket, and is the call's.
    Answer(Busy, Box<Opening>),
    /// No channel is left.
    Nothing(ApiError),
}

/// Opens a socket on both sides and passes messages until one of them ends.
pub(super) async fn run(app: Arc<App>, call: Arc<Call>, client: Client) -> Response {
    let mut tried = Tried::new();
    let needs = match own(&app, &call, None).await {
        Ok(needs) => needs,
        Err(error) => return refusal(&error, bare),
    };
    let settle = match hold(&app, &call, None).await {
        Ok(settle) => settle,
        Err(error) => return refusal(&error, bare),
    };
    app.relay.budget.call(app.clock.now());
    match open(&app, &call, &needs, &mut tried).await {
        Opened::Nothing(error) => settle.unanswered(&app, &call, tried, &error),
        Opened::Answer(busy, opening) => super::answer(&app, &call, busy, *opening, settle).await,
        Opened::Socket(open) => {
            let response = switched(&open.head);
            let tasks = app.tasks.clone();
            tasks.spawn(async move {
                let Ok(upgraded) = client.upgrade.await else { return };
                let _ours = client.answers.as_ref().map(Answers::begin);
                let session = Session {
                    app,
                    call,
                    needs,
                    tried,
                    client: websocket(upgraded, Role::Server).await,
                    open: *open,
                    begun: None,
                    settle: Some(settle),
                    bytes: 0,
                };
                session.talk().await;
            });
            response
        }
    }
}

async fn websocket(upgraded: Upgraded, role: Role) -> Socket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), role, Some(config)).await
}

/// What the client gets for upstream's head: the same, but for extensions.
fn switched(upstream: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let mut head = headers::answer(upstream);
    head.remove(SEC_WEBSOCKET_EXTENSIONS);
    head.insert(UPGRADE, HeaderValue::from_static("websocket"));
    head.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    *response.headers_mut() = head;
    response.extensions_mut().insert(UpstreamTrace);
    response
}

/// A socket to the next channel that gives one.
async fn open(app: &Arc<App>, call: &Call, needs: &Needs, tried: &mut Tried) -> Opened {
    loop {
        let busy = match choose(app, call, needs, tried).await {
            Ok(busy) => busy,
            Err(error) => return Opened::Nothing(error),
        };
        match attempt(app, call, &busy).await {
            Ok((socket, head)) => return Opened::Socket(Box::new(Open { busy, socket, head })),
            Err(Outcome::Answered(opening)) => return Opened::Answer(busy, Box::new(opening)),
            Err(Outcome::Client(error)) => return Opened::Nothing(error),
            Err(Outcome::Failed(Failure { fault, .. })) => {
                busy.failed(app, fault);
                tried.fault(app, busy.channel(), fault, false);
            }
        }
    }
}

/// One handshake with one channel. A handshake does nothing, so it may be made twice.
async fn attempt(app: &App, call: &Call, busy: &Busy) -> Result<(Socket, HeaderMap), Outcome> {
    let failed = |fault| Outcome::Failed(Failure { fault, perhaps_done: false, words: None });
    let facts = busy.channel().facts();
    let Some(access) = facts.access.as_ref() else { return Err(failed(Fault::Failed)) };
    let query = headers::query(call.query.as_deref(), facts.row.settings.group_id.as_deref());
    let Some(target) = access.origin.target(&call.target.path, query.as_deref()) else {
        return Err(Outcome::Client(ApiError::invalid("the query is not valid")));
    };
    let credentials =
        headers::Credentials { key: &access.key, bearer: &access.bearer, anthropic: false };
    let mut head = headers::request(&call.headers, &access.origin.host, credentials, false);
    head.remove(SEC_WEBSOCKET_EXTENSIONS);
    head.insert(UPGRADE, HeaderValue::from_static("websocket"));
    head.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from(target);
    *request.headers_mut() = head;
    let (transport, pool) = (&app.relay.transport, &busy.channel().pool);
    let connection = transport.connection(pool, &access.origin, Duration::ZERO).await;
    let connection = connection.map_err(|error| {
        tracing::warn!(channel = facts.row.name, %error, "relay.unreachable");
        failed(Fault::Unreachable)
    })?;
    let answer = connection.send(request).await.map_err(|why| {
        tracing::warn!(channel = facts.row.name, %why, "relay.unanswered");
        failed(Fault::Failed)
    })?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let head = answer.headers().clone();
        if !head.contains_key(SEC_WEBSOCKET_ACCEPT) {
            return Err(failed(Fault::Failed));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(|_cut| failed(Fault::Failed))?;
        return Ok((websocket(upgraded, Role::Client).await, head));
    }
    let opening = Opening::of(answer, &Method::GET).await.map_err(|_cut| failed(Fault::Failed))?;
    Err(attempt::judge(opening, true, app.clock.now()))
}

/// The part of upstream's messages that is looked at.
#[derive(Deserialize)]
struct Told {
    event: Option<String>,
    base_resp: Option<ToldCode>,
}

#[derive(Deserialize)]
struct ToldCode {
    status_code: i64,
}

impl Told {
    /// Why the channel cannot, if that is what it says.
    fn fault(message: &Message) -> Option<Fault> {
        let Message::Text(text) = message else { return None };
        let told: Told = serde_json::from_str(text).ok()?;
        // What else is said of a task is the client's business.
        let failed = told.event.as_deref().is_none_or(|event| event == "task_failed");
        let code = told.base_resp?.status_code;
        attempt::fault(StatusCode::OK, Some(code), None).filter(|_| failed)
    }
}

/// A client's messages that were sent to the channel and not yet answered.
struct Begun {
    start: Message,
}

/// Both sides, open.
struct Session {
    app: Arc<App>,
    call: Arc<Call>,
    needs: Needs,
    tried: Tried,
    client: Socket,
    open: Open,
    /// The client's first message, as long as nothing came of it.
    begun: Option<Begun>,
    settle: Option<Settle>,
    bytes: u64,
}

/// Why a session ends.
enum Over {
    /// A side said goodbye, or was cut off.
    Ended,
    /// Nothing was said on either side for too long.
    Idle,
    /// The gateway stops.
    Stopping,
    /// The client is refused.
    Refused(ApiError),
}

impl Session {
    async fn talk(mut self) {
        let over = match self.greet().await {
            Ok(()) => self.pass().await,
            Err(over) => over,
        };
        let code = match &over {
            Over::Ended => None,
            Over::Idle => Some((CloseCode::Policy, "idle")),
            Over::Stopping => Some((CloseCode::Away, "stopping")),
            Over::Refused(error) => {
                let told = json!({
                    "event": "task_failed",
                    "base_resp": serde_json::to_value(BaseResp::of(error)).unwrap_or_default(),
                });
                let _gone_already = self.client.send(Message::text(told.to_string())).await;
                Some((CloseCode::Normal, ""))
            }
        };
        let frame = code.map(|(code, reason)| CloseFrame { code, reason: reason.into() });
        let _both_end = timeout(GOODBYE, async {
            let client = self.client.close(frame.clone());
            let channel = self.open.socket.close(frame);
            let (_client, _channel) = tokio::join!(client, channel);
        })
        .await;
        if let Some(settle) = self.settle.take() {
            let channel = Some(self.open.busy.channel().id);
            let complete = matches!(over, Over::Ended);
            let end = End { channel, status: 101, code: 0, bytes: self.bytes, complete };
            settle.answered(&self.app, &self.call, end).await;
        }
    }

    /// Until something came of the client's first message: as long as a channel can be left for another.
    async fn greet(&mut self) -> Result<(), Over> {
        let mut greeted = false;
        loop {
            let event = self.next().await?;
            match event {
                From::Client(message) => {
                    if self.begun.is_none() && message.is_text() {
                        self.began(&message).await?;
                        self.begun = Some(Begun { start: message.clone() });
                    }
                    self.tell_channel(message).await?;
                }
                From::Channel(message) => {
                    if let Some(fault) = Told::fault(&message) {
                        self.open.busy.failed(&self.app, fault);
                        self.tried.fault(&self.app, self.open.busy.channel(), fault, false);
                        if self.elsewhere(greeted).await? {
                            continue;
                        }
                    } else if message.is_text() {
                        self.open.busy.answered(&self.app, self.begun.is_some());
                    }
                    greeted = true;
                    self.tell_client(message).await?;
                    if self.begun.is_some() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The client's first message: its voices may be on another channel.
    async fn began(&mut self, message: &Message) -> Result<(), Over> {
        let Message::Text(text) = message else { return Ok(()) };
        let pinned = named(&self.app, &self.call, text).await.map_err(Over::Refused)?;
        if let Some(channel) = pinned {
            self.needs.pinned = Some(channel);
            if self.open.busy.channel().id != channel {
                self.replace(true).await?;
            }
        }
        Ok(())
    }

    /// Goes to another channel, if one is left; `false`: the client hears what this one said.
    async fn elsewhere(&mut self, greeted: bool) -> Result<bool, Over> {
        let own = self.open.busy.channel().facts().row.account_id.is_some();
        match self.replace(greeted).await {
            Ok(()) => {}
            Err(Over::Refused(_)) if own => return Ok(false),
            Err(over) => return Err(over),
        }
        if let Some(Begun { start }) = &self.begun {
            let start = start.clone();
            self.tell_channel(start).await?;
        }
        Ok(true)
    }

    /// A socket on another channel, which has said its greeting if the client has heard one.
    async fn replace(&mut self, greeted: bool) -> Result<(), Over> {
        loop {
            let opened = open(&self.app, &self.call, &self.needs, &mut self.tried).await;
            let open = match opened {
                Opened::Socket(open) => open,
                Opened::Nothing(error) => return Err(Over::Refused(error)),
                Opened::Answer(..) => return Err(Over::Refused(self.tried.refusal(&[]))),
            };
            self.open = *open;
            if !greeted {
                return Ok(());
            }
            let idle = self.app.config.relay.answer_idle.0;
            let fault = match timeout(idle, self.open.socket.next()).await {
                Ok(Some(Ok(message))) => match Told::fault(&message) {
                    None => return Ok(()),
                    Some(fault) => fault,
                },
                Ok(_) => Fault::Failed,
                Err(_late) => Fault::TimedOut,
            };
            self.open.busy.failed(&self.app, fault);
            self.tried.fault(&self.app, self.open.busy.channel(), fault, false);
        }
    }

    /// Messages as they come, until a side ends.
    async fn pass(&mut self) -> Over {
        loop {
            let passed = match self.next().await {
                Ok(From::Client(message)) => self.tell_channel(message).await,
                Ok(From::Channel(message)) => self.tell_client(message).await,
                Err(over) => return over,
            };
            if let Err(over) = passed {
                return over;
            }
        }
    }

    /// The next message of either side. A goodbye is passed on, and ends both.
    async fn next(&mut self) -> Result<From, Over> {
        let idle = self.app.config.relay.answer_idle.0;
        loop {
            let (from_client, next) = tokio::select! {
                next = timeout(idle, self.client.next()) => (true, next),
                next = self.open.socket.next() => (false, Ok(next)),
                () = self.app.tasks.stopping() => return Err(Over::Stopping),
            };
            let message = match next {
                Err(_late) => return Err(Over::Idle),
                Ok(None | Some(Err(_))) => return Err(Over::Ended),
                Ok(Some(Ok(message))) => message,
            };
            match message {
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                Message::Close(frame) => {
                    let other = if from_client { &mut self.open.socket } else { &mut self.client };
                    let _gone_already = timeout(GOODBYE, other.close(frame)).await;
                    return Err(Over::Ended);
                }
                message if from_client => return Ok(From::Client(message)),
                message => return Ok(From::Channel(message)),
            }
        }
    }

    async fn tell_client(&mut self, message: Message) -> Result<(), Over> {
        self.bytes += message.len() as u64;
        if let (Message::Text(text), Some(settle)) = (&message, &mut self.settle) {
            settle.heard(text);
        }
        let idle = self.app.config.relay.answer_idle.0;
        let sent = timeout(idle, self.client.send(message)).await;
        sent.map_err(|_late| Over::Idle)?.map_err(|_gone| Over::Ended)
    }

    async fn tell_channel(&mut self, message: Message) -> Result<(), Over> {
        let idle = self.app.config.relay.answer_idle.0;
        let sent = timeout(idle, self.open.socket.send(message)).await;
        sent.map_err(|_late| Over::Idle)?.map_err(|_gone| Over::Ended)
    }
}

/// A message, and whose.
enum From {
    Client(Message),
    Channel(Message),
}

// ---- The seam for ids. ----

/// The channel of the voices that a client's first message names, which are the account's own if they are anybody's.
#[expect(clippy::unused_async, reason = "the seam for ids")]
async fn named(
    _app: &Arc<App>,
    _call: &Call,
    _text: &str,
) -> Result<Option<filegate_types::ChannelId>, ApiError> {
    Ok(None)
}
