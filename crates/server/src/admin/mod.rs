//! The admin API: `/admin/v1/…` on the operators' listener, and within the process for the command line.
//!
//! [`ROUTES`] is the one table of calls, each with the scope it wants and the query parameters it knows.
//! The router, the checks before a handler and the test of who may do what are all made from it.
//! A handler only says what is asked or what is to be changed; [`serve`] does the rest the same way for
//! every call: token, scope, query, body, `Idempotency-Key`, `dry_run`, reply.

#![expect(clippy::unnecessary_wraps, reason = "the table has one type for the handlers of a kind")]

mod accounts;
mod again;
mod ask;
mod auth;
mod backup;
mod channels;
mod files;
mod keys;
mod ledger;
mod local;
mod moderation;
mod probe;
mod problem;
mod routes;
mod state;
mod tokens;
mod usage;
mod work;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use filegate_store::admin::{
    AdminAnswer, AdminCall, AdminChange, AdminOutcome, AdminQuestion, AdminSubject, Listed,
};
use filegate_store::{ChannelRow, KeptAnswer};
use filegate_types::ChannelState;
use futures_util::FutureExt as _;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::app::App;
use crate::http::body::{self, Incoming};
use crate::shared;
use again::Repeatable;
use ask::Ask;
use problem::Problem;
use routes::{ROUTES, Route, Run};

pub use local::LocalAdmin;
pub(crate) use tokens::{drafted, new_token};

/// The calls: method, path below `/admin/v1`, and the least scope that a token needs.
pub fn admin_routes() -> impl Iterator<Item = (Method, &'static str, filegate_types::AdminScope)> {
    ROUTES.iter().map(|route| (route.method(), route.path, route.scope))
}

/// Longest body.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What a call answers.
enum Answer {
    Json(Value),
    Csv(String),
}

/// A change that is to be made, and what is shown of it once.
struct Plan {
    change: AdminChange,
    secret: Option<(&'static str, String)>,
    wakes_jobs: bool,
}

impl Plan {
    fn of(change: AdminChange) -> Self {
        Self { change, secret: None, wakes_jobs: false }
    }

    /// Shows `secret` in the answer's `field`.
    fn showing(self, field: &'static str, secret: &str) -> Self {
        Self { secret: Some((field, secret.to_owned())), ..self }
    }
}

type Asked = Result<AdminQuestion, Problem>;
type Sought = Result<AdminSubject, Problem>;
type Planned = Result<Plan, Problem>;
type Answered = Result<Answer, Problem>;

pub(crate) fn router() -> Router<Arc<App>> {
    let mut router = Router::new();
    for route in &ROUTES {
        let filter =
            if route.method() == Method::GET { MethodFilter::GET } else { MethodFilter::POST };
        let handler = move |State(app): State<Arc<App>>,
                            params: RawPathParams,
                            request: Request| {
            async move { serve(route, app, &params, request).await }
        };
        router = router.route(route.path, on(filter, handler));
    }
    let router = router.fallback(unknown_path).method_not_allowed_fallback(wrong_method);
    Router::new().nest("/admin/v1", router)
}

async fn unknown_path(State(app): State<Arc<App>>, request: Request) -> Response {
    body::drain(request, &app);
    Problem::not_found("unknown path").reply()
}

async fn wrong_method(State(app): State<Arc<App>>, request: Request) -> Response {
    body::drain(request, &app);
    Problem::wrong_method().reply()
}

async fn serve(
    route: &'static Route,
    app: Arc<App>,
    params: &RawPathParams,
    request: Request,
) -> Response {
    let handled = AssertUnwindSafe(answer(route, app, params, request)).catch_unwind().await;
    let answered = handled.unwrap_or_else(|_panic| {
        tracing::error!(route = route.path, "admin.panic");
        Err(Problem::internal())
    });
    match answered {
        Ok(Answer::Json(value)) => reply("application/json", value.to_string()),
        Ok(Answer::Csv(text)) => reply("text/csv; charset=utf-8", text),
        Err(problem) => problem.reply(),
    }
}

fn reply(content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    response
}

async fn answer(
    route: &'static Route,
    app: Arc<App>,
    params: &RawPathParams,
    request: Request,
) -> Answered {
    let (parts, body) = request.into_parts();
    let mut incoming = Incoming::new(&parts.headers, body, app.config.limits.clone());
    let admitted = auth::admit(&app, &parts, route.scope).await;
    let checked = admitted.and_then(|operator| Ok((operator, query(route, parts.uri.query())?)));
    let (operator, query) = match checked {
        Ok(checked) => checked,
        Err(problem) => {
            incoming.drain(&app.tasks);
            return Err(problem);
        }
    };
    let read = match body::refuse_encoded(&parts.headers) {
        Ok(()) => body::read_small(&mut incoming, BODY_BYTES_MAX).await,
        Err(error) => Err(error),
    };
    let body = match read {
        Ok(body) => body,
        Err(error) => {
            incoming.drain(&app.tasks);
            return Err(error.into());
        }
    };
    let target = format!("{} {}", parts.method, parts.uri);
    let params = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let ask = Ask {
        operator,
        params: params.collect(),
        query,
        headers: parts.headers,
        body,
        now: app.clock.now(),
        app,
    };
    match route.run {
        Run::List(asked) => list(&ask, asked).await,
        Run::Look(sought) => {
            Ok(Answer::Json(ask.app.catalog.admin_look(sought(&ask)?, ask.now).await??))
        }
        Run::Read(run) | Run::Try(run) => run(ask).await,
        Run::Change(action, planned) => change(&ask, &target, action, Some(planned)).await,
        Run::Backup(action) => change(&ask, &target, action, None).await,
    }
}

/// The query, in which everything must be known and stand once.
fn query(route: &Route, query: Option<&str>) -> Result<HashMap<String, String>, Problem> {
    let mut found = HashMap::new();
    for (name, value) in crate::http::url_pairs(query.unwrap_or_default()) {
        if !route.knows(&name) {
            return Err(Problem::unreadable(format!("unknown query parameter {name:?}")));
        }
        if found.insert(name.clone(), value).is_some() {
            return Err(Problem::unreadable(format!("{name} is given twice")));
        }
    }
    Ok(found)
}

async fn list(ask: &Ask, asked: fn(&Ask) -> Asked) -> Answered {
    let page = ask.page(ask::LIMIT_MAX)?;
    Ok(page_of(ask.app.catalog.admin_list(asked(ask)?, page).await??))
}

fn page_of(Listed { data, has_more }: Listed) -> Answer {
    let mut page = json!({"has_more": has_more});
    page["data"] = Value::Array(data);
    Answer::Json(page)
}

/// Makes a change; without a plan it is a backup.
async fn change(
    ask: &Ask,
    target: &str,
    action: &'static str,
    planned: Option<fn(&Ask) -> Planned>,
) -> Answered {
    let fingerprint = again::fingerprint(target, &ask.body);
    let dry_run = ask.dry_run()?;
    let in_flight = &ask.app.in_flight;
    let again = Repeatable::begin(in_flight, &ask.operator, &ask.headers, fingerprint)?;
    let again = again.filter(|_| !dry_run);
    // Before anything of the request is looked at: what was right then may be wrong by now.
    if let Some(again) = &again {
        let (owner, key) = (again.first.owner.clone(), again.first.key.clone());
        if let Some(kept) = ask.app.catalog.first_answer(owner, key, ask.now).await? {
            return replayed(again, &kept);
        }
    }
    let Some(planned) = planned else { return backup::make(ask, action, again.as_ref()).await };
    let plan = planned(ask)?;
    let sealed = match (&again, &plan.secret) {
        (Some(again), Some((_, secret))) => again.seal(secret),
        _ => None,
    };
    let call = AdminCall {
        actor: ask.operator.name.clone(),
        origin: ask.operator.origin.clone(),
        action,
        first_answer: again.as_ref().map(|again| again.first.clone()),
        sealed,
        dry_run,
        now: ask.now,
    };
    match (ask.app.catalog.administer(call, plan.change).await?, &again) {
        (AdminOutcome::Refused(refusal), _) => Err(refusal.into()),
        (AdminOutcome::Answered(kept), Some(again)) => replayed(again, &kept),
        (AdminOutcome::Answered(_), None) => Err(Problem::internal()),
        (AdminOutcome::Done(reply), _) if dry_run => Ok(dry(reply)),
        (AdminOutcome::Done(mut reply), _) => {
            shared::announce(&ask.app).await;
            if plan.wakes_jobs {
                ask.app.jobs_due.notify_one();
                ask.app.relay.jobs_due.notify_one();
            }
            if let Some((field, secret)) = plan.secret {
                reply[field] = secret.into();
            }
            Ok(Answer::Json(reply))
        }
    }
}

/// The answer to what was only tried.
fn dry(mut reply: Value) -> Answer {
    reply["dry_run"] = true.into();
    Answer::Json(reply)
}

/// The first answer again, with its secret if the caller can open it.
fn replayed(again: &Repeatable, kept: &KeptAnswer) -> Answered {
    let kept: AdminAnswer = serde_json::from_slice(again.replay(kept)?).map_err(|error| {
        tracing::error!(%error, "admin.answer.damaged");
        Problem::internal()
    })?;
    let mut reply = kept.reply;
    if let Some(secret) = kept.sealed.and_then(|sealed| again.open(&sealed)) {
        let field = if secret.starts_with("fg-admin-") { "token" } else { "key" };
        reply[field] = secret.into();
    }
    Ok(Answer::Json(reply))
}

/// A body without fields.
fn nothing(ask: &Ask) -> Result<(), Problem> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    ask.json::<Nothing>().map(|Nothing {}| ())
}

/// The channel that the path names.
async fn channel_row(ask: &Ask) -> Result<ChannelRow, Problem> {
    let name = ask.path("name");
    let rows = ask.app.catalog.channels().await?.into_iter();
    let found = rows.rev().find(|row| row.name == name && row.state != ChannelState::Removed);
    found.ok_or_else(|| Problem::not_found(&format!("there is no channel {name:?}")))
}

/// Refuses a purpose that is not configured.
fn known_purpose(ask: &Ask, field: &str, purpose: &str) -> Result<(), Problem> {
    let config = &ask.app.config;
    if config.known_purpose(purpose).is_some() {
        return Ok(());
    }
    let names: Vec<&str> =
        config.purposes.keys().map(filegate_types::PurposeName::as_str).collect();
    let why = format!("{purpose:?} is not a purpose; purposes are {}", names.join(", "));
    Err(Problem::invalid(field, why))
}
