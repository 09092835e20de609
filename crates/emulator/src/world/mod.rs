//! All that the emulator knows: accounts with their files, voices and tasks.

mod account;
mod files;
mod memory;
mod tasks;
mod voices;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use filegate_types::{FileId, UnixMillis};

use crate::Options;
use crate::rng::Rng;

pub(crate) use account::Account;
pub(crate) use files::{Expiry, File, NewFile, accept_rule, token};
pub(crate) use memory::{Memory, Spool, Stored};
pub(crate) use tasks::{Callback, Product, SPEECH_KEPT, Status, Task, Times};
pub(crate) use voices::{Voice, is_voice_id, system_voices};

/// Results behind links (speech by `output_format: "url"`, previews), all accounts together.
const RESULTS_MAX: usize = 10_000;
/// How long the link to a result lives.
pub(crate) const RESULT_LIFE: Duration = Duration::from_hours(24);

/// An account, by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AccountIx(pub(crate) usize);

/// Something made that only a link leads to.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) filename: String,
    pub(crate) content: Arc<Stored>,
    pub(crate) gone_at: UnixMillis,
}

#[derive(Debug)]
pub(crate) struct World {
    accounts: Vec<Account>,
    pub(crate) memory: Memory,
    ids: Rng,
    last_id: i64,
    made: HashMap<i64, Made>,
}

impl World {
    pub(crate) fn new(options: &Options) -> Self {
        let accounts = options.accounts.iter();
        Self {
            accounts: accounts.map(|account| Account::new(account, options.balance)).collect(),
            memory: Memory::new(options.memory_max.0),
            ids: Rng::new(options.seed, 0),
            last_id: 0,
            made: HashMap::new(),
        }
    }

    /// Everything that calls have made is gone; accounts stay, as they were at the start.
    pub(crate) fn clear(&mut self, options: &Options) {
        let memory = self.memory.clone();
        *self = Self::new(options);
        self.memory = memory;
    }

    pub(crate) fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    pub(crate) fn account(&self, ix: AccountIx) -> &Account {
        &self.accounts[ix.0]
    }

    pub(crate) fn account_mut(&mut self, ix: AccountIx) -> &mut Account {
        &mut self.accounts[ix.0]
    }

    pub(crate) fn account_of_key(&self, key: &str) -> Option<AccountIx> {
        self.accounts.iter().position(|account| account.key == key).map(AccountIx)
    }

    pub(crate) fn account_named(&self, name: &str) -> Option<AccountIx> {
        self.accounts.iter().position(|account| account.name == name).map(AccountIx)
    }

    /// An id as upstream's are: milliseconds and twelve random bits, 15 digits, always rising and so never used twice.
    pub(crate) fn mint(&mut self, now: UnixMillis) -> i64 {
        let chance = self.ids.next();
        let id = FileId::mint(now, chance as u16).get();
        self.last_id =
            if id > self.last_id { id } else { self.last_id + 1 + (chance >> 60) as i64 };
        self.last_id
    }

    pub(crate) fn add_made(&mut self, made: Made, now: UnixMillis) -> i64 {
        self.made.retain(|_, made| made.gone_at > now);
        if self.made.len() >= RESULTS_MAX
            && let Some(oldest) = self.made.keys().min().copied()
        {
            self.made.remove(&oldest);
        }
        let id = self.mint(now);
        self.made.insert(id, made);
        id
    }

    pub(crate) fn made(&self, id: i64) -> Option<&Made> {
        self.made.get(&id)
    }
}
