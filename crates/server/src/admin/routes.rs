//! The table of calls.

use std::future::{Future, ready};
use std::pin::Pin;

use filegate_types::AdminScope::{self, Full, ReadOnly, Support};
use http::Method;

use super::ask::Ask;
use super::{
    Answered, Asked, Planned, Sought, accounts, channels, files, keys, ledger, moderation, probe,
    state, tokens, usage, work,
};

/// A call.
pub(super) struct Route {
    /// Below `/admin/v1`.
    pub(super) path: &'static str,
    /// The least scope.
    pub(super) scope: AdminScope,
    /// Query parameters beside those that every call of its kind knows.
    query: &'static [&'static str],
    pub(super) run: Run,
}

type Reading = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// What a call does.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// GET: a page of a list.
    List(fn(&Ask) -> Asked),
    /// GET: one thing.
    Look(fn(&Ask) -> Sought),
    /// GET: anything else.
    Read(fn(Ask) -> Reading),
    /// POST: a change, by its name in the audit log.
    Change(&'static str, fn(&Ask) -> Planned),
    /// POST: a backup.
    Backup(&'static str),
    /// POST: a trial, which changes nothing here.
    Try(fn(Ask) -> Reading),
}

impl Route {
    pub(super) fn method(&self) -> Method {
        match self.run {
            Run::List(_) | Run::Look(_) | Run::Read(_) => Method::GET,
            Run::Change(..) | Run::Backup(_) | Run::Try(_) => Method::POST,
        }
    }

    /// Whether the call knows a query parameter.
    pub(super) fn knows(&self, name: &str) -> bool {
        let common: &[&str] = match self.run {
            Run::List(_) => &["limit", "after"],
            Run::Change(..) | Run::Backup(_) | Run::Try(_) => &["dry_run"],
            Run::Look(_) | Run::Read(_) => &[],
        };
        common.contains(&name) || self.query.contains(&name)
    }
}

const fn list(path: &'static str, query: &'static [&'static str], of: fn(&Ask) -> Asked) -> Route {
    Route { path, scope: ReadOnly, query, run: Run::List(of) }
}

const fn look(path: &'static str, at: fn(&Ask) -> Sought) -> Route {
    Route { path, scope: ReadOnly, query: &[], run: Run::Look(at) }
}

const fn read(path: &'static str, query: &'static [&'static str], of: fn(Ask) -> Reading) -> Route {
    Route { path, scope: ReadOnly, query, run: Run::Read(of) }
}

const fn change(
    scope: AdminScope,
    path: &'static str,
    action: &'static str,
    plan: fn(&Ask) -> Planned,
) -> Route {
    Route { path, scope, query: &[], run: Run::Change(action, plan) }
}

const fn attempt(scope: AdminScope, path: &'static str, of: fn(Ask) -> Reading) -> Route {
    Route { path, scope, query: &[], run: Run::Try(of) }
}

const MARGIN: &[&str] =
    &["channel", "account", "path", "from", "to", "by", "format", "limit", "after"];
const USAGE: &[&str] =
    &["account", "key", "purpose", "from", "to", "by", "format", "limit", "after"];

pub(super) static ROUTES: [Route; 57] = [
    read("/status", &[], |ask| Box::pin(state::status(ask))),
    read("/policies", &[], |ask| Box::pin(ready(state::policies(&ask)))),
    read("/config", &[], |ask| Box::pin(ready(state::config(&ask)))),
    list("/accounts", &["name"], accounts::list),
    change(Full, "/accounts", "account.create", accounts::create),
    look("/accounts/{name}", accounts::look),
    change(Full, "/accounts/{name}", "account.update", accounts::update),
    list("/keys", &["account"], keys::list),
    change(Full, "/keys", "key.create", keys::create),
    look("/keys/{id}", keys::look),
    change(Full, "/keys/{id}", "key.update", keys::update),
    change(Support, "/keys/{id}/revoke", "key.revoke", keys::revoke),
    change(Support, "/keys/{id}/rotate", "key.rotate", keys::rotate),
    list("/files", &["account", "purpose", "state", "filename", "sha256"], files::list),
    look("/files/{id}", files::look),
    read("/files/{id}/explain", &[], |ask| Box::pin(files::explain(ask))),
    change(Support, "/files/{id}/quarantine", "file.quarantine", files::quarantine),
    change(Support, "/files/{id}/release", "file.release", files::release),
    change(Support, "/files/{id}/delete", "file.delete", files::delete),
    list("/receipts", &["account"], files::receipts),
    look("/receipts/{id}", files::receipt),
    list("/ledger", &["account", "kind"], ledger::list),
    change(Full, "/ledger/top-up", "ledger.top_up", ledger::top_up),
    change(Full, "/ledger/adjust", "ledger.adjust", ledger::adjust),
    list("/prices", &[], ledger::prices),
    change(Full, "/prices", "price.set", ledger::set_price),
    change(Full, "/prices/remove", "price.remove", ledger::remove_price),
    list("/moderation/blocked", &["list"], moderation::blocked),
    change(Support, "/moderation/blocked", "moderation.block", moderation::block),
    change(Support, "/moderation/blocked/{id}/remove", "moderation.unblock", moderation::unblock),
    list("/moderation/reviews", &[], moderation::reviews),
    list("/channels", &["account", "state"], channels::list),
    change(Full, "/channels", "channel.add", channels::add),
    look("/channels/{name}", channels::look),
    change(Full, "/channels/{name}", "channel.update", channels::update),
    change(Full, "/channels/{name}/enable", "channel.enable", channels::enable),
    change(Full, "/channels/{name}/disable", "channel.disable", channels::disable),
    change(Full, "/channels/{name}/drain", "channel.drain", channels::drain),
    read("/channels/{name}/drain", &[], |ask| Box::pin(channels::drain_progress(ask))),
    change(Full, "/channels/{name}/remove", "channel.remove", channels::remove),
    attempt(Support, "/channels/{name}/test", |ask| Box::pin(probe::stored(ask))),
    attempt(Full, "/channel-test", |ask| Box::pin(probe::given(ask))),
    change(Full, "/reseal", "channel.reseal", channels::reseal),
    list("/costs", &["channel"], channels::costs),
    change(Full, "/costs", "cost.set", channels::set_cost),
    change(Full, "/costs/remove", "cost.remove", channels::remove_cost),
    read("/margin", MARGIN, |ask| Box::pin(channels::margin(ask))),
    list("/uploads", &[], work::uploads),
    change(Support, "/uploads/{id}/abort", "upload.abort", work::abort),
    read("/usage", USAGE, |ask| Box::pin(usage::read(ask))),
    list("/audit", &["actor", "action", "target"], work::audit),
    list("/jobs", &[], work::jobs),
    change(Support, "/jobs/{id}/run", "job.run", work::run_job),
    list("/tokens", &[], tokens::list),
    change(Full, "/tokens", "token.create", tokens::create),
    change(Full, "/tokens/{id}/revoke", "token.revoke", tokens::revoke),
    Route { path: "/backup", scope: Full, query: &[], run: Run::Backup("backup.create") },
];
