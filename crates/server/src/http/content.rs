//! `GET …/v1/files/retrieve_content`, and the serving of bytes that links share.
//!
//! Every block is checked against its stored sum before any of it is sent (reliability row 41). A
//! block that is wrong ends the connection in the middle, or is answered with an error if it is the
//! first: a wrong 200 is never whole.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use filegate_store::{BlobReader, BlobStream, S3Blobs, StoreError};
use filegate_types::{
    AccountId, ApiError, Call, ErrorCode, FileId, FileRecord, FileState, Principal,
};
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::layer::Trace;
use super::range::{self, Ranges};
use super::{auth, query_file_id, reply};
use crate::app::{App, random};
use crate::config::DownloadMode;
use crate::gate::purposes;
use crate::pay;
use crate::relay::adopt::{self, Refused};

/// How long a URL works that a link is sent on to: it is used at once.
const REDIRECT_LIFE: Duration = Duration::from_mins(5);

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
    served.await.unwrap_or_else(|refused: Refused| refused.respond(reply::bare))
}

/// The content of a file of `account`, as the request asks for it. A `principal` gets only what its key
/// may touch, and pays; links have none, and were paid with the retrieve that made them.
pub(super) async fn serve(
    app: &Arc<App>,
    account: AccountId,
    principal: Option<&Principal>,
    file_id: FileId,
    request: &Parts,
) -> Result<Response, Refused> {
    let headers = &request.headers;
    let found = app.catalog.file_with_sums(account, file_id, app.clock.now()).await;
    let found = found.map_err(|error| reply::store_failed(&error))?;
    let Some((record, block_sums)) = found else {
        return serve_adopted(app, account, principal, file_id, request).await;
    };
    if let Some(principal) = principal {
        purposes::check(principal, &record.purpose)?;
    }
    check_given_out(&record)?;
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
    let opened = app.blobs.open(&record.blob_key, record.bytes, block_sums).await;
    let reader = opened.map_err(|error| reply::store_failed(&error))?;
    let answer = Answer::of(&record, ranges);
    if request.method == Method::HEAD {
        reader.confirm().await.map_err(|error| reply::store_failed(&error))?;
        return Ok(answer.respond(&record, &etag, Body::empty()));
    }
    let bytes = answer.content_bytes();
    let mut sender = Sender::new(reader, &answer);
    // The first block before the head: a damaged one is still answered with an error, and costs nothing.
    let first = sender.next().await.map_err(|error| reply::store_failed(&error))?;
    if let Some(principal) = principal {
        let paid = Some((record.file_id, &record.purpose));
        pay::for_read(app, principal, Call::Content, paid, bytes).await?;
    }
    metrics::counter!("filegate_downloads_total").increment(1);
    let body = match first {
        Some(first) if first.len() as u64 == answer.bytes() => Body::from(first),
        first => sender.body(first),
    };
    Ok(answer.respond(&record, &etag, body))
}

/// The content of a file that is upstream only: to callers as `retrieve_content` there gives it, to links as
/// the link does that is there.
async fn serve_adopted(
    app: &Arc<App>,
    account: AccountId,
    principal: Option<&Principal>,
    file_id: FileId,
    request: &Parts,
) -> Result<Response, Refused> {
    let file = adopt::find(app, account, file_id).await?;
    let content = match principal {
        Some(principal) => {
            purposes::check(principal, &file.purpose)?;
            adopt::content(app, &file, &request.headers).await?
        }
        None => adopt::linked(app, &file, &request.headers).await?,
    };
    if let Some(principal) = principal {
        let length = content.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let bytes = length.and_then(|text| text.parse().ok()).unwrap_or(file.bytes);
        let paid = Some((file_id, &file.purpose));
        pay::for_read(app, principal, Call::Content, paid, bytes).await?;
    }
    metrics::counter!("filegate_downloads_total").increment(1);
    Ok(adopt::respond(content, &file, &request.method))
}

/// The store that hands the content out itself, if that is the setting.
pub(super) fn redirected(app: &App) -> Option<&S3Blobs> {
    app.blobs.as_s3().filter(|_| app.config.downloads.mode == DownloadMode::Redirect)
}

/// A URL of the store's for the content, which comes as ours would.
pub(super) async fn presign(
    s3: &S3Blobs,
    record: &FileRecord,
    life: Duration,
) -> Result<String, ApiError> {
    let disposition = disposition(&record.filename);
    let signed = s3.presign(&record.blob_key, &disposition, &record.media_type, life).await;
    signed.map_err(|error| reply::store_failed(&error))
}

/// Sends the holder of a link to the store.
pub(super) async fn redirect(
    app: &Arc<App>,
    s3: &S3Blobs,
    account: AccountId,
    file_id: FileId,
    request: &Parts,
) -> Result<Response, Refused> {
    let found = app.catalog.file(account, file_id, app.clock.now()).await;
    let Some(record) = found.map_err(|error| reply::store_failed(&error))? else {
        return serve_adopted(app, account, None, file_id, request).await;
    };
    check_given_out(&record)?;
    let url = presign(s3, &record, REDIRECT_LIFE.min(app.config.downloads.link_life.0)).await?;
    metrics::counter!("filegate_downloads_total").increment(1);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    insert(&mut response, LOCATION, &url);
    insert(&mut response, CACHE_CONTROL, "private, no-store");
    Ok(response)
}

/// Refuses what is damaged or held back.
pub(crate) fn check_given_out(record: &FileRecord) -> Result<(), ApiError> {
    if record.damaged_at.is_some() {
        return Err(reply::store_failed(&StoreError::Damaged(record.blob_key.to_string())));
    }
    held_back(record).map_or(Ok(()), Err)
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

/// What is sent, and how it is called.
struct Answer {
    status: StatusCode,
    pieces: Vec<Piece>,
    content_type: String,
    content_range: Option<String>,
}

impl Answer {
    fn of(record: &FileRecord, ranges: Ranges) -> Self {
        let (len, media_type) = (record.bytes, record.media_type.clone());
        let (status, pieces, content_type, content_range) = match ranges {
            Ranges::Parts(parts) if parts.len() == 1 => {
                let (first, last) = parts[0];
                let shown = format!("bytes {first}-{last}/{len}");
                let pieces = vec![Piece::File(first, last + 1)];
                (StatusCode::PARTIAL_CONTENT, pieces, media_type, Some(shown))
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
        Self { status, pieces, content_type, content_range }
    }

    /// Its length.
    fn bytes(&self) -> u64 {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// Bytes of the file in it.
    fn content_bytes(&self) -> u64 {
        self.pieces.iter().filter(|piece| matches!(piece, Piece::File(..))).map(Piece::len).sum()
    }

    fn respond(&self, record: &FileRecord, etag: &str, body: Body) -> Response {
        let mut response = head(self.status, record, etag, body);
        insert(&mut response, CONTENT_TYPE, &self.content_type);
        insert(&mut response, CONTENT_LENGTH, &self.bytes().to_string());
        if let Some(content_range) = &self.content_range {
            insert(&mut response, CONTENT_RANGE, content_range);
        }
        response
    }
}

/// A stretch of an answer.
#[derive(Debug, Clone)]
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

/// Reads an answer's pieces, a block at a time.
struct Sender {
    reader: BlobReader,
    pieces: std::collections::VecDeque<Piece>,
    /// The stretch of the file that is being read.
    stretch: Option<BlobStream>,
}

impl Sender {
    fn new(reader: BlobReader, answer: &Answer) -> Self {
        Self { reader, pieces: answer.pieces.clone().into(), stretch: None }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            if let Some(stretch) = &mut self.stretch {
                match stretch.next().await? {
                    Some(block) => return Ok(Some(block)),
                    None => self.stretch = None,
                }
            }
            match self.pieces.pop_front() {
                None => return Ok(None),
                Some(Piece::Literal(bytes)) => return Ok(Some(bytes)),
                Some(Piece::File(start, end)) => {
                    self.stretch = Some(self.reader.stream(start, end));
                }
            }
        }
    }

    /// All of it, of which `first` is read already.
    fn body(self, first: Option<Bytes>) -> Body {
        let rest = stream::unfold(Some(self), |sender| async move {
            let mut sender = sender?;
            match sender.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(sender))),
                Ok(None) => None,
                Err(error) => {
                    let _logged = reply::store_failed(&error);
                    Some((Err(error), None))
                }
            }
        });
        let first = stream::iter(first.map(Ok::<_, StoreError>));
        Body::from_stream(futures_util::StreamExt::chain(first, rest))
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
pub(crate) fn disposition(filename: &str) -> String {
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
