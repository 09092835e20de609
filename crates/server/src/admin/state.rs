//! `status`, `policies` and `config`.

use std::path::Path;

use filegate_types::wire::BaseResp;
use serde_json::{Value, json};

use super::ask::Ask;
use super::{Answer, Answered};

pub(super) async fn status(ask: Ask) -> Answered {
    let counts = ask.app.catalog.counts().await?;
    Ok(Answer::Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": ask.app.unready().await.is_none(),
        "files": counts.files,
        "bytes": counts.bytes,
        "uploads_in_progress": counts.uploads,
        "jobs_waiting": counts.jobs,
        "redis_up": ask.app.redis.as_ref().map(|redis| redis.is_up()),
        "base_resp": BaseResp::success(),
    })))
}

pub(super) fn policies(ask: &Ask) -> Answered {
    let mut data = Vec::new();
    for (name, policy) in &ask.app.config.purposes {
        let mut shown = serde_json::to_value(policy).unwrap_or_default();
        shown["id"] = name.as_str().into();
        shown["purpose"] = name.as_str().into();
        data.push(shown);
    }
    Ok(Answer::Json(json!({"data": data, "has_more": false})))
}

/// Every setting by its dotted name, with where its value comes from.
pub(super) fn config(ask: &Ask) -> Answered {
    let config = &ask.app.config;
    let mut data = Vec::new();
    let whole = serde_json::to_value(config).unwrap_or_default();
    settings(&mut Vec::new(), &whole, &mut |path, value| {
        let name = path.join(".");
        let value = if secret(&name, value) { json!("(not shown)") } else { value.clone() };
        data.push(json!({
            "id": name, "setting": name, "value": value, "origin": config.origins.of_setting(path),
        }));
    });
    Ok(Answer::Json(json!({"data": data, "has_more": false})))
}

fn settings(path: &mut Vec<String>, value: &Value, visit: &mut impl FnMut(&[String], &Value)) {
    match value.as_object().filter(|object| !object.is_empty()) {
        None => visit(path, value),
        Some(object) => {
            for (name, value) in object {
                path.push(name.clone());
                settings(path, value, visit);
                path.pop();
            }
        }
    }
}

/// Whether a setting opens something: by its name, or as an address with a password in it.
fn secret(name: &str, value: &Value) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let named = ["secret", "token", "password", "api_key", "headers"];
    let empty = value.as_str().is_some_and(str::is_empty) || value.is_null();
    let with_password = value.as_str().is_some_and(|text| {
        let authority = text.split_once("://").map(|(_, rest)| rest.split('/').next());
        authority.flatten().is_some_and(|authority| authority.contains('@'))
    });
    (!empty && named.iter().any(|word| last.contains(word))) || with_password
}

/// What a path is when it is shown.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_something_is_not_shown() {
        assert!(secret("moderation.webhook.secret", &json!("x")));
        assert!(secret("redis_url", &json!("redis://me:pass@host/0")));
        assert!(!secret("public_url", &json!("https://files.example.com/@x")));
        assert!(!secret("moderation.webhook.secret", &json!("")));
    }
}
