//! Whose call it is.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::app::App;
use crate::reply::Refusal;
use crate::world::AccountIx;

const CARRY_KEY: &str = "login fail: Please carry the API secret key in the 'Authorization' field of the request header";

/// The account whose key the request carries, as Bearer or in `x-api-key`.
///
/// A header that is missing or malformed is 1004, a key that nobody has is 2049.
pub(crate) fn account(app: &App, headers: &HeaderMap) -> Result<AccountIx, Refusal> {
    let key = key(headers).ok_or_else(carry_key)?;
    app.world().account_of_key(key).ok_or_else(|| Refusal::new(2049, "invalid api key"))
}

pub(crate) fn carry_key() -> Refusal {
    Refusal::new(1004, CARRY_KEY)
}

fn key(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get("x-api-key") {
        return value.to_str().ok().map(str::trim).filter(|key| !key.is_empty());
    }
    let (scheme, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty() && !key.contains(' ')).then_some(key)
}
