//! The two ways to a gateway: HTTP to its operators' address, or its stores.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use filegate_server::LocalAdmin;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use serde_json::Value;

use super::request::Call;
use super::{AdminArgs, DEFAULT_URL};
use crate::commands::serve;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::text::escape;

/// How often a call is made at most. The gateway does a change with the same Idempotency-Key once.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; doubled for each further one.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that a gateway can ask for.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The longest answer: a page of a thousand rows is far below it, a year's usage as CSV too.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// What the calls of one command have in common.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) dry_run: bool,
    idempotency_key: HeaderValue,
}

impl Attempt {
    /// For the `nth` of several calls, or the only one.
    pub(super) fn new(args: &AdminArgs, nth: Option<usize>) -> Result<Self, Failure> {
        let given = args.idempotency_key.clone();
        let mut name = given.unwrap_or_else(|| filegate_server::new_key().expose().to_owned());
        if let Some(nth) = nth {
            name = format!("{name}-{nth}");
        }
        let usable = !name.is_empty() && name.len() <= 255 && name.is_ascii();
        let header = HeaderValue::from_str(&name).ok().filter(|_| usable).ok_or_else(|| {
            Failure::Usage(
                "--idempotency-key must be 1 to 255 printable ASCII characters".to_owned(),
            )
        })?;
        Ok(Self { dry_run: args.dry_run, idempotency_key: header })
    }
}

/// An answer of the admin API.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A way to a gateway.
#[derive(Debug)]
pub(super) enum Transport {
    /// The running one.
    Http(Remote),
    /// Its stores.
    Local(Box<LocalAdmin>),
}

/// A running gateway.
#[derive(Debug)]
pub(super) struct Remote {
    client: Client,
    base: String,
    bearer: HeaderValue,
}

impl Transport {
    /// Opens the way that the command line names; `makes` says whether a data directory that is not
    /// there may be made.
    pub(super) async fn open(
        args: &AdminArgs,
        makes: bool,
        printer: &Printer,
    ) -> Result<Self, Failure> {
        if args.is_remote()? {
            return Remote::new(args).map(Self::Http);
        }
        if !makes {
            args.existing_store()?;
        }
        // There is no other log for the causes of failures.
        let level = if printer.is_verbose() { "info" } else { "error" };
        log_to_stderr(level);
        let admin = LocalAdmin::open(args.directory.load()?).await.map_err(serve::unstarted)?;
        Ok(Self::Local(Box::new(admin)))
    }

    /// Ends what calls have left running.
    pub(super) async fn close(self) {
        if let Self::Local(admin) = self {
            admin.close().await;
        }
    }

    /// The answer as JSON.
    pub(super) async fn json(
        &self,
        call: &Call,
        attempt: &Attempt,
        more: &[(&str, String)],
        printer: &Printer,
    ) -> Result<Value, Failure> {
        let answer = self.answer(call, attempt, more, printer).await?;
        serde_json::from_slice(&answer.body).map_err(|_not_json| Failure::Problem {
            exit: Exit::Unavailable,
            text: "the answer is not the admin API's; is --admin-url the operators' address?"
                .to_owned(),
        })
    }

    /// The answer of a call that succeeded.
    pub(super) async fn answer(
        &self,
        call: &Call,
        attempt: &Attempt,
        more: &[(&str, String)],
        printer: &Printer,
    ) -> Result<Answer, Failure> {
        let mut more = more.to_vec();
        let mut headers = HeaderMap::new();
        let mut body = Bytes::new();
        if let Some(fields) = &call.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert("idempotency-key", attempt.idempotency_key.clone());
            body = Bytes::from(Value::Object(fields.clone()).to_string());
            if attempt.dry_run {
                more.push(("dry_run", "true".to_owned()));
            }
        }
        let target = call.target(&more);
        let mut pause = PAUSE;
        for attempts_left in (0..ATTEMPTS).rev() {
            let sent = self.send(call, &target, &headers, &body).await;
            printer.detail(&format!("{} {target}: {}", call.method, outcome(&sent)));
            let wait = match &sent {
                Ok(answer) => answer.busy_for(),
                Err(error) => error.may_pass.then_some(pause),
            };
            match (wait, sent) {
                (Some(wait), _) if attempts_left > 0 => {
                    tokio::time::sleep(wait.min(PAUSE_MAX)).await;
                    pause *= 2;
                }
                (_, Ok(answer)) => return answer.checked(),
                (_, Err(error)) => {
                    return Err(Failure::Fault(error.source));
                }
            }
        }
        Err(Failure::Fault(anyhow::anyhow!("the gateway is still at work on this change")))
    }

    async fn send(
        &self,
        call: &Call,
        target: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Answer, SendError> {
        match self {
            Self::Http(remote) => remote.send(call, target, headers, body).await,
            Self::Local(admin) => {
                let method = call.method.clone();
                let reply = admin.call(method, target, headers.clone(), body.clone()).await;
                let (parts, body) = reply.into_parts();
                Ok(Answer { status: parts.status, headers: parts.headers, body })
            }
        }
    }
}

fn log_to_stderr(level: &str) {
    // Fails only when one is set already.
    let _set = tracing_subscriber::fmt()
        .with_env_filter(format!("filegate_server={level},filegate_store={level}"))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .try_init();
}

/// A call that had no answer.
struct SendError {
    source: anyhow::Error,
    /// Whether it may succeed when it is made again.
    may_pass: bool,
}

fn outcome(sent: &Result<Answer, SendError>) -> String {
    match sent {
        Ok(answer) => format!("{}{}", answer.status.as_u16(), answer.trace()),
        Err(error) => format!("{:#}", error.source),
    }
}

impl Remote {
    fn new(args: &AdminArgs) -> Result<Self, Failure> {
        let unusable = |why: &str| Failure::Usage(format!("--admin-url cannot be used: {why}"));
        let given = args.admin_url.as_deref().filter(|url| !url.trim().is_empty());
        let url = Url::parse(given.unwrap_or(DEFAULT_URL).trim())
            .map_err(|error| unusable(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(unusable("it must begin with http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(unusable("it must end after the path, without a user or a password"));
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let loopback = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        let token = args.admin_token.as_ref().map(|token| token.0.trim()).unwrap_or_default();
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_refused| {
            Failure::Usage("the admin token has characters that no token has".to_owned())
        })?;
        bearer.set_sensitive(true);
        let mut builder = Client::builder()
            .user_agent(concat!("filegate/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .connect_timeout(CONNECT_MAX);
        if loopback {
            builder = builder.no_proxy();
        }
        if url.scheme() == "http" {
            // Plain HTTP must work where no CA certificates are installed.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|error| Failure::Fault(error.into()))?;
        let base = url.as_str().trim_end_matches('/').trim_end_matches("/admin/v1").to_owned();
        Ok(Self { client, base: base.trim_end_matches('/').to_owned(), bearer })
    }

    async fn send(
        &self,
        call: &Call,
        target: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Answer, SendError> {
        let failed = |error: reqwest::Error| SendError {
            may_pass: !error.is_connect() && !error.is_builder(),
            source: anyhow::Error::from(error.without_url())
                .context(format!("cannot call {}", escape(&self.base))),
        };
        let mut response = self
            .client
            .request(call.method.clone(), format!("{}{target}", self.base))
            .headers(headers.clone())
            .header(AUTHORIZATION, self.bearer.clone())
            .timeout(call.patience)
            .body(body.clone())
            .send()
            .await
            .map_err(failed)?;
        let mut received = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if received.len() + piece.len() > ANSWER_BYTES_MAX {
                let source = anyhow::anyhow!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
                return Err(SendError { source, may_pass: false });
            }
            received.extend_from_slice(&piece);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, body: received.freeze() })
    }
}

impl Answer {
    /// How long to wait if another call with this Idempotency-Key is being worked on.
    fn busy_for(&self) -> Option<Duration> {
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
        (self.status == StatusCode::CONFLICT).then_some(Duration::from_secs(seconds))
    }

    fn trace(&self) -> String {
        let id = self.headers.get("trace-id").and_then(|id| id.to_str().ok());
        id.map(|id| format!(" [Trace-Id {}]", escape(id))).unwrap_or_default()
    }

    /// The answer, if it is one of success; else its problem as one line.
    fn checked(self) -> Result<Self, Failure> {
        if self.status.is_success() {
            return Ok(self);
        }
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let field = |name: &str| problem.get(name).and_then(Value::as_str);
        let told = field("detail").filter(|text| !text.is_empty()).or_else(|| field("title"));
        let told = told.map_or_else(|| "the gateway does not say why".to_owned(), escape);
        let hint = match self.status {
            StatusCode::UNAUTHORIZED => {
                "; on the server's machine `filegate token create --data-dir DIR` makes a new token"
            }
            _ => "",
        };
        let trace = if self.status.is_server_error() { self.trace() } else { String::new() };
        Err(Failure::Problem {
            exit: if self.status.is_server_error() { Exit::Unavailable } else { Exit::Refused },
            text: format!("{told} ({}){hint}{trace}", self.status.as_u16()),
        })
    }
}
