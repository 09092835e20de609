//! `keys`.

use filegate_store::admin::{
    AdminChange, AdminQuestion, AdminSubject, KeyChange, KeyRights, NewKey, RotatedKey,
};
use filegate_types::units::Span;
use filegate_types::{PurposeName, Scope, Scopes, TenantLimits};
use ipnet::IpNet;
use serde::Deserialize;

use super::ask::{self, Ask, Words};
use super::problem::Problem;
use super::{Asked, Plan, Planned, Sought};
use crate::new_key;

/// How long a key that is replaced goes on working, when the request says nothing.
const OVERLAP: Span = Span::seconds(86_400);

pub(super) fn list(ask: &Ask) -> Asked {
    Ok(AdminQuestion::Keys(ask.text("account")))
}

pub(super) fn look(ask: &Ask) -> Sought {
    Ok(AdminSubject::Key(ask.path_id("id")?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    account: Option<String>,
    scopes: Option<Words>,
    purposes: Option<Words>,
    networks: Option<Words>,
    #[serde(default)]
    limits: TenantLimits,
    expires_in: Option<Span>,
}

pub(super) fn create(ask: &Ask) -> Planned {
    let asked: Create = ask.json()?;
    let account = asked.account.unwrap_or_else(|| "default".to_owned());
    let key = new_key();
    let rights = KeyRights {
        scopes: asked.scopes.as_ref().map(scopes).transpose()?.unwrap_or_else(Scopes::all),
        purposes: asked.purposes.map(|words| purposes(ask, &words)).transpose()?,
        networks: asked.networks.as_ref().map(networks).transpose()?,
        limits: limits(asked.limits)?,
        expires_at: asked.expires_in.map(|span| ask.until(span)).transpose()?,
    };
    let change = AdminChange::CreateKey(NewKey {
        account: ask::name("account", account)?,
        name: ask::name("name", asked.name)?,
        hash: key.hash(),
        hint: key.hint().to_owned(),
        rights,
    });
    Ok(Plan::of(change).showing("key", key.expose()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::option_option, reason = "absent and null are two requests")]
struct Update {
    name: Option<String>,
    scopes: Option<Words>,
    #[serde(default, deserialize_with = "ask::nullable")]
    purposes: Option<Option<Words>>,
    #[serde(default, deserialize_with = "ask::nullable")]
    networks: Option<Option<Words>>,
    limits: Option<TenantLimits>,
    #[serde(default, deserialize_with = "ask::nullable")]
    expires_in: Option<Option<Span>>,
}

/// `null` takes a bound away.
pub(super) fn update(ask: &Ask) -> Planned {
    let asked: Update = ask.json()?;
    let purposes_of = |words: Option<Words>| words.map(|words| purposes(ask, &words)).transpose();
    let networks_of = |words: Option<Words>| words.as_ref().map(networks).transpose();
    let until = |span: Option<Span>| span.map(|span| ask.until(span)).transpose();
    Ok(Plan::of(AdminChange::ChangeKey(KeyChange {
        key_id: ask.path_id("id")?,
        name: asked.name.map(|name| ask::name("name", name)).transpose()?,
        scopes: asked.scopes.as_ref().map(scopes).transpose()?,
        purposes: asked.purposes.map(purposes_of).transpose()?,
        networks: asked.networks.map(networks_of).transpose()?,
        limits: asked.limits.map(limits).transpose()?,
        expires_at: asked.expires_in.map(until).transpose()?,
    })))
}

pub(super) fn revoke(ask: &Ask) -> Planned {
    super::nothing(ask)?;
    Ok(Plan::of(AdminChange::RevokeKey(ask.path_id("id")?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    overlap: Option<Span>,
}

/// The new key has the rights of the old one, so it can be made by who cannot make others.
pub(super) fn rotate(ask: &Ask) -> Planned {
    let asked: Rotate = ask.json()?;
    let key = new_key();
    let change = AdminChange::RotateKey(RotatedKey {
        key_id: ask.path_id("id")?,
        hash: key.hash(),
        hint: key.hint().to_owned(),
        overlap_until: ask.now.plus(asked.overlap.unwrap_or(OVERLAP).0),
    });
    Ok(Plan::of(change).showing("key", key.expose()))
}

fn scopes(words: &Words) -> Result<Scopes, Problem> {
    Ok(words.parse::<Scope>("scopes")?.into_iter().collect())
}

fn purposes(ask: &Ask, words: &Words) -> Result<Vec<PurposeName>, Problem> {
    let names = words.parse::<PurposeName>("purposes")?;
    for name in &names {
        super::known_purpose(ask, "purposes", name.as_str())?;
    }
    Ok(names)
}

fn networks(words: &Words) -> Result<Vec<IpNet>, Problem> {
    // A bare address is the network of that address alone.
    let parse = |text: &String| {
        let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
        address.or_else(|_not_bare| text.parse::<IpNet>()).map_err(|_why: ipnet::AddrParseError| {
            let why = format!("{text:?} is not a network such as 192.0.2.0/24");
            Problem::invalid("networks", why)
        })
    };
    words.parse::<String>("networks")?.iter().map(parse).collect()
}

fn limits(limits: TenantLimits) -> Result<TenantLimits, Problem> {
    if limits.stored_bytes.is_some() || !limits.files_per_purpose.is_empty() {
        let why = "stored_bytes and files_per_purpose are limits of accounts";
        return Err(Problem::invalid("limits", why));
    }
    Ok(limits)
}
