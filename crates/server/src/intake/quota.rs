//! What an account may store.
//!
//! Asked early, so that a client need not send what will not fit, and once more by the transaction that
//! commits, which alone decides.

use filegate_store::Quota;
use filegate_types::units::Bytes;
use filegate_types::{ApiError, ErrorCode, Principal, PurposeName};

use crate::app::App;
use crate::http::reply::store_failed;

/// Seconds until room may have been made, by deletes or expiry: as good a guess as any.
const RETRY_AFTER_S: u32 = 60;

/// Refuses a file of `bytes` that the account has no room for.
pub(super) async fn check(
    app: &App,
    principal: &Principal,
    purpose: Option<&PurposeName>,
    bytes: Bytes,
) -> Result<(), ApiError> {
    let limits = &principal.account_limits;
    if limits.stored_bytes.is_none() && limits.files_per_purpose.is_empty() {
        return Ok(());
    }
    let over =
        app.catalog.over_quota(principal.account_id, limits.clone(), purpose.cloned(), bytes).await;
    match over.map_err(|error| store_failed(&error))? {
        None => Ok(()),
        Some(quota) => Err(refused(&quota)),
    }
}

/// What a client is told.
pub(super) fn refused(quota: &Quota) -> ApiError {
    let detail = match quota {
        Quota::Bytes { limit, stored } => {
            let left = Bytes(limit.0.saturating_sub(stored.0));
            format!(
                "the account may store {limit} and has {left} left, less than the file; retry after \
                 files are deleted or have expired"
            )
        }
        Quota::Files { limit, purpose } => format!(
            "the account may store {limit} files of {purpose} and has as many; retry after one is \
             deleted or has expired"
        ),
    };
    ApiError::detailed(ErrorCode::RateLimit, detail).retry_after(RETRY_AFTER_S)
}
