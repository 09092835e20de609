//! Reading what the server answered.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use filegate_types::wire::BaseResp;
use reqwest::{Response, header::HeaderMap};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Longest JSON reply that is read: a list of 10,000 files with the longest names, all escaped.
const JSON_BYTES_MAX: usize = 64 << 20;

/// What every JSON reply of the API has.
#[derive(Deserialize)]
struct Outcome {
    base_resp: Option<BaseResp>,
}

/// The reply as `T` if its code is 0.
pub(crate) async fn read_json<T: DeserializeOwned>(
    response: Response,
    idle: Duration,
) -> Result<T, Error> {
    let status = response.status();
    let trace_id = trace_id(response.headers());
    let retry_after_s = retry_after(response.headers());
    let body = read_body(response, idle).await?;
    let outcome = serde_json::from_slice::<Outcome>(&body);
    match outcome {
        Ok(Outcome { base_resp: Some(base) }) if base.status_code != 0 => Err(Error::Refused {
            code: base.status_code,
            message: base.status_msg,
            trace_id,
            status: status.as_u16(),
            retry_after_s,
        }),
        _ if !status.is_success() => Err(Error::Http { status: status.as_u16(), trace_id }),
        Ok(Outcome { base_resp: Some(_) }) => serde_json::from_slice(&body)
            .map_err(|error| Error::Protocol { what: error.to_string(), trace_id }),
        Ok(Outcome { base_resp: None }) => {
            Err(Error::Protocol { what: "it has no base_resp".to_owned(), trace_id })
        }
        Err(_not_json) => Err(Error::Protocol {
            what: "it is not the JSON of the Files API".to_owned(),
            trace_id,
        }),
    }
}

/// The error that a reply which should have been content stands for.
pub(crate) async fn read_error(response: Response, idle: Duration) -> Error {
    let trace = trace_id(response.headers());
    match read_json::<serde_json::Value>(response, idle).await {
        Err(error) => error,
        Ok(_success) => {
            Error::Protocol { what: "success without the content".to_owned(), trace_id: trace }
        }
    }
}

async fn read_body(mut response: Response, idle: Duration) -> Result<Bytes, Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = next_chunk(&mut response, idle).await? {
        if body.len() + chunk.len() > JSON_BYTES_MAX {
            let what = format!("it is longer than {} MiB", JSON_BYTES_MAX >> 20);
            return Err(Error::Protocol { what, trace_id: trace_id(response.headers()) });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The next piece of a body, or a timeout when none comes.
pub(crate) async fn next_chunk(
    response: &mut Response,
    idle: Duration,
) -> Result<Option<Bytes>, Error> {
    match tokio::time::timeout(idle, response.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| Error::network("receiving", error)),
        Err(_elapsed) => Err(Error::timeout("receiving", idle)),
    }
}

pub(crate) fn trace_id(headers: &HeaderMap) -> Option<String> {
    text(headers, "trace-id").map(str::to_owned)
}

pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn retry_after(headers: &HeaderMap) -> Option<u64> {
    text(headers, "retry-after").and_then(|seconds| seconds.trim().parse().ok())
}
