//! `callback_url`: upstream is given an address of ours, and the client is told with ids of ours.
//!
//! ```text
//!  1 check    the client's address is one that may be called
//!  2 begin    a row, before the call is sent: upstream asks at once. An address of ours goes upstream instead
//!  3 receive  upstream's challenge is answered here, and passed on; its answer is only logged
//!  4 receive  news are kept with a job, in one transaction, then answered
//!  5 deliver  the job names what they tell of by ids of ours, tells the client, and removes them
//! ```
//!
//! A crash after 2 leaves a row that nobody names: it is forgotten after [`KEPT`], as are all. After 4 the job is done by
//! whoever runs next. News that were taken while a crash came before the end of 5 are told twice.
//!
//! Our address is signed: whoever knows it is upstream, and nobody else learns whether there is such a callback.
//! The client's is looked at again when it is connected to, so that a name cannot point elsewhere by then.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::post;
use filegate_store::{Callback, Delivery, NewAdopted, NewTask, StoreError};
use filegate_types::wire::BaseResp;
use filegate_types::{AccountId, ApiError, ChannelId, FileId, Principal, PurposeName, UnixMillis};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use reqwest::Url;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{Found, Kind, Rule, Rules, Splice, scan};
use crate::app::{App, random};
use crate::config::{Config, Relay as Settings};
use crate::http::body::{Incoming, content_length};
use crate::http::reply::{self, bare, store_failed};
use crate::moderation::addresses::is_public;
use crate::outgoing;

/// How long upstream's address of ours is good; upstream itself forgets tasks as soon.
const KEPT: Duration = Duration::from_hours(7 * 24);
/// How long news are tried to be told.
const TRIED: Duration = Duration::from_hours(24);
/// Bytes of a challenge or of news, at most.
const BODY_MAX: u64 = 64 << 10;
/// How long a client may take for news.
const NEWS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long upstream waits for its challenge; a client that takes longer would have failed there.
const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(3);
/// What is born of calls that take a `callback_url`.
const PURPOSE: &str = "video_generation";
/// What such a file is called until upstream says its name.
const FILENAME: &str = "output.mp4";
/// Where upstream calls us, below `public_url`.
const ROUTE: &str = "/minimax/callback/{token}";

/// An address of ours for one attempt of a call.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Names its row.
    pub(crate) callback_id: String,
    /// What upstream is given.
    pub(crate) url: String,
}

/// What became of a job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// There is nothing more to tell.
    Done,
    /// The client did not take it; it is tried again.
    Later(String),
    /// The job's target is none.
    Never,
}

/// Looks at a client's address before anything is done for the call.
///
/// # Errors
/// 2013 that says why it cannot be called, or that we cannot be.
pub(crate) fn check(config: &Config, url: &str) -> Result<(), ApiError> {
    if config.public_url.is_empty() {
        return Err(ApiError::invalid(
            "callback_url is not supported: the operator has not set public_url",
        ));
    }
    parse(url, config.relay.callback_private).map(drop)
}

/// Keeps the client's address, for an attempt of `principal`'s call of `path` on `channel`.
///
/// # Errors
/// As [`check`], and those of the store.
pub(crate) async fn begin(
    app: &App,
    principal: &Principal,
    channel: ChannelId,
    path: &str,
    url: &str,
) -> Result<Begun, ApiError> {
    check(&app.config, url)?;
    let callback_id = filegate_types::hex(&random::<16>());
    let token = app.links.callback_token(&callback_id);
    let base = app.config.public_url.trim_end_matches('/');
    let ours = format!("{base}{}", ROUTE.replace("{token}", &token));
    let new = Callback {
        callback_id: callback_id.clone(),
        account: principal.account_id,
        key: principal.key_id,
        channel,
        path: path.to_owned(),
        url: url.to_owned(),
        keep: principal.settings.keep_outputs.unwrap_or(app.config.relay.keep_outputs),
        created_at: app.clock.now(),
    };
    app.catalog.create_callback(new).await.map_err(|error| store_failed(&error))?;
    Ok(Begun { callback_id, url: ours })
}

/// The attempt came to nothing. A row that stays because the store is away is forgotten with the old ones.
pub(crate) async fn refused(app: &App, account: AccountId, callback_id: String) {
    if let Err(error) = app.catalog.drop_callback(account, callback_id).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "relay.callback.kept");
    }
}

/// Forgets what is old, at most `limit`.
pub(crate) async fn forget(app: &App, now: UnixMillis, limit: u32) -> Result<usize, StoreError> {
    app.catalog.forget_callbacks(now.minus(KEPT), limit).await
}

/// Where upstream calls us.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new().route(ROUTE, post(receive))
}

async fn receive(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let mut incoming = Incoming::new(&parts.headers, body, app.config.limits.clone());
    let known = match path.ok().and_then(|Path(token)| app.links.check_callback(&token)) {
        Some(id) => app.catalog.callback(id).await,
        None => Ok(None),
    };
    let callback = match known {
        Ok(Some(callback)) => callback,
        Ok(None) => {
            incoming.drain(&app.tasks);
            return nothing_here();
        }
        Err(error) => {
            incoming.drain(&app.tasks);
            return unavailable(&error);
        }
    };
    let body = match read(&mut incoming, content_length(&parts.headers)).await {
        Ok(body) => body,
        Err((status, error)) => {
            incoming.drain(&app.tasks);
            return reply::fault(status, &error);
        }
    };
    match challenge_of(&body) {
        Ok(Some(challenge)) => {
            let answer = format!("{{\"challenge\":{challenge}}}");
            app.tasks.spawn(pass_on(Arc::clone(&app), callback, body));
            answered(answer)
        }
        Ok(None) => keep(&app, callback, body).await,
        Err(error) => reply::fault(StatusCode::BAD_REQUEST, &error),
    }
}

/// What is said of a path that is none: a callback that is not known is none.
fn nothing_here() -> Response {
    reply::fault(StatusCode::NOT_FOUND, &ApiError::invalid("unknown path"))
}

fn unavailable(error: &StoreError) -> Response {
    reply::fault(StatusCode::SERVICE_UNAVAILABLE, &store_failed(error))
}

async fn read(
    incoming: &mut Incoming,
    declared: Option<u64>,
) -> Result<Vec<u8>, (StatusCode, ApiError)> {
    let too_large =
        || (StatusCode::PAYLOAD_TOO_LARGE, ApiError::too_large("the body is too large"));
    if declared.is_some_and(|len| len > BODY_MAX) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(piece) =
        incoming.next().await.map_err(|error| (StatusCode::BAD_REQUEST, error))?
    {
        if (body.len() + piece.len()) as u64 > BODY_MAX {
            return Err(too_large());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The challenge in a body, as it is written; `None` in news. Ids of news have to be found in it, or raw ones of upstream
/// would be passed on.
fn challenge_of(body: &[u8]) -> Result<Option<String>, ApiError> {
    #[derive(Deserialize)]
    struct Said<'a> {
        #[serde(borrow)]
        challenge: Option<&'a RawValue>,
    }
    let not_read = |_why| ApiError::invalid("the body is not a JSON object");
    let said: Said<'_> = serde_json::from_slice(body).map_err(not_read)?;
    scan(&RULES, [body]).map_err(ApiError::invalid)?;
    Ok(said.challenge.map(|challenge| challenge.get().to_owned()))
}

/// Passes a challenge on. Upstream has its answer: what the client says is for the log.
async fn pass_on(app: Arc<App>, callback: Callback, body: Vec<u8>) {
    let posted =
        app.relay.callbacks.post(&app.config.relay, &callback.url, body, CHALLENGE_TIMEOUT);
    let (account, callback_id) = (callback.account.0, &callback.callback_id);
    match posted.await {
        Ok(()) => tracing::info!(account, callback_id, "relay.callback.challenged"),
        Err(why) => tracing::warn!(account, callback_id, why, "relay.callback.challenge.failed"),
    }
}

async fn keep(app: &App, callback: Callback, body: Vec<u8>) -> Response {
    let callback_id = callback.callback_id;
    match app.catalog.add_delivery(callback_id.clone(), body, app.clock.now()).await {
        Ok(true) => {
            app.relay.jobs_due.notify_one();
            reply::success(&bare(BaseResp::success()))
        }
        Ok(false) => {
            // Upstream may come again, when some of what waits is told.
            tracing::warn!(callback_id, "relay.callback.full: too much waits for the client");
            nothing_here()
        }
        Err(error) => unavailable(&error),
    }
}

fn answered(json: String) -> Response {
    let mut response = Response::new(Body::from(json));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    response
}

/// Tells a client what waits for it, in order, up to the news that `target` names.
pub(crate) async fn deliver(app: &App, target: &str) -> Result<Told, StoreError> {
    let Ok(delivery_id) = target.parse::<i64>() else { return Ok(Told::Never) };
    while let Some(news) = app.catalog.first_delivery(delivery_id).await? {
        let account = news.callback.account.0;
        if news.created_at.plus(TRIED) < app.clock.now() {
            tracing::warn!(
                account,
                callback_id = news.callback.callback_id,
                "relay.callback.dropped: the client took no news for a day"
            );
        } else {
            let body = with_our_ids(app, &news).await?;
            let url = &news.callback.url;
            let posted = app.relay.callbacks.post(&app.config.relay, url, body, NEWS_TIMEOUT);
            if let Err(why) = posted.await {
                return Ok(Told::Later(why));
            }
        }
        app.catalog.finish_delivery(news.delivery_id).await?;
    }
    Ok(Told::Done)
}

/// Where ids stand in news: they look like the answer to a query, of V1 or V2.
static RULES: LazyLock<Rules> = LazyLock::new(|| {
    Rules::new(&[
        Rule::new(Kind::FileId, "**.file_id"),
        Rule::new(Kind::TaskId, "**.task_id"),
        Rule::new(Kind::TaskId, "**.*_task_id"),
        Rule::new(Kind::TaskId, "task.id"),
        Rule::new(Kind::TaskId, "id"),
        Rule::new(Kind::MmFile, "**"),
    ])
});

/// What upstream said, in the client's words: tasks first, for files are theirs.
async fn with_our_ids(app: &App, news: &Delivery) -> Result<Vec<u8>, StoreError> {
    // It was read when it was kept.
    let Ok(found) = scan(&RULES, [&news.body[..]]) else { return Ok(b"{}".to_vec()) };
    let (tasks, others): (Vec<Found>, Vec<Found>) =
        found.into_iter().filter(|found| found.exact).partition(|found| found.kind == Kind::TaskId);
    let (mut edits, mut task) = (Vec::new(), None);
    for found in tasks {
        let id = task_of(app, &news.callback, &found.text).await?;
        task = task.or(id);
        edits.extend(found.edit(&shown(id)));
    }
    for found in others {
        let id = file_of(app, &news.callback, &found, task).await?;
        edits.extend(found.edit(&shown(id)));
    }
    Ok(Splice::new(edits).whole(&news.body))
}

/// An id, or one that is nobody's: upstream's own never reaches a client.
fn shown(id: Option<FileId>) -> String {
    id.map_or_else(|| "0".to_owned(), |id| id.to_string())
}

async fn task_of(app: &App, of: &Callback, text: &str) -> Result<Option<FileId>, StoreError> {
    let new = NewTask {
        account: of.account,
        key: of.key,
        channel: of.channel,
        upstream_id: text.to_owned(),
        path: of.path.clone(),
        id_bits: id_bits(),
    };
    app.catalog.adopt_task(new, app.clock.now()).await
}

async fn file_of(
    app: &App,
    of: &Callback,
    found: &Found,
    task_id: Option<FileId>,
) -> Result<Option<FileId>, StoreError> {
    let known = app.catalog.local_of_upstream(of.channel, vec![found.text.clone()]).await?;
    if let Some((_, id, owner)) = known.into_iter().next() {
        return Ok((owner == of.account).then_some(id));
    }
    if found.kind == Kind::MmFile {
        return Ok(None);
    }
    let new = NewAdopted {
        account: of.account,
        key: of.key,
        channel: of.channel,
        upstream_id: found.text.clone(),
        purpose: PurposeName::try_from(PURPOSE.to_owned()).expect("a name of ours is a purpose's"),
        filename: FILENAME.to_owned(),
        task_id,
        expires_at: None,
        keep: of.keep,
        id_bits: id_bits(),
    };
    app.catalog.adopt_file(new, app.clock.now()).await
}

fn id_bits() -> [u16; 8] {
    let bytes: [u8; 16] = random();
    std::array::from_fn(|n| u16::from_be_bytes([bytes[2 * n], bytes[2 * n + 1]]))
}

/// A client's address, if it may be called. A name is looked up when it is connected to, by `PublicOnly`.
fn parse(url: &str, private: bool) -> Result<Url, ApiError> {
    let parsed = Url::parse(url).map_err(|_why| ApiError::invalid("callback_url is not a URL"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(ApiError::invalid("callback_url is neither http nor https"));
    }
    let host = parsed.host_str().unwrap_or("").trim_end_matches('.').to_ascii_lowercase();
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_inner = match literal {
        Ok(address) => !is_public(address),
        // A name that needs no lookup, and names that resolvers answer by themselves.
        Err(_) => host == "localhost" || host.ends_with(".localhost") || host.is_empty(),
    };
    if is_inner && !private {
        return Err(ApiError::invalid("callback_url is not at a public address"));
    }
    Ok(parsed)
}

/// Calls clients.
#[derive(Debug, Default)]
pub(crate) struct Callbacks {
    /// Without authorities, so that it works where none are installed.
    plain: OnceLock<Result<reqwest::Client, String>>,
    tls: OnceLock<Result<reqwest::Client, String>>,
}

impl Callbacks {
    /// Posts `body`; done if the client takes it with a 2xx.
    ///
    /// # Errors
    /// What went wrong, in words without the URL, which may have a token of the client's.
    async fn post(
        &self,
        settings: &Settings,
        url: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<(), String> {
        let url =
            parse(url, settings.callback_private).map_err(|error| error.message().to_owned())?;
        let is_plain = url.scheme() == "http";
        let made = if is_plain { &self.plain } else { &self.tls };
        let client =
            made.get_or_init(|| build(settings, is_plain)).as_ref().map_err(Clone::clone)?;
        let sent = client.post(url).header("content-type", "application/json").body(body).send();
        match tokio::time::timeout(limit, sent).await {
            Err(_late) => Err("it does not answer in time".to_owned()),
            Ok(Err(error)) if error.is_connect() => Err("it cannot be reached".to_owned()),
            Ok(Err(_error)) => Err("the connection broke".to_owned()),
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(format!("it answers HTTP {}", answer.status().as_u16())),
        }
    }
}

fn build(settings: &Settings, plain: bool) -> Result<reqwest::Client, String> {
    let mut builder = outgoing::builder(!settings.callback_private)
        .pool_max_idle_per_host(0)
        .connect_timeout(settings.connect_timeout.0);
    if plain {
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn refusal(url: &str, private: bool) -> Option<String> {
        parse(url, private).err().map(|error| error.message().to_owned())
    }

    #[test]
    fn only_public_addresses_of_the_web_are_called() {
        for url in ["https://a.example/x?t=1", "http://8.8.8.8:8080/", "https://[2606:4700::1111]/"]
        {
            assert_eq!(refusal(url, false), None, "{url}");
        }
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://x.localhost/",
            "http://169.254.169.254/latest/meta-data",
            "http://10.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[fd00::1]/",
        ] {
            let why = refusal(url, false).unwrap_or_default();
            assert!(why.contains("not at a public address"), "{url}: {why}");
            assert_eq!(refusal(url, true), None, "{url}");
        }
        for url in
            ["", "x", "/x", "ftp://a.example/", "file:///etc/passwd", "javascript:1", "http://"]
        {
            assert!(refusal(url, true).is_some(), "{url}");
        }
    }

    #[test]
    fn without_an_address_of_ours_there_are_no_callbacks() {
        let mut config = Config::default();
        let error = check(&config, "https://a.example/").unwrap_err();
        assert!(error.message().contains("public_url"), "{error}");
        config.public_url = "https://files.example".to_owned();
        assert_eq!(check(&config, "https://a.example/"), Ok(()));
        assert!(check(&config, "http://10.1.2.3/").is_err());
    }

    #[test]
    fn a_challenge_is_answered_as_it_is_written() {
        let answer = |body: &str| challenge_of(body.as_bytes());
        assert_eq!(answer(r#"{"challenge":"a\u0062"}"#).unwrap().as_deref(), Some(r#""a\u0062""#));
        assert_eq!(
            answer(r#"{"x":1,"challenge": 12345678901234567890123 }"#).unwrap().as_deref(),
            Some("12345678901234567890123")
        );
        assert_eq!(answer(r#"{"task_id":"1","status":"success"}"#).unwrap(), None);
        assert_eq!(answer(r#"{"challenge":null}"#).unwrap(), None);
        for body in ["", "[]", "1", "challenge", r#"{"challenge":}"#, r#"{"a":1}{"b":2}"#] {
            assert!(answer(body).is_err(), "{body}");
        }
    }

    /// Answers one request with `answer`, and gives what was asked.
    async fn client(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/told?t=1", listener.local_addr().unwrap());
        let tasks = crate::lifecycle::Tasks::default();
        let asked = tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"}") {
                let mut piece = [0; 1024];
                let n = stream.read(&mut piece).await.unwrap();
                asked.extend_from_slice(&piece[..n]);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        (url, asked)
    }

    async fn told(settings: &Settings, url: &str, limit: Duration) -> Result<(), String> {
        let body = br#"{"task_id":"7"}"#.to_vec();
        Callbacks::default().post(settings, url, body, limit).await
    }

    #[tokio::test]
    async fn clients_are_told_by_a_plain_post() {
        let settings = Settings { callback_private: true, ..Settings::default() };
        let (url, asked) = client("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(told(&settings, &url, NEWS_TIMEOUT).await, Ok(()));
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("POST /told?t=1 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("content-type: application/json\r\n"), "{asked}");
        assert!(asked.ends_with("\r\n\r\n{\"task_id\":\"7\"}"), "{asked}");
    }

    #[tokio::test]
    async fn what_is_not_taken_is_tried_again() {
        let settings = Settings { callback_private: true, ..Settings::default() };
        for (answer, why) in [
            ("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", "it answers HTTP 500"),
            // Followed nowhere: what it points to was never checked.
            (
                "HTTP/1.1 307 No\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
                "it answers HTTP 307",
            ),
            ("", "the connection broke"),
        ] {
            let (url, asked) = client(answer).await;
            assert_eq!(told(&settings, &url, NEWS_TIMEOUT).await, Err(why.to_owned()));
            asked.await.unwrap();
        }
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let late = told(&settings, &url, Duration::from_millis(20)).await;
        assert_eq!(late, Err("it does not answer in time".to_owned()));
        drop(silent);
        assert_eq!(
            told(&settings, &url, NEWS_TIMEOUT).await,
            Err("it cannot be reached".to_owned())
        );
    }

    #[tokio::test]
    async fn a_name_that_points_inwards_by_then_is_not_called() {
        // Known as good when the call was made; `told` looks again, at the address and at what a name means.
        let (url, _asked) = client("").await;
        let strict = Settings::default();
        assert!(told(&strict, &url, NEWS_TIMEOUT).await.unwrap_err().contains("not at a public"));
        let client = build(&strict, true).unwrap();
        let error = client.post(url.replace("127.0.0.1", "localhost")).send().await.unwrap_err();
        assert!(error.is_connect(), "{error}");
    }
}
