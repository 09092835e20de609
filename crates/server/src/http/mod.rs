//! The HTTP surface: one route, one file.
//!
//! A handler extracts, calls one function of the product, and maps the outcome to its body. All
//! errors of the API are entries of one table ([`filegate_types::error`]); [`reply`] is the only
//! place where they become bytes.

pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod content;
mod delete;
mod download;
pub(crate) mod idempotency;
pub(crate) mod layer;
mod list;
mod openapi;
mod ops;
mod pending;
pub mod range;
pub(crate) mod reply;
mod retrieve;
mod upload;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;
use filegate_types::{ApiError, FileId};
use http::StatusCode;

use crate::app::App;
use crate::relay;
use crate::relay::target::Target;

pub use openapi::document as openapi_document;

/// The prefixes that carry the MiniMax surface beside the bare one.
const PREFIXES: [&str; 2] = ["/minimax", "/minimaxi"];

/// What clients reach.
pub(crate) fn public(app: &Arc<App>) -> Router {
    let (files, _) = openapi::files().split_for_parts();
    let (links, _) = openapi::links().split_for_parts();
    let mut router = Router::new()
        .merge(files.clone())
        .merge(links)
        .merge(pending::routes())
        .merge(relay::callback::routes());
    for prefix in PREFIXES {
        router = router.nest(prefix, files.clone().merge(collection()));
    }
    finish(router.merge(ops::routes()).fallback(elsewhere), app)
}

/// What operators reach.
pub(crate) fn operators(app: &Arc<App>) -> Router {
    finish(ops::routes().merge(crate::admin::router()).fallback(unknown_path), app)
}

/// Old mmx clients call the collection itself. Without a prefix `/v1/files` is OpenAI's.
fn collection() -> Router<Arc<App>> {
    let methods = get(list::collection).post(upload::handler).delete(delete::by_query);
    Router::new().route("/v1/files", methods)
}

fn finish(router: Router<Arc<App>>, app: &Arc<App>) -> Router {
    router
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(app), layer::wrap))
        .with_state(Arc::clone(app))
}

/// What is not ours is upstream's, if there is a channel to ask.
async fn elsewhere(State(app): State<Arc<App>>, request: Request) -> Response {
    match Target::of(request.method(), request.uri().path()) {
        Some(target) if app.relay.has_channels(&app).await => {
            relay::handle(&app, target, request).await
        }
        Some(_) => {
            body::drain(request, &app);
            let why = "unknown path: this gateway has no channel that such a call could go to";
            reply::fault(StatusCode::NOT_FOUND, &ApiError::invalid(why))
        }
        None => unknown_path(State(app), request).await,
    }
}

async fn unknown_path(State(app): State<Arc<App>>, request: Request) -> Response {
    body::drain(request, &app);
    reply::fault(StatusCode::NOT_FOUND, &ApiError::invalid("unknown path"))
}

async fn wrong_method(State(app): State<Arc<App>>, request: Request) -> Response {
    body::drain(request, &app);
    reply::fault(StatusCode::METHOD_NOT_ALLOWED, &ApiError::invalid("wrong method for this path"))
}

/// A parameter of a query string: `None` if absent, an error if it stands there twice.
fn query_value(query: Option<&str>, name: &str) -> Result<Option<String>, ApiError> {
    let mut found = None;
    for (key, value) in url_pairs(query.unwrap_or("")) {
        if key == name && found.replace(value).is_some() {
            return Err(ApiError::invalid(format_args!("{name} is given twice")));
        }
    }
    Ok(found)
}

pub(crate) fn url_pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// The `file_id` of a query string.
fn query_file_id(query: Option<&str>) -> Result<FileId, ApiError> {
    let text = query_value(query, "file_id")?;
    let text = text.ok_or_else(|| ApiError::invalid("file_id is missing"))?;
    text.parse::<FileId>().map_err(ApiError::invalid)
}
