//! `GET /emulate/accounts`, and `POST` with `{"account": "a1", "banned": …, "verified": …, "balance": …}`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{Problem, body};
use crate::app::App;
use crate::reply::plain_json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    account: String,
    #[serde(default)]
    banned: Option<bool>,
    #[serde(default)]
    verified: Option<bool>,
    /// Null for no limit.
    #[serde(default, deserialize_with = "given")]
    balance: Option<Value>,
}

/// Null is given too, and not absent.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

pub(super) async fn show(State(app): State<Arc<App>>) -> Response {
    let world = app.world();
    let accounts: Vec<Value> = world
        .accounts()
        .iter()
        .map(|account| {
            json!({
                "account": account.name,
                "banned": account.banned,
                "verified": account.verified,
                "balance": account.balance,
                "files": account.files.len(),
                "voices": account.voices.len(),
                "tasks": account.tasks.len(),
            })
        })
        .collect();
    let reply = json!({"accounts": accounts, "bytes_held": world.memory.held()});
    drop(world);
    plain_json(StatusCode::OK, &reply)
}

pub(super) async fn change(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let asked: Change = body(request).await?;
    let balance = asked.balance.map(serde_json::from_value).transpose().map_err(Problem::new)?;
    {
        let mut world = app.world();
        let ix = world.account_named(&asked.account);
        let ix = ix.ok_or_else(|| Problem::new("no account of this name"))?;
        let account = world.account_mut(ix);
        account.banned = asked.banned.unwrap_or(account.banned);
        account.verified = asked.verified.unwrap_or(account.verified);
        account.balance = balance.unwrap_or(account.balance);
    }
    Ok(show(State(app)).await)
}
