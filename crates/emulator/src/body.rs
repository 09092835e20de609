//! Bodies of requests that are JSON.

use axum::extract::Request;
use serde::de::DeserializeOwned;

use crate::reply::Refusal;

/// Pictures come inside the JSON of a video; a whole body may have 64 MiB upstream.
const JSON_BYTES_MAX: usize = 64 << 20;

/// The body as JSON of a known shape. A wrong type is refused, as upstream's typed parser does.
pub(crate) async fn json<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    let read = axum::body::to_bytes(request.into_body(), JSON_BYTES_MAX).await;
    let bytes = read.map_err(|why| {
        tracing::debug!(%why, "emulator.body.unread");
        Refusal::invalid("the body is too large or was cut off")
    })?;
    serde_json::from_slice(&bytes).map_err(|why| Refusal::invalid(format_args!("json: {why}")))
}

/// The value of a query parameter, as it stands: none that is read here needs unescaping, ids and names of purposes.
pub(crate) fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    query?
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(found, value)| (found == name).then_some(value))
}

/// An id in a query: decimal digits.
pub(crate) fn id_parameter(query: Option<&str>, name: &str) -> Option<i64> {
    parameter(query, name)?.parse().ok().filter(|id| *id > 0)
}
