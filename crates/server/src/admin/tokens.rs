//! `tokens`.

use filegate_store::admin::{AdminChange, AdminQuestion, NewToken, TokenRevocation};
use filegate_types::units::Span;
use filegate_types::{AdminScope, KeyHash};
use serde::Deserialize;

use super::ask::{self, Ask};
use super::problem::Problem;
use super::{Asked, Plan, Planned};
use crate::new_key;

pub(super) fn list(_: &Ask) -> Asked {
    Ok(AdminQuestion::Tokens)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    scope: AdminScope,
    expires_in: Option<Span>,
}

pub(super) fn create(ask: &Ask) -> Planned {
    let asked: Create = ask.json()?;
    if asked.scope > ask.operator.scope {
        let why = format!("a token of scope {} cannot grant {}", ask.operator.scope, asked.scope);
        return Err(Problem::forbidden(why));
    }
    let expires_at = asked.expires_in.map(|span| ask.until(span)).transpose()?;
    let token = new_token();
    let change =
        NewToken { expires_at, ..drafted(&token, ask::name("name", asked.name)?, asked.scope) };
    Ok(Plan::of(AdminChange::CreateToken(change)).showing("token", &token))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    #[serde(default)]
    force: bool,
}

pub(super) fn revoke(ask: &Ask) -> Planned {
    let asked: Revoke = ask.json()?;
    let revocation = TokenRevocation { token_id: ask.path_id("id")?, force: asked.force };
    Ok(Plan::of(AdminChange::RevokeToken(revocation)))
}

/// A fresh admin token in the clear.
pub(crate) fn new_token() -> String {
    format!("fg-admin-{}", new_key().expose().trim_start_matches("fg-"))
}

/// The row of a token that does not expire.
pub(crate) fn drafted(token: &str, name: String, scope: AdminScope) -> NewToken {
    let hint = token[token.len().saturating_sub(4)..].to_owned();
    NewToken { name, hash: KeyHash::of(token), hint, scope, expires_at: None }
}
