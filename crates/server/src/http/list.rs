//! `GET …/v1/files/list`

use std::cmp::Reverse;
use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use filegate_store::AdoptedFile;
use filegate_types::wire::{BaseResp, FileObject, ListReply};
use filegate_types::{ApiError, Call, FileId, FileRecord};
use http::request::Parts;
use serde::Serialize;

use super::layer::Trace;
use super::{auth, query_value, reply};
use crate::app::App;
use crate::gate::purposes;
use crate::pay;
use crate::relay::adopt;

/// Files in one reply when `limit` is absent.
const LIMIT_DEFAULT: u32 = 1_000;
/// Files in one reply at most.
const LIMIT_MAX: u32 = 10_000;

/// List files
///
/// Newest first. Without `purpose`: all files the key may see.
#[utoipa::path(
    get,
    path = "/v1/files/list",
    tag = "files",
    params(
        ("purpose" = Option<String>, Query, description = "Only files of this purpose"),
        ("limit" = Option<u32>, Query, description = "Files in the reply, 1 to 10000; 1000 when absent"),
        ("after" = Option<i64>, Query, description = "Only files older than this `file_id`"),
    ),
    responses((status = 200, description = "The files, or the error", body = ListReply)),
    security(("bearer" = []), ("api_key" = [])),
)]
pub(super) async fn handler(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    answer(list(&app, &trace, &request.into_parts().0).await, |reply| reply)
}

/// `GET /v1/files` under the prefixes: the list, with `data` beside `files`.
pub(super) async fn collection(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    answer(list(&app, &trace, &request.into_parts().0).await, |reply| WithData {
        data: reply.files.clone(),
        reply,
    })
}

#[derive(Serialize)]
struct WithData {
    data: Vec<FileObject>,
    #[serde(flatten)]
    reply: ListReply,
}

fn answer<T: Serialize>(
    result: Result<ListReply, ApiError>,
    shape: impl Fn(ListReply) -> T,
) -> Response {
    match result {
        Ok(listed) => reply::success(&shape(listed)),
        Err(error) => reply::refusal(&error, |base_resp| {
            shape(ListReply { files: vec![], has_more: None, base_resp })
        }),
    }
}

async fn list(app: &App, trace: &Trace, request: &Parts) -> Result<ListReply, ApiError> {
    let principal = auth::admit(app, &request.headers, trace, Call::List).await?;
    pay::can_pay(&principal)?;
    let query = request.uri.query();
    let purpose = query_value(query, "purpose")?;
    let purposes = purposes::meant(&app.config, &principal, purpose.as_deref())?;
    let limit = match query_value(query, "limit")? {
        None => None,
        Some(text) => Some(parse_limit(&text)?),
    };
    let after = match query_value(query, "after")? {
        None => None,
        Some(text) => Some(
            text.parse::<FileId>().map_err(|_why| ApiError::invalid("after is not a file_id"))?,
        ),
    };
    let paged = limit.is_some() || after.is_some();
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    let now = app.clock.now();
    let mut found = match purposes {
        // For the catalog none are all.
        Some(none) if none.is_empty() => vec![],
        purposes => {
            let (account, purposes) = (principal.account_id, purposes.unwrap_or_default());
            let found = app.catalog.list(account, purposes.clone(), after, limit + 1, now).await;
            let found = found.map_err(|error| reply::store_failed(&error))?;
            let born = app.catalog.list_adopted(account, purposes, after, limit + 1, now).await;
            let born = born.map_err(|error| reply::store_failed(&error))?;
            merged(&found, &born)
        }
    };
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    pay::for_read(app, &principal, Call::List, None, 0).await?;
    Ok(ListReply {
        files: found,
        has_more: paged.then_some(has_more),
        base_resp: BaseResp::success(),
    })
}

/// The files here and those upstream, newest first. One whose bytes came between the two looks is in both.
fn merged(here: &[FileRecord], upstream: &[AdoptedFile]) -> Vec<FileObject> {
    let here = here.iter().map(FileRecord::to_wire);
    let mut all: Vec<_> = here.chain(upstream.iter().map(adopt::to_wire)).collect();
    all.sort_by_key(|file| Reverse(file.file_id));
    all.dedup_by_key(|file| file.file_id);
    all
}

fn parse_limit(text: &str) -> Result<u32, ApiError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let limit = digits.then(|| text.parse::<u32>().ok()).flatten();
    limit
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .ok_or_else(|| ApiError::invalid(format_args!("limit is not from 1 to {LIMIT_MAX}")))
}
