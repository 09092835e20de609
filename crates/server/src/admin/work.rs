//! `uploads`, `jobs` and `audit`.

use filegate_store::admin::{AdminChange, AdminQuestion};

use super::ask::Ask;
use super::{Asked, Plan, Planned};

pub(super) fn uploads(_: &Ask) -> Asked {
    Ok(AdminQuestion::Uploads)
}

pub(super) fn abort(ask: &Ask) -> Planned {
    super::nothing(ask)?;
    Ok(Plan::of(AdminChange::AbortUpload(ask.path("id"))))
}

pub(super) fn jobs(_: &Ask) -> Asked {
    Ok(AdminQuestion::Jobs)
}

pub(super) fn run_job(ask: &Ask) -> Planned {
    super::nothing(ask)?;
    Ok(Plan { wakes_jobs: true, ..Plan::of(AdminChange::RunJob(ask.path_id("id")?)) })
}

pub(super) fn audit(ask: &Ask) -> Asked {
    Ok(AdminQuestion::Audit {
        actor: ask.text("actor"),
        action: ask.text("action"),
        target: ask.text("target"),
    })
}
