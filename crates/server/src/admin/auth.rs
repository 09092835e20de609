//! Which operator is calling.

use axum::http::request::Parts;
use filegate_types::{AdminScope, KeyHash};
use http::header::AUTHORIZATION;

use super::problem::Problem;
use crate::accept::Peer;
use crate::app::App;

/// Longest token that is looked at; one of ours has 52 characters.
const TOKEN_BYTES_MAX: usize = 4096;

/// In the extensions of requests that the process makes of itself: who can read the data directory
/// may do everything. No connection's request can have it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local;

/// Who is calling.
#[derive(Debug, Clone)]
pub(super) struct Operator {
    /// `token:N` or `local`.
    pub(super) name: String,
    pub(super) scope: AdminScope,
    /// Where from.
    pub(super) origin: String,
    /// The token as it was presented: the key to sealed answers.
    pub(super) token: Option<String>,
}

/// Lets the caller in if its token works and has `scope`.
pub(super) async fn admit(
    app: &App,
    parts: &Parts,
    scope: AdminScope,
) -> Result<Operator, Problem> {
    if parts.extensions.get::<Local>().is_some() {
        let (name, origin) = ("local".to_owned(), "local".to_owned());
        return Ok(Operator { name, scope: AdminScope::Full, origin, token: None });
    }
    let token = presented(parts)
        .ok_or_else(|| Problem::unauthorized("send an admin token: Authorization: Bearer TOKEN"))?;
    let hash = KeyHash::of(token);
    let found = app.catalog.admin_token(hash, app.clock.now()).await?;
    // The look-up is by hash already; this says so in constant time.
    let row = found
        .filter(|row| hash.matches(&row.hash))
        .ok_or_else(|| Problem::unauthorized("the admin token is unknown, revoked or expired"))?;
    if row.scope < scope {
        return Err(Problem::forbidden(format!(
            "the scope of this token is {}, the call wants {scope}",
            row.scope
        )));
    }
    let peer = parts.extensions.get::<Peer>();
    Ok(Operator {
        name: format!("token:{}", row.token_id),
        scope: row.scope,
        origin: peer.map_or_else(String::new, |Peer(address)| address.ip().to_string()),
        token: Some(token.to_owned()),
    })
}

fn presented(parts: &Parts) -> Option<&str> {
    let mut values = parts.headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    let fits =
        (1..=TOKEN_BYTES_MAX).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic());
    (scheme.eq_ignore_ascii_case("bearer") && fits).then_some(token)
}
