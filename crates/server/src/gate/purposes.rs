//! Which purposes a key may touch.

use filegate_types::{ApiError, Principal, PurposeName};

use crate::config::Config;

/// 1004 if the key may not touch files of `purpose`.
pub(crate) fn check(principal: &Principal, purpose: &PurposeName) -> Result<(), ApiError> {
    if principal.may_touch(purpose) {
        return Ok(());
    }
    Err(ApiError::out_of_scope(format_args!("this key may not use the purpose {purpose}")))
}

/// The purposes that a call means by the `purpose` it names, if it names one: that and its twin, as
/// far as the key may touch them. `None` is all there are.
pub(crate) fn meant(
    config: &Config,
    principal: &Principal,
    purpose: Option<&str>,
) -> Result<Option<Vec<PurposeName>>, ApiError> {
    let Some(purpose) = purpose.filter(|purpose| !purpose.is_empty()) else {
        // An empty value is what clients with an unset option send.
        return Ok(principal.purposes.clone());
    };
    let (name, _) = config.known_purpose(purpose).ok_or_else(ApiError::invalid_purpose)?;
    check(principal, name)?;
    let mut twins = config.twins(name);
    twins.retain(|twin| principal.may_touch(twin));
    Ok(Some(twins))
}
