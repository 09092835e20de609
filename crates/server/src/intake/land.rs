//! Step 6: the bytes become durable.
//!
//! In the data directory the disk is the bound, and the caller has a turn at it. On S3 the time goes into
//! waiting for the network: many wait at a time, in turn by account, and the upload's lease is renewed
//! meanwhile.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use filegate_types::{ApiError, Principal};

use super::{Landing, Spool, UploadGuard, stage};
use crate::app::App;
use crate::http::reply::store_failed;

/// Lands `spool`, if it has not.
pub(crate) async fn land(
    app: &Arc<App>,
    principal: &Principal,
    guard: &mut UploadGuard,
    spool: Spool,
) -> Result<Spool, ApiError> {
    if spool.has_landed() {
        return Ok(spool);
    }
    let remote = app.blobs.as_s3().is_some();
    let _turn = if remote { Some(app.gate.landing(principal.account_id).await?) } else { None };
    let landing = Instant::now();
    let key = guard.begin().await?;
    // Before it is known: a landing that fails half-way may leave the blob for the guard to purge.
    guard.landing = Landing::Begun;
    let work = spool.land(&app.blobs, key);
    let landed = if remote { guard.renewed_while(work).await? } else { work.await };
    let spool = landed.map_err(|error| store_failed(&error))?;
    guard.landing = Landing::Done;
    stage("land", landing);
    Ok(spool)
}

impl UploadGuard {
    /// Waits for `work` and keeps the lease alive. Fails, and drops the work, if the upload was reaped.
    pub(super) async fn renewed_while<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, ApiError> {
        let mut work = pin!(work);
        let pause = self.app.config.jobs.upload_lease.0 / 4;
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(pause) => self.renew().await?,
            }
        }
    }
}
