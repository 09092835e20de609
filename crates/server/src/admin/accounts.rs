//! `accounts`.

use filegate_store::admin::{AccountChange, AdminChange, AdminQuestion, AdminSubject, NewAccount};
use filegate_types::{AccountSettings, Money, TenantLimits};
use serde::Deserialize;

use super::ask::{self, Ask};
use super::problem::Problem;
use super::{Asked, Plan, Planned, Sought};

pub(super) fn list(ask: &Ask) -> Asked {
    Ok(AdminQuestion::Accounts(ask.text("name")))
}

pub(super) fn look(ask: &Ask) -> Sought {
    Ok(AdminSubject::Account(ask.path("name")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    #[serde(default)]
    balance: Money,
    #[serde(default)]
    limits: TenantLimits,
    #[serde(default)]
    settings: AccountSettings,
}

pub(super) fn create(ask: &Ask) -> Planned {
    let asked: Create = ask.json()?;
    if asked.balance < Money::ZERO {
        return Err(Problem::invalid("balance", format_args!("{} is below 0", asked.balance)));
    }
    check_settings(&asked.settings)?;
    Ok(Plan::of(AdminChange::CreateAccount(NewAccount {
        name: ask::name("name", asked.name)?,
        balance: asked.balance,
        limits: asked.limits,
        settings: asked.settings,
    })))
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Active,
    Disabled,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    state: Option<State>,
    limits: Option<TenantLimits>,
    settings: Option<AccountSettings>,
}

pub(super) fn update(ask: &Ask) -> Planned {
    let asked: Update = ask.json()?;
    if let Some(settings) = &asked.settings {
        check_settings(settings)?;
    }
    Ok(Plan::of(AdminChange::ChangeAccount(AccountChange {
        name: ask.path("name"),
        active: asked.state.map(|state| matches!(state, State::Active)),
        limits: asked.limits,
        settings: asked.settings,
    })))
}

fn check_settings(settings: &AccountSettings) -> Result<(), Problem> {
    if let (Some(min), Some(max)) = (settings.keep_min, settings.keep_max)
        && min > max
    {
        let why = format!("{min} is longer than keep_max, {max}");
        return Err(Problem::invalid("settings.keep_min", why));
    }
    Ok(())
}
