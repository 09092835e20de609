//! Files that were born upstream, read through from where they are.
//!
//! What is shown of them has ids and links of ours. Their bytes come from `retrieve_content`, or from the
//! `download_url` that upstream gives at that moment: a link of ours is opened at an object store of
//! upstream's, to which no key is sent, and only at public addresses unless it is the channel itself.

mod fetch;
pub(crate) mod keep;

use std::io;
use std::sync::Arc;

use ::http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use filegate_store::AdoptedFile;
use filegate_types::wire::{BaseResp, FileObject};
use filegate_types::{AccountId, ApiError, ChannelId, ChannelState, ErrorCode, FileId, UnixMillis};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::attempt::{self, Load, Outcome, Outgoing};
use super::body::Whole;
use super::channels::{Busy, Full};
use super::headers;
use super::health::Fault;
use super::reply::Opening;
use crate::app::App;
use crate::http::content::disposition;
use crate::http::reply::{self, store_failed};

pub(crate) use fetch::Downloads;

/// The longest answer of upstream's about a file.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// `retrieve_content` is for these; what else is born upstream has a `download_url`.
const READ_BY_CONTENT: &str = "t2a_async";

/// Why a file is not given out.
#[derive(Debug)]
pub(crate) enum Refused {
    /// In our words.
    Ours(ApiError),
    /// In upstream's.
    Theirs(BaseResp),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Ours(error)
    }
}

impl Refused {
    /// The answer in the call's shape.
    pub(crate) fn respond<T: serde::Serialize>(
        self,
        shape: impl FnOnce(BaseResp) -> T,
    ) -> Response {
        match self {
            Self::Ours(error) => reply::refusal(&error, shape),
            Self::Theirs(words) => reply::words(words, shape),
        }
    }

    /// As an answer to a link: with its real HTTP status.
    pub(crate) fn fault(self) -> Response {
        let status = |number| StatusCode::from_u16(number).unwrap_or(StatusCode::BAD_GATEWAY);
        match self {
            Self::Ours(error) => reply::fault(status(error.http_status()), &error),
            Self::Theirs(words) => {
                let known = reply::status_of(words.status_code);
                let mut response = reply::words(words, reply::bare);
                *response.status_mut() = known.unwrap_or(StatusCode::BAD_GATEWAY);
                response
            }
        }
    }

    /// In words for the log and for a job's row.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Ours(error) => error.message().to_owned(),
            Self::Theirs(words) => format!("{} ({})", words.status_msg, words.status_code),
        }
    }

    /// Whether there is no such file (any more).
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Ours(error) if error.message().contains("file not found"))
    }
}

/// What upstream tells of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) bytes: u64,
    pub(crate) filename: String,
    /// Where its bytes are, for some hours.
    pub(crate) download_url: Option<String>,
}

/// Bytes on their way from upstream.
pub(crate) struct Content {
    /// 200, 206 or 416.
    pub(crate) status: StatusCode,
    /// Upstream's headers.
    pub(crate) headers: HeaderMap,
    pub(crate) body: BoxStream<'static, io::Result<Bytes>>,
}

/// Whose, and where upstream: what a call about a file needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) channel: ChannelId,
    pub(crate) upstream_id: &'a str,
}

impl<'a> Place<'a> {
    fn of(file: &'a AdoptedFile) -> Self {
        Self { channel: file.channel_id, upstream_id: &file.upstream_id }
    }
}

/// How long upstream keeps what is born there, where that is known (minimax-wire §1.3).
pub(crate) fn lifetime(purpose: &str) -> Option<std::time::Duration> {
    (purpose == READ_BY_CONTENT).then(|| std::time::Duration::from_hours(9))
}

/// The account's adopted file.
pub(crate) async fn find(
    app: &App,
    account: AccountId,
    file: FileId,
) -> Result<AdoptedFile, ApiError> {
    let found = app.catalog.adopted(account, file, app.clock.now()).await;
    found.map_err(|error| store_failed(&error))?.ok_or_else(ApiError::file_not_found)
}

/// As lists show it.
pub(crate) fn to_wire(file: &AdoptedFile) -> FileObject {
    FileObject {
        file_id: file.file_id,
        bytes: file.bytes,
        created_at: file.created_at.seconds(),
        filename: file.filename.clone(),
        purpose: file.purpose.to_string(),
        download_url: None,
        expires_at: file.expires_at.map(UnixMillis::seconds),
        state: None,
        media: None,
    }
}

/// Asks upstream what a file is. One that it does not know (any more) is forgotten here, too.
pub(crate) async fn retrieve(app: &Arc<App>, file: &AdoptedFile) -> Result<Told, Refused> {
    let place = Place::of(file);
    let query = format!("file_id={}", place.upstream_id);
    let asked = json_call(app, place, Method::GET, "/v1/files/retrieve", Some(&query), None).await;
    let answer = forgotten_if_gone(app, file, asked).await?;
    let told = told(&answer);
    if (told.bytes, &told.filename) != (file.bytes, &file.filename) {
        let (bytes, filename) = (told.bytes, told.filename.clone());
        let noted = app.catalog.adopted_measured(file.account_id, file.file_id, bytes, filename);
        if let Err(error) = noted.await {
            // It is told all the same, and noted with the next call.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "relay.adopted.measure.failed"
            );
        }
    }
    Ok(told)
}

/// The content as `retrieve_content` gives it. `asked`: the client's headers, of which ranges pass.
pub(crate) async fn content(
    app: &Arc<App>,
    file: &AdoptedFile,
    asked: &HeaderMap,
) -> Result<Content, Refused> {
    let place = Place::of(file);
    let query = format!("file_id={}", place.upstream_id);
    let path = "/v1/files/retrieve_content";
    let asked = ask(app, place, Method::GET, path, Some(&query), ranges(asked), None).await;
    let asked = match asked {
        Ok((opening, busy)) => match refusal_of(&opening) {
            None => Ok((opening, busy)),
            Some(words) => Err(refused(words)),
        },
        Err(error) => Err(error),
    };
    let (opening, busy) = forgotten_if_gone(app, file, asked).await?;
    served(opening, busy)
}

/// The content as a link of ours gives it: from where upstream says that it is.
pub(crate) async fn linked(
    app: &Arc<App>,
    file: &AdoptedFile,
    asked: &HeaderMap,
) -> Result<Content, Refused> {
    match retrieve(app, file).await?.download_url {
        Some(url) => opened(app, file, &url, asked).await,
        None => content(app, file, asked).await,
    }
}

/// The content by whatever way there is, whole: to be kept. And how long upstream says that it is; 0 if it
/// does not, as of videos.
pub(crate) async fn bytes_of(
    app: &Arc<App>,
    file: &AdoptedFile,
) -> Result<(Content, u64), Refused> {
    let told = retrieve(app, file).await?;
    let whole = HeaderMap::new();
    let content = match told.download_url {
        Some(url) if file.purpose.as_str() != READ_BY_CONTENT => {
            opened(app, file, &url, &whole).await?
        }
        _ => content(app, file, &whole).await?,
    };
    Ok((content, told.bytes))
}

/// What is at a link that upstream has just given.
async fn opened(
    app: &Arc<App>,
    file: &AdoptedFile,
    url: &str,
    asked: &HeaderMap,
) -> Result<Content, Refused> {
    let home = home(app, file.channel_id).await?;
    app.relay.downloads.fetch(app, url, home.as_deref(), &ranges(asked)).await
}

/// The answer to a client.
pub(crate) fn respond(content: Content, file: &AdoptedFile, method: &Method) -> Response {
    let body = if method == Method::HEAD { Body::empty() } else { Body::from_stream(content.body) };
    let mut response = Response::new(body);
    *response.status_mut() = content.status;
    let headers = response.headers_mut();
    for name in [CONTENT_LENGTH, CONTENT_RANGE, ACCEPT_RANGES] {
        if let Some(value) = content.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers.insert(CONTENT_TYPE, media_type(&content.headers));
    let fixed = [
        (CACHE_CONTROL, "private, no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::try_from(disposition(&file.filename)) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    response
}

/// Deletes what a channel has under this id; that there is nothing is success.
pub(crate) async fn delete(app: &Arc<App>, place: Place<'_>, purpose: &str) -> Result<(), Refused> {
    // Upstream wants a number; what is none was never one of its ids of files.
    let id =
        place.upstream_id.parse::<i64>().map_or_else(|_| json!(place.upstream_id), Value::from);
    let mut body = json!({ "file_id": id });
    if !purpose.is_empty() {
        body["purpose"] = purpose.into();
    }
    let path = "/v1/files/delete";
    match json_call(app, place, Method::POST, path, None, Some(body)).await {
        Err(refused) if refused.is_gone() => Ok(()),
        deleted => deleted.map(drop),
    }
}

/// Upstream's words about a file that is not there: it never was, or its time has come.
fn says_gone(words: &BaseResp) -> bool {
    let message = words.status_msg.to_ascii_lowercase();
    words.status_code == 2013
        && ["not found", "not exist", "expired"].iter().any(|word| message.contains(word))
}

fn refused(words: BaseResp) -> Refused {
    if says_gone(&words) { ApiError::file_not_found().into() } else { Refused::Theirs(words) }
}

/// Forgets a file whose upstream says that it has none. A channel that is removed says nothing.
async fn forgotten_if_gone<T>(
    app: &Arc<App>,
    file: &AdoptedFile,
    asked: Result<T, Refused>,
) -> Result<T, Refused> {
    if let Err(Refused::Ours(error)) = &asked
        && *error == ApiError::file_not_found()
    {
        let forgotten = app.catalog.adopted_gone(file.account_id, file.file_id).await;
        forgotten.map_err(|error| store_failed(&error))?;
    }
    asked
}

/// The host and port of a channel.
async fn home(app: &App, channel: ChannelId) -> Result<Option<String>, ApiError> {
    let all = app.relay.channels.all(app).await.map_err(|error| store_failed(&error))?;
    let url = all.get(&channel).map(|channel| channel.facts().row.base_url.clone());
    Ok(url.and_then(|url| fetch::home_of(&url)))
}

/// What passes of a client's request for content.
fn ranges(asked: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in [RANGE, IF_RANGE] {
        if let Some(value) = asked.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

/// What upstream says the content is; never what a browser would run, nor what looks like an answer of ours.
fn media_type(headers: &HeaderMap) -> HeaderValue {
    let told = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = told.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let media = ["audio/", "video/", "image/"].iter().any(|prefix| kind.starts_with(prefix));
    let archive = matches!(
        kind.as_str(),
        "application/x-tar" | "application/zip" | "application/gzip" | "text/plain"
    );
    let fine = (media && !kind.ends_with("xml")) || archive;
    let value = if fine { HeaderValue::try_from(kind).ok() } else { None };
    value.unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// A call whose answer is JSON, with `base_resp` 0.
async fn json_call(
    app: &Arc<App>,
    place: Place<'_>,
    method: Method,
    path: &str,
    query: Option<&str>,
    body: Option<Value>,
) -> Result<Value, Refused> {
    let asked = ask(app, place, method, path, query, HeaderMap::new(), body).await;
    let (opening, busy) = asked?;
    let status = opening.parts.status;
    let mut rest = served_body(opening, busy);
    let mut bytes = Vec::new();
    while let Some(piece) = rest.next().await {
        let piece = piece.map_err(|error| away(&format!("its answer broke off: {error}")))?;
        bytes.extend_from_slice(&piece);
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(away("its answer is too long").into());
        }
    }
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    match words_of(&answer) {
        Some(words) if words.status_code != 0 => Err(refused(words)),
        Some(_) if status.is_success() => Ok(answer),
        _ => Err(away(&format!("HTTP {status}, and nothing of use")).into()),
    }
}

fn words_of(answer: &Value) -> Option<BaseResp> {
    BaseResp::deserialize(answer.get("base_resp")?).ok()
}

fn told(answer: &Value) -> Told {
    let file = &answer["file"];
    let filename = file["filename"].as_str().unwrap_or_default();
    // It becomes a header of ours.
    let filename: String = filename.chars().filter(|c| !c.is_control()).take(255).collect();
    let url = file["download_url"].as_str().filter(|url| !url.is_empty());
    Told {
        bytes: file["bytes"].as_u64().unwrap_or(0),
        filename: if filename.is_empty() { "output".to_owned() } else { filename },
        download_url: url.map(str::to_owned),
    }
}

/// What an answer says if it is a refusal.
fn refusal_of(opening: &Opening) -> Option<BaseResp> {
    opening.code.filter(|code| *code != 0)?;
    let bytes: Vec<u8> = opening.looked.iter().flatten().copied().collect();
    words_of(&serde_json::from_slice(&bytes).ok()?)
}

/// One call to the channel where the file is.
async fn ask(
    app: &Arc<App>,
    place: Place<'_>,
    method: Method,
    path: &str,
    query: Option<&str>,
    mut asked: HeaderMap,
    body: Option<Value>,
) -> Result<(Opening, Busy), Refused> {
    let all = app.relay.channels.all(app).await.map_err(|error| store_failed(&error))?;
    let channel = all.get(&place.channel).ok_or_else(ApiError::file_not_found)?;
    let facts = channel.facts();
    if facts.row.state == ChannelState::Removed {
        return Err(ApiError::file_lost("the upstream account it was on is gone").into());
    }
    let access = facts.access.as_ref().ok_or_else(|| away("its channel is not in use"))?;
    let busy = channel.enter(app).await.map_err(|full| match full {
        Full::InFlight => ApiError::plain(ErrorCode::RateLimit).retry_after(1),
        Full::Rate(wait_s) => ApiError::plain(ErrorCode::RateLimit).retry_after(wait_s),
    })?;
    let query = headers::query(query, facts.row.settings.group_id.as_deref());
    let target = access.origin.target(path, query.as_deref()).ok_or_else(|| away("its URL"))?;
    let body = body.map_or_else(Bytes::new, |body| {
        asked.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        body.to_string().into()
    });
    let credentials =
        headers::Credentials { key: &access.key, bearer: &access.bearer, anthropic: false };
    let head = headers::request(&asked, &access.origin.host, credentials, false);
    // Each of these calls may be made twice.
    let outgoing = Outgoing { method: &method, target, headers: head, repeatable: true };
    let whole = Whole::Memory(body);
    let load = Load::Whole(&whole, vec![]);
    match attempt::send(&app.relay.transport, app, &busy, access, outgoing, load).await {
        Outcome::Answered(opening) => {
            busy.answered(app, false);
            Ok((opening, busy))
        }
        Outcome::Client(error) => Err(error.into()),
        Outcome::Failed(failure) => {
            busy.failed(app, failure.fault);
            Err(Refused::Ours(match failure.fault {
                Fault::Limited(pause) => {
                    let wait_s = pause.map_or(1, |pause| pause.as_secs().clamp(1, 3600) as u32);
                    ApiError::plain(ErrorCode::RateLimit).retry_after(wait_s)
                }
                Fault::TimedOut => ApiError::plain(ErrorCode::Timeout).retry_after(5),
                other => away(&format!("{other:?}")),
            }))
        }
    }
}

/// Where the file is cannot be asked at the moment: why is for the log.
fn away(why: &str) -> ApiError {
    tracing::warn!(why, "relay.adopted.away");
    let told = "the upstream account that the file is on does not answer";
    ApiError::detailed(ErrorCode::Internal, told).retry_after(5)
}

/// An answer whose body is content.
fn served(opening: Opening, busy: Busy) -> Result<Content, Refused> {
    let status = opening.parts.status;
    let headers = opening.parts.headers.clone();
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            Ok(Content { status, headers, body: served_body(opening, busy) })
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(ApiError::file_not_found().into()),
        other => Err(away(&format!("HTTP {other}")).into()),
    }
}

/// The body as it comes; its place at the channel is taken until its end.
fn served_body(opening: Opening, busy: Busy) -> BoxStream<'static, io::Result<Bytes>> {
    let first = stream::iter(opening.looked.into_iter().map(Ok));
    let rest = opening.rest.into_data_stream().map(|piece| {
        piece.map_err(|cut| io::Error::new(io::ErrorKind::UnexpectedEof, format!("{cut:?}")))
    });
    first
        .chain(rest)
        .map(move |piece| {
            let _until_its_end = &busy;
            piece
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(code: i64, message: &str) -> BaseResp {
        BaseResp { status_code: code, status_msg: message.to_owned() }
    }

    #[test]
    fn what_is_gone_is_ours_to_say_and_all_else_is_upstreams() {
        for gone in ["invalid params, file not found", "File expired", "file_id not exist"] {
            assert!(refused(words(2013, gone)).is_gone(), "{gone}");
        }
        for (code, message) in [(2013, "invalid params, invalid file purpose"), (1000, "not found")]
        {
            let refused = refused(words(code, message));
            assert!(!refused.is_gone());
            assert!(matches!(refused, Refused::Theirs(said) if said == words(code, message)));
        }
    }

    #[test]
    fn upstream_cannot_have_a_browser_run_its_content() {
        let of = |told: &str| {
            let headers = [(CONTENT_TYPE, HeaderValue::from_str(told).unwrap())];
            media_type(&HeaderMap::from_iter(headers)).to_str().unwrap().to_owned()
        };
        assert_eq!(of("audio/mpeg"), "audio/mpeg");
        assert_eq!(of("Video/MP4; codecs=x"), "video/mp4");
        for other in ["text/html", "application/json", "image/svg+xml", "nonsense", ""] {
            assert_eq!(of(other), "application/octet-stream", "{other}");
        }
    }

    #[test]
    fn what_upstream_tells_is_taken_as_far_as_it_is_there() {
        let answer = json!({"file": {
            "file_id": 5, "bytes": 0, "filename": "a\r\nb.mp4", "download_url": "https://x/y",
            "backup_download_url": "https://z/y"}});
        let url = Some("https://x/y".to_owned());
        let expected = Told { bytes: 0, filename: "ab.mp4".to_owned(), download_url: url };
        assert_eq!(told(&answer), expected);
        let nothing = Told { bytes: 0, filename: "output".to_owned(), download_url: None };
        assert_eq!(told(&json!({"file": {"download_url": ""}})), nothing);
        assert_eq!(told(&Value::Null), nothing);
    }
}
