//! Calls that are upstream's to answer, on a channel.
//!
//! ```text
//!  1 admit      key, scope, limits; a place (relay.calls_max)
//!  2 read       a body that can hold ids is read whole; others are sent as they come
//!  3 own        every file, task and voice named is the account's; tasks and voices pin a channel
//!  4 hold       the money that the call can cost
//!  5 choose     a channel: allowed, live, well, with the files if one has them
//!  6 replicate  the files are there; what stands for them there is put in the request
//!  7 send       one attempt; if the channel failed and nothing was done, or it may be done twice: 5 again
//!  8 look       the beginning of the answer
//!  9 answer     head, then body as it comes; what it names is adopted before it is sent
//! 10 settle     what was held is captured or given back; usage, cost
//! ```
//!
//! From 3 on the gateway waits for the call when it stops, and whoever has left, it is run to its end: 10 is done however
//! it ends, by [`Settle`], which is dropped with the answer's body or before it.
//!
//! | module | what is there |
//! |---|---|
//! | [`target`] | which requests are relayed |
//! | [`http`] | how a channel is spoken to |
//! | [`pool`] | its connections, kept for the next call |
//! | [`headers`] | which headers pass |
//! | [`body`] | a request's body |
//! | [`channels`] | channels as they are now |
//! | [`health`] | how well they are |
//! | [`route`] | which channel is next |
//! | [`attempt`] | one attempt and what it means |
//! | [`tried`] | where a call was, and what is told when no channel has answered |
//! | [`reply`] | an answer's beginning, and how the rest passes |
//! | [`answer`] | the answer on its way, and what is done when it was sent |
//! | [`socket`] | WebSockets |
//! | [`probe`] | channels that rest are asked whether they are well |
//! | [`budget`] | how many calls may be sent again |
//! | [`calls`], [`json`] | where ids stand in calls, and how they are found and replaced |
//! | [`named`], [`ids`], [`owned`] | what a call names, whose it is, and what stands for it on a channel |
//! | [`replicate`] | a file's copy on a channel |
//! | [`translate`], [`events`] | what an answer names |
//! | [`settle`], [`money`] | what a call costs, and whether it was made before |
//! | [`refuse`] | how a call is refused |
//! | [`callback`] | where clients are told of tasks |
//! | [`adopt`] | files that were born upstream |
//! | [`lists`], [`listing`] | lists cut down to what is the caller's |
//! | [`jobs`] | work that waits for channels |

pub(crate) mod adopt;
mod answer;
mod attempt;
mod body;
mod budget;
pub(crate) mod callback;
pub(crate) mod calls;
pub(crate) mod channels;
pub(crate) mod events;
pub(crate) mod explain;
mod headers;
mod health;
mod http;
pub(crate) mod ids;
pub(crate) mod jobs;
pub mod json;
mod listing;
pub(crate) mod lists;
pub(crate) mod money;
pub(crate) mod named;
pub(crate) mod on_upload;
pub(crate) mod owned;
mod pool;
mod probe;
pub(crate) mod refuse;
pub(crate) mod replicate;
mod reply;
pub(crate) mod route;
pub(crate) mod settle;
mod socket;
pub(crate) mod target;
pub(crate) mod translate;
mod tried;

use std::collections::BTreeMap;
use std::sync::Arc;

use ::http::header::TRANSFER_ENCODING;
use ::http::{HeaderMap, Method};
use axum::extract::Request;
use axum::response::Response;
use filegate_types::{
    AccountId, AccountSettings, ApiError, Call as Priced, ChannelId, ErrorCode, Principal,
    UnixMillis,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use self::http::Transport;
use crate::app::{App, random};
use crate::config::Config;
use crate::http::auth;
use crate::http::body::{
    Incoming, content_length, media_type, refuse_encoded, refuse_transfer_coded,
};
use crate::http::layer::Trace;
use crate::http::reply::store_failed;
use crate::lifecycle::Tasks;
use attempt::{Failure, Load, Outcome, Outgoing};
use body::{Once, RequestBody, Whole, check_size};
use budget::Budget;
use calls::{CallRules, Effect, lookup};
use channels::{Access, Busy, Channel, Channels, Full};
use ids::Refusal;
use named::ForChannel;
use owned::{Owned, There};
use route::{Candidate, Out};
use settle::{Again, Settle};
use target::Target;
use tried::{Tried, unanswered};

/// What relayed calls share.
#[derive(Debug)]
pub(crate) struct Relay {
    /// What is copied to channels at the moment.
    pub(crate) replicator: replicate::Replicator,
    /// What is held for calls in progress, and counts of those that cost nothing.
    pub(crate) books: money::Books,
    pub(crate) channels: Channels,
    transport: Transport,
    places: Arc<Semaphore>,
    budget: Budget,
    /// Opens what upstream says files are at.
    pub(crate) downloads: adopt::Downloads,
    /// Tells clients of tasks.
    pub(crate) callbacks: callback::Callbacks,
    /// Wakes the runner of jobs that wait for channels.
    pub(crate) jobs_due: tokio::sync::Notify,
}

impl Relay {
    /// # Errors
    /// If the system's authorities cannot be loaded.
    pub(crate) fn new(config: &Config, tasks: &Tasks) -> Result<Self, rustls::Error> {
        Ok(Self {
            replicator: replicate::Replicator::default(),
            books: money::Books::default(),
            channels: Channels::new(tasks),
            transport: Transport::new(&config.relay)?,
            places: Arc::new(Semaphore::new(config.relay.calls_max)),
            budget: Budget::default(),
            downloads: adopt::Downloads::default(),
            callbacks: callback::Callbacks::default(),
            jobs_due: tokio::sync::Notify::new(),
        })
    }

    /// Whether there is a channel at all. An unreadable catalog is told by the call itself.
    pub(crate) async fn has_channels(&self, app: &App) -> bool {
        let removed = |channel: &Arc<Channel>| {
            channel.facts().row.state == filegate_types::ChannelState::Removed
        };
        self.channels.all(app).await.map_or(true, |all| !all.values().all(removed))
    }
}

/// A call, from its admission on.
pub(crate) struct Call {
    pub(crate) principal: Principal,
    pub(crate) rules: CallRules,
    pub(crate) target: Target,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    /// The Trace-Id of the reply.
    trace_id: String,
    pub(crate) query: Option<String>,
    /// Whether the client says that it may be sent twice.
    has_idempotency_key: bool,
    /// Ends when nobody waits for the answer any more.
    gone: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// What goes on beside calls, until the server stops.
pub(crate) fn start(app: &Arc<App>) {
    app.tasks.spawn(probe::run(Arc::clone(app)));
    app.tasks.spawn(probe::describe_all(Arc::clone(app)));
}

/// Answers a call from a channel.
pub(crate) async fn handle(app: &Arc<App>, target: Target, mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let trace = parts.extensions.get::<Trace>().cloned().expect("the outermost layer sets it");
    let mut incoming = Incoming::new(&parts.headers, body, app.config.limits.clone());
    let rules = lookup(&parts.method, &target.known_as);
    let admitted = async {
        let principal = auth::admit(app, &parts.headers, &trace, Priced::Relay).await?;
        let place = Arc::clone(&app.relay.places).try_acquire_owned().map_err(|_full| {
            ApiError::detailed(ErrorCode::RateLimit, "too many calls are being relayed")
                .retry_after(1)
        })?;
        refuse_transfer_coded(&parts.headers)?;
        let declared = content_length(&parts.headers);
        check_size(app, declared.unwrap_or(0))?;
        Ok((principal, place, declared))
    };
    let (principal, place, declared) = match admitted.await {
        Ok(admitted) => admitted,
        Err(error) => {
            incoming.drain(&app.tasks);
            return refuse::refusal(rules.shape, &error, trace.id());
        }
    };
    let has_body =
        declared.is_some_and(|bytes| bytes > 0) || parts.headers.contains_key(TRANSFER_ENCODING);
    let asks_for_socket = target.is_socket() && socket::is_asked_for(&parts.method, &parts.headers);
    let read = Reading::of(&rules, &parts.headers, declared, app);
    let body = if !has_body {
        RequestBody::Whole(Whole::Memory(bytes::Bytes::new()))
    } else if read == Reading::AsItComes {
        RequestBody::Once(Once::new(app, incoming, declared))
    } else {
        let encoded = match read {
            Reading::ForIds => refuse_encoded(&parts.headers),
            _ => Ok(()),
        };
        let whole = match encoded {
            Ok(()) => Whole::read(app, &mut incoming).await,
            Err(error) => Err(error),
        };
        match whole {
            Ok(whole) => RequestBody::Whole(whole),
            Err(error) => {
                incoming.drain(&app.tasks);
                return refuse::refusal(rules.shape, &error, trace.id());
            }
        }
    };
    let client = socket::Client { answers: parts.extensions.get().cloned(), upgrade };
    let gone = CancellationToken::new();
    let call = Call {
        principal,
        rules,
        target,
        method: parts.method,
        query: parts.uri.query().map(str::to_owned),
        has_idempotency_key: parts.headers.contains_key("idempotency-key"),
        headers: parts.headers,
        trace_id: trace.id().to_owned(),
        gone: gone.clone(),
        _place: place,
    };
    let _tells = gone.drop_guard();
    let call = Arc::new(call);
    let answered = if asks_for_socket {
        app.tasks.to_its_end(socket::run(Arc::clone(app), Arc::clone(&call), client)).await
    } else {
        app.tasks.to_its_end(run(Arc::clone(app), Arc::clone(&call), body)).await
    };
    answered.unwrap_or_else(|_panic| call.refused(&ApiError::plain(ErrorCode::Unknown).into()))
}

/// How a request's body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Whole: it may hold ids.
    ForIds,
    /// Whole, since it is small: it can then be sent again.
    ForAgain,
    /// While it is sent.
    AsItComes,
}

impl Reading {
    fn of(rules: &CallRules, headers: &HeaderMap, declared: Option<u64>, app: &App) -> Self {
        // What a call that nobody knows takes may be JSON, or not. One that is known takes JSON, whatever a client
        // says that it sends.
        let media = media_type(headers);
        let opaque = ["multipart/", "audio/", "video/", "image/"];
        let opaque = opaque.iter().any(|kind| media.starts_with(kind))
            || media == "application/octet-stream";
        if !rules.request.is_empty() && (rules.is_known || !opaque) {
            return Self::ForIds;
        }
        let small = declared.is_some_and(|bytes| bytes <= app.config.relay.body_memory.0);
        if small { Self::ForAgain } else { Self::AsItComes }
    }
}

/// Steps 3 to 10.
async fn run(app: Arc<App>, call: Arc<Call>, mut body: RequestBody) -> Response {
    let (mut owned, settle) = match begin(&app, &call, body.whole().cloned()).await {
        Ok(Begun::Now(owned, settle)) => (*owned, *settle),
        Ok(Begun::Before(response)) => return response,
        Err(refusal) => return call.refused(&refusal),
    };
    app.relay.budget.call(app.clock.now());
    let mut tried = Tried::new();
    loop {
        let busy = match choose(&app, &call, &owned, &mut tried).await {
            Ok(busy) => busy,
            Err(refusal) => return unanswered(&call, tried, &refusal),
        };
        let facts = busy.channel().facts();
        let Some(access) = facts.access.as_ref() else {
            tried.failed(busy.channel().id, "unusable", false);
            continue;
        };
        let outcome = tokio::select! {
            outcome = attempted(&app, &call, &mut owned, &busy, access, &mut body) => outcome,
            // What may have been done is waited for, so that it is noted.
            () = call.gone.cancelled(), if call.rules.effect == Effect::None => {
                return call.refused(&ApiError::plain(ErrorCode::Unknown).into());
            }
        };
        match outcome {
            Attempted::Sent(Outcome::Answered(mut opening)) => {
                let cut = listing::cut(&app, &call, &mut owned, &busy, &mut opening, &mut body);
                if let Err(error) = cut.await {
                    return call.refused(&error.into());
                }
                return answer::answer(&app, &call, owned, busy, opening, settle).await;
            }
            Attempted::Sent(Outcome::Client(error)) => {
                owned.not_done(&app, &call).await;
                return call.refused(&error.into());
            }
            Attempted::Sent(Outcome::Failed(Failure { fault, perhaps_done, words })) => {
                busy.failed(&app, fault);
                tried.fault(&app, busy.channel(), fault, perhaps_done);
                if !perhaps_done {
                    owned.not_done(&app, &call).await;
                }
                if facts.row.account_id.is_some()
                    && let Some(words) = words
                {
                    tried.words = Some((words, busy.channel().id));
                }
                if (perhaps_done && !call.is_repeatable()) || !can_send_again(&body) {
                    let error = tried.refusal(&[]);
                    return unanswered(&call, tried, &error.into());
                }
            }
            Attempted::Not(There::Channel(fault)) => {
                busy.failed(&app, fault);
                tried.fault(&app, busy.channel(), fault, false);
            }
            // It is among those to be avoided now.
            Attempted::Not(There::Taken) => {}
            Attempted::Not(There::Call(refusal)) => return call.refused(&refusal),
        }
    }
}

/// What is known of a call before a channel is chosen.
enum Begun {
    /// What it names, and what is held for it.
    Now(Box<Owned>, Box<Settle>),
    /// It was made before, and this was answered.
    Before(Response),
}

/// Steps 3 and 4.
async fn begin(app: &Arc<App>, call: &Call, body: Option<Whole>) -> Result<Begun, Refusal> {
    let again = match settle::again(app, call, body.as_ref()).await? {
        Again::Answered(response) => return Ok(Begun::Before(response)),
        Again::Never(again) => again,
    };
    let owned = owned::own(app, call, body.as_ref()).await?;
    let bytes = body.as_ref().map_or(0, Whole::bytes);
    let settle = Settle::begin(app, call, bytes, again).await?;
    Ok(Begun::Now(Box::new(owned), Box::new(settle)))
}

/// What became of a call on a channel.
#[expect(clippy::large_enum_variant, reason = "one at a time, and most are the large one")]
enum Attempted {
    Sent(Outcome),
    /// It was not sent.
    Not(There),
}

/// Steps 6 to 8, and once more if upstream has forgotten a file.
async fn attempted(
    app: &Arc<App>,
    call: &Call,
    owned: &mut Owned,
    busy: &Busy,
    access: &Access,
    body: &mut RequestBody,
) -> Attempted {
    loop {
        let sent = match owned.there(app, call, busy.channel(), access).await {
            Ok(sent) => sent,
            Err(not) => return Attempted::Not(not),
        };
        let outcome = once(app, call, busy, access, sent, body).await;
        if let Outcome::Answered(opening) = &outcome
            && can_send_again(body)
            && owned.lost(app, call, busy.channel(), access, opening).await
        {
            continue;
        }
        return Attempted::Sent(outcome);
    }
}

fn can_send_again(body: &RequestBody) -> bool {
    match body {
        RequestBody::Whole(_) => true,
        RequestBody::Once(once) => once.is_there(),
    }
}

/// One attempt, with what is changed in the request for this channel.
async fn once(
    app: &App,
    call: &Call,
    busy: &Busy,
    access: &Access,
    sent: ForChannel,
    body: &mut RequestBody,
) -> Outcome {
    let facts = busy.channel().facts();
    let query = headers::query(sent.query.as_deref(), facts.row.settings.group_id.as_deref());
    let Some(target) = access.origin.target(&sent.path, query.as_deref()) else {
        return Outcome::Client(ApiError::invalid("the query is not valid"));
    };
    let credentials = headers::Credentials {
        key: &access.key,
        bearer: &access.bearer,
        anthropic: call.target.known_as.starts_with("/anthropic/"),
    };
    let rewritten = !call.rules.reply.is_empty();
    let head = headers::request(&call.headers, &access.origin.host, credentials, rewritten);
    let outgoing =
        Outgoing { method: &call.method, target, headers: head, repeatable: call.is_repeatable() };
    let load = match body {
        RequestBody::Whole(whole) => Load::Whole(whole, sent.edits),
        RequestBody::Once(once) => Load::Once(once),
    };
    attempt::send(&app.relay.transport, app, busy, access, outgoing, load).await
}

/// Step 5: a place on the next channel, or what the client is told if there is none.
async fn choose(app: &App, call: &Call, owned: &Owned, tried: &mut Tried) -> Result<Busy, Refusal> {
    let settings = &app.config.relay;
    loop {
        let all = app.relay.channels.all(app).await.map_err(|error| store_failed(&error))?;
        let needs = owned.route(app, call, &all)?;
        let mut candidates = candidates(&all, &call.principal, app.clock.now(), |id| {
            tried.channels.contains_key(&id)
        });
        for candidate in &mut candidates {
            candidate.has_files = owned.has_files(candidate.id);
        }
        let roll = u64::from_be_bytes(random());
        let id = match route::choose(&candidates, &needs, roll) {
            Ok(id) => id,
            Err(reasons) => {
                for (id, why) in &reasons {
                    if let Out::Trouble(kind) = why
                        && let Some(channel) = all.get(id)
                    {
                        tried.out(*id, *kind, channel, app.clock.now());
                    }
                }
                if tried.channels.is_empty() && reasons.iter().any(|(_, why)| *why == Out::Taken) {
                    return Err(Owned::name_refused(call));
                }
                return Err(tried.refusal(&reasons).into());
            }
        };
        let attempts = tried.attempts();
        if attempts > 0
            && (attempts >= settings.attempts_max
                || !app.relay.budget.again(app.clock.now(), settings.retry_percent))
        {
            return Err(tried.refusal(&[]).into());
        }
        let Some(channel) = all.get(&id) else { return Err(tried.refusal(&[]).into()) };
        match channel.enter(app).await {
            Ok(busy) => return Ok(busy),
            Err(Full::InFlight) => tried.limited(id, None),
            Err(Full::Rate(wait_s)) => tried.limited(id, Some(wait_s)),
        }
    }
}

/// Every channel as a choice for `principal` sees it.
pub(crate) fn candidates(
    all: &BTreeMap<ChannelId, Arc<Channel>>,
    principal: &Principal,
    now: UnixMillis,
    tried: impl Fn(ChannelId) -> bool,
) -> Vec<Candidate> {
    candidates_of(all, principal.account_id, &principal.settings, now, tried)
}

/// The same, for an account of which nobody is calling.
pub(crate) fn candidates_of(
    all: &BTreeMap<ChannelId, Arc<Channel>>,
    account: AccountId,
    settings: &AccountSettings,
    now: UnixMillis,
    tried: impl Fn(ChannelId) -> bool,
) -> Vec<Candidate> {
    let account = Some(account);
    let removed = filegate_types::ChannelState::Removed;
    let has_own = all.values().any(|channel| {
        let row = &channel.facts().row;
        row.account_id == account && row.state != removed
    });
    let each = all.values().map(|channel| {
        let facts = channel.facts();
        let row = &facts.row;
        let allowed = match &settings.channels {
            Some(names) => names.contains(&row.name),
            None if has_own => row.account_id == account,
            None => row.account_id.is_none(),
        };
        Candidate {
            id: channel.id,
            state: row.state,
            standing: channel.standing(now),
            usable: facts.access.is_some(),
            allowed,
            others: row.account_id.is_some() && row.account_id != account,
            weight: row.settings.weight,
            priority: row.settings.priority,
            purposes: row.settings.purposes.clone(),
            has_files: false,
            tried: tried(channel.id),
        }
    });
    each.collect()
}

impl Call {
    /// Whether it may be made twice.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.rules.effect == Effect::None || self.has_idempotency_key
    }

    /// The answer that refuses it.
    pub(crate) fn refused(&self, refusal: &Refusal) -> Response {
        refuse::refused(self.rules.shape, refusal, &self.trace_id)
    }
}

/// Writes down what was counted.
pub(crate) async fn write_down(app: &App) -> Result<(), filegate_store::StoreError> {
    money::write_down(app).await?;
    replicate::write_down(app).await
}
