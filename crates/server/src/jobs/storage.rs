//! The daily charge for storage.
//!
//! When a UTC day has ended every account is charged for what it has of what was stored by then. Days on
//! which no server ran are made up for at the next start, in their order. The row that says how far
//! this has come is only a short cut: the ledger itself takes one entry for an account and a day.

use std::sync::Arc;

use filegate_store::StoreError;
use filegate_types::UnixMillis;

use crate::app::App;

const DAY_MS: i64 = 86_400_000;
/// The setting that holds the number of the last day that was charged, in days since 1970.
const CHARGED: &str = "storage_charged_day";

/// Charges each day that has ended since the last time.
pub(super) async fn charge(app: &Arc<App>, now: UnixMillis) -> Result<(), StoreError> {
    let yesterday = now.0.div_euclid(DAY_MS) - 1;
    let stored = app.catalog.meta(CHARGED).await?;
    let last = stored.and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
    let Some(last) = last else {
        // A new gateway has stored nothing on the days before.
        return app.catalog.meta_set(CHARGED, yesterday.to_be_bytes().to_vec()).await;
    };
    for day in last + 1..=yesterday {
        let (start, end) = (UnixMillis(day * DAY_MS), UnixMillis((day + 1) * DAY_MS));
        let charged = app.catalog.charge_storage(start.date(), end, now).await?;
        if charged > 0 {
            tracing::info!(day = start.date(), accounts = charged, "jobs.storage.charged");
        }
        app.catalog.meta_set(CHARGED, day.to_be_bytes().to_vec()).await?;
    }
    Ok(())
}
