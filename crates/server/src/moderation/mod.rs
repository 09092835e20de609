//! Moderation: what an upload is asked after it was found to be what it claims, and before it lands.
//!
//! ```text
//! 1 sha256    the blocked files                               a look in a table
//! 2 image     the blocked pictures, and what resembles them   decodes; two at a time
//! 3 term      blocked terms in the name, then in the text     reads the file
//! 4 clamd     a virus scanner                                 sends the file
//! 5 webhook   a service of the operator's                     not for validate_only
//! ```
//!
//! The first refusal ends it: 1026, and nothing is kept. Each stage is asked only if there is something
//! to ask: a list with entries, an address in the settings. Without any the stage costs a look at the
//! lists' version a second. What was asked and said is kept with the file as its verdict.

pub(crate) mod addresses;
mod clamd;
pub(crate) mod config;
mod image;
mod lists;
mod local;
mod terms;
mod unescape;
mod webhook;

use std::sync::Arc;
use std::time::{Duration, Instant};

use filegate_media::Format;
use filegate_types::purpose::PurposeName;
use filegate_types::{ApiError, BlobKey, ErrorCode, FileState, Principal};
use tokio::sync::Semaphore;

use crate::app::App;
use crate::http::reply::store_failed;
use crate::intake::{self, Spool, UploadGuard};
use clamd::{ClamdError, Scan};
use config::{ClamdAddress, OnFailure};
use lists::Watched;
use webhook::{Decision, Question, Webhook};

pub use image::{ImageHashError, image_hash};
pub use terms::normal_form;

/// Pictures decoded at a time.
const IMAGES_AT_A_TIME: usize = 2;

/// What can be asked, for as long as the gateway runs.
pub(crate) struct Moderation {
    lists: Watched,
    images: Arc<Semaphore>,
    clamd: Option<ClamdAddress>,
    scans: Arc<Semaphore>,
    webhook: Option<Webhook>,
}

impl std::fmt::Debug for Moderation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moderation").field("clamd", &self.clamd).finish_non_exhaustive()
    }
}

impl Moderation {
    /// What the settings name; says what is wrong with them.
    pub(crate) fn new(config: &config::Moderation) -> Result<Self, String> {
        Ok(Self {
            lists: Watched::new(),
            images: Arc::new(Semaphore::new(IMAGES_AT_A_TIME)),
            clamd: config.clamd.parsed()?,
            scans: Arc::new(Semaphore::new(config.clamd.parallel)),
            webhook: Webhook::new(&config.webhook)?,
        })
    }

    /// To be called after a change of the blocked lists, so that it works for the next upload.
    #[expect(dead_code, reason = "the hook of the admin API")]
    pub(crate) fn lists_changed(&self) {
        self.lists.changed();
    }
}

/// What is known of the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct What<'a> {
    pub(crate) purpose: &'a PurposeName,
    pub(crate) filename: &'a str,
    pub(crate) media_type: &'static str,
    pub(crate) media: &'a serde_json::Value,
    /// Nothing will be stored, so no service is told of it.
    pub(crate) validate_only: bool,
}

impl What<'_> {
    /// What the probe found it to be.
    fn format(&self) -> Result<Format, ApiError> {
        let format = self.media.get("format").cloned().unwrap_or_default();
        serde_json::from_value(format).map_err(|_never| ErrorCode::Unknown.into())
    }
}

/// What became of a file that was not refused.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) state: FileState,
    /// What each stage said, for the row; `None` if none was asked.
    pub(crate) json: Option<serde_json::Value>,
}

/// Whether there is nothing to ask of any upload.
pub(crate) async fn asks_nothing(app: &Arc<App>) -> Result<bool, ApiError> {
    let Moderation { clamd: None, webhook: None, lists, .. } = &app.moderation else {
        return Ok(false);
    };
    let lists = lists.current(app).await?;
    Ok(!lists.has_files() && !lists.has_images() && lists.terms.is_none())
}

/// Asks every stage in order.
pub(crate) async fn check(
    app: &Arc<App>,
    principal: &Principal,
    guard: &mut UploadGuard,
    spool: Spool,
    what: What<'_>,
) -> Result<(Spool, Verdict), ApiError> {
    let mut course = Course::default();
    let spool = local::check(app, principal.account_id, spool, what, &mut course).await?;
    let spool = scan(app, spool, &mut course).await?;
    let spool = ask(app, principal, guard, spool, what, &mut course).await?;
    Ok((spool, course.verdict()))
}

/// What was asked so far.
#[derive(Debug, Default)]
struct Course {
    stages: Vec<serde_json::Value>,
    review: bool,
}

impl Course {
    /// Notes what a stage said that lets the file pass.
    fn note(
        &mut self,
        stage: &'static str,
        outcome: &'static str,
        since: Instant,
        why: Option<String>,
    ) {
        counted(stage, outcome, since);
        self.review |= outcome == "review";
        let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut said = serde_json::json!({"stage": stage, "outcome": outcome, "ms": ms});
        if let (Some(why), Some(said)) = (why, said.as_object_mut()) {
            said.insert("why".to_owned(), why.into());
        }
        self.stages.push(said);
    }

    /// Notes a stage that could not do its work, as its policy says.
    fn failed(
        &mut self,
        stage: &'static str,
        policy: OnFailure,
        since: Instant,
        why: &str,
        closed: impl FnOnce() -> ApiError,
    ) -> Result<(), ApiError> {
        let outcome = match policy {
            OnFailure::Closed => {
                counted(stage, "failed", since);
                return Err(closed());
            }
            OnFailure::Open => "not_asked",
            OnFailure::Review => "review",
        };
        self.note(stage, outcome, since, Some(why.to_owned()));
        Ok(())
    }

    fn verdict(self) -> Verdict {
        let state = if self.review { FileState::Review } else { FileState::Ready };
        let asked = !self.stages.is_empty();
        Verdict { state, json: asked.then(|| serde_json::json!({"stages": self.stages})) }
    }
}

fn counted(stage: &'static str, outcome: &'static str, since: Instant) {
    metrics::counter!("filegate_moderation_total", "stage" => stage, "outcome" => outcome)
        .increment(1);
    metrics::histogram!("filegate_moderation_seconds", "stage" => stage)
        .record(since.elapsed().as_secs_f64());
}

/// A refusal, with the stage and the entry in the log and neither term nor hash anywhere.
fn refused(
    stage: &'static str,
    entry_id: Option<i64>,
    since: Instant,
    told: &'static str,
) -> ApiError {
    counted(stage, "refused", since);
    tracing::info!(stage, entry_id, "moderation.refused");
    ApiError::detailed(ErrorCode::Sensitive, told)
}

fn unavailable() -> ApiError {
    ApiError::detailed(ErrorCode::Internal, "moderation is not available").retry_after(5)
}

/// Stage 4.
async fn scan(app: &Arc<App>, spool: Spool, course: &mut Course) -> Result<Spool, ApiError> {
    const STAGE: &str = "clamd";
    let Some(address) = app.moderation.clamd.clone() else { return Ok(spool) };
    let settings = &app.config.moderation.clamd;
    let since = Instant::now();
    let too_large = || refused(STAGE, None, since, "the file is too large for the virus scanner");
    if spool.bytes() > settings.stream_max.0 {
        course.failed(STAGE, settings.on_too_large, since, "too_large", too_large)?;
        return Ok(spool);
    }
    let (spool, scanned) = send_to_clamd(app, address, spool, since).await?;
    match scanned {
        Ok(Scan::Clean) => course.note(STAGE, "passed", since, None),
        Ok(Scan::Found(signature)) => {
            tracing::info!(signature, "moderation.clamd.found");
            return Err(refused(STAGE, None, since, "the virus scanner refused the file"));
        }
        Ok(Scan::TooLarge) => {
            tracing::warn!("moderation.clamd.too_large: stream_max is above its StreamMaxLength");
            course.failed(STAGE, settings.on_too_large, since, "too_large", too_large)?;
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "moderation.clamd.failed");
            course.failed(STAGE, settings.on_failure, since, "unavailable", unavailable)?;
        }
    }
    Ok(spool)
}

async fn send_to_clamd(
    app: &Arc<App>,
    address: ClamdAddress,
    mut spool: Spool,
    since: Instant,
) -> Result<(Spool, Result<Scan, ClamdError>), ApiError> {
    let settings = &app.config.moderation.clamd;
    let deadline = since + settings.timeout.0;
    let connect_timeout = settings.connect_timeout.0;
    let place = Arc::clone(&app.moderation.scans).acquire_owned();
    let Ok(place) = tokio::time::timeout_at(deadline.into(), place).await else {
        return Ok((spool, Err(ClamdError::TimedOut)));
    };
    let work = app.tasks.blocking(move || {
        let _place = place;
        let mut source = spool.source().map_err(|error| store_failed(&error))?;
        let scanned = clamd::scan(&address, connect_timeout, deadline, &mut source);
        Ok((spool, scanned))
    });
    work.await.map_err(|_panic| ErrorCode::Unknown)?
}

/// Stage 5.
async fn ask(
    app: &Arc<App>,
    principal: &Principal,
    guard: &mut UploadGuard,
    spool: Spool,
    what: What<'_>,
    course: &mut Course,
) -> Result<Spool, ApiError> {
    const STAGE: &str = "webhook";
    let webhook = app.moderation.webhook.as_ref().filter(|_| !what.validate_only);
    let Some(webhook) = webhook else { return Ok(spool) };
    let policy = app.config.moderation.webhook.on_failure;
    let since = Instant::now();
    let key = guard.begin().await?;
    let spool = within_reach(app, principal, guard, spool, &key).await?;
    let question = question(app, webhook, principal, &key, &spool, what);
    match tokio::time::timeout(webhook.timeout, webhook.ask(&question)).await {
        Ok(Ok(answer)) => match answer.verdict {
            Decision::Allow => course.note(STAGE, "passed", since, answer.reason()),
            Decision::Review => course.note(STAGE, "review", since, answer.reason()),
            Decision::Deny => {
                tracing::info!(reason = answer.reason(), "moderation.webhook.denied");
                return Err(refused(STAGE, None, since, "the moderation service refused the file"));
            }
        },
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "moderation.webhook.failed");
            course.failed(STAGE, policy, since, "unavailable", unavailable)?;
        }
        Err(_elapsed) => {
            tracing::error!("moderation.webhook.timeout");
            course.failed(STAGE, policy, since, "unavailable", unavailable)?;
        }
    }
    Ok(spool)
}

/// Has the bytes where the service can fetch them: in `tmp/`, or in the bucket, since its request may come to
/// any replica.
async fn within_reach(
    app: &Arc<App>,
    principal: &Principal,
    guard: &mut UploadGuard,
    spool: Spool,
    key: &BlobKey,
) -> Result<Spool, ApiError> {
    if app.blobs.as_s3().is_some() {
        return intake::land(app, principal, guard, spool).await;
    }
    let (blobs, key) = (app.blobs.clone(), key.clone());
    let spilled = app.tasks.blocking(move || spool.on_disk(&blobs, key)).await;
    spilled.map_err(|_panic| ErrorCode::Unknown)?.map_err(|error| store_failed(&error))
}

fn question<'a>(
    app: &App,
    webhook: &Webhook,
    principal: &Principal,
    key: &BlobKey,
    spool: &Spool,
    what: What<'a>,
) -> Question<'a> {
    let now = app.clock.now();
    // Links count in whole seconds.
    let until = now.plus(webhook.timeout + Duration::from_secs(1));
    Question {
        sent_at: now.seconds(),
        account_id: principal.account_id.0,
        key_id: principal.key_id.0,
        purpose: what.purpose.as_str(),
        filename: what.filename,
        bytes: spool.bytes(),
        sha256: filegate_types::hex(&spool.sha256()),
        media_type: what.media_type,
        media: what.media,
        download_url: base_url(app) + &app.links.pending_path(key, until),
        download_until: until.seconds(),
    }
}

/// Where the service reaches us.
fn base_url(app: &App) -> String {
    match app.config.public_url.trim_end_matches('/') {
        "" => format!("http://{}", app.config.listen),
        url => url.to_owned(),
    }
}
