//! `channels`, `costs`, `margin` and `reseal`.
//!
//! A key arrives in the body of a request and leaves this file sealed. What answers, the audit log and kept
//! first answers show is the view of the store, which has its last four characters.

use filegate_client::Key;
use filegate_store::Unsealed;
use filegate_store::admin::{
    AdminChange, AdminQuestion, AdminSubject, ChannelChange, ChannelFilter, CostChange, MarginBy,
    MarginFilter, NewChannel, Resealing,
};
use filegate_types::{Call, ChannelSettings, ChannelState, Money, PriceUnit};
use reqwest::Url;
use serde::Deserialize;
use serde_json::json;

use super::ask::{self, Ask};
use super::problem::Problem;
use super::usage::{ROWS_MAX, day, table, wants_csv};
use super::{Answer, Answered, Asked, Plan, Planned, Sought};
use crate::app::random;
use crate::secrets::SecretError;

/// Longest name of a channel.
const NAME_BYTES_MAX: usize = 64;
/// Longest base URL, path of a cost, region and `GroupId`.
const TEXT_BYTES_MAX: usize = 255;
/// Longest key.
const KEY_BYTES_MAX: usize = 4096;
/// The largest weight: shares of a thousand channels can still be summed.
const WEIGHT_MAX: u32 = 1_000_000;
/// What relayed calls are summed by when the request says nothing.
const BY_DEFAULT: [MarginBy; 2] = [MarginBy::Channel, MarginBy::Path];

impl From<SecretError> for Problem {
    fn from(error: SecretError) -> Self {
        Self::conflict(error.to_string())
    }
}

pub(super) fn list(ask: &Ask) -> Asked {
    let (account, state) = (ask.text("account"), ask.value("state")?);
    Ok(AdminQuestion::Channels(ChannelFilter { account, state }))
}

pub(super) fn look(ask: &Ask) -> Sought {
    Ok(AdminSubject::Channel(ask.path("name")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    name: String,
    base_url: String,
    key: String,
    account: Option<String>,
    #[serde(default)]
    settings: ChannelSettings,
}

pub(super) fn add(ask: &Ask) -> Planned {
    let asked: Add = ask.json()?;
    check_settings(ask, &asked.settings)?;
    Ok(Plan::of(AdminChange::AddChannel(NewChannel {
        name: channel_name(asked.name)?,
        account: asked.account,
        base_url: base_url(&asked.base_url)?,
        key: unsealed(ask, &asked.key)?,
        settings: asked.settings,
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    base_url: Option<String>,
    key: Option<String>,
    settings: Option<ChannelSettings>,
}

pub(super) fn update(ask: &Ask) -> Planned {
    let asked: Update = ask.json()?;
    if let Some(settings) = &asked.settings {
        check_settings(ask, settings)?;
    }
    if asked.base_url.is_some() && asked.key.is_none() {
        let why = "comes with its key only: the key is sealed for the place that it is sent to";
        return Err(Problem::invalid("base_url", why));
    }
    Ok(Plan::of(AdminChange::ChangeChannel(ChannelChange {
        name: ask.path("name"),
        base_url: asked.base_url.map(|text| base_url(&text)).transpose()?,
        key: asked.key.map(|key| unsealed(ask, &key)).transpose()?,
        settings: asked.settings,
    })))
}

/// A name that can stand in a path, a list with commas and a metric.
fn channel_name(name: String) -> Result<String, Problem> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !begins || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        let why = "is not 1 to 64 letters, digits, dots, hyphens and underscores, of which the first \
                   is a letter or a digit";
        return Err(Problem::invalid("name", why));
    }
    Ok(name)
}

/// A base URL as it is kept: without a final slash or `/v1`, to which the paths of calls are added.
pub(super) fn base_url(text: &str) -> Result<String, Problem> {
    let wrong = |why: &str| Problem::invalid("base_url", why);
    if text.len() > TEXT_BYTES_MAX {
        return Err(wrong("has more than 255 bytes"));
    }
    // The text is not repeated: a key may stand in it.
    let url = Url::parse(text.trim()).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("does not begin with https:// or http:// and a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("has a user or a password in it; a channel has a key"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("goes on after the path"));
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/');
    Ok(format!("{}{path}", url.origin().ascii_serialization()))
}

/// A key that can be sent; what is wrong with it is said without it.
pub(super) fn key(text: &str) -> Result<Key, Problem> {
    if text.len() > KEY_BYTES_MAX {
        return Err(Problem::invalid("key", "has more than 4096 bytes"));
    }
    Key::new(text).map_err(|error| Problem::invalid("key", error))
}

fn unsealed(ask: &Ask, text: &str) -> Result<Unsealed, Problem> {
    let plain = key(text)?.expose().to_owned();
    Ok(Unsealed::new(plain, ask.app.secrets.to_seal(ask.dry_run()?)?, random()))
}

fn check_settings(ask: &Ask, settings: &ChannelSettings) -> Result<(), Problem> {
    if settings.weight > WEIGHT_MAX {
        let why = format!("{} is more than {WEIGHT_MAX}", settings.weight);
        return Err(Problem::invalid("settings.weight", why));
    }
    let limits = [
        ("settings.max_rpm", settings.max_rpm),
        ("settings.max_concurrency", settings.max_concurrency),
    ];
    for (field, limit) in limits {
        if limit == Some(0) {
            return Err(Problem::invalid(field, "0 lets nothing through: disable the channel"));
        }
    }
    for purpose in settings.purposes.iter().flatten() {
        super::known_purpose(ask, "settings.purposes", purpose.as_str())?;
    }
    for (field, text) in
        [("settings.region", &settings.region), ("settings.group_id", &settings.group_id)]
    {
        if let Some(text) = text {
            ask::name(field, text.clone())?;
        }
    }
    Ok(())
}

pub(super) fn enable(ask: &Ask) -> Planned {
    set_state(ask, ChannelState::Active)
}

pub(super) fn disable(ask: &Ask) -> Planned {
    set_state(ask, ChannelState::Disabled)
}

/// Its files are copied by jobs, which look for it.
pub(super) fn drain(ask: &Ask) -> Planned {
    Ok(Plan { wakes_jobs: true, ..set_state(ask, ChannelState::Draining)? })
}

fn set_state(ask: &Ask, state: ChannelState) -> Planned {
    super::nothing(ask)?;
    Ok(Plan::of(AdminChange::ChannelState(ask.path("name"), state)))
}

pub(super) fn remove(ask: &Ask) -> Planned {
    super::nothing(ask)?;
    Ok(Plan::of(AdminChange::RemoveChannel(ask.path("name"))))
}

pub(super) fn reseal(ask: &Ask) -> Planned {
    super::nothing(ask)?;
    let sealer = ask.app.secrets.to_seal(ask.dry_run()?)?;
    Ok(Plan::of(AdminChange::ResealChannels(Resealing { sealer, nonce: random() })))
}

/// How far a channel is drained.
pub(super) async fn drain_progress(ask: Ask) -> Answered {
    let channel = super::channel_row(&ask).await?;
    let progress = ask.app.catalog.drain_progress(channel.channel_id, ask.now).await?;
    let left = progress.total.saturating_sub(progress.moved + progress.failed);
    Ok(Answer::Json(json!({
        "id": channel.name,
        "channel": channel.name,
        "state": channel.state.name(),
        "files": progress.total,
        "moved": progress.moved,
        "failed": progress.failed,
        "left": left,
        "tasks": progress.tasks,
        "voices": progress.voices,
        "done": left == 0,
    })))
}

pub(super) fn costs(ask: &Ask) -> Asked {
    Ok(AdminQuestion::Costs(ask.text("channel")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetCost {
    channel: String,
    #[serde(default)]
    path: String,
    unit: Option<PriceUnit>,
    amount: Money,
}

pub(super) fn set_cost(ask: &Ask) -> Planned {
    let SetCost { channel, path, unit, amount } = ask.json()?;
    if amount < Money::ZERO {
        return Err(Problem::invalid("amount", format_args!("{amount} is below 0")));
    }
    cost(channel, path, unit, Some(amount))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveCost {
    channel: String,
    #[serde(default)]
    path: String,
    unit: Option<PriceUnit>,
}

pub(super) fn remove_cost(ask: &Ask) -> Planned {
    let RemoveCost { channel, path, unit } = ask.json()?;
    cost(channel, path, unit, None)
}

fn cost(channel: String, path: String, unit: Option<PriceUnit>, amount: Option<Money>) -> Planned {
    let unit = unit.unwrap_or(PriceUnit::Call);
    if !unit.fits(Call::Relay) {
        let why = format!("calls that are relayed have no cost by {}", unit.name());
        return Err(Problem::invalid("unit", why));
    }
    let path = relayed_path("path", path)?;
    Ok(Plan::of(AdminChange::Cost(CostChange { channel, path, unit, amount })))
}

/// The path of a relayed call as prices, costs and usage have it; empty for all.
pub(super) fn relayed_path(field: &str, path: String) -> Result<String, Problem> {
    if path.is_empty() {
        return Ok(path);
    }
    let mounted = ["/minimax/", "/minimaxi/"].iter().any(|mount| path.starts_with(mount));
    if mounted {
        let why = format!("{path:?} begins with where clients find it; say it as upstream has it");
        return Err(Problem::invalid(field, why));
    }
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '?' | '#');
    if !path.starts_with('/') || path.len() > TEXT_BYTES_MAX || !path.chars().all(plain) {
        let why = format!(
            "{path:?} is not a path such as /v1/t2a_v2 or /v2/query/video_generation/{{id}}"
        );
        return Err(Problem::invalid(field, why));
    }
    Ok(path)
}

pub(super) async fn margin(ask: Ask) -> Answered {
    let filter = MarginFilter {
        channel: ask.text("channel"),
        account: ask.text("account"),
        path: ask.text("path"),
        from: day(&ask, "from")?,
        to: day(&ask, "to")?,
        by: margin_by(&ask)?,
    };
    let csv = wants_csv(&ask)?;
    let mut page = ask.page(ROWS_MAX)?;
    if csv && ask.text("limit").is_none() {
        page.limit = ROWS_MAX;
    }
    crate::pay::write_down(&ask.app).await?;
    let sums = ["calls", "units", "charged", "cost", "margin"];
    let columns: Vec<&str> = filter.by.iter().map(|by| by.name()).chain(sums).collect();
    let listed = ask.app.catalog.admin_list(AdminQuestion::Margin(filter), page).await??;
    if csv {
        return Ok(Answer::Csv(table(&columns, &listed.data)));
    }
    Ok(super::page_of(listed))
}

fn margin_by(ask: &Ask) -> Result<Vec<MarginBy>, Problem> {
    let Some(text) = ask.text("by") else { return Ok(BY_DEFAULT.to_vec()) };
    let names = text.split(',').filter(|name| !name.is_empty());
    let mut by: Vec<MarginBy> = names
        .map(|name| name.parse().map_err(|why| Problem::invalid("by", why)))
        .collect::<Result<_, _>>()?;
    by.sort_unstable();
    by.dedup();
    Ok(by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_kept_in_one_form() {
        for (text, kept) in [
            ("https://api.minimax.io", "https://api.minimax.io"),
            ("https://api.minimax.io/", "https://api.minimax.io"),
            ("https://API.minimax.io:443/v1/", "https://api.minimax.io"),
            (" http://127.0.0.1:9090/v1", "http://127.0.0.1:9090"),
            ("https://gw.example/minimax/v1", "https://gw.example/minimax"),
            ("https://gw.example/v1/x//", "https://gw.example/v1/x"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(base_url(text).unwrap(), kept, "{text}");
        }
        for bad in [
            "",
            "api.minimax.io",
            "ftp://api.minimax.io",
            "https://",
            "https://user@api.minimax.io",
            "https://:hush@api.minimax.io",
            "https://api.minimax.io?key=hush",
            "https://api.minimax.io/#hush",
            "data:hush",
            &format!("https://{}.example", "x".repeat(255)),
        ] {
            let problem = format!("{:?}", base_url(bad).unwrap_err());
            assert!(problem.contains("base_url") && !problem.contains("hush"), "{problem}");
        }
    }

    #[test]
    fn names_can_stand_anywhere() {
        for good in ["a", "global-1", "CN.2", "0_x", &"x".repeat(64)] {
            channel_name(good.to_owned()).unwrap();
        }
        for bad in ["", "-a", ".", "a b", "a/b", "a,b", "a#1", "ü", "a\n", &"x".repeat(65)] {
            assert!(channel_name(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_upstreams() {
        for good in ["", "/v1/t2a_v2", "/v2/query/video_generation/{id}", "/anthropic/v1/messages"]
        {
            assert_eq!(relayed_path("path", good.to_owned()).unwrap(), good);
        }
        for bad in ["v1/t2a_v2", "/minimax/v1/t2a_v2", "/minimaxi/v1/x", "/v1/x?y", "/v1/ x", "/\n"]
        {
            assert!(relayed_path("path", bad.to_owned()).is_err(), "{bad}");
        }
    }
}
