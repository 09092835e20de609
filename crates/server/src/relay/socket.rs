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
use filegate_types::{ApiError, ErrorCode};
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
use super::calls::UnitsCount;
use super::channels::{Busy, Channel};
use super::health::Fault;
use super::ids::Refusal;
use super::json::{Kind, Scan, Splice};
use super::owned::{self, Owned, There};
use super::reply::Opening;
use super::settle::{End, Settle};
use super::tried::{Tried, unanswered};
use super::{Begun, Call, begin, choose, headers};
use crate::app::App;
use crate::http::layer::UpstreamTrace;
use crate::http::reply::store_failed;
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
    Nothing(Refusal),
}

/// Opens a socket on both sides and passes messages until one of them ends.
pub(super) async fn run(app: Arc<App>, call: Arc<Call>, client: Client) -> Response {
    let mut tried = Tried::new();
    let (owned, settle) = match begin(&app, &call, None).await {
        Ok(Begun::Now(owned, settle)) => (*owned, *settle),
        Ok(Begun::Before(response)) => return response,
        Err(refusal) => return call.refused(&refusal),
    };
    app.relay.budget.call(app.clock.now());
    match open(&app, &call, &owned, &mut tried).await {
        Opened::Nothing(refusal) => unanswered(&call, tried, &refusal),
        Opened::Answer(busy, opening) => {
            super::answer::answer(&app, &call, owned, busy, *opening, settle).await
        }
        Opened::Socket(open) => {
            let response = switched(&open.head);
            let tasks = app.tasks.clone();
            tasks.spawn(async move {
                let Ok(upgraded) = client.upgrade.await else { return };
                let _ours = client.answers.as_ref().map(Answers::begin);
                let session = Session {
                    app,
                    call,
                    owned,
                    tried,
                    client: websocket(upgraded, Role::Server).await,
                    open: *open,
                    start: None,
                    settle: Some(settle),
                    units: 0,
                    code: 0,
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
async fn open(app: &Arc<App>, call: &Call, owned: &Owned, tried: &mut Tried) -> Opened {
    loop {
        let busy = match choose(app, call, owned, tried).await {
            Ok(busy) => busy,
            Err(refusal) => return Opened::Nothing(refusal),
        };
        match attempt(app, call, &busy).await {
            Ok((socket, head)) => return Opened::Socket(Box::new(Open { busy, socket, head })),
            Err(Outcome::Answered(opening)) => return Opened::Answer(busy, Box::new(opening)),
            Err(Outcome::Client(error)) => return Opened::Nothing(error.into()),
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

/// Both sides, open.
struct Session {
    app: Arc<App>,
    call: Arc<Call>,
    /// What the client's first message names.
    owned: Owned,
    tried: Tried,
    client: Socket,
    open: Open,
    /// The client's first message, which may have to be sent again.
    start: Option<Message>,
    settle: Option<Settle>,
    /// What the messages count.
    units: u64,
    /// What the last refusal said.
    code: i64,
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
    Refused(Refusal),
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
            Over::Refused(refusal) => {
                let told = json!({
                    "event": "task_failed",
                    "base_resp": serde_json::to_value(refusal.base_resp()).unwrap_or_default(),
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
            // What has been counted was had, whatever came after it.
            let had = self.units > 0;
            let end = End {
                channel: self.open.busy.channel().id,
                status: 101,
                code: if had { 0 } else { self.code },
                units: self.units,
                bytes: self.bytes,
                complete: had || (self.start.is_some() && matches!(over, Over::Ended)),
                answer: None,
            };
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
                    if self.start.is_none() && message.is_text() {
                        self.start = Some(message.clone());
                        self.begin(&message).await?;
                        self.send_start().await?;
                    } else {
                        self.pass_on(message).await?;
                    }
                }
                From::Channel(message) => {
                    if let Some(fault) = Told::fault(&message) {
                        self.open.busy.failed(&self.app, fault);
                        self.tried.fault(&self.app, self.open.busy.channel(), fault, false);
                        if self.elsewhere(greeted).await? {
                            continue;
                        }
                    } else if message.is_text() {
                        self.open.busy.answered(&self.app, self.start.is_some());
                    }
                    greeted = true;
                    self.tell_client(message).await?;
                    if self.start.is_some() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The client's first message: its voices may be on another channel.
    async fn begin(&mut self, message: &Message) -> Result<(), Over> {
        let Message::Text(text) = message else { return Ok(()) };
        let named = owned::own_message(&self.app, &self.call, text).await.map_err(Over::Refused)?;
        let Some(owned) = named else { return Ok(()) };
        self.owned = owned;
        if !may_stay(&self.app, &self.call, self.open.busy.channel(), &self.owned).await? {
            self.replace(true).await?;
        }
        Ok(())
    }

    /// The client's first message, as the channel gets it.
    async fn send_start(&mut self) -> Result<(), Over> {
        let Some(start) = self.start.clone() else { return Ok(()) };
        let here = Arc::clone(self.open.busy.channel());
        let sent = translated(&self.app, &self.call, &here, &mut self.owned, start).await?;
        self.tell_channel(sent).await
    }

    /// A later message of the client's: what it names has to be where the socket is.
    async fn pass_on(&mut self, mut message: Message) -> Result<(), Over> {
        if let Message::Text(text) = &message {
            let named = owned::own_message(&self.app, &self.call, text).await;
            if let Some(mut owned) = named.map_err(Over::Refused)? {
                let here = Arc::clone(self.open.busy.channel());
                if !may_stay(&self.app, &self.call, &here, &owned).await? {
                    return Err(Over::Refused(Owned::name_refused(&self.call)));
                }
                message = translated(&self.app, &self.call, &here, &mut owned, message).await?;
            }
        }
        self.tell_channel(message).await
    }

    /// Goes to another channel, if one is left; `false`: the client hears what this one said.
    async fn elsewhere(&mut self, greeted: bool) -> Result<bool, Over> {
        let own = self.open.busy.channel().facts().row.account_id.is_some();
        match self.replace(greeted).await {
            Ok(()) => {}
            Err(Over::Refused(_)) if own => return Ok(false),
            Err(over) => return Err(over),
        }
        self.send_start().await?;
        Ok(true)
    }

    /// A socket on another channel, which has said its greeting if the client has heard one.
    async fn replace(&mut self, greeted: bool) -> Result<(), Over> {
        loop {
            let opened = open(&self.app, &self.call, &self.owned, &mut self.tried).await;
            let open = match opened {
                Opened::Socket(open) => open,
                Opened::Nothing(error) => return Err(Over::Refused(error)),
                Opened::Answer(..) => return Err(Over::Refused(self.tried.refusal(&[]).into())),
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
                Ok(From::Client(message)) => self.pass_on(message).await,
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
        if let Message::Text(text) = &message {
            self.hear(text);
        }
        let idle = self.app.config.relay.answer_idle.0;
        let sent = timeout(idle, self.client.send(message)).await;
        sent.map_err(|_late| Over::Idle)?.map_err(|_gone| Over::Ended)
    }

    /// What a message of the channel's counts, and whether it refuses something.
    fn hear(&mut self, text: &str) {
        let mut scan = Scan::new(self.call.rules.reply);
        let Ok(finds) = scan.push(text.as_bytes()).and_then(|()| scan.finish()) else { return };
        let mut count = UnitsCount::default();
        for found in finds {
            if found.kind == Kind::StatusCode {
                self.code = found.text.parse().unwrap_or(-1);
            }
            count.note(&found);
        }
        self.units = self.units.saturating_add(count.total());
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

/// Whether what a message names is on `here`.
async fn may_stay(
    app: &Arc<App>,
    call: &Call,
    here: &Channel,
    owned: &Owned,
) -> Result<bool, Over> {
    let all = app.relay.channels.all(app).await;
    let all = all.map_err(|error| Over::Refused(store_failed(&error).into()))?;
    let needs = owned.route(app, call, &all).map_err(Over::Refused)?;
    let pinned = needs.pinned.is_none_or(|there| there.contains(&here.id));
    Ok(pinned && !needs.avoid.contains(&here.id))
}

/// `message` with the ids of `here` in the places of ours.
async fn translated(
    app: &Arc<App>,
    call: &Call,
    here: &Channel,
    owned: &mut Owned,
    message: Message,
) -> Result<Message, Over> {
    let Message::Text(text) = &message else { return Ok(message) };
    let facts = here.facts();
    let Some(access) = facts.access.as_ref() else { return Err(Over::Ended) };
    let sent = match owned.there(app, call, here, access).await {
        Ok(sent) => sent,
        Err(There::Call(refusal)) => return Err(Over::Refused(refusal)),
        Err(There::Taken) => return Err(Over::Refused(Owned::name_refused(call))),
        Err(There::Channel(_)) => {
            let error = ApiError::plain(ErrorCode::Internal).retry_after(5);
            return Err(Over::Refused(error.into()));
        }
    };
    if sent.edits.is_empty() {
        return Ok(message);
    }
    let text = Splice::new(sent.edits).whole(text.as_bytes());
    Ok(String::from_utf8(text).map_or(message, Message::text))
}
