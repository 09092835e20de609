//! `GET …/v1/files/retrieve_content`, and the serving of bytes that links share.
//!
//! Every block is checked against its stored sum before any of it is sent (reliability row 41). A
//! block that is wrong ends the connection in the middle, or is answered with an error if it is the
//! first: a wrong 200 is never whole.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use filegate_store::{BlobReader, StoreError};
use filegate_types::{
    AccountId, ApiError, Call, ErrorCode, FileId, FileRecord, FileState, Principal,
};
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::layer::Trace;
use super::range::{self, Ranges};
use super::{auth, query_file_id, reply};
use crate::app::{App, random};
use crate::gate::purposes;
use crate::pay;

static REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// What `filename*` leaves as it is (RFC 8187 §3.2.1, attr-char).
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Retrieve a file's content
///
/// The bytes, with `Range`, `If-Range`, `If-None-Match` and `HEAD`, a strong `ETag` and the SHA-256 in
/// `Repr-Digest`. An error is JSON with `base_resp`.
#[utoipa::path(
    get,
    path = "/v1/files/retrieve_content",
    tag = "files",
    params(("file_id" = i64, Query, description = "The file")),
    responses(
        (status = 200, description = "The bytes; or, as application/json, the error", content_type = "application/octet-stream"),
        (status = 206, description = "The ranges that were asked for"),
        (status = 304, description = "The client has it already"),
        (status = 416, description = "No such range"),
    ),
    security(("bearer" = []), ("api_key" = [])),
)]
pub(super) async fn handler(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    let (parts, _body) = request.into_parts();
    let served = async {
        let principal = auth::admit(&app, &parts.headers, &trace, Call::Content).await?;
        pay::can_pay(&principal)?;
        let file_id = query_file_id(parts.uri.query())?;
        serve(&app, principal.account_id, Some(&principal), file_id, &parts).await
    };
    served.await.unwrap_or_else(|error| reply::refusal(&error, reply::bare))
}

/// The content of a file of `account`, as the request asks for it. A `principal` gets only what its key
/// may touch, and pays; links have none, and were paid with the retrieve that made them.
pub(super) async fn serve(
    app: &Arc<App>,
    account: AccountId,
    principal: Option<&Principal>,
    file_id: FileId,
    request: &Parts,
) -> Result<Response, ApiError> {
    let headers = &request.headers;
    let found = app.catalog.file_with_sums(account, file_id, app.clock.now()).await;
    let found = found.map_err(|error| reply::store_failed(&error))?;
    let (record, block_sums) = found.ok_or_else(ApiError::file_not_found)?;
    if let Some(principal) = principal {
        purposes::check(principal, &record.purpose)?;
    }
    if record.damaged_at.is_some() {
        return Err(reply::store_failed(&StoreError::Damaged(record.blob_key.to_string())));
    }
    if let Some(held) = held_back(&record) {
        return Err(held);
    }
    let etag = format!("\"{}\"", filegate_types::hex(&record.sha256));
    if none_match(headers, &etag) {
        return Ok(head(StatusCode::NOT_MODIFIED, &record, &etag, Body::empty()));
    }
    // Ranges are defined for GET alone (RFC 9110 §14.2): HEAD tells of the whole.
    let asked = headers.get(RANGE).filter(|_| request.method == Method::GET);
    let ranges = match asked.and_then(|value| value.to_str().ok()) {
        Some(asked) if if_range_holds(headers, &etag) => range::parse(asked, record.bytes),
        _ => Ranges::Whole,
    };
    if ranges == Ranges::Unsatisfiable {
        let error = ApiError::invalid("the range is outside the file");
        let mut response = reply::fault(StatusCode::RANGE_NOT_SATISFIABLE, &error);
        insert(&mut response, CONTENT_RANGE, &format!("bytes */{}", record.bytes));
        return Ok(response);
    }
    let (blobs, key, bytes) = (app.blobs.clone(), record.blob_key.clone(), record.bytes);
    let opened = app.tasks.blocking(move || blobs.open(&key, bytes, block_sums)).await;
    let reader = opened.unwrap_or(Err(StoreError::Closed));
    let reader = Arc::new(reader.map_err(|error| reply::store_failed(&error))?);
    if let Some(principal) = principal
        && request.method == Method::GET
    {
        let bytes = ranges.bytes(record.bytes);
        pay::for_read(app, principal, Call::Content, Some(&record), bytes).await?;
    }
    metrics::counter!("filegate_downloads_total").increment(1);
    respond(app, &record, &etag, reader, ranges).await
}

/// Why the content is not given out, if it is not.
fn held_back(record: &FileRecord) -> Option<ApiError> {
    let why = match record.state {
        FileState::Ready => return None,
        FileState::Review => "the file is held for review",
        FileState::Quarantined => "the file is quarantined",
    };
    Some(ApiError::detailed(ErrorCode::Sensitive, why))
}

async fn respond(
    app: &Arc<App>,
    record: &FileRecord,
    etag: &str,
    reader: Arc<BlobReader>,
    ranges: Ranges,
) -> Result<Response, ApiError> {
    let len = record.bytes;
    let media_type = record.media_type.clone();
    let (status, pieces, content_type, content_range) = match ranges {
        Ranges::Parts(parts) if parts.len() == 1 => {
            let (first, last) = parts[0];
            let shown = format!("bytes {first}-{last}/{len}");
            (
                StatusCode::PARTIAL_CONTENT,
                vec![Piece::File(first, last + 1)],
                media_type,
                Some(shown),
            )
        }
        Ranges::Parts(parts) => {
            let boundary = format!("{:032x}", u128::from_be_bytes(random()));
            let pieces = multipart(&parts, &boundary, &media_type, len);
            let content_type = format!("multipart/byteranges; boundary={boundary}");
            (StatusCode::PARTIAL_CONTENT, pieces, content_type, None)
        }
        Ranges::Whole | Ranges::Unsatisfiable => {
            (StatusCode::OK, vec![Piece::File(0, len)], media_type, None)
        }
    };
    let total: u64 = pieces.iter().map(Piece::len).sum();
    let mut sender = Sender { app: Arc::clone(app), reader, pieces: pieces.into() };
    // The first block before the head: a damaged one is still answered with an error.
    let first = sender.next().await.map_err(|error| reply::store_failed(&error))?;
    let rest = stream::unfold(sender, |mut sender| async move {
        match sender.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), sender)),
            Ok(None) => None,
            Err(error) => {
                let _logged = reply::store_failed(&error);
                Some((Err(error), sender))
            }
        }
    });
    let first = stream::iter(first.map(Ok::<_, StoreError>));
    let body = Body::from_stream(futures_util::StreamExt::chain(first, rest));
    let mut response = head(status, record, etag, body);
    insert(&mut response, CONTENT_TYPE, &content_type);
    insert(&mut response, CONTENT_LENGTH, &total.to_string());
    if let Some(content_range) = content_range {
        insert(&mut response, CONTENT_RANGE, &content_range);
    }
    Ok(response)
}

/// A stretch of an answer.
#[derive(Debug)]
enum Piece {
    /// Bytes of the file, from the first to before the second.
    File(u64, u64),
    /// Bytes between parts.
    Literal(Bytes),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::File(start, end) => end - start,
            Self::Literal(bytes) => bytes.len() as u64,
        }
    }
}

/// The body of a multipart/byteranges answer (RFC 9110 §14.6).
fn multipart(parts: &[(u64, u64)], boundary: &str, media_type: &str, len: u64) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(parts.len() * 2 + 1);
    for (first, last) in parts {
        let head = format!(
            "\r\n--{boundary}\r\ncontent-type: {media_type}\r\ncontent-range: bytes {first}-{last}/{len}\r\n\r\n"
        );
        pieces.push(Piece::Literal(head.into()));
        pieces.push(Piece::File(*first, last + 1));
    }
    pieces.push(Piece::Literal(format!("\r\n--{boundary}--\r\n").into()));
    pieces
}

/// Reads an answer's pieces, a block at a time, each on a thread that may block.
struct Sender {
    app: Arc<App>,
    reader: Arc<BlobReader>,
    pieces: std::collections::VecDeque<Piece>,
}

impl Sender {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let (start, end) = loop {
            match self.pieces.pop_front() {
                None => return Ok(None),
                Some(Piece::Literal(bytes)) => return Ok(Some(bytes)),
                Some(Piece::File(start, end)) if start < end => break (start, end),
                Some(Piece::File(..)) => {}
            }
        };
        let reader = Arc::clone(&self.reader);
        let read = self.app.tasks.blocking(move || reader.block_at(start)).await;
        let (block_start, block) = read.unwrap_or(Err(StoreError::Closed))?;
        let block = Bytes::from(block);
        let from = (start - block_start) as usize;
        let to = ((end - block_start) as usize).min(block.len());
        let sent = block.slice(from..to);
        let reached = block_start + to as u64;
        if reached < end {
            self.pieces.push_front(Piece::File(reached, end));
        }
        Ok(Some(sent))
    }
}

/// The headers that every answer about the content has.
fn head(status: StatusCode, record: &FileRecord, etag: &str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let digest = format!("sha-256=:{}:", STANDARD.encode(record.sha256));
    let disposition = disposition(&record.filename);
    for (name, value) in [
        (ETAG, etag),
        (REPR_DIGEST.clone(), &digest),
        (CONTENT_DISPOSITION, &disposition),
        (ACCEPT_RANGES, "bytes"),
        (CACHE_CONTROL, "private, no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
    ] {
        insert(&mut response, name, value);
    }
    response
}

fn insert(response: &mut Response, name: HeaderName, value: &str) {
    // Every value here is made of ASCII that we chose or encoded.
    let value = HeaderValue::from_str(value).expect("a header value of our own making");
    response.headers_mut().insert(name, value);
}

/// `attachment` with an ASCII stand-in and the whole name (RFC 6266 §4.3, RFC 8187).
fn disposition(filename: &str) -> String {
    let ascii: String = filename
        .chars()
        .map(|c| if c.is_ascii_graphic() && !"\"\\%".contains(c) || c == ' ' { c } else { '_' })
        .collect();
    let encoded = utf8_percent_encode(filename, ATTR_CHAR);
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{encoded}")
}

/// Whether `If-None-Match` names what we have (RFC 9110 §13.1.2: weak comparison).
fn none_match(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|list| {
        list.trim() == "*" || list.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)
    })
}

/// Whether ranges are to be honoured: `If-Range` is absent or names what we have (strongly; a date
/// never does, as we send none).
fn if_range_holds(headers: &HeaderMap, etag: &str) -> bool {
    headers.get(IF_RANGE).is_none_or(|value| value.as_bytes() == etag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_a_header() {
        assert_eq!(
            disposition("voice.mp3"),
            "attachment; filename=\"voice.mp3\"; filename*=UTF-8''voice.mp3"
        );
        assert_eq!(
            disposition("a\"b\\c%; 声.mp3"),
            "attachment; filename=\"a_b_c_; _.mp3\"; filename*=UTF-8''a%22b%5Cc%25%3B%20%E5%A3%B0.mp3"
        );
    }
}
