//! Who is calling (contract §5).

use std::time::{Duration, Instant};

use filegate_store::Caller;
use filegate_types::{ApiError, Call, ErrorCode, KeyHash, Principal};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::layer::Trace;
use super::reply::store_failed;
use crate::app::App;
use crate::gate::network;
use crate::shared::callers;

/// Longest credential that is looked at; a key of ours has 46 characters.
const CREDENTIAL_BYTES_MAX: usize = 4096;
/// How long the answer to a request over its limit is held back. It says to wait for a second at least.
const OVER_LIMIT_PAUSE: Duration = Duration::from_millis(200);

/// Lets the caller in if its key is good, may be used from where it is, has requests left, and may make
/// `call`. Everything a handler does for a tenant starts from the principal that is returned; its
/// limits are the effective ones, with the defaults of the configuration.
pub(crate) async fn admit(
    app: &App,
    headers: &HeaderMap,
    trace: &Trace,
    call: Call,
) -> Result<Principal, ApiError> {
    let presented = credential(headers).ok_or(ErrorCode::NotAuthorized)?;
    let hash = KeyHash::of(presented);
    let caller = callers::authenticate(app, hash, call, Instant::now()).await;
    let mut principal = match caller.map_err(|error| store_failed(&error))? {
        None => return Err(ErrorCode::InvalidKey.into()),
        Some(Caller::Disabled(key_id)) => {
            trace.authenticated(key_id);
            return Err(ApiError::out_of_scope("the account is disabled"));
        }
        Some(Caller::Active(principal)) => *principal,
    };
    trace.authenticated(principal.key_id);
    // Before it is counted: who has stolen a key does not use up what its owner may use.
    network::check(&principal, trace.client())?;
    let defaults = &app.config.limits;
    principal.key_limits = principal.key_limits.or(&defaults.key);
    principal.account_limits = principal.account_limits.or(&defaults.account);
    let (allowance, counted) = app.gate.request(&principal).await;
    if let Some(allowance) = allowance {
        trace.counted(allowance);
    }
    if counted.as_ref().is_err_and(|error| error.code == ErrorCode::RateLimit) {
        // Who does not wait as it is told sends the next as soon as this is answered: a flood on so
        // many connections is then so many requests in this time, and costs others next to nothing.
        tokio::time::sleep(OVER_LIMIT_PAUSE).await;
    }
    counted?;
    if let Some(scope) = call.scope()
        && !principal.scopes.allow(scope)
    {
        return Err(ApiError::out_of_scope(format_args!("this key may not use the scope {scope}")));
    }
    Ok(principal)
}

/// The one credential of a request: `Authorization: Bearer KEY` with the scheme in any case, or
/// `x-api-key: KEY`. Two that differ are no credential, and neither is a repeated header.
fn credential(headers: &HeaderMap) -> Option<&str> {
    let bearer = match single(headers, AUTHORIZATION.as_str())? {
        None => None,
        Some(value) => {
            let (scheme, token) = value.split_once(' ')?;
            if !scheme.eq_ignore_ascii_case("bearer") {
                return None;
            }
            Some(well_formed(token.trim_matches(' '))?)
        }
    };
    let api_key = match single(headers, "x-api-key")? {
        None => None,
        Some(value) => Some(well_formed(value.trim_matches(' '))?),
    };
    match (bearer, api_key) {
        (Some(one), Some(other)) => (one == other).then_some(one),
        (one, other) => one.or(other),
    }
}

/// The header's value: `Some(None)` if absent, `None` if repeated or not text.
#[expect(clippy::option_option, reason = "absent and unusable are answered differently")]
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Some(None),
        (Some(value), None) => value.to_str().ok().map(Some),
        (Some(_), Some(_)) => None,
    }
}

/// A token of visible ASCII, which any key is; MiniMax's own keys are too, and are answered as
/// unknown rather than as absent.
fn well_formed(token: &str) -> Option<&str> {
    let fits = !token.is_empty()
        && token.len() <= CREDENTIAL_BYTES_MAX
        && token.bytes().all(|b| b.is_ascii_graphic());
    fits.then_some(token)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn of(pairs: &[(&str, &[u8])]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        credential(&headers).map(str::to_owned)
    }

    #[test]
    fn one_credential_in_either_header() {
        for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
            assert_eq!(
                of(&[("authorization", format!("{scheme} abc").as_bytes())]).unwrap(),
                "abc"
            );
        }
        assert_eq!(of(&[("authorization", b"Bearer   abc ")]).unwrap(), "abc");
        assert_eq!(of(&[("x-api-key", b"abc")]).unwrap(), "abc");
        assert_eq!(of(&[("x-api-key", b"abc"), ("authorization", b"Bearer abc")]).unwrap(), "abc");
    }

    #[test]
    fn anything_else_is_none() {
        for pairs in [
            &[] as &[(&str, &[u8])],
            &[("authorization", b"")],
            &[("authorization", b"Bearer")],
            &[("authorization", b"Bearer ")],
            &[("authorization", b"Basic abc")],
            &[("authorization", b"abc")],
            &[("authorization", b"Bearer a b")],
            &[("authorization", b"Bearer \xff")],
            &[("authorization", b"Bearer abc"), ("authorization", b"Bearer abc")],
            &[("authorization", b"Basic abc"), ("x-api-key", b"abc")],
            &[("x-api-key", b"abc"), ("authorization", b"Bearer xyz")],
            &[("x-api-key", b"")],
            &[("cookie", b"key=abc")],
        ] {
            assert_eq!(of(pairs), None, "{pairs:?}");
        }
    }
}
