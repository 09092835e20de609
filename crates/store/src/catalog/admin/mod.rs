//! What operators see and change.
//!
//! Every change goes through [`Catalog::administer`]: one transaction that looks for a first answer,
//! applies the change or refuses it, writes the audit row and keeps the answer. So there is no change
//! without its audit row, and a request that is sent again after a crash is answered as it was.
//!
//! A resource has one shape, its [`view`]: what a GET shows, what a change answers and what the audit log
//! keeps as before and after. No view holds a secret.

mod accounts;
mod audit;
mod channels;
mod files;
mod jobs;
mod keys;
mod ledger;
mod margin;
mod moderation;
mod prices;
mod tokens;
mod uploads;
mod usage;
mod view;

use filegate_types::{ChannelState, UnixMillis};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use accounts::{AccountChange, NewAccount};
pub use channels::{ChannelChange, ChannelFilter, CostChange, NewChannel, Resealing};
pub use files::{FileAct, FileFilter, FileVerb};
pub use keys::{KeyChange, KeyRights, NewKey, RotatedKey};
pub use ledger::NewEntry;
pub use margin::{MarginBy, MarginFilter};
pub use moderation::NewBlocked;
pub use prices::PriceChange;
pub use tokens::{NewToken, TokenRevocation, TokenRow};
pub use usage::{UsageBy, UsageFilter};
pub use view::{Listed, Page};

use super::moderation::BlockedList;
use super::{Catalog, Change, FirstAnswer, KeptAnswer, idempotency, synced};
use crate::catalog::sql::{self, Connection};
use crate::error::StoreError;

/// Who asks for a change, and how.
#[derive(Debug, Clone)]
pub struct AdminCall {
    /// `token:N` or `local`.
    pub actor: String,
    /// Where the request came from.
    pub origin: String,
    /// What the audit log calls it, such as `account.create`.
    pub action: &'static str,
    /// The request's `Idempotency-Key`, if it has one.
    pub first_answer: Option<FirstAnswer>,
    /// A secret of the answer, sealed so that only the caller can open it; kept with the answer.
    pub sealed: Option<String>,
    /// Whether everything is only tried.
    pub dry_run: bool,
    /// The time.
    pub now: UnixMillis,
}

/// A change that operators make.
#[derive(Debug, Clone)]
pub enum AdminChange {
    /// Make an account.
    CreateAccount(NewAccount),
    /// Change an account.
    ChangeAccount(AccountChange),
    /// Make a key, and its account on first mention.
    CreateKey(NewKey),
    /// Change a key.
    ChangeKey(KeyChange),
    /// Revoke a key.
    RevokeKey(i64),
    /// Make a key that replaces another.
    RotateKey(RotatedKey),
    /// Hold a file back, let it go, or delete it.
    File(FileAct),
    /// Add to a balance, or take from it.
    Post(NewEntry),
    /// Set a price, or remove it.
    Price(PriceChange),
    /// Add to what moderation refuses.
    Block(NewBlocked),
    /// Take an entry off what moderation refuses.
    Unblock(i64),
    /// Add a channel.
    AddChannel(NewChannel),
    /// Change a channel.
    ChangeChannel(ChannelChange),
    /// Say what is wanted of a channel: any state but removed.
    ChannelState(String, ChannelState),
    /// Remove a channel.
    RemoveChannel(String),
    /// Seal the keys of all channels with the first sealing key.
    ResealChannels(Resealing),
    /// Set what upstream takes on a channel, or remove it.
    Cost(CostChange),
    /// End an upload that is in progress.
    AbortUpload(String),
    /// Do a job now.
    RunJob(i64),
    /// Make an admin token.
    CreateToken(NewToken),
    /// Revoke an admin token.
    RevokeToken(TokenRevocation),
    /// Nothing in the catalog: something that was done elsewhere, such as a backup.
    Note {
        /// To what it was done.
        target: String,
        /// What came of it.
        result: Value,
    },
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq)]
pub enum AdminOutcome {
    /// It is made, or with `dry_run` it could be: the answer.
    Done(Value),
    /// The same `Idempotency-Key` was answered before. Nothing was changed.
    Answered(KeptAnswer),
    /// It cannot be made. Nothing was changed.
    Refused(Refusal),
}

/// Why a change or a question is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// What it is about is not there.
    NotFound(String),
    /// Things are not as the change needs them.
    Conflict(String),
    /// A value of the request is wrong.
    Invalid(String),
}

/// What is kept as a first answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdminAnswer {
    /// The answer without its secret.
    pub reply: Value,
    /// The secret, sealed.
    pub sealed: Option<String>,
}

/// A question that operators ask.
#[derive(Debug, Clone)]
pub enum AdminQuestion {
    /// Accounts, of this name if there is one.
    Accounts(Option<String>),
    /// Keys, of this account if there is one.
    Keys(Option<String>),
    /// Files.
    Files(FileFilter),
    /// Files that moderation wants a person to look at.
    Reviews,
    /// Receipts of deleted files, of this account if there is one.
    Receipts(Option<String>),
    /// Ledger entries.
    Ledger {
        /// Of this account.
        account: Option<String>,
        /// Of this kind.
        kind: Option<String>,
    },
    /// Prices.
    Prices,
    /// What moderation refuses, of this list if there is one.
    Blocked(Option<BlockedList>),
    /// Uploads in progress.
    Uploads,
    /// Who did what.
    Audit {
        /// By this actor.
        actor: Option<String>,
        /// This action.
        action: Option<String>,
        /// To this.
        target: Option<String>,
    },
    /// Work that waits.
    Jobs,
    /// Admin tokens.
    Tokens,
    /// Sums of calls.
    Usage(UsageFilter),
    /// Channels.
    Channels(ChannelFilter),
    /// What upstream takes, on this channel if there is one.
    Costs(Option<String>),
    /// Sums of relayed calls: what they brought and what they cost.
    Margin(MarginFilter),
}

/// One thing that operators look at.
#[derive(Debug, Clone)]
pub enum AdminSubject {
    /// The account of this name.
    Account(String),
    /// The key of this id.
    Key(i64),
    /// The file of this id.
    File(i64),
    /// Why the file of this id is, or is not, readable.
    Explain(i64),
    /// The receipt of the file of this id.
    Receipt(i64),
    /// The channel of this name.
    Channel(String),
}

/// Why a change stops: refused, or the database failed.
#[derive(Debug)]
enum Stop {
    Refused(Refusal),
    Failed(sql::Error),
}

impl From<sql::Error> for Stop {
    fn from(error: sql::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a change did.
#[derive(Debug)]
struct Applied {
    /// To what, such as `account:acme`.
    target: String,
    before: Option<Value>,
    after: Option<Value>,
    reply: Value,
}

impl Applied {
    /// The answer is what is there now.
    fn of(target: String, before: Option<Value>, after: Value) -> Self {
        Self { target, before, reply: after.clone(), after: Some(after) }
    }
}

impl AdminChange {
    fn frees_space(&self) -> bool {
        matches!(
            self,
            Self::File(_)
                | Self::AbortUpload(_)
                | Self::RunJob(_)
                | Self::RevokeKey(_)
                | Self::RemoveChannel(_)
        )
    }

    fn apply(&self, c: &Connection, now: UnixMillis) -> Result<Applied, Stop> {
        match self {
            Self::CreateAccount(new) => accounts::create(c, new, now),
            Self::ChangeAccount(change) => accounts::change(c, change),
            Self::CreateKey(new) => keys::create(c, new, now),
            Self::ChangeKey(change) => keys::change(c, change),
            Self::RevokeKey(id) => keys::revoke(c, *id, now),
            Self::RotateKey(rotated) => keys::rotate(c, rotated, now),
            Self::File(act) => files::act(c, act, now),
            Self::Post(entry) => ledger::post(c, entry, now),
            Self::Price(price) => prices::change(c, price),
            Self::Block(new) => moderation::block(c, new, now),
            Self::Unblock(id) => moderation::unblock(c, *id),
            Self::AddChannel(new) => channels::add(c, new, now),
            Self::ChangeChannel(change) => channels::change(c, change, now),
            Self::ChannelState(name, state) => channels::set_state(c, name, *state, now),
            Self::RemoveChannel(name) => channels::remove(c, name),
            Self::ResealChannels(with) => channels::reseal(c, with),
            Self::Cost(cost) => channels::change_cost(c, cost),
            Self::AbortUpload(blob_key) => uploads::abort(c, blob_key, now),
            Self::RunJob(id) => jobs::run(c, *id, now),
            Self::CreateToken(new) => tokens::create(c, new, now),
            Self::RevokeToken(revocation) => tokens::revoke(c, revocation, now),
            Self::Note { target, result } => Ok(Applied::of(target.clone(), None, result.clone())),
        }
    }
}

impl Catalog {
    /// Makes a change in one transaction with its audit row and its first answer. Synced when it
    /// returns. Operators' changes are made one after the other, whichever replica they ask: what one of
    /// them looks at before it changes something stays as it is. What belongs to an account is locked
    /// besides, against its clients.
    pub async fn administer(
        &self,
        call: AdminCall,
        change: AdminChange,
    ) -> Result<AdminOutcome, StoreError> {
        let frees_space = change.frees_space();
        let change_of = Change { frees_space, ..synced(call.action) }.by_operators();
        self.engine.write(change_of, move |c| administer(c, &call, &change)).await
    }

    /// A page of a list.
    pub async fn admin_list(
        &self,
        question: AdminQuestion,
        page: Page,
    ) -> Result<Result<Listed, Refusal>, StoreError> {
        self.engine
            .read("listing for an operator", move |c| unstop(list(c, &question, &page)))
            .await
    }

    /// One thing, if it is there.
    pub async fn admin_look(
        &self,
        subject: AdminSubject,
        now: UnixMillis,
    ) -> Result<Result<Value, Refusal>, StoreError> {
        self.engine.read("looking for an operator", move |c| unstop(look(c, &subject, now))).await
    }
}

fn unstop<T>(result: Result<T, Stop>) -> sql::Result<Result<T, Refusal>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn administer(c: &Connection, call: &AdminCall, change: &AdminChange) -> sql::Result<AdminOutcome> {
    // A dry run is never the first answer to anything.
    let first = call.first_answer.as_ref().filter(|_| !call.dry_run);
    if let Some(first) = first
        && let Some(kept) = idempotency::find(c, &first.owner, &first.key, call.now)?
    {
        return Ok(AdminOutcome::Answered(kept));
    }
    c.execute_batch("SAVEPOINT administer")?;
    let applied = change.apply(c, call.now);
    let applied = match unstop(applied)? {
        Ok(applied) if !call.dry_run => applied,
        other => {
            c.execute_batch("ROLLBACK TO administer; RELEASE administer")?;
            return Ok(other.map_or_else(AdminOutcome::Refused, |a| AdminOutcome::Done(a.reply)));
        }
    };
    c.execute_batch("RELEASE administer")?;
    audit::write(c, call, &applied)?;
    if let Some(first) = first {
        let answer = AdminAnswer { reply: applied.reply.clone(), sealed: call.sealed.clone() };
        let bytes = serde_json::to_vec(&answer).unwrap_or_default();
        idempotency::keep(c, first, 200, &bytes, call.now)?;
    }
    Ok(AdminOutcome::Done(applied.reply))
}

fn list(c: &Connection, question: &AdminQuestion, page: &Page) -> Result<Listed, Stop> {
    match question {
        AdminQuestion::Accounts(name) => accounts::list(c, name.as_deref(), page),
        AdminQuestion::Keys(account) => keys::list(c, account.as_deref(), page),
        AdminQuestion::Files(filter) => files::list(c, filter, page),
        AdminQuestion::Reviews => files::reviews(c, page),
        AdminQuestion::Receipts(account) => files::receipts(c, account.as_deref(), page),
        AdminQuestion::Ledger { account, kind } => {
            ledger::list(c, account.as_deref(), kind.as_deref(), page)
        }
        AdminQuestion::Prices => prices::list(c, page),
        AdminQuestion::Blocked(list) => moderation::list(c, *list, page),
        AdminQuestion::Uploads => uploads::list(c, page),
        AdminQuestion::Audit { actor, action, target } => {
            audit::list(c, [actor, action, target].map(Option::as_deref), page)
        }
        AdminQuestion::Jobs => jobs::list(c, page),
        AdminQuestion::Tokens => tokens::list(c, page),
        AdminQuestion::Usage(filter) => usage::list(c, filter, page),
        AdminQuestion::Channels(filter) => channels::list(c, filter, page),
        AdminQuestion::Costs(channel) => channels::list_costs(c, channel.as_deref(), page),
        AdminQuestion::Margin(filter) => margin::list(c, filter, page),
    }
}

fn look(c: &Connection, subject: &AdminSubject, now: UnixMillis) -> Result<Value, Stop> {
    match subject {
        AdminSubject::Account(name) => accounts::look(c, name),
        AdminSubject::Key(id) => keys::look(c, *id),
        AdminSubject::File(id) => files::look(c, *id),
        AdminSubject::Explain(id) => files::explain(c, *id, now),
        AdminSubject::Receipt(id) => files::receipt(c, *id),
        AdminSubject::Channel(name) => channels::look(c, name),
    }
}
