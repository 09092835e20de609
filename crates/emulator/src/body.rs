//! Bodies of requests that are JSON.

use axum::extract::Request;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::reply::Refusal;
use crate::world::Spool;

/// Pictures come inside the JSON of a video; a whole body may have 64 MiB upstream.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// The body as JSON of a known shape. A wrong type is refused, as upstream's typed parser does.
///
/// While it is read it counts as held memory, as files do.
pub(crate) async fn json<T: DeserializeOwned>(app: &App, request: Request) -> Result<T, Refusal> {
    let mut spool = Spool::new(&app.world().memory);
    let mut body = request.into_body().into_data_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|why| {
            tracing::debug!(%why, "emulator.body.cut");
            Refusal::invalid("the body was cut off")
        })?;
        let taken = if spool.len() + piece.len() as u64 > JSON_BYTES_MAX {
            Err(Refusal::invalid("the body is too large"))
        } else {
            spool.push(&piece)
        };
        if taken.is_err() {
            // A client that is still writing would not see the answer.
            while let Some(Ok(_)) = body.next().await {}
        }
        taken?;
    }
    let whole = spool.finish().whole();
    serde_json::from_slice(&whole).map_err(|why| Refusal::invalid(format_args!("json: {why}")))
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
