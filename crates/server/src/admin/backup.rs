//! `backup`: a snapshot of the data directory while it is in use.

use std::path::PathBuf;

use filegate_store::admin::{AdminCall, AdminChange, AdminOutcome};
use filegate_store::backup;
use serde::Deserialize;
use serde_json::{Value, json};

use super::again::Repeatable;
use super::ask::Ask;
use super::problem::Problem;
use super::state::shown;
use super::{Answer, Answered, dry};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    directory: PathBuf,
}

/// What is to be done where there is no data directory to snapshot.
const NOT_HERE: &str = "the bytes are on S3, which a snapshot of the data directory does not hold: back \
    up the database (pg_dump), and turn on versioning or replication of the bucket";

/// Makes the snapshot, then its audit row and first answer. A crash between leaves a snapshot that is
/// whole and not in the audit log.
pub(super) async fn make(ask: &Ask, action: &'static str, again: Option<&Repeatable>) -> Answered {
    let target = ask.json::<Backup>()?.directory;
    let here = ask.app.blobs.as_local().cloned().zip(ask.app.catalog.path().map(ToOwned::to_owned));
    let Some((blobs, catalog)) = here else {
        return Err(Problem::conflict(NOT_HERE));
    };
    if let Err(why) = backup::refuse(&target) {
        return Err(Problem::invalid("directory", why));
    }
    if ask.dry_run()? {
        let counts = ask.app.catalog.counts().await?;
        let reply = json!({
            "directory": shown(&target), "files": counts.files, "bytes": counts.bytes,
        });
        return Ok(dry(reply));
    }
    let into = target.clone();
    let made = ask.app.tasks.blocking(move || backup::make(&catalog, &blobs, &into));
    let made = made.await.map_err(|_panic| Problem::internal())??;
    let result: Value = json!({
        "directory": shown(&target), "files": made.files, "bytes": made.bytes,
        "linked": made.linked, "copied": made.copied, "dropped": made.dropped,
    });
    let call = AdminCall {
        actor: ask.operator.name.clone(),
        origin: ask.operator.origin.clone(),
        action,
        first_answer: again.map(|again| again.first.clone()),
        sealed: None,
        dry_run: false,
        now: ask.app.clock.now(),
    };
    let note = AdminChange::Note { target: format!("backup:{}", shown(&target)), result };
    match ask.app.catalog.administer(call, note).await? {
        AdminOutcome::Done(reply) => Ok(Answer::Json(reply)),
        AdminOutcome::Refused(refusal) => Err(refusal.into()),
        AdminOutcome::Answered(_) => Err(Problem::in_flight()),
    }
}
